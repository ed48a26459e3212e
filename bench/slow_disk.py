"""What a slow disk costs: SEND over three nodes whose syncs take 5 ms longer, beside three whose
syncs do not.

`python -m bench.slow_disk`, by hand. Both clusters run and take turns. At 1,000 outstanding the
slow one must keep half of the throughput, and no heartbeat may be missed: no election while it is
loaded.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from bench import loadgen
from bench.contenders import Column, Mq9
from bench.harness import measure
from bench.loadgen import LoadGenerator
from bench.servers import mq9_fleet

COLUMNS = (Column(1, 1), Column(1, 64), Column(1, 1000), Column(16, 64))
MUST_HOLD = Column(1, 1000)
RATIO_MIN = 0.5
ELECTIONS = "mq9_elections_won_total"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when the slow disk costs less than half and no leadership."""
    options = _parse(arguments)
    return measure("slow_disk", lambda home, console: _compare(options, home, console))


def _compare(options: argparse.Namespace, home: Path, console: Console) -> int:
    program = loadgen.build()
    delay = {"MQ9_TEST_SYNC_DELAY_MS": str(options.delay_ms)}
    with ExitStack() as stack:
        calm = stack.enter_context(mq9_fleet(home / "calm", 3).running())
        slow = stack.enter_context(mq9_fleet(home / "slow", 3, environment=delay).running())
        sides = [Mq9(LoadGenerator(program, fleet.ports)) for fleet in (calm, slow)]
        for side in sides:
            for column in COLUMNS:
                side.prepare(column)
                side.send(column, 1.0)
        before = sum(server.counted(ELECTIONS) for server in slow.servers)
        rates: dict[Column, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(options.rounds):
            for column in COLUMNS:
                found = [side.send(column, options.seconds).operations_per_s for side in sides]
                rates[column].append((found[0], found[1]))
        elections = sum(server.counted(ELECTIONS) for server in slow.servers) - before
    console.print(f"SEND, three nodes, every sync {options.delay_ms} ms longer on one side")
    for column, pairs in rates.items():
        calm_rate, slow_rate = (statistics.median(side) for side in zip(*pairs, strict=True))
        console.print(
            f"{column.name}: {calm_rate:,.0f}/s calm, {slow_rate:,.0f}/s slow, "
            f"ratio {slow_rate / calm_rate:.2f}"
        )
    kept = statistics.median(slow / calm for calm, slow in rates[MUST_HOLD])
    console.print(f"elections under load on slow disks: {elections:.0f}")
    return 0 if kept >= RATIO_MIN and not elections else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.slow_disk", description=__doc__)
    parser.add_argument("--delay-ms", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

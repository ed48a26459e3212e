"""What a node that catches up costs the others: p99 of SEND while a follower that was down for
200,000 messages is brought up to date, against p99 with all three calm.

`python -m bench.catch_up`, by hand. Each round: a calm trial, the third node dies, 200,000
messages, it comes back, and trials until it is close behind; the worst of them counts. The median
of the rounds must stay below five times the calm one. With `--log-kept` entries the state has to be
sent, where an entry holds a hundred messages and more; `--log-kept 0` leaves the usual tail of the
log, from which the same node is fed.
"""

import argparse
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import loadgen
from bench.contenders import Column, Mq9
from bench.harness import measure
from bench.loadgen import Load, LoadGenerator
from bench.servers import Fleet, Server, ServerFailed, mq9_fleet

RATIO_MAX = 5.0
CALM = Column(16, 1)  # the loop has room: what is measured is waiting, not saturation
FILL = Column(16, 64)
NEAR_ENTRIES = 200
CAUGHT_UP_S_MAX = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when the median ratio stays below RATIO_MAX."""
    options = _parse(arguments)
    return measure("catch_up", lambda home, console: _rounds(options, home, console))


def _rounds(options: argparse.Namespace, home: Path, console: Console) -> int:
    program = loadgen.build()
    kept = {"MQ9_TEST_LOG_ENTRIES_KEPT": str(options.log_kept)} if options.log_kept else {}
    ratios = []
    with mq9_fleet(home, 3, environment=kept).running() as fleet:
        side = Mq9(LoadGenerator(program, fleet.ports[:2]))
        side.prepare(CALM)
        side.prepare(FILL)
        side.send(CALM, options.seconds)
        for number in range(options.rounds):
            calm, worst, took_s, states = _round(options, side, fleet)
            ratios.append(worst / calm)
            console.print(
                f"round {number + 1}: p99 {calm / 1000:.1f} ms calm, {worst / 1000:.1f} ms at "
                f"worst while the node caught up in {took_s:.0f} s ({states:.0f} states sent): "
                f"{ratios[-1]:.1f} x"
            )
    median = statistics.median(ratios)
    console.print(f"median of {len(ratios)}: {median:.2f} x (at most {RATIO_MAX:g} x)")
    return 0 if median < RATIO_MAX else 1


def _round(
    options: argparse.Namespace, side: Mq9, fleet: Fleet
) -> tuple[float, float, float, float]:
    """(p99 calm in µs, worst p99 of catching up, seconds until caught up, states taken)."""
    late = fleet.servers[2]
    calm = side.send(CALM, options.seconds).p99_us
    late.kill()
    side.generator.run_faultless(
        Load(
            "request",
            f"$mq9.AI.MSG.SEND.bench.{FILL.token}.%c",
            200,
            connections=FILL.connections,
            outstanding=FILL.outstanding,
            operations=options.messages,
        )
    )
    began_s = time.monotonic()
    late.start()
    worst = 0.0
    while True:
        worst = max(worst, side.send(CALM, options.seconds).p99_us)
        took_s = time.monotonic() - began_s
        if _caught_up(fleet.servers[0], late.name.removeprefix("mq9 ")):
            late.await_ready()
            return calm, worst, took_s, late.counted("mq9_snapshot_received_total")
        if took_s > CAUGHT_UP_S_MAX:
            raise ServerFailed(f"{late.name} did not catch up: {late.last_words()}")


def _caught_up(seen_by: Server, name: str) -> bool:
    """Whether every replica of a node is close behind its leader."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{seen_by.http_port}/cluster", timeout=30
    ) as answer:
        shards = json.load(answer)["shards"]
    for shard in shards:
        applied = {one["node"]: one["applied_index"] for one in shard["replicas"]}
        if name not in applied or applied[name] + NEAR_ENTRIES < max(applied.values()):
            return False
    return True


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.catch_up", description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each trial")
    parser.add_argument("--log-kept", type=int, default=50, help="entries; 0: as usual")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

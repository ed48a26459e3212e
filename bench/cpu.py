"""Processor time per operation of two checkouts, taking turns: which of them does more with a core.

`python -m bench.cpu --base ../other-checkout --nodes 3`, by hand. Processor time hardly minds what
else a machine does, so this tells a change from noise where rates cannot. Both run with this
virtual environment, each from its own directory; a figure is the sum over the nodes, the median of
the rounds. Without `--base` only this checkout is measured.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import loadgen
from bench.contenders import COLUMNS, JOBS, Column, Mq9, offer
from bench.harness import checkouts, measure, taking_turns
from bench.loadgen import LoadGenerator
from bench.servers import Fleet


class Side:
    """One checkout, running."""

    def __init__(self, name: str, fleet: Fleet, program: Path) -> None:
        self.name = name
        self.fleet = fleet
        self.mq9 = Mq9(LoadGenerator(program, fleet.ports))
        self.costs: dict[tuple[str, Column], list[float]] = defaultdict(list)
        self.rates: dict[tuple[str, Column], list[float]] = defaultdict(list)

    def trial(self, job: str, column: Column, turn: int, seconds: float) -> None:
        """Offer a load; what it cost."""
        if job == "FETCH+ACK":
            self.mq9.send(column, seconds)
        before = self.fleet.cpu_seconds()
        figures = offer(self.mq9, job, column, turn, seconds)
        spent = sum(self.fleet.used_since(before))
        if figures.operations:
            self.costs[job, column].append(spent / figures.operations * 1e6)
            self.rates[job, column].append(figures.operations_per_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parse(arguments)
    return measure("cpu", lambda home, console: _compare(options, home, console))


def _compare(options: argparse.Namespace, home: Path, console: Console) -> int:
    columns = [each for each in COLUMNS if each.token in (options.columns or each.token)]
    program = loadgen.build()
    with checkouts(home, options.nodes, options.base) as fleets:
        sides = [Side(name, fleet, program) for name, fleet in fleets.items()]
        _measure(sides, columns, options)
        _show(console, sides)
    return 0


def _measure(sides: Sequence[Side], columns: Sequence[Column], options: argparse.Namespace) -> None:
    for side in sides:
        for column in columns:
            side.mq9.prepare(column)
            side.mq9.send(column, options.seconds)
    for job in options.jobs:
        for turn in range(options.rounds):
            for column in columns:
                for side in taking_turns(sides, turn):
                    side.trial(job, column, turn, options.seconds)


def _show(console: Console, sides: Sequence[Side]) -> None:
    table = Table("", title="µs of processor time per operation, all nodes", title_justify="left")
    for side in sides:
        table.add_column(side.name, justify="right")
        table.add_column(f"{side.name}/s", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("of each round")
    for key in sides[-1].costs:
        job, column = key
        cells = []
        for side in sides:
            cells.append(f"{statistics.median(side.costs[key]):.1f}")
            cells.append(f"{statistics.median(side.rates[key]):,.0f}")
        if len(sides) == 2:
            pairs = zip(sides[1].costs[key], sides[0].costs[key], strict=True)
            ratios = [ours / theirs for ours, theirs in pairs]
            cells.append(f"{statistics.median(ratios):.2f}")
            cells.append(" ".join(f"{ratio:.2f}" for ratio in ratios))
        table.add_row(f"{job} {column.name}", *cells)
    console.print(table)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__)
    parser.add_argument("--base", type=Path, help="a checkout to compare with")
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=["SEND"])
    parser.add_argument("--columns", nargs="+", choices=[each.token for each in COLUMNS])
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

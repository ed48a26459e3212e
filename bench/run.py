"""The comparison itself: starts both sides, takes turns between them, and prints the ratios.

Called by `python -m bench`. Within a job the two sides alternate trial by trial, and who begins
alternates round by round, so that a machine that slows down, or a noisy neighbour, meets both.
Everything started is stopped, also when interrupted.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import loadgen, report
from bench.contenders import COLUMNS, JOBS, Column, Contender, JetStream, Mq9, offer
from bench.harness import measure, taking_turns
from bench.loadgen import BUILD_DIR, Figures, LoadGenerator
from bench.report import Row
from bench.servers import jetstream_fleet, mq9_fleet

BOXES_JOB = "SEND, theirs with a stream per mailbox"
BOXES_COLUMN = Column(1000, 1)

Trials = dict[tuple[str, Column, str], list[Figures]]


class Comparison:
    """All trials of one run."""

    def __init__(
        self, sides: Sequence[Contender], rounds: int, seconds: float, progress: Progress
    ) -> None:
        self.sides = sides
        self.rounds = rounds
        self.seconds = seconds
        self.progress = progress
        self.trials: Trials = defaultdict(list)

    def run(self, jobs: Iterable[str], columns: Sequence[Column]) -> None:
        """Every job in every column, both sides."""
        jobs = tuple(jobs)
        total = len(jobs) * self.rounds * len(columns) * len(self.sides)
        task = self.progress.add_task("setting up", total=total)
        for side in self.sides:
            for column in columns:
                side.prepare(column)
                if "SEND" not in jobs:  # which otherwise makes what FETCH+ACK takes
                    side.send(column, self.seconds)
        # CREATE comes last: what it makes would cost both sides something in the other jobs.
        for job in jobs:
            for turn in range(self.rounds):
                for column in columns:
                    for side in taking_turns(self.sides, turn):
                        self.progress.update(task, description=f"{job} {column.name} {side.name}")
                        self._trial(job, column, side, turn)
                        self.progress.advance(task)

    def run_boxes(self) -> None:
        """1,000 mailboxes against 1,000 streams; ours first: theirs burden the machine by being."""
        task = self.progress.add_task(BOXES_JOB, total=self.rounds * len(self.sides))
        for side in self.sides:
            side.prepare_boxes()
            for _ in range(self.rounds):
                self.trials[BOXES_JOB, BOXES_COLUMN, side.name].append(
                    side.send_boxes(self.seconds)
                )
                self.progress.advance(task)

    def _trial(self, job: str, column: Column, side: Contender, turn: int) -> None:
        if job == "FETCH+ACK":
            side.prepare_fetch(column, turn)
        figures = offer(side, job, column, turn, self.seconds)
        if figures.errors:
            self.progress.console.print(
                f"{job} {column.name} {side.name}: {figures.errors} errors: {figures.complaints}"
            )
        self.trials[job, column, side.name].append(figures)

    def rows(self) -> list[Row]:
        """The trials, job by job and column by column."""
        keys = dict.fromkeys((job, column) for job, column, _ in self.trials)
        return [
            Row(
                job,
                column.name,
                tuple(self.trials.get((job, column, Mq9.name), ())),
                tuple(self.trials.get((job, column, JetStream.name), ())),
            )
            for job, column in keys
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when everything was measured without a wrong answer."""
    options = _parse(arguments)
    return measure("bench", lambda home, console: _compare(options, home, console), stderr=True)


def _compare(options: argparse.Namespace, home: Path, console: Console) -> int:
    program = loadgen.build()
    facts = report.circumstances(home)
    if facts.filesystem == "tmpfs":
        console.print(
            "bench: this is a file system in memory: durability costs nothing here, for either side"
        )
    theirs = f"JetStream R{options.nodes}"
    columns = [column for column in COLUMNS if column.token in (options.columns or column.token)]
    with ExitStack() as stack:
        sides: list[Contender] = []
        if options.only != "theirs":
            ours = stack.enter_context(mq9_fleet(home, options.nodes).running())
            sides.append(Mq9(LoadGenerator(program, ours.ports)))
        if options.only != "ours":
            jetstream = stack.enter_context(jetstream_fleet(home, options.nodes).running())
            sides.append(JetStream(LoadGenerator(program, jetstream.ports), options.nodes))
        progress = stack.enter_context(
            Progress(
                TextColumn("{task.description:36}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
            )
        )
        comparison = Comparison(sides, options.rounds, options.seconds, progress)
        comparison.run(options.jobs, columns)
        if options.nodes > 1 and not options.columns:
            comparison.run_boxes()
    rows = comparison.rows()
    report.show(Console(), rows, theirs)
    stem = f"compare-{options.nodes}-{facts.stamp()}"
    text = report.write(BUILD_DIR / "results", stem, rows, theirs, facts)
    console.print(f"written: {text} and {text.with_suffix('.json').name}", highlight=False)
    return 1 if any(row.errors for row in rows) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="mq9cluster beside NATS JetStream, sync_interval: always",
    )
    parser.add_argument(
        "--nodes", type=int, default=1, choices=(1, 3), help="servers on each side; 3: JetStream R3"
    )
    parser.add_argument("--rounds", type=int, default=3, help="trials of each side per column")
    parser.add_argument("--seconds", type=float, default=1.5, help="of one trial")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--columns", nargs="+", choices=[column.token for column in COLUMNS])
    parser.add_argument("--only", choices=("ours", "theirs"), help="leave the other side out")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

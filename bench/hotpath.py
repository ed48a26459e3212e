"""Where a node's time goes under one kind of load: the top of its profile, its cost per request.

`python -m bench.hotpath --job SEND --column c1o64`, by hand. Uses py-spy where it is installed (it
looks from outside, several hundred times a second, and hardly slows the node down), else cProfile:
calls of small functions look dearer than they are, but calls per operation are exact, and the same
however busy the machine is.
"""

import argparse
import pstats
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import loadgen
from bench.contenders import COLUMNS, JOBS, Column, Mq9, offer
from bench.harness import measure
from bench.loadgen import Figures, LoadGenerator
from bench.servers import Server, mq9_fleet

SAMPLES_PER_SECOND = 500
WARM_UP_SECONDS = 1.0
TOP = 30
CALLED_FOR_EACH = 0.9  # of the operations, or it is set-up and batches
# Innermost Python frames of threads that wait: the loop's poll, a pool's queue, a lock.
WAITING = ("Runner.run ", "_worker ", "Condition.wait ")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parse(arguments)
    return measure("hotpath", lambda home, console: _profile(options, home, console))


def _profile(options: argparse.Namespace, home: Path, console: Console) -> int:
    column = next(each for each in COLUMNS if each.token == options.column)
    counts, samples = home / "calls.prof", home / "stacks.txt"
    spy = None if options.cprofile else _py_spy()
    program = loadgen.build()
    with mq9_fleet(
        home, 1, lambda words: words if spy else _counted(words, counts)
    ).running() as fleet:
        contender = Mq9(LoadGenerator(program, fleet.ports))
        contender.prepare(column)
        _warm_up(contender, column, options)
        node = fleet.servers[0]
        before = node.cpu_seconds()
        watcher = _watch(spy, node, options, samples) if spy else None
        figures = offer(contender, options.job, column, 0, options.seconds)
        cpu = node.cpu_seconds() - before
        if watcher is not None:
            watcher.wait()
    _show_figures(console, options, figures, cpu)
    if spy:
        _show_samples(console, samples)
    else:
        _show_calls(console, counts, figures.operations)
    return 0


def _warm_up(contender: Mq9, column: Column, options: argparse.Namespace) -> None:
    seconds = options.seconds if options.job == "FETCH+ACK" else WARM_UP_SECONDS
    if options.job == "FETCH+ACK" or (options.job == "SEND" and not options.cprofile):
        contender.send(column, seconds)


def _py_spy() -> str | None:
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


def _watch(
    spy: str, node: Server, options: argparse.Namespace, samples: Path
) -> subprocess.Popen[bytes]:
    command = [spy, "record", "--pid", str(node.pid), "--duration", str(int(options.seconds))]
    command += ["--rate", str(SAMPLES_PER_SECOND), "--format", "raw", "--output", str(samples)]
    command += ["--threads", "--nonblocking"] + (["--native"] if options.native else [])
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _counted(words: list[str], counts: Path) -> list[str]:
    """`python -m mq9cluster …` becomes `python -m cProfile -o counts -m mq9cluster …`."""
    return [words[0], "-m", "cProfile", "-o", str(counts), *words[1:]]


def _show_figures(
    console: Console, options: argparse.Namespace, figures: Figures, cpu: float
) -> None:
    console.print(
        f"{options.job} {options.column}: {figures.operations_per_s:,.0f}/s, "
        f"p50 {figures.p50_us:.0f} µs, p99 {figures.p99_us:.0f} µs, {figures.errors} errors; "
        f"the node used {cpu / figures.seconds:.2f} cores, "
        f"{cpu / max(1, figures.operations) * 1e6:.1f} µs of processor time per operation"
    )


def _show_samples(console: Console, samples: Path) -> None:
    """Folded stacks (`thread;outer;inner count`) become shares of the busy time of all threads."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in samples.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_without_line(frame) for frame in stack.split(";")]
        if frames[-1].startswith(WAITING):
            continue
        own[frames[-1]] += int(count)
        for frame in set(frames[1:]):
            within[frame] += int(count)
    total = sum(own.values()) or 1
    table = Table(
        "own", "with callees", "function", title="share of busy time", title_justify="left"
    )
    shown = dict.fromkeys(name for name, _ in own.most_common(TOP))
    shown |= dict.fromkeys(name for name, _ in within.most_common(TOP) if "mq9cluster" in name)
    for name in sorted(shown, key=lambda each: -own[each]):
        table.add_row(
            f"{100 * own[name] / total:.1f} %", f"{100 * within[name] / total:.1f} %", name
        )
    console.print(table)


def _show_calls(console: Console, counts: Path, operations: int) -> None:
    """What was called for every operation; FETCH+ACK includes the SEND that filled."""
    rows = []
    profile: Any = pstats.Stats(str(counts))  # its table of stats is missing in the stubs
    for (file, _, name), (_, calls, own, within, _) in profile.stats.items():
        if calls >= operations * CALLED_FOR_EACH:
            where = name if file == "~" else f"{name} ({Path(file).name})"
            rows.append(
                (own / operations * 1e6, within / operations * 1e6, calls / operations, where)
            )
    python = sum(calls for _, _, calls, where in rows if where[0] != "<")
    console.print(f"{sum(row[2] for row in rows):.0f} calls per operation, {python:.0f} of Python")
    table = Table("own µs", "with callees µs", "calls", "function")
    for own, within, calls, where in sorted(rows, reverse=True)[:TOP]:
        table.add_row(f"{own:.2f}", f"{within:.2f}", f"{calls:.2f}", where)
    console.print(table)


def _without_line(frame: str) -> str:
    """`send (session.py:12)` without the line: shares are of functions."""
    head, colon, line = frame.rpartition(":")
    return head + ")" if colon and line.rstrip(")").isdigit() else frame


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.hotpath", description=__doc__)
    parser.add_argument("--job", choices=JOBS, default="SEND")
    parser.add_argument("--column", choices=[each.token for each in COLUMNS], default="c1o64")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--native", action="store_true", help="with C, C++ and Rust frames")
    parser.add_argument("--cprofile", action="store_true", help="even where py-spy is installed")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

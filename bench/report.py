"""Turns trials into tables: rich on the screen, JSON and markdown in files, circumstances beside.

Called by run and scale. Medians are of the trials of one run; a ratio is median over median.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.loadgen import Figures
from bench.servers import nats_server_version

FSYNC_PROBES = 200
FSYNC_PROBE_BYTES = 4096
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where, when and of what the figures are."""

    date: str
    revision: str
    nats_server: str
    python: str
    machine: str
    kernel: str
    filesystem: str
    fsync_p50_us: float
    load_before: float  # more than a fraction of the cores: somebody else was measured too

    def stamp(self) -> str:
        """The date as file names write it."""
        return self.date[:16].replace(" ", "T").replace(":", "")

    def line(self) -> str:
        """All of it in one line."""
        return (
            f"{self.date}, revision {self.revision}, {self.nats_server}, {self.python}, "
            f"{self.machine}, {self.kernel}, {self.filesystem}, fsync {self.fsync_p50_us:.0f} µs "
            f"(median), load before {self.load_before}"
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One job in one column: all trials of both sides."""

    job: str
    column: str
    ours: tuple[Figures, ...]
    theirs: tuple[Figures, ...]

    @property
    def ratio(self) -> float | None:
        """Our median rate over theirs; None when one side was not measured."""
        if not self.ours or not self.theirs:
            return None
        theirs = median(self.theirs, "operations_per_s")
        return median(self.ours, "operations_per_s") / theirs if theirs else None

    @property
    def errors(self) -> int:
        """Answers that were not what was asked for, both sides."""
        return sum(trial.errors for trial in self.ours + self.theirs)


def median(trials: Sequence[Figures], name: str) -> float:
    """The median of one figure over the trials; 0 without any."""
    return statistics.median(getattr(trial, name) for trial in trials) if trials else 0.0


def circumstances(directory: Path) -> Circumstances:
    """Looked at just before the run, on the disk that is measured."""
    return Circumstances(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        revision=_revision(),
        nats_server=nats_server_version(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        machine=f"{os.cpu_count()} x {_processor()}, {_memory_gib():.0f} GiB",
        kernel=f"{platform.system()} {platform.release()}",
        filesystem=_filesystem(directory),
        fsync_p50_us=round(_fsync_p50_us(directory), 1),
        load_before=round(os.getloadavg()[0], 2),
    )


def show(console: Console, rows: Sequence[Row], theirs: str) -> None:
    """One table per job on the screen."""
    for job in dict.fromkeys(row.job for row in rows):
        table = Table(title=f"{job}: mq9cluster and {theirs}, medians", title_justify="left")
        table.add_column("")
        for heading in (
            "ours/s",
            "theirs/s",
            "ratio",
            "p50 ms",
            "p99 ms",
            "their p50",
            "their p99",
        ):
            table.add_column(heading, justify="right")
        for row in (each for each in rows if each.job == job):
            table.add_row(*_cells(row))
        console.print(table)


def markdown(rows: Sequence[Row], theirs: str, facts: Circumstances) -> str:
    """What bench/README.md keeps."""
    lines = [
        facts.line(),
        "",
    ]
    for job in dict.fromkeys(row.job for row in rows):
        lines += [
            f"| {job} | ours/s | {theirs}/s | ratio | p50 ms | p99 ms | their p50 | their p99 |",
            "|---" + "|--:" * 7 + "|",
        ]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows if row.job == job]
        lines.append("")
    return "\n".join(lines)


def write(
    directory: Path, stem: str, rows: Sequence[Row], theirs: str, facts: Circumstances
) -> Path:
    """JSON with every trial, and the markdown beside it; the latter's path."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "circumstances": asdict(facts),
        "theirs": theirs,
        "rows": [asdict(row) for row in rows],
    }
    (directory / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
    text = directory / f"{stem}.md"
    text.write_text(markdown(rows, theirs, facts))
    return text


def _cells(row: Row) -> list[str]:
    def rate(trials: tuple[Figures, ...]) -> str:
        return f"{median(trials, 'operations_per_s'):,.0f}" if trials else NOTHING

    def millis(trials: tuple[Figures, ...], name: str) -> str:
        return f"{median(trials, name) / 1e3:.3g}" if trials else NOTHING

    ratio = NOTHING if row.ratio is None else f"{row.ratio:.2f}"
    if row.errors:
        ratio += f" ({row.errors} errors)"
    return [
        row.column,
        rate(row.ours),
        rate(row.theirs),
        ratio,
        millis(row.ours, "p50_us"),
        millis(row.ours, "p99_us"),
        millis(row.theirs, "p50_us"),
        millis(row.theirs, "p99_us"),
    ]


def _revision() -> str:
    def git(*words: str) -> str:
        ended = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        return ended.stdout.strip()

    changed = (
        " with uncommitted changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    )
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + changed


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _filesystem(directory: Path) -> str:
    """The type of the file system that `directory` is on: the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    home = directory.resolve()
    above = [(len(point), kind) for point, kind in mounts if home.is_relative_to(point)]
    return max(above)[1] if above else "unknown"


def _fsync_p50_us(directory: Path) -> float:
    probe = directory / "fsync-probe"
    times = []
    with probe.open("wb", buffering=0) as file:
        for _ in range(FSYNC_PROBES):
            file.write(b"\0" * FSYNC_PROBE_BYTES)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1e6)
    probe.unlink()
    return statistics.median(times)

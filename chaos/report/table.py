"""The results of many cells as a page of Markdown: what is committed as chaos/RESULTS.md."""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from typing import Protocol

from chaos.checkers.verdict import Verdict

HEAD = """# What the chaos suite found last

{day}, {cores} cores, Linux {kernel}, Python {python}. Each line is one run: requests of
clients, those whose outcome nobody knows, those refused, faults, the longest silence any of 16
probes saw, the longest wait for full service after a fault ended, and what the checkers looked at.
Replay: `make chaos ARGS="--cell NAME --seed SEED"`.

| cell | seed, revision | requests | unknown | refused | faults | outage | healing | judged | |
|---|---|---|---|---|---|---|---|---|---|
"""


class Played(Protocol):
    """What the table needs of a result."""

    seed: str
    verdicts: list[Verdict]
    operations: int
    unknown: int
    refused: int
    faults: int
    outage_s: float
    recoveries_s: list[float]
    whole_s: float

    @property
    def title(self) -> str:
        """The cell's name."""

    @property
    def right(self) -> bool:
        """Whether it came out as it must."""


def page(results: Sequence[Played]) -> str:
    """All of it."""
    head = HEAD.format(
        day=time.strftime("%Y-%m-%d", time.gmtime()),
        cores=os.cpu_count(),
        kernel=platform.release().partition("-")[0],
        python=platform.python_version(),
    )
    wrong = [one.title for one in results if not one.right]
    said = f"Not right: {', '.join(wrong)}." if wrong else "Violations: none."
    total = (
        f"\n{len(results)} runs, {sum(one.operations for one in results):,} requests, "
        f"{sum(one.unknown for one in results):,} of unknown outcome, "
        f"{sum(one.faults for one in results)} faults. {said}\n"
    )
    revision = _revision()
    return head + "".join(_line(one, revision) for one in results) + total


def _line(one: Played, revision: str) -> str:
    healing = max([one.whole_s, *one.recoveries_s])
    looked = ", ".join(f"{v.checker} {v.looked}" for v in one.verdicts if v.checker != "traffic")
    found = "; ".join(f"{len(v.violations)} of {v.checker}" for v in one.verdicts if v.violations)
    verdict = "right" if one.right else "**WRONG**"
    return (
        f"| {one.title} | {one.seed}, {revision} | "
        f"{one.operations:,} | {one.unknown:,} | {one.refused:,} | {one.faults} | "
        f"{one.outage_s:.1f} s | {healing:.1f} s | {looked} | "
        f"{verdict}{': ' + found if found else ''} |\n"
    )


def _revision() -> str:
    command = ("git", "describe", "--always", "--dirty", "--abbrev=12")
    done = subprocess.run(command, check=False, capture_output=True)
    return done.stdout.decode().strip() or "unknown"

"""The results of many cells as a page of Markdown: what is committed as chaos/RESULTS.md."""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from typing import Protocol

from chaos.checkers.verdict import TRAFFIC, Verdict

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
    note: str
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


def page(results: Sequence[Played], revised: str, planned: int) -> str:
    """All of it, so far; `revised`: what was checked out; `planned`: how many there are to be."""
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
    if len(results) < planned:
        total += f"\n**Not finished**: {len(results)} of {planned} were played.\n"
    return head + "".join(_line(one, revised) for one in results) + total


def _line(one: Played, revised: str) -> str:
    healing = max([one.whole_s, *one.recoveries_s])
    looked = ", ".join(f"{v.checker} {v.looked}" for v in one.verdicts if v.checker != TRAFFIC)
    found = "; ".join(f"{len(v.violations)} of {v.checker}" for v in one.verdicts if v.violations)
    verdict = "right" if one.right else "**WRONG**"
    note = f" ({one.note})" if one.note else ""
    return (
        f"| {one.title} | {one.seed}, {revised} | "
        f"{one.operations:,} | {one.unknown:,} | {one.refused:,} | {one.faults} | "
        f"{one.outage_s:.1f} s | {healing:.1f} s | {looked} | "
        f"{verdict}{': ' + found if found else ''}{note} |\n"
    )


def revision() -> str:
    """What is checked out, and whether something of it was changed."""
    command = ("git", "describe", "--always", "--dirty", "--abbrev=12")
    done = subprocess.run(command, check=False, capture_output=True)
    return done.stdout.decode().strip() or "unknown"

"""Cells one after the other, unattended: what each came to is on paper before the next begins.

Called by `__main__`. A cell that finds too little to do is played once more, for twice as long; one
that hangs is given up; an interruption ends the series, with what was played until then.
"""

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from chaos import machine
from chaos.cells import Cell, Result
from chaos.checkers.verdict import NAMED_MAX, TRAFFIC, Verdict
from chaos.janitor import Janitor
from chaos.matrix import NEMESES
from chaos.report.table import page, revision
from chaos.run import Play

CELL_S_MAX: Final = 900.0  # beyond the cell's own time: all of `run`'s patience, and it hangs
VIOLATION_CHARS_MAX: Final = 400  # the page has all of it
AGAIN: Final = "too little traffic at first"

PlayOnce = Callable[[Cell, str, Path], Result]


class Series:
    """Cells under one seed, and what became of those played so far."""

    def __init__(
        self, cells: Sequence[Cell], seed: str, out: Path, table: Path | None, once: PlayOnce
    ) -> None:
        """`out`: where reports go; `table`: the file that is written anew after each cell."""
        self.results: list[Result] = []
        self.left_out: list[str] = []
        self.interrupted = False
        self._cells = cells
        self._seed = seed
        self._out = out
        self._table = table
        self._once = once
        self._revision = (
            revision()
        )  # before the table is written, which may be under version control

    def play(self) -> None:
        """All of them, or until somebody interrupts."""
        try:
            for cell in self._cells:
                self._play(cell)
        except KeyboardInterrupt:
            self.interrupted = True
        self._write()

    def _play(self, cell: Cell) -> None:
        if missing := NEMESES[cell.nemesis]().needs & machine.lacking().keys():
            self.left_out.append(cell.name)
            print(f"{cell.name}: left out, this machine lacks {', '.join(sorted(missing))}")
            return
        result = self._told(cell)
        if {one.checker for one in result.verdicts if one.violations} == {TRAFFIC}:
            print(f"{cell.name}: {AGAIN}, so once more, for twice as long", flush=True)
            result = self._told(replace(cell, seconds=2 * cell.seconds))
            result.note = AGAIN
        self.results.append(result)
        self._write()

    def _told(self, cell: Cell) -> Result:
        folder = self._out / f"{time.strftime('%Y%m%d-%H%M%S')}-{cell.name}-{self._seed}"
        result = self._once(cell, self._seed, folder)
        print(line(result), flush=True)
        for violation in result.violations[:NAMED_MAX]:
            print(f"  {violation[:VIOLATION_CHARS_MAX]}", flush=True)
        return result

    def _write(self) -> None:
        if self._table is None or not self.results:
            return
        text = page(self.results, self._revision, len(self._cells) - len(self.left_out))
        part = self._table.with_name(f"{self._table.name}.part")
        part.write_text(text)
        part.replace(self._table)


def play_once(cell: Cell, seed: str, folder: Path) -> Result:
    """Play one cell; what breaks the harness itself is a result, too."""
    with Janitor() as janitor:
        play = Play(cell, NEMESES[cell.nemesis](), seed, janitor)
        try:
            return asyncio.run(_within(cell.seconds + CELL_S_MAX, play, folder))
        except Exception as error:  # noqa: BLE001  the other cells are still to be played
            traceback.print_exc()
            broken = Verdict("harness", 0, [repr(error)])
            return Result(cell, seed, [broken], folder=folder)


async def _within(seconds: float, play: Play, folder: Path) -> Result:
    async with asyncio.timeout(seconds):
        return await play.play(folder)


def line(result: Result) -> str:
    """A result in one line."""
    return (
        f"{result.cell.name}: {'right' if result.right else 'WRONG'}, seed {result.seed}, "
        f"{result.operations} operations, {result.unknown} unknown, {result.refused} refused, "
        f"{result.faults} faults, longest outage {result.outage_s:.1f} s, "
        f"longest healing {max([result.whole_s, *result.recoveries_s]):.1f} s, "
        f"took {result.took_s:.0f} s, "
        f"{result.folder}/report.html"
    )

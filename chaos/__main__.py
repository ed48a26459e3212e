"""`python -m chaos`: plays cells of the matrix, and says what came of them."""

import argparse
import asyncio
import random
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Final

from chaos import machine
from chaos.cells import Cell, Result
from chaos.checkers.verdict import NAMED_MAX, Verdict
from chaos.janitor import Janitor
from chaos.matrix import NEMESES, BadMatrix, read_matrix
from chaos.report.table import page
from chaos.run import Play

RUNS: Final = Path("build/chaos")
VIOLATION_CHARS_MAX: Final = 400  # the page has all of it


def main() -> int:
    """Read the command line, play, and exit with 1 if anything was wrong."""
    reader = argparse.ArgumentParser(prog="chaos", description=__doc__)
    reader.add_argument("--full", action="store_true", help="all cells, not only the selection")
    reader.add_argument("--cell", action="append", default=[], help="only this one; repeatable")
    reader.add_argument("--seed", default=str(random.SystemRandom().randrange(1_000_000)))
    reader.add_argument("--seconds", type=float, help="of faults, in place of the matrix's")
    reader.add_argument("--out", type=Path, default=RUNS, help="where reports go")
    reader.add_argument("--results", type=Path, help="also write a table there")
    asked = reader.parse_args()
    try:
        matrix = read_matrix()
        cells = matrix.cells if asked.full else matrix.selection
        cells = matrix.named(asked.cell) if asked.cell else cells
    except BadMatrix as error:
        print(error, file=sys.stderr)
        return 2
    for what, why in machine.lacking().items():
        print(f"not possible on this machine: {what}: {why}")
    if asked.seconds:
        cells = [replace(cell, seconds=asked.seconds) for cell in cells]
    results = [one for cell in cells if (one := play_cell(cell, asked.seed, asked.out))]
    if asked.results:
        asked.results.write_text(page(results))
    wrong = [result.title for result in results if not result.right]
    said = f"wrong: {', '.join(wrong)}" if wrong else "all right"
    print(f"{len(results)} cells of {len(cells)} played with seed {asked.seed}: {said}")
    return 1 if wrong or not results else 0


def play_cell(cell: Cell, seed: str, out: Path) -> Result | None:
    """Play one cell and print what came of it; None where this machine cannot."""
    nemesis = NEMESES[cell.nemesis]()
    if missing := nemesis.needs & machine.lacking().keys():
        print(f"{cell.name}: left out, this machine lacks {', '.join(sorted(missing))}")
        return None
    folder = out / f"{time.strftime('%Y%m%d-%H%M%S')}-{cell.name}-{seed}"
    with Janitor() as janitor:
        play = Play(cell, nemesis, seed, janitor)
        try:
            result = asyncio.run(play.play(folder))
        except Exception as error:  # noqa: BLE001  the other cells are still to be played
            traceback.print_exc()
            broken = Verdict("harness", 0, [repr(error)])
            result = Result(cell, seed, [broken], folder=folder)
    print(line(result), flush=True)
    for violation in result.violations[:NAMED_MAX]:
        print(f"  {violation[:VIOLATION_CHARS_MAX]}")
    return result


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


if __name__ == "__main__":
    sys.exit(main())

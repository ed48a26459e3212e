"""`python -m chaos`: plays cells of the matrix, and says what came of them."""

import argparse
import asyncio
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from chaos import machine
from chaos.checkers.verdict import NAMED_MAX, Verdict
from chaos.janitor import Janitor
from chaos.matrix import NEMESES, BadMatrix, read_matrix
from chaos.run import Cell, Play, Result

RUNS: Final = Path("build/chaos")


def main() -> int:
    """Read the command line, play, and exit with 1 if anything was wrong."""
    reader = argparse.ArgumentParser(prog="chaos", description=__doc__)
    reader.add_argument("--full", action="store_true", help="all cells, not only the selection")
    reader.add_argument("--cell", action="append", default=[], help="only this one; repeatable")
    reader.add_argument("--seed", default=str(random.SystemRandom().randrange(1_000_000)))
    reader.add_argument("--seconds", type=float, help="of faults, in place of the matrix's")
    reader.add_argument("--out", type=Path, default=RUNS, help="where reports go")
    asked = reader.parse_args()
    try:
        everything, selection = read_matrix()
    except BadMatrix as error:
        print(error, file=sys.stderr)
        return 2
    cells = everything if asked.full or asked.cell else selection
    if asked.cell:
        cells = [cell for cell in cells if cell.name in asked.cell]
    for what, why in machine.lacking().items():
        print(f"not possible on this machine: {what}: {why}")
    wrong = 0
    for cell in cells:
        wrong += not play_cell(cell, asked.seed, asked.out)
    return 1 if wrong else 0


def play_cell(cell: Cell, seed: str, out: Path) -> bool:
    """Play one cell and print what came of it; whether all was right."""
    nemesis = NEMESES[cell.nemesis]()
    if missing := nemesis.needs & machine.lacking().keys():
        print(f"{cell.name}: left out, this machine lacks {', '.join(sorted(missing))}")
        return True
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
        print(f"  {violation}")
    return result.right


def line(result: Result) -> str:
    """A result in one line."""
    return (
        f"{result.cell.name}: {'right' if result.right else 'WRONG'}, seed {result.seed}, "
        f"{result.operations} operations, {result.unknown} unknown, {result.refused} refused, "
        f"{result.faults} faults, longest outage {result.outage_s:.1f} s, "
        f"whole {result.whole_s:.1f} s after healing, took {result.took_s:.0f} s, "
        f"{result.folder}/report.html"
    )


if __name__ == "__main__":
    sys.exit(main())

"""`python -m chaos`: plays cells of the matrix, and says what came of them."""

import argparse
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from chaos import machine
from chaos.matrix import BadMatrix, read_matrix
from chaos.series import Series, play_once

RUNS: Final = Path("build/chaos")
INTERRUPTED: Final = 130  # as shells have it


def main() -> int:
    """Read the command line, play, and exit with 1 if anything was wrong."""
    reader = argparse.ArgumentParser(prog="chaos", description=__doc__)
    reader.add_argument("--full", action="store_true", help="all cells, not only the selection")
    reader.add_argument("--trials", action="store_true", help="behind them, the trials as well")
    reader.add_argument("--cell", action="append", default=[], help="only this one; repeatable")
    reader.add_argument("--seed", default=str(random.SystemRandom().randrange(1_000_000)))
    reader.add_argument("--seconds", type=float, help="of faults, in place of the matrix's")
    reader.add_argument("--out", type=Path, default=RUNS, help="where reports go")
    reader.add_argument("--results", type=Path, help="a table, written there after each cell")
    asked = reader.parse_args()
    try:
        matrix = read_matrix()
        cells = matrix.cells if asked.full else matrix.selection
        cells = matrix.named(asked.cell) if asked.cell else cells
    except BadMatrix as error:
        print(error, file=sys.stderr)
        return 2
    if asked.trials:
        cells = [*cells, *(trial for trial in matrix.trials if trial not in cells)]
    for what, why in machine.lacking().items():
        print(f"not possible on this machine: {what}: {why}")
    if asked.seconds:
        cells = [replace(cell, seconds=asked.seconds) for cell in cells]
    # SIGTERM ends a run as Ctrl-C does: asyncio has it clear away what it began. Behind `&` a shell
    # has SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    series = Series(cells, asked.seed, asked.out, asked.results, play_once)
    series.play()
    results = series.results
    wrong = [result.title for result in results if not result.right]
    said = f"wrong: {', '.join(wrong)}" if wrong else "all right"
    said = f"interrupted; {said}" if series.interrupted else said
    print(f"{len(results)} cells of {len(cells)} played with seed {asked.seed}: {said}")
    if series.interrupted:
        return INTERRUPTED
    return 1 if wrong or not results else 0


if __name__ == "__main__":
    sys.exit(main())

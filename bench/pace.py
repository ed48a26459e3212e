"""How fast a core ran, for figures that are shares of one.

The core of a virtual machine may be half of a real one, whose other half works for somebody else:
then the same work takes up to twice the processor time, and another factor a second later. A `Pace`
has a process do the same piece of work again and again, 1 to 2 % of a core, and says how many times
longer it took than on an undisturbed core: as long as the quickest twentieth of all pieces. What
that divides supposes that other work is slowed as much.

`python -m bench.pace`: that process; a line for each piece, when it was done and how long it took.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final

PIECES_PER_SECOND: Final = 50
STEPS_PER_PIECE: Final = 6_000  # about 0.2 ms: long beside what it takes to wake up
PIECES_MIN: Final = 20  # below it a mean says nothing
UNDISTURBED: Final = 0.05  # this part of the pieces is believed to have been


class Pace:
    """A context manager; the process runs within it."""

    def __init__(self, home: Path) -> None:
        """`home`: where the pieces are written down."""
        self._path = home / "pace"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Pace":
        with self._path.open("wb") as written:
            self._process = subprocess.Popen([sys.executable, "-m", "bench.pace"], stdout=written)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def slowdown(self, began_s: float, ended_s: float) -> float:
        """How many times longer than on an undisturbed core work took between two moments of
        `time.monotonic`. Raises ValueError where it knows nothing of them.
        """
        lines = self._path.read_text(encoding="ascii").splitlines()
        pieces = [(float(when), int(took)) for when, took in map(str.split, lines)]
        then = [took for when, took in pieces if began_s <= when <= ended_s]
        if len(then) < PIECES_MIN:
            raise ValueError(f"{len(then)} pieces of work in {ended_s - began_s:.1f} s")
        return statistics.mean(then) / undisturbed([took for _, took in pieces])


def undisturbed(took: list[int]) -> int:
    """What a piece takes that nothing disturbs, by what some took."""
    return sorted(took)[int(len(took) * UNDISTURBED)]


def _work() -> int:
    total = 0
    for step in range(STEPS_PER_PIECE):
        total += step * 3 & 7
    return total


def main() -> None:
    """Work until killed."""
    while True:
        began_ns = time.thread_time_ns()
        _work()
        took_ns = time.thread_time_ns() - began_ns
        print(f"{time.monotonic():.3f} {took_ns}", flush=True)
        time.sleep(1 / PIECES_PER_SECOND)


if __name__ == "__main__":
    main()

"""Whether nodes grow: memory and open files of long runs. Pure.

Nodes are killed and started all the time, so what is compared is how high they come in an early
part of the run and in its last part.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from chaos.checkers.verdict import Verdict

MEMORY_GROWN_MAX: Final = 1.25
MEMORY_SPARE_BYTES: Final = 24 << 20  # RocksDB's caches fill once
FILES_GROWN_MAX: Final = 1.25
FILES_SPARE: Final = 40  # tables and logs of RocksDB, clients that happen to be there
LOOKS_MIN: Final = 40


class Measured(Protocol):
    """What was seen of a node at a moment."""

    @property
    def node(self) -> str:
        """Whose."""

    @property
    def memory_bytes(self) -> int:
        """Resident; 0 of a node that was down."""

    @property
    def files(self) -> int:
        """Open ones."""


def judge_growth(looks: Sequence[Measured]) -> list[Verdict]:
    """One verdict for memory, one for open files."""
    memory = _grown(looks, lambda look: look.memory_bytes, MEMORY_GROWN_MAX, MEMORY_SPARE_BYTES)
    files = _grown(looks, lambda look: look.files, FILES_GROWN_MAX, FILES_SPARE)
    return [Verdict("memory", len(looks), memory), Verdict("open files", len(looks), files)]


def _grown(
    looks: Sequence[Measured], of: Callable[[Measured], int], most: float, spare: int
) -> list[str]:
    wrong = []
    for node in sorted({look.node for look in looks}):
        values = [of(look) for look in looks if look.node == node and of(look)]
        if len(values) < LOOKS_MIN:
            wrong.append(f"{node} was seen {len(values)} times, too little to tell")
            continue
        quarter = len(values) // 4
        early, late = max(values[quarter : 2 * quarter]), max(values[-quarter:])
        if late > early * most + spare:
            wrong.append(f"{node} grew from {early} to {late}")
    return wrong

"""Ports: what the inner parts need of the world, given to them by the node or the simulator."""

from collections.abc import Iterator
from enum import IntEnum
from typing import Protocol


class Family(IntEnum):
    """Kinds of rows: one column family each."""

    SHARDS = 0  # one row a shard: applied index, shard time, counters
    MAILBOXES = 1
    MESSAGES = 2
    INDEX = 3
    GROUPS = 4
    SCHEDULE = 5
    AGENTS = 6


class StateView(Protocol):
    """One shard's committed state, as the state machine reads it. Keys are the shard's own."""

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value under `key`, or None."""

    def scan(
        self, family: Family, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < stop, in key order (or backwards), from one consistent view."""


class Writes:
    """What one entry changes: rows to put or delete, ranges to drop. Applied in one atomic batch.

    A range is dropped before the rows of the same batch are put.
    """

    __slots__ = ("ranges", "rows")

    def __init__(self) -> None:
        self.rows: dict[Family, dict[bytes, bytes | None]] = {family: {} for family in Family}
        self.ranges: list[tuple[Family, bytes, bytes]] = []

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return any(self.rows.values()) or bool(self.ranges)


class Clock(Protocol):
    """The node's clocks."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds; may jump."""

    def monotonic_ms(self) -> int:
        """Milliseconds since some start; never goes back."""

    def seconds(self) -> float:
        """Seconds since some start, as fine as the machine has it: for measuring."""


class Random(Protocol):
    """The node's source of randomness."""

    def token(self, length: int) -> bytes:
        """`length` unpredictable bytes."""

"""The words of a replicated log, shared by the engines and the log on disk."""

from typing import NamedTuple


class LogEntry(NamedTuple):
    """One entry of a group's log. Empty `data` is the no-op that opens a term."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    term: int
    data: bytes


class HardState(NamedTuple):
    """What a replica must never forget: its term and whom it voted for in it ("" for nobody)."""

    term: int
    voted_for: str

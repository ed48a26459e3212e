"""The log of one replica as Raft sees it: what is on disk, and in front of it what is on its way
there.

Owned by `raft_engine`; reads entries that are on disk through the `LogReader` port, which keeps the
newest of them in memory. Holds only those that are not yet on disk or not yet applied. It never
writes: `take_unsaved` says what to write, `saved` that it was.

Terms never fall along a log, so places are found by bisection rather than by a walk over the disk.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mq9cluster.cluster.engine import EngineRefused, LogEntry, LogReader


class LogConflict(Exception):
    """A leader asked to replace a committed entry: two histories exist; stop."""


class Unsaved(NamedTuple):
    """What must be written next: entries from `truncate_from` on are replaced first."""

    truncate_from: int | None
    entries: Sequence[LogEntry]


class RaftLog:
    """Entries first_index … last_index; the place before the first answers with its term, too."""

    __slots__ = (
        "_conflicts",
        "_reader",
        "_tail",
        "_tail_first",
        "_taken",
        "_truncate_from",
        "last_index",
        "last_term",
        "synced_index",
    )

    def __init__(self, reader: LogReader, applied: int) -> None:
        """`applied`: where the state stands. Raises EngineRefused if log and state do not join."""
        first, last = reader.first_index(), reader.last_index()
        if applied < first - 1:
            raise EngineRefused(
                f"state stands at {applied}, but the log begins at {first}: state is missing"
            )
        if applied > last:
            raise EngineRefused(
                f"state stands at {applied}, but the log ends at {last}: entries are missing"
            )
        self._reader = reader
        self.last_index = last
        self.last_term = reader.term(last)
        self.synced_index = last
        self._tail: list[LogEntry] = []
        self._tail_first = last + 1
        self._taken = last  # highest index handed out for writing
        self._truncate_from: int | None = None
        self._conflicts = 0

    @property
    def first_index(self) -> int:
        """The oldest index still kept."""
        return self._reader.first_index()

    @property
    def conflicts(self) -> int:
        """How often entries were replaced. A write begun before the newest of them proves nothing
        about the log now.
        """
        return self._conflicts

    def term(self, index: int) -> int:
        """The term at first_index - 1 <= index <= last_index."""
        if index == self.last_index:
            return self.last_term
        if index >= self._tail_first:
            return self._tail[index - self._tail_first].term
        return self._reader.term(index)

    def holds(self, index: int, term: int) -> bool:
        """Whether the log has an entry of `term` at `index`, or it is the place before."""
        return self.first_index - 1 <= index <= self.last_index and self.term(index) == term

    def newest_not_above(self, index: int, term: int) -> int:
        """The newest place at or before `index` whose term is at most `term`.

        The place before the first is as far as it looks; an older `index` is returned as it is.
        """
        low, high = min(index, self.first_index - 1), min(index, self.last_index)
        while low < high:
            middle = (low + high + 1) // 2
            if self.term(middle) <= term:
                low = middle
            else:
                high = middle - 1
        return low

    def entries(self, start: int, stop: int, bytes_max: int) -> Sequence[LogEntry]:
        """Entries start <= index < stop, at least one if there is any, else up to `bytes_max`."""
        if start < self._tail_first:
            return self._reader.read(start, min(stop, self._tail_first), bytes_max)
        place = start - self._tail_first
        taken = self._tail[place : stop - self._tail_first]
        total = 0
        for count, entry in enumerate(taken):
            total += len(entry.data)
            if total > bytes_max and count:
                return taken[:count]
        return taken

    def append(self, term: int, data: bytes) -> LogEntry:
        """Add an entry of this replica's own as leader."""
        entry = LogEntry(self.last_index + 1, term, data)
        self._add(entry)
        return entry

    def accept(self, entries: Sequence[LogEntry], committed: int) -> int | None:
        """Take entries that follow a place known to match; the first index that was replaced, if
        any.

        Entries already here are left alone: a late or doubled message must not shorten the log
        (failure B).
        """
        replaced = None
        for entry in entries:
            if entry.index <= self.last_index:
                if self.term(entry.index) == entry.term:
                    continue
                if entry.index <= committed:
                    raise LogConflict(f"entry {entry.index} is committed and would be replaced")
                self._truncate(entry.index)
                replaced = entry.index
            self._add(entry)
        return replaced

    def take_unsaved(self) -> Unsaved:
        """What was added or replaced since the last call."""
        entries = (
            self._tail[self._taken + 1 - self._tail_first :]
            if self._taken < self.last_index
            else ()
        )
        unsaved = Unsaved(self._truncate_from, entries)
        self._taken = self.last_index
        self._truncate_from = None
        return unsaved

    def saved(self, index: int) -> None:
        """Everything up to `index`, as taken, is on disk."""
        self.synced_index = max(self.synced_index, index)

    def trim(self, index: int) -> None:
        """Entries up to `index` are applied: those of them that are on disk need not be held."""
        count = min(index, self.synced_index) + 1 - self._tail_first
        if count > 0:
            del self._tail[:count]
            self._tail_first += count

    def restart(self, index: int, term: int) -> None:
        """State was installed at (index, term): the log, on disk too, is empty and begins behind
        it.
        """
        self._tail = []
        self._tail_first = index + 1
        self.last_index = self.synced_index = self._taken = index
        self.last_term = term
        self._truncate_from = None
        self._conflicts += 1

    def _add(self, entry: LogEntry) -> None:
        self._tail.append(entry)
        self.last_index, self.last_term = entry.index, entry.term

    def _truncate(self, index: int) -> None:
        term = self.term(index - 1)
        if index >= self._tail_first:
            del self._tail[index - self._tail_first :]
        else:
            self._tail, self._tail_first = [], index
        if index <= self._taken:
            self._truncate_from = (
                index if self._truncate_from is None else min(self._truncate_from, index)
            )
            self._taken = index - 1
        self.last_index, self.last_term = index - 1, term
        self.synced_index = min(self.synced_index, index - 1)
        self._conflicts += 1

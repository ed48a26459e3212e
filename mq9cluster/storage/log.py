"""One group's log on disk: checksummed entries in one unbroken chain, term and vote, and what
compaction left behind.

`cluster/durability.py` appends and compacts; the engine reads entries back for a peer that is
behind (the `LogReader` port). A tail stays in memory, so that peers that keep up cost no reads.

A row is `crc32 u32 | term u64 | data`; the checksum covers group and index too, so that a row is
good only in its place. Opening walks the whole chain: a gap or a bad row raises StorageCorrupt
before anything is served.
"""

from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import Final
from zlib import crc32

from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.log import HardState, LogEntry
from mq9cluster.storage import keyspace
from mq9cluster.storage.database import LOG_FAMILY, RAFT_FAMILY, Batch, Database
from mq9cluster.storage.errors import StorageCorrupt

_HEAD = Struct(">IQ")
_COVERED = Struct(">HQQ")
_CHECKED = Struct(">I")
_MARK = Struct(">QQ")
_TERM = Struct(">Q")

TAIL_BYTES_MAX: Final = 8 << 20  # per group: some seconds of traffic for a peer that lags a little
DELETE_SINGLY_MAX: Final = 1_000  # above this a range tombstone is cheaper than a tombstone a row


class GroupLog:
    """The log of one group. `append`, `compact` and the like fill a batch; they count as done when
    it is written.
    """

    __slots__ = (
        "_compacted_term",
        "_first",
        "_group",
        "_last",
        "_log",
        "_raft",
        "_sizes",
        "_tail",
        "_tail_bytes",
        "_tail_bytes_max",
        "_tail_first",
        "bytes_kept",
        "hard_state",
    )

    def __init__(
        self, database: Database, group: int, tail_bytes_max: int = TAIL_BYTES_MAX
    ) -> None:
        self._group = group
        self._log = database.table(LOG_FAMILY)
        self._raft = database.table(RAFT_FAMILY)
        self._tail: dict[int, LogEntry] = {}
        self._tail_bytes = 0
        self._tail_bytes_max = tail_bytes_max
        self._sizes: deque[int] = deque()  # data bytes of every entry kept, oldest first
        self.bytes_kept = 0
        compacted, self._compacted_term = self._read_compacted()
        self._first = compacted + 1
        self._last = compacted
        self._tail_first = self._first
        self.hard_state = self._read_hard_state()
        self._walk()

    # ------------------------------------------------------------------ reading: the LogReader port

    def first_index(self) -> int:
        """The oldest index still kept; 1 for a log never compacted."""
        return self._first

    def last_index(self) -> int:
        """The newest index written (and, once its batch is synced, on disk); first_index() - 1 when
        empty.
        """
        return self._last

    def term(self, index: int) -> int:
        """The term at `index`; also answers for first_index() - 1. Raises IndexError outside,
        StorageCorrupt.
        """
        if index == self._first - 1:
            return self._compacted_term
        entry = self._tail.get(index)
        return self._entry(index).term if entry is None else entry.term

    def read(self, start: int, stop: int, bytes_max: int) -> Sequence[LogEntry]:
        """Entries start <= index < stop, at least one if there is any, else up to `bytes_max`.

        Raises IndexError when `start` is compacted away, StorageCorrupt.
        """
        if start < self._first:
            raise IndexError(
                f"entry {start} of group {self._group} is compacted; {self._first} is the first"
            )
        found: list[LogEntry] = []
        size = 0
        tail = self._tail
        for index in range(start, min(stop, self._last + 1)):
            entry = tail.get(index) or self._entry(index)
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    @property
    def entries_kept(self) -> int:
        """How many entries the log holds."""
        return self._last - self._first + 1

    # ------------------------------------------------------------------ writing

    def append(
        self, batch: Batch, entries: Sequence[LogEntry], truncate_from: int | None = None
    ) -> None:
        """Add `entries` to `batch`, behind `truncate_from` - 1 if given, else behind the last.
        Raises ValueError on a gap.
        """
        if truncate_from is not None and truncate_from <= self._last:
            self._truncate(batch, truncate_from)
        handle = self._log.handle
        group, expected = self._group, self._last + 1
        for entry in entries:
            index, term, data = entry
            if index != expected:
                raise ValueError(f"entry {index} of group {group} cannot follow {expected - 1}")
            expected += 1
            check = crc32(data, crc32(_COVERED.pack(group, index, term)))
            batch.put(keyspace.log_key(group, index), _HEAD.pack(check, term) + data, handle)
            self._remember(entry)

    @failpoint("vote.put")
    def put_hard_state(self, batch: Batch, state: HardState) -> None:
        """Add term and vote to `batch`."""
        self.hard_state = state
        value = _TERM.pack(state.term) + state.voted_for.encode()
        batch.put(keyspace.hard_state_key(self._group), self._checked(value), self._raft.handle)

    def compactable(self, upto: int, entries_max: int, bytes_max: int) -> int:
        """The index up to which entries can go so that at most `entries_max` and `bytes_max` stay,
        never beyond `upto`.

        first_index() - 1 when none can.
        """
        index, over, count = (
            self._first - 1,
            self.bytes_kept - bytes_max,
            len(self._sizes) - entries_max,
        )
        for size in self._sizes:
            if index >= upto or (over <= 0 and count <= 0):
                break
            index += 1
            over -= size
            count -= 1
        return index

    @failpoint("log.compact")
    def compact(self, batch: Batch, upto: int) -> None:
        """Add to `batch` that entries up to and including `upto` are gone. Their effects must be on
        disk already.
        """
        if upto < self._first:
            return
        term = self.term(upto)
        batch.delete_range(
            keyspace.log_key(self._group, self._first),
            keyspace.log_key(self._group, upto + 1),
            self._log.handle,
        )
        for index in range(self._first, upto + 1):
            self.bytes_kept -= self._sizes.popleft()
            entry = self._tail.pop(index, None)
            if entry is not None:
                self._tail_bytes -= len(entry.data)
        self._set_compacted(batch, upto, term)
        self._tail_first = max(self._tail_first, self._first)

    @failpoint("log.reset")
    def reset(self, batch: Batch, index: int, term: int) -> None:
        """Add to `batch` that the log is empty behind (`index`, `term`): a snapshot stands for all
        of it.
        """
        group = self._group
        batch.delete_range(
            keyspace.log_key(group, 0),
            keyspace.log_key(group, keyspace.INDEX_MAX),
            self._log.handle,
        )
        self._tail.clear()
        self._sizes.clear()
        self._tail_bytes = self.bytes_kept = 0
        self._set_compacted(batch, index, term)
        self._last = index
        self._tail_first = self._first

    # ------------------------------------------------------------------ inside

    def _remember(self, entry: LogEntry) -> None:
        size = len(entry.data)
        self._last = entry.index
        self._sizes.append(size)
        self.bytes_kept += size
        tail = self._tail
        tail[entry.index] = entry
        self._tail_bytes += size
        while self._tail_bytes > self._tail_bytes_max and self._tail_first < self._last:
            self._tail_bytes -= len(tail.pop(self._tail_first).data)
            self._tail_first += 1

    def _truncate(self, batch: Batch, start: int) -> None:
        if start < self._first:
            raise ValueError(
                f"entry {start} of group {self._group} is compacted and cannot be replaced"
            )
        group, handle = self._group, self._log.handle
        if self._last - start >= DELETE_SINGLY_MAX:
            batch.delete_range(
                keyspace.log_key(group, start), keyspace.log_key(group, self._last + 1), handle
            )
        for index in range(self._last, start - 1, -1):
            if self._last - start < DELETE_SINGLY_MAX:
                batch.delete(keyspace.log_key(group, index), handle)
            self.bytes_kept -= self._sizes.pop()
            entry = self._tail.pop(index, None)
            if entry is not None:
                self._tail_bytes -= len(entry.data)
        self._last = start - 1
        self._tail_first = min(self._tail_first, start)

    def _set_compacted(self, batch: Batch, index: int, term: int) -> None:
        self._first, self._compacted_term = index + 1, term
        batch.put(
            keyspace.compacted_key(self._group),
            self._checked(_MARK.pack(index, term)),
            self._raft.handle,
        )

    def _walk(self) -> None:
        """Read the whole chain once: every checksum, no gap, nothing in front of the first."""
        stop = keyspace.log_key(self._group, keyspace.INDEX_MAX)
        for key, value in self._log.scan(keyspace.log_key(self._group, 0), stop, keep_cache=False):
            index = keyspace.log_index(key)
            if index != self._last + 1:
                raise StorageCorrupt(
                    f"storage: log of group {self._group}: "
                    f"entry {self._last + 1} is missing before {index}"
                )
            self._remember(self._decode(index, value))

    def _entry(self, index: int) -> LogEntry:
        if not self._first <= index <= self._last:
            raise IndexError(
                f"entry {index} of group {self._group} is not in {self._first}..{self._last}"
            )
        value = self._log.get(keyspace.log_key(self._group, index))
        if value is None:
            raise StorageCorrupt(f"storage: log of group {self._group}: entry {index} is missing")
        return self._decode(index, value)

    def _decode(self, index: int, value: bytes) -> LogEntry:
        if len(value) >= _HEAD.size:
            check, term = _HEAD.unpack_from(value)
            data = value[_HEAD.size :]
            if check == crc32(data, crc32(_COVERED.pack(self._group, index, term))):
                return LogEntry(index, term, data)
        raise StorageCorrupt(
            f"storage: log of group {self._group}: entry {index} does not match its checksum"
        )

    def _checked(self, value: bytes) -> bytes:
        return _CHECKED.pack(crc32(value, self._group)) + value

    def _unchecked(self, key: bytes, what: str) -> bytes | None:
        row = self._raft.get(key)
        if row is None:
            return None
        value = row[_CHECKED.size :]
        if len(row) < _CHECKED.size or _CHECKED.unpack_from(row)[0] != crc32(value, self._group):
            raise StorageCorrupt(
                f"storage: {what} of group {self._group} does not match its checksum"
            )
        return value

    def _read_compacted(self) -> tuple[int, int]:
        value = self._unchecked(keyspace.compacted_key(self._group), "the compaction mark")
        if value is None:
            return 0, 0
        index, term = _MARK.unpack(value)
        return index, term

    def _read_hard_state(self) -> HardState:
        value = self._unchecked(keyspace.hard_state_key(self._group), "term and vote")
        if value is None:
            return HardState(0, "")
        return HardState(_TERM.unpack_from(value)[0], value[_TERM.size :].decode())

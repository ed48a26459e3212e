"""RocksDB's place in simulations of whole nodes: `storage.database.Database` over a virtual disk.

Handed to `GroupLog`, `ShardState` and `Durability` instead of the real one. Reads and scans behave
as there (tests/simulation/test_parts.py compares them, batch by batch); what a crash leaves is the
disk's to say. A sync stands still for no time, but takes `Disk.sync_us` as `seconds` tells it, so
that `Durability` measures a slow disk and moves its syncs to `offload`, where they do take time. A
sync that stalls has the process stand still, as one on the event loop does.

It also keeps a digest of each shard's rows, by epoch, up to date with every change, so that states
can be compared after every step (all but heartbeats, whose rows a replica writes in its own time):
`on_state` is told after every batch that moved a shard's own row.
"""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, NoReturn

from mq9cluster.domain.ports import Family
from mq9cluster.machine import keys
from mq9cluster.machine.rows import Shard
from mq9cluster.storage import keyspace
from mq9cluster.storage.database import FAMILIES, META_FAMILY, STATE_FAMILIES
from mq9cluster.storage.errors import StorageCorrupt, StorageFailed
from tests.simulation.clock import Scheduler
from tests.simulation.disk import Disk
from tests.simulation.process import PROCESS

_DELETED = None
_PREFIX = keyspace.PREFIX_BYTES
_PLACE = Struct(">HI")  # of a prefix: shard, epoch
SEQUENCE = ("", b"sequence")  # a row of the disk that is in no family
_OF_STATE = frozenset(STATE_FAMILIES)
_OWN_ROWS = frozenset((keys.SHARD_ROW, b"meta"))
_SHARDS = STATE_FAMILIES[Family.SHARDS]

_AGENTS = STATE_FAMILIES[Family.AGENTS]

OnState = Callable[[bytes, bytes, int], None]
"""Told of a shard's prefix, its own row, and the digest of all its rows."""


def _without_heard(row: bytes) -> bytes:
    """A shard's row, but for what says which heartbeats are in the log alone."""
    shard = Shard.unpack(row)
    shard.heard_from = 0
    return shard.pack()


class SimBatch:
    """Changes to make together. Port `storage.database.Batch`."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, bytes, bytes | None, bytes | None]] = []

    def __len__(self) -> int:
        return len(self.changes)

    def put(self, key: bytes, value: bytes, column_family: Any = None, /) -> None:
        """Put a row."""
        self.changes.append((column_family, key, value, None))

    def delete(self, key: bytes, column_family: Any = None, /) -> None:
        """Delete a row."""
        self.changes.append((column_family, key, _DELETED, None))

    def delete_range(self, begin: bytes, end: bytes, column_family: Any = None, /) -> None:
        """Delete the rows begin <= key < end."""
        self.changes.append((column_family, begin, _DELETED, end))


class SimTable:
    """One family of rows. Stands for `storage.database.Table`."""

    def __init__(self, name: str, disk: Disk, failed: Callable[[StorageFailed], NoReturn]) -> None:
        self.name = name
        self._failed = failed
        self.handle = name
        self.noted = {key: value for (family, key), value in disk.rows.items() if family == name}
        self.keys = sorted(self.noted)
        self._damaged = disk.damaged

    def get(self, key: bytes) -> bytes | None:
        """The value under `key`, or None. Raises StorageCorrupt."""
        if self._damaged and (self.name, key) in self._damaged:
            self._failed(StorageCorrupt("storage: block checksum mismatch"))
        return self.noted.get(key)

    def check(self, start: bytes, rows_max: int) -> bytes | None:
        """Read rows from `start` on; where to go on, None at the end. Raises StorageCorrupt."""
        first = bisect_left(self.keys, start)
        self._check(self.keys[first : first + rows_max])
        last = first + rows_max
        return self.keys[last] if last < len(self.keys) else None

    def _check(self, keys: list[bytes]) -> None:
        if self._damaged and any((self.name, key) in self._damaged for key in keys):
            self._failed(StorageCorrupt("storage: block checksum mismatch"))

    def between(self, start: bytes, stop: bytes) -> list[bytes]:
        """Keys start <= key < stop, in order."""
        return self.keys[bisect_left(self.keys, start) : bisect_left(self.keys, stop)]

    def scan(
        self,
        start: bytes,
        stop: bytes,
        *,
        reverse: bool = False,
        strip: int = 0,
        keep_cache: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows start <= key < stop of the moment of the call, in key order or backwards."""
        del keep_cache
        found = self.between(start, stop)
        self._check(found)
        if reverse:
            found.reverse()
        noted = self.noted
        return iter([(key[strip:], noted[key]) for key in found])

    def note(self, key: bytes, value: bytes | None) -> None:
        """A row under `key` was put, or deleted."""
        if self._damaged:
            self._damaged.discard((self.name, key))
        if value is None:
            if self.noted.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]
        else:
            if key not in self.noted:
                insort(self.keys, key)
            self.noted[key] = value


class SimDatabase:
    """All families of a node. Made anew over the same disk after a crash."""

    def __init__(
        self,
        disk: Disk,
        scheduler: Scheduler,
        on_state: OnState = lambda *_: None,
        path: Any = None,
        on_synced: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.disk = disk
        self.path = path
        self._on_synced = on_synced
        self.on_read_failed: Callable[[StorageFailed], None] = lambda _: None
        self.dead = False  # the process is gone: nothing it still tries may reach the disk
        self._on_state = on_state
        self._scheduler = scheduler
        self._tables = {name: SimTable(name, disk, self._read_failed) for name in FAMILIES}
        self._stood_still_us = 0
        self._offloaded_at: int | None = None  # what an offloaded sync is for
        self._sequence: int = disk.rows.get(SEQUENCE, 0)
        self.digests: dict[bytes, int] = {}  # by shard and epoch
        for name in _OF_STATE:
            table = self._tables[name]
            for key, value in table.scan(b"", b"\xff" * 64):
                self._digest(name, key, value, 1)

    def _digest(self, family: str, key: bytes, value: bytes, sign: int) -> None:
        prefix, of_shard = key[:_PREFIX], key[_PREFIX:]
        if family == _AGENTS and of_shard.startswith(keys.AGENTS_SEEN):
            return  # written sooner or later; all of them are compared at the end
        if family == _SHARDS and of_shard == keys.SHARD_ROW:
            value = _without_heard(value)
        row = hash((family, of_shard, value))  # compared within this run only
        self.digests[prefix] = self.digests.get(prefix, 0) + sign * row

    def _read_failed(self, error: StorageFailed) -> NoReturn:
        if not self.dead:
            self.on_read_failed(error)
        raise error

    def table(self, name: str) -> SimTable:
        """The family called `name`."""
        return self._tables[name]

    def family(self, family: Family) -> SimTable:
        """The family the state machine calls `family`."""
        return self._tables[STATE_FAMILIES[family]]

    def batch(self) -> SimBatch:
        """An empty batch."""
        return SimBatch()

    def write(self, batch: SimBatch) -> None:
        """Make `batch` visible. Raises StorageFailed."""
        self._must_live()
        if self.disk.full:
            raise StorageFailed("storage: no space left on device")
        rows: dict[tuple[str, bytes], bytes | None] = {}
        moved: dict[bytes, bytes] = {}  # shards' own rows
        for family, key, value, end in batch.changes:
            if end is None:
                rows[family, key] = value
                self._change(family, key, value)
                if family == _SHARDS and value is not None and key[_PREFIX:] in _OWN_ROWS:
                    moved[key[:_PREFIX]] = value
            else:
                for gone in self._tables[family].between(key, end):
                    rows[family, gone] = None
                    self._change(family, gone, None)
        self._sequence += len(batch)
        self.disk.write({**rows, SEQUENCE: self._sequence})
        for prefix, row in moved.items():
            if self._is_current(prefix):
                self._on_state(prefix, row, self.digests[prefix])

    def _change(self, family: str, key: bytes, value: bytes | None) -> None:
        table = self._tables[family]
        if family in _OF_STATE:
            old = table.noted.get(key)
            if old is not None:
                self._digest(family, key, old, -1)
            if value is not None:
                self._digest(family, key, value, 1)
        table.note(key, value)

    def _is_current(self, prefix: bytes) -> bool:
        """Whether it is not a copy of a state that is still coming in."""
        shard, epoch = _PLACE.unpack(prefix)
        row = self._tables[META_FAMILY].get(keyspace.epoch_key(shard))
        return epoch == keyspace.unpack_epoch(row)

    def sequence(self) -> int:
        """How many changes were ever written."""
        return self._sequence

    def rows_in_files(self) -> int:
        """How many rows there are."""
        return sum(len(table.keys) for table in self._tables.values())

    def sync(self) -> None:
        """Everything written is on disk. Raises StorageFailed."""
        self._must_live()
        if self.disk.failing:
            raise StorageFailed("storage: input/output error")
        self._stood_still_us += self.disk.sync_us
        sequence, self._offloaded_at = self._offloaded_at, None
        if sequence is not None:
            self._on_synced(sequence)
            return
        self.disk.sync_now()
        self._on_synced(self._sequence)
        process = PROCESS.get()
        if self.disk.stalled and process is not None:
            process.pause()
            self.disk.go_on(process.resume)

    def seconds(self) -> float:
        """A clock by which syncs take their time, wherever they run."""
        return (self._scheduler.now_us + self._stood_still_us) / 1_000_000

    def offload(self, work: Callable[[], None]) -> "asyncio.Future[None]":
        """Do `work`, a sync, in a thread, as it were: later, and for what was written until now."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sequence = self._sequence

        def synced() -> None:
            self._offloaded_at = sequence  # or `work` would sync what was written meanwhile, too
            try:
                work()
            except StorageFailed as error:
                done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(None)
            finally:
                self._offloaded_at = None

        process = PROCESS.get()
        self.disk.sync(synced if process is None else lambda: process.enter(synced))
        return done

    def _must_live(self) -> None:
        if self.dead:
            raise StorageFailed("storage: this process is gone")

    def close(self) -> None:
        """Sync, and write no more."""
        if not self.dead:
            self.disk.sync_now()

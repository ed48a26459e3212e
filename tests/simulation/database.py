"""RocksDB's place in simulations of whole nodes: `storage.database.Database` over a virtual disk.

Handed to `GroupLog`, `ShardState` and `Durability` instead of the real one. Reads and scans behave
as there (tests/simulation/test_parts.py compares them, batch by batch); what a crash leaves is the
disk's to say. A sync stands still for no time, but takes `Disk.sync_us` as `seconds` tells it, so
that `Durability` measures a slow disk and moves its syncs to `offload`, where they do take time.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from mq9cluster.domain.ports import Family
from mq9cluster.storage.database import FAMILIES, STATE_FAMILIES
from mq9cluster.storage.errors import StorageFailed
from tests.simulation.clock import Scheduler
from tests.simulation.disk import Disk

_DELETED = None


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

    def __init__(self, name: str, disk: Disk) -> None:
        self.name = name
        self.handle = name
        self._rows = disk.rows
        self.keys: list[bytes] = sorted(key for family, key in disk.rows if family == name)
        self._values: list[bytes] = [disk.rows[name, key] for key in self.keys]

    def get(self, key: bytes) -> bytes | None:
        """The value under `key`, or None."""
        value: bytes | None = self._rows.get((self.name, key))
        return value

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
        first, last = bisect_left(self.keys, start), bisect_left(self.keys, stop)
        keys, values = self.keys[first:last], self._values[first:last]
        if reverse:
            keys.reverse()
            values.reverse()
        return zip((key[strip:] for key in keys) if strip else keys, values, strict=True)

    def note(self, key: bytes, value: bytes | None) -> None:
        """A row under `key` was put, or deleted."""
        place = bisect_left(self.keys, key)
        known = place < len(self.keys) and self.keys[place] == key
        if value is None:
            if known:
                del self.keys[place], self._values[place]
        elif known:
            self._values[place] = value
        else:
            self.keys.insert(place, key)
            self._values.insert(place, value)


class SimDatabase:
    """All families of a node. Made anew over the same disk after a crash."""

    def __init__(self, disk: Disk, scheduler: Scheduler) -> None:
        self.disk = disk
        self.dead = False  # the process is gone: nothing it still tries may reach the disk
        self._scheduler = scheduler
        self._tables = {name: SimTable(name, disk) for name in FAMILIES}
        self._stood_still_us = 0
        self._offloaded = False
        self._sequence = 0

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
        """Make `batch` visible."""
        self._must_live()
        rows: dict[tuple[str, bytes], bytes | None] = {}
        for family, key, value, end in batch.changes:
            table = self._tables[family]
            if end is None:
                rows[family, key] = value
                table.note(key, value)
            else:
                for gone in table.between(key, end):
                    rows[family, gone] = None
                    table.note(gone, None)
        self._sequence += len(batch)
        self.disk.write(rows)

    def sequence(self) -> int:
        """How many changes were written."""
        return self._sequence

    def sync(self) -> None:
        """Everything written is on disk."""
        self._must_live()
        self._stood_still_us += self.disk.sync_us
        if not self._offloaded:
            self.disk.sync_now()

    def seconds(self) -> float:
        """A clock by which syncs take their time, wherever they run."""
        return (self._scheduler.now_us + self._stood_still_us) / 1_000_000

    def offload(self, work: Callable[[], None]) -> "asyncio.Future[None]":
        """Do `work`, a sync, in a thread, as it were: later, and for what was written until now."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def synced() -> None:
            self._offloaded = True  # or `work` would sync what was written meanwhile, too
            work()
            self._offloaded = False
            if not done.cancelled():
                done.set_result(None)

        self.disk.sync(synced)
        return done

    def _must_live(self) -> None:
        if self.dead:
            raise StorageFailed("storage: this process is gone")

    def close(self) -> None:
        """Sync, and write no more."""
        self.disk.sync_now()

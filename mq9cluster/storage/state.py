"""One shard's committed state on disk, as the state machine sees it: keys relative to shard and
epoch.

The group's node makes one per shard and epoch; `machine.apply` reads through it; `commit` writes
what it decided. `cluster/snapshots.py` reads one whole, and fills another under a new epoch.
"""

from collections.abc import Iterable, Iterator

from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.ports import Family, Writes
from mq9cluster.storage import keyspace
from mq9cluster.storage.database import META_FAMILY, Batch, Database


class ShardState:
    """`domain.ports.StateView` over one epoch of one shard, and the writer of its `Writes`."""

    __slots__ = ("_database", "_end", "_prefix", "_tables", "epoch", "shard")

    def __init__(self, database: Database, shard: int, epoch: int | None = None) -> None:
        self.shard = shard
        self.epoch = current_epoch(database, shard) if epoch is None else epoch
        self._database = database
        self._prefix = keyspace.shard_prefix(shard, self.epoch)
        self._end = keyspace.shard_end(shard, self.epoch)
        self._tables = tuple(database.family(family) for family in Family)

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value under `key`, or None. Raises StorageFailed."""
        return self._tables[family].get(self._prefix + key)

    def scan(
        self, family: Family, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < stop, in key order (or backwards), of the moment the scan
        begins.

        Raises StorageFailed, at the end too: rows yielded before are as written, but what is
        missing is never taken for absent.
        """
        prefix = self._prefix
        return self._tables[family].scan(
            prefix + start, prefix + stop, reverse=reverse, strip=keyspace.PREFIX_BYTES
        )

    def scan_all(self, family: Family) -> Iterator[tuple[bytes, bytes]]:
        """Every row of the shard in `family` as of this call, in key order, past the block cache.

        All families scanned in one go, before anything is committed, are one consistent snapshot.
        """
        return self._tables[family].scan(
            self._prefix, self._end, strip=keyspace.PREFIX_BYTES, keep_cache=False
        )

    def everything(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Every row of the shard as of this call, as (family, key, value), in the one order that
        all replicas share.
        """
        # All iterators are made now: nothing is written in between, so they see one moment.
        scans = [(int(family), self.scan_all(family)) for family in Family]
        return ((family, key, value) for family, rows in scans for key, value in rows)

    @failpoint("snapshot.rows")
    def put_rows(self, rows: Iterable[tuple[int, bytes, bytes]], batch: Batch) -> None:
        """Add rows, as `everything` gave them, to `batch`."""
        prefix, put = self._prefix, batch.put
        handles = [table.handle for table in self._tables]
        for family, key, value in rows:
            put(prefix + key, value, handles[family])

    def write(self, writes: Writes, batch: Batch) -> None:
        """Add `writes` to `batch`: ranges first, so that rows of the same entry survive them."""
        prefix = self._prefix
        tables = self._tables
        for family, start, stop in writes.ranges:
            if start < stop:
                batch.delete_range(prefix + start, prefix + stop, tables[family].handle)
        put, delete = batch.put, batch.delete
        for family, rows in writes.rows.items():
            if rows:
                handle = tables[family].handle
                for key, value in rows.items():
                    if value is None:
                        delete(prefix + key, handle)
                    else:
                        put(prefix + key, value, handle)

    @failpoint("state.commit")
    def commit(self, writes: Writes) -> None:
        """Make `writes` visible, all or nothing. Unsynced: the entry they come from is in the log
        and is replayed.
        """
        if writes:
            batch = self._database.batch()
            self.write(writes, batch)
            self._database.write(batch)

    @failpoint("snapshot.drop")
    def drop(self, batch: Batch) -> None:
        """Add the removal of every row of this epoch to `batch`."""
        for table in self._tables:
            batch.delete_range(self._prefix, self._end, table.handle)


def current_epoch(database: Database, shard: int) -> int:
    """The epoch whose rows are the state of `shard`."""
    return keyspace.unpack_epoch(database.table(META_FAMILY).get(keyspace.epoch_key(shard)))


def switch_epoch(database: Database, shard: int, epoch: int, batch: Batch) -> None:
    """Add to `batch` that `epoch` is current from now on."""
    handle = database.table(META_FAMILY).handle
    batch.put(keyspace.epoch_key(shard), keyspace.pack_epoch(epoch), handle)


def drop_other_epochs(database: Database, shard: int) -> bool:
    """Remove what unfinished or replaced epochs left behind; whether there was anything."""
    epoch = current_epoch(database, shard)
    around = (
        (keyspace.shard_prefix(shard, 0), keyspace.shard_prefix(shard, epoch)),
        (keyspace.shard_end(shard, epoch), keyspace.shard_prefix(shard, keyspace.EPOCH_MAX)),
    )
    batch = database.batch()
    for family in Family:
        table = database.family(family)
        for start, stop in around:
            # Looked for first: a tombstone at every start would add up.
            if start < stop and next(table.scan(start, stop), None) is not None:
                batch.delete_range(start, stop, table.handle)
    if not len(batch):
        return False
    database.write(batch)
    return True

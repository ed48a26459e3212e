"""The only door to RocksDB (rocksdict): families of rows, atomic batches, one sync for everything
written so far.

Called by `state` and `log` (rows), `store` (open and checks) and `cluster/durability.py` (write,
sync). Every error of RocksDB leaves here as `StorageFailed` or `StorageCorrupt`, in one line; of
one that a read meets the node hears, too, whoever reads.

What makes it strict:

- WAL recovery is `tolerate_corrupted_tail_records`: a damaged record in the middle refuses to open,
  where RocksDB's default would drop everything behind it without a word. What a torn tail hides,
  the sentinel's mark reveals (`sentinel`).
- Closed WALs are listed in the MANIFEST, so that a missing one refuses to open.
- A scan asks the iterator's status at its end: on a damaged block RocksDB just stops.

The WAL is flushed by hand: `write` only fills memory, `sync` writes and fsyncs everything at once.
rocksdict has no setter for that, nor for the WALs in the MANIFEST, but reads both from an OPTIONS
file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NoReturn, Protocol, cast

import rocksdict

from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.ports import Family
from mq9cluster.storage.errors import StorageCorrupt, StorageFailed

MIB: Final = 1 << 20

LOG_FAMILY: Final = "log"
RAFT_FAMILY: Final = "raft"
META_FAMILY: Final = "meta"
STATE_FAMILIES: Final = tuple(family.name.lower() for family in Family)
FAMILIES: Final = (*STATE_FAMILIES, LOG_FAMILY, RAFT_FAMILY, META_FAMILY)

GET_HEAVY: Final = frozenset({"shards", "mailboxes", "messages", "index", "groups", "agents"})
QUEUE_LIKE: Final = frozenset({"schedule", "messages", "index"})  # rows die in the order they came

BACKGROUND_JOBS: Final = 2  # a flush beside a compaction; the event loop keeps a core
BLOCK_BYTES: Final = 8192  # halves the index of 4 KiB blocks; a message is some 250 bytes
BLOOM_BITS: Final = 10  # 1 % of needless reads
METADATA_BLOCK_BYTES: Final = 4096  # of an index or filter partition
SST_BYTES: Final = 64 * MIB
WALK_AHEAD_BYTES: Final = 2 * MIB
MANIFEST_BYTES_MAX: Final = 64 * MIB
TOMBSTONE_WINDOW: Final = 1024  # a file with this window mostly deletions is compacted early
TOMBSTONE_TRIGGER: Final = 512

_OPTIONS_FILE: Final = """[Version]
  rocksdb_version=9.8.4
  options_file_version=1.1
[DBOptions]
  manual_wal_flush=true
  track_and_verify_wals_in_manifest=true
[CFOptions "default"]
[TableOptions/BlockBasedTable "default"]
"""
_CORRUPT_WORDS: Final = (
    "corruption",
    "checksum",
    "no such file",
    "does not exist",
    "not found",
    "missing",
    "mismatch",
)


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """Memory and file bounds of one node's database. The defaults keep ten million messages under 1
    GiB.
    """

    block_cache_bytes: int = 128 * MIB
    write_buffers_bytes: int = 128 * MIB  # memtables of all families together
    write_buffer_bytes: int = 32 * MIB  # of one family, before it is flushed
    wal_bytes_max: int = 128 * MIB  # what a restart has to replay at most, in about a second


DEFAULT_LIMITS: Final = DatabaseLimits()


class Batch(Protocol):
    """Rows to put and delete, written together or not at all."""

    def __len__(self) -> int:
        """How many changes it holds."""

    def put(self, key: bytes, value: bytes, column_family: object = None, /) -> None:
        """Put a row into the family whose `Table.handle` is given."""

    def delete(self, key: bytes, column_family: object = None, /) -> None:
        """Delete a row."""

    def delete_range(self, begin: bytes, end: bytes, column_family: object = None, /) -> None:
        """Delete the rows begin <= key < end."""


class Table:
    """One family of rows."""

    __slots__ = ("_failed", "_get", "_rows", "handle", "name")

    def __init__(
        self,
        name: str,
        rows: rocksdict.Rdict,
        handle: rocksdict.ColumnFamily,
        failed: Callable[[Exception], NoReturn],
    ) -> None:
        """`failed` tells of an error that a read met, and raises it as ours."""
        self.name = name
        self.handle: object = handle
        self._failed = failed
        self._rows = rows
        self._get = rows.get

    def get(self, key: bytes) -> bytes | None:
        """The value under `key`, or None. Raises StorageFailed."""
        try:
            value: bytes | None = self._get(key)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
            self._failed(error)
        return value

    def number(self, name: str) -> int:
        """RocksDB's integer property `name`; 0 where it has none."""
        return self._rows.property_int_value(name) or 0

    def flush(self) -> None:
        """Write this family's memtable to a file."""
        self._rows.flush(True)

    def close(self) -> None:
        """Let go of the family; RocksDB keeps its lock until all have."""
        self._rows.close()
        self.handle = None

    def scan(
        self,
        start: bytes,
        stop: bytes,
        *,
        reverse: bool = False,
        strip: int = 0,
        keep_cache: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows start <= key < stop as they are at this call, in order or backwards.

        `strip` bytes are cut off each key. `keep_cache=False` keeps a long walk from pushing hot
        blocks out of the cache. Raises StorageFailed, also while rows are taken and at their end.
        """
        options = rocksdict.ReadOptions()
        # rocksdict's set_iterate_lower_bound sets the upper bound too, so backwards we compare.
        options.set_iterate_upper_bound(stop)
        if not keep_cache:
            _walk(options)
        try:
            rows = self._rows.iter(options)
            if reverse:
                rows.seek_to_last()
                return _backwards(rows, options, start, strip, self._failed)
            rows.seek(start)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
            self._failed(error)
        return _forwards(rows, options, strip, self._failed)

    def check(self, start: bytes, rows_max: int) -> bytes | None:
        """Read up to `rows_max` rows from `start` on through their checksums, past the cache.

        The key to go on from, or None at the end. Raises StorageCorrupt where a block is damaged.
        """
        options = rocksdict.ReadOptions()
        _walk(options)
        try:
            rows = self._rows.iter(options)
            valid, step = rows.valid, rows.next
            rows.seek(start)
            for _ in range(rows_max):
                if not valid():
                    break
                step()
            rows.status()
            return bytes(rows.key()) if valid() else None
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
            self._failed(error)


class Database:
    """One node's RocksDB. Used from the event loop; only `sync` may run in another thread
    meanwhile.
    """

    __slots__ = (
        "_database",
        "_on_synced",
        "_sync_on",
        "_tables",
        "_write",
        "on_read_failed",
        "path",
    )

    def __init__(
        self, path: Path, database: rocksdict.Rdict, on_synced: Callable[[int], None] | None
    ) -> None:
        self.path = path
        self._database = database
        self._write = cast(Callable[[Batch], None], database.write)
        self._on_synced = on_synced
        self._sync_on = True
        # Set by the node, which must not go on. Told here, for no reader could be trusted to: what
        # is raised to a client's request, a task or a timer ends that and nothing else.
        self.on_read_failed: Callable[[StorageFailed], None] = _ignore
        self._tables = {
            name: Table(
                name,
                database.get_column_family(name),
                database.get_column_family_handle(name),
                self._read_failed,
            )
            for name in FAMILIES
        }

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool,
        limits: DatabaseLimits = DEFAULT_LIMITS,
        on_synced: Callable[[int], None] | None = None,
    ) -> "Database":
        """Open the database at `path`, or with `create` make it. Raises StorageFailed,
        StorageCorrupt.

        `on_synced` hears, after each sync, the sequence number up to which everything is on disk.
        """
        try:
            options, families = _options(path.parent, limits, create=create)
            database = rocksdict.Rdict(str(path), options, families)
            return cls(path, database, on_synced)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
            _translate(error, while_opening=path)

    def _read_failed(self, error: Exception) -> NoReturn:
        try:
            _translate(error)
        except StorageFailed as failed:
            self.on_read_failed(failed)
            raise

    def table(self, name: str) -> Table:
        """The family called `name`."""
        return self._tables[name]

    def family(self, family: Family) -> Table:
        """The family the state machine calls `family`."""
        return self._tables[STATE_FAMILIES[family]]

    def batch(self) -> Batch:
        """An empty batch."""
        return cast(Batch, rocksdict.WriteBatch(raw_mode=True))

    @failpoint("database.write")
    def write(self, batch: Batch) -> None:
        """Make `batch` visible. It is on disk only after the next `sync`."""
        try:
            self._write(batch)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
            _translate(error)

    def sequence(self) -> int:
        """How many changes were ever written; grows by one for each row put, row deleted or range
        deleted.
        """
        return self._database.latest_sequence_number()

    @failpoint("database.sync")
    def sync(self) -> None:
        """Return when everything written before the call is on disk. Blocks without holding the
        GIL.
        """
        sequence = self._database.latest_sequence_number()
        try:
            self._database.flush_wal(self._sync_on)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
            _translate(error)
        if self._sync_on and self._on_synced is not None:
            self._on_synced(sequence)

    def rows_in_files(self) -> int:
        """How many rows and deletions the SST files hold."""
        try:
            return sum(int(file["num_entries"]) for file in self._database.live_files())
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
            _translate(error)

    def stop_syncing(self) -> None:
        """From now on `sync` skips the fsync: to show that tests of power loss can fail."""
        self._sync_on = False

    def flush(self) -> None:
        """Write all memtables to files, so that a restart replays nothing."""
        try:
            for table in self._tables.values():
                table.flush()
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
            _translate(error)

    def memory_bytes(self) -> dict[str, int]:
        """What RocksDB holds in memory, by kind."""
        tables = self._tables.values()
        return {
            "write_buffers": sum(
                table.number("rocksdb.cur-size-all-mem-tables") for table in tables
            ),
            "readers": sum(table.number("rocksdb.estimate-table-readers-mem") for table in tables),
            "block_cache": self._tables[LOG_FAMILY].number("rocksdb.block-cache-usage"),
        }

    def close(self) -> None:
        """Sync and close."""
        self.on_read_failed = _ignore
        try:
            self._database.flush_wal(self._sync_on)
            for table in self._tables.values():
                table.close()
            self._tables.clear()
            self._database.close()
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
            _translate(error)


# `_bounds` is only held: the iterator points into the ReadOptions' upper bound but does not own it.
def _forwards(
    rows: rocksdict.RdictIter,
    _bounds: rocksdict.ReadOptions,
    strip: int,
    failed: Callable[[Exception], NoReturn],
) -> Iterator[tuple[bytes, bytes]]:
    valid, key, value, step = rows.valid, rows.key, rows.value, rows.next
    try:
        while valid():
            yield key()[strip:], value()
            step()
        rows.status()
    except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
        failed(error)


def _backwards(
    rows: rocksdict.RdictIter,
    _bounds: rocksdict.ReadOptions,
    start: bytes,
    strip: int,
    failed: Callable[[Exception], NoReturn],
) -> Iterator[tuple[bytes, bytes]]:
    valid, key, value, step = rows.valid, rows.key, rows.value, rows.prev
    try:
        while valid():
            found = key()
            if found < start:
                return
            yield found[strip:], value()
            step()
        rows.status()
    except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more special
        failed(error)


def _walk(options: rocksdict.ReadOptions) -> None:
    """For reading much, once: past the cache, and far ahead."""
    options.fill_cache(False)  # type: ignore[call-arg]  # the stub forgets it
    options.set_readahead_size(WALK_AHEAD_BYTES)


def _options(
    folder: Path, limits: DatabaseLimits, *, create: bool
) -> tuple[rocksdict.Options, dict[str, rocksdict.Options]]:
    cache = rocksdict.Cache(limits.block_cache_bytes)
    # Beside the data: nothing else need be writable.
    with TemporaryDirectory(prefix=".options-", dir=folder) as written:
        Path(written, "OPTIONS-000001").write_text(_OPTIONS_FILE, encoding="ascii")
        Path(written, "rocksdict-config.json").write_text(
            '{"raw_mode":true,"prefix_extractors":{}}', encoding="ascii"
        )
        options, _ = rocksdict.Options.load_latest(written, cache=cache)
    options.create_if_missing(create)
    options.create_missing_column_families(create)
    options.set_paranoid_checks(True)
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_max_total_wal_size(limits.wal_bytes_max)
    options.set_db_write_buffer_size(limits.write_buffers_bytes)
    options.set_max_background_jobs(BACKGROUND_JOBS)
    options.set_max_open_files(
        -1
    )  # every file is opened, and its footer and index checked, at the start
    options.set_bytes_per_sync(
        MIB
    )  # background writes trickle out instead of stalling a WAL fsync behind them
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX)
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(4 * MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    families = {name: _family_options(name, limits, cache) for name in FAMILIES}
    return options, families


def _family_options(name: str, limits: DatabaseLimits, cache: rocksdict.Cache) -> rocksdict.Options:
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_block_size(BLOCK_BYTES)
    blocks.set_format_version(6)  # a checksum in the footer, and blocks bound to their place
    blocks.set_checksum_type(rocksdict.ChecksumType.xxh3())
    # Inside the cache, or a million mailboxes' filters would live beside its bound.
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    # In partitions of a block each: a whole index is megabytes where messages compress well, more
    # than a shard of the cache holds, and then every read of a cold mailbox reads all of it again.
    blocks.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    blocks.set_metadata_block_size(METADATA_BLOCK_BYTES)
    blocks.set_pin_top_level_index_and_filter(True)
    if name in GET_HEAVY:
        blocks.set_bloom_filter(BLOOM_BITS, False)
        blocks.set_partition_filters(True)
    options = rocksdict.Options(raw_mode=True)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_size(limits.write_buffer_bytes)
    options.set_max_write_buffer_number(3)
    options.set_target_file_size_base(SST_BYTES)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_compression_type(
        rocksdict.DBCompressionType.none()
        if name == LOG_FAMILY  # deleted before it sinks
        else rocksdict.DBCompressionType.lz4()
    )
    if name in QUEUE_LIKE:
        options.add_compact_on_deletion_collector_factory(TOMBSTONE_WINDOW, TOMBSTONE_TRIGGER, 0.5)
    return options


def _ignore(_: StorageFailed) -> None:
    """Nobody is told: the database is being opened, or closed."""


def _translate(error: Exception, while_opening: Path | None = None) -> NoReturn:
    where = "" if while_opening is None else f"cannot open {while_opening}: "
    text = str(error)
    if isinstance(error, StorageFailed):
        raise error
    kind = StorageCorrupt if any(word in text.lower() for word in _CORRUPT_WORDS) else StorageFailed
    raise kind(f"storage: {where}{text}") from error

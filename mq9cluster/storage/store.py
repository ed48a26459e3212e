"""A node's data directory, opened whole or not at all: sentinel and database, checked against each
other.

`node` opens one and closes it last; `cluster` works with its `database`. Nothing here is on the
path of a request.

    DIR/node.lock  node.identity  node.mark   the sentinel
    DIR/db/                                   RocksDB
"""

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mq9cluster.domain.failpoints import failpoint
from mq9cluster.storage import keyspace
from mq9cluster.storage.database import DEFAULT_LIMITS, META_FAMILY, Database, DatabaseLimits
from mq9cluster.storage.errors import StorageCorrupt, StorageFailed, StorageRefused
from mq9cluster.storage.scrub import ALL_BUT_LOG, Scrub
from mq9cluster.storage.sentinel import IDENTITY_FILE, Sentinel

DATABASE_FOLDER: Final = "db"
SCRUBBED_AT_START_ROWS_MAX: Final = 2_000_000  # half a second; more is left to the running node
SCRUB_SLICE_ROWS: Final = 100_000
UNSAFE_VARIABLE: Final = "MQ9_TEST_UNSAFE_NO_SYNC"  # for tests of power loss only: no fsync
RECORD_VARIABLE: Final = "MQ9_TEST_RECORD_SYNCED"  # likewise: note which bytes of the WAL are safe
RECORD_FILE: Final = "node.synced"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Store:
    """An open data directory."""

    directory: Path
    database: Database
    sentinel: Sentinel
    incarnation: int  # the number of this start
    scrubbed: bool  # everything was read before it was opened

    @property
    def node_id(self) -> str:
        """The id this data directory was born with."""
        return self.sentinel.identity.node_id

    @property
    def cluster_id(self) -> str:
        """The cluster the data belong to, or "" before the node has joined one."""
        return self.sentinel.identity.cluster_id

    def set_cluster(self, cluster_id: str) -> None:
        """Bind the data to a cluster, once. Raises StorageRefused when they belong to another."""
        self.sentinel.set_cluster(cluster_id)
        meta = self.database.table(META_FAMILY)
        batch = self.database.batch()
        batch.put(keyspace.META_CLUSTER, cluster_id.encode(), meta.handle)
        self.database.write(batch)
        self.database.sync()

    @failpoint("sentinel.checkpoint")
    def checkpoint(self) -> None:
        """Bring the sentinel up to date and on disk. About once a second, in any thread: two small
        fsyncs.
        """
        number, size = _synced_manifest(self.database.path)
        self.sentinel.note_manifest(number, size)
        self.sentinel.persist()

    def scrub(self) -> Scrub:
        """A walk over all rows, for the node to take in slices while it runs."""
        return Scrub(self.database)

    def close(self) -> None:
        """Sync and close everything."""
        self.database.close()
        self.sentinel.close()


def open_store(
    directory: Path,
    name: str,
    new_node_id: Callable[[], str],
    limits: DatabaseLimits = DEFAULT_LIMITS,
) -> Store:
    """Open the data directory of node `name`, or make it where there is nothing yet.

    Raises StorageRefused, StorageCorrupt or StorageFailed, each one clear line, rather than open
    with anything missing.
    """
    path = directory / DATABASE_FOLDER
    sentinel = Sentinel.open(directory, name, new_node_id, path)
    try:
        born = sentinel.identity.initialised
        if born:
            _check_manifest(path, sentinel)
        on_synced = _recording(sentinel) if RECORD_VARIABLE in os.environ else sentinel.note
        database = Database.open(path, create=not born, limits=limits, on_synced=on_synced)
        _check_sequence(database, sentinel)
        _check_owner(database, sentinel, born=born)
        small = database.rows_in_files() <= SCRUBBED_AT_START_ROWS_MAX
        if small:
            _scrub(database)
        store = Store(directory, database, sentinel, sentinel.count_start(), scrubbed=small)
        if not born:
            store.checkpoint()
            sentinel.set_initialised()
        if UNSAFE_VARIABLE in os.environ:
            database.stop_syncing()
            _log.warning(
                "NOTHING IS SYNCED: a power cut loses acknowledged data (%s)", UNSAFE_VARIABLE
            )
    except BaseException:
        sentinel.close()
        raise
    return store


def _check_manifest(path: Path, sentinel: Sentinel) -> None:
    mark = sentinel.mark
    try:
        number, size = _manifest(path)
    except (OSError, ValueError) as error:
        raise StorageCorrupt(
            f"storage: cannot open {path}: CURRENT or its MANIFEST: {error}"
        ) from error
    if (number, size) < (mark.manifest_number, mark.manifest_bytes):
        raise StorageCorrupt(
            f"storage: {path}/MANIFEST-{number:06d} has {size} bytes "
            f"but MANIFEST-{mark.manifest_number:06d} had "
            f"{mark.manifest_bytes}: the database was cut or set back"
        )


def _check_sequence(database: Database, sentinel: Sentinel) -> None:
    there, known = database.sequence(), sentinel.mark.sequence
    if there < known:
        database.close()
        raise StorageCorrupt(
            f"storage: {database.path} holds {there} writes but {known} were on disk: "
            "synced writes are missing"
        )


def _check_owner(database: Database, sentinel: Sentinel, *, born: bool) -> None:
    meta = database.table(META_FAMILY)
    node_id = sentinel.identity.node_id.encode()
    if not born:
        batch = database.batch()
        batch.put(keyspace.META_FORMAT, str(keyspace.FORMAT_VERSION).encode(), meta.handle)
        batch.put(keyspace.META_NODE, node_id, meta.handle)
        database.write(batch)
        database.sync()
        return
    found, version = meta.get(keyspace.META_NODE), meta.get(keyspace.META_FORMAT)
    cluster = (meta.get(keyspace.META_CLUSTER) or b"").decode()
    ours = sentinel.identity
    if found != node_id or cluster not in ("", ours.cluster_id):
        database.close()
        raise StorageRefused(
            f"storage: {database.path} is another node's: it does not match {IDENTITY_FILE}"
        )
    if version != str(keyspace.FORMAT_VERSION).encode():
        database.close()
        raise StorageRefused(
            f"storage: {database.path} has format {version!r}; "
            f"this version reads {keyspace.FORMAT_VERSION}"
        )


def _recording(sentinel: Sentinel) -> Callable[[int], None]:
    """`sentinel.note`, which also records how much of each WAL file a power cut would leave."""
    record = sentinel.directory / RECORD_FILE
    fresh = record.with_suffix(".new")

    def note(sequence: int) -> None:
        sizes = {}
        for path in (sentinel.directory / DATABASE_FOLDER).glob("*.log"):
            with suppress(FileNotFoundError):  # RocksDB needed it no longer
                sizes[path.name] = path.stat().st_size
        fresh.write_text(json.dumps(sizes))
        fresh.replace(record)
        sentinel.note(sequence)  # second, or a kill between the two would leave it ahead

    return note


def _scrub(database: Database) -> None:
    scrub = Scrub(database, ALL_BUT_LOG)
    try:
        while not scrub.step(SCRUB_SLICE_ROWS):
            pass
    except StorageFailed:
        database.close()
        raise


def _manifest(path: Path) -> tuple[int, int]:
    """Number and size of the MANIFEST that CURRENT names."""
    for attempt in range(2):
        try:
            name = (path / "CURRENT").read_text(encoding="ascii").strip()
            return int(name.removeprefix("MANIFEST-")), (path / name).stat().st_size
        except FileNotFoundError:
            if attempt:  # once is RocksDB rolling it over between our two calls
                raise
    raise AssertionError


def _synced_manifest(path: Path) -> tuple[int, int]:
    """The same, with that size surely on disk."""
    try:
        number, size = _manifest(path)
        file = os.open(path / f"MANIFEST-{number:06d}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(file)
        finally:
            os.close(file)
    except (OSError, ValueError) as error:
        raise StorageFailed(f"storage: cannot sync the MANIFEST of {path}: {error}") from error
    return number, size

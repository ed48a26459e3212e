"""A small witness beside the database: whose data these are, and how much of them has been on disk.

Owned by `store`, asked at the start and told after syncs. Two files of its own, so that damage to
the database cannot reach it:

`node.identity`  JSON line and checksum, replaced atomically: format, node id, name, cluster id,
                 incarnation (one more each start), and whether a database was ever made. It tells a
                 fresh node from one whose data are gone, and our data from another node's.
`node.mark`      two fixed slots written in turn, never replaced: the sequence number up to which
                 all is synced, and the size the MANIFEST had. `note` writes it after each sync into
                 the page cache only (1-2 µs), which a killed process does not lose; `persist`
                 fsyncs it now and then for the power cut. It is never ahead of the data, so a
                 database that recovers less than the mark has lost synced writes, however that came
                 about: a WAL removed, cut, or cut at a record's edge, a MANIFEST set back.

A mark that lags (up to a second, after a power cut) hides nothing that a single fault can do: what
RocksDB itself refuses does not need it.
"""

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from struct import Struct
from threading import Lock
from typing import Final, Self
from zlib import crc32

from mq9cluster.storage.errors import StorageCorrupt, StorageFailed, StorageRefused
from mq9cluster.storage.keyspace import FORMAT_VERSION

LOCK_FILE: Final = "node.lock"
IDENTITY_FILE: Final = "node.identity"
MARK_FILE: Final = "node.mark"

_MARK = Struct(">4sQQQQ")
_CHECK = Struct(">I")
_MAGIC: Final = b"mq9m"
_SLOT_BYTES: Final = 4096  # a slot never shares a disk sector, nor a page, with the other
_SLOT_USED: Final = _MARK.size + _CHECK.size


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose data these are."""

    format: int
    node_id: str
    name: str
    cluster_id: str  # "" until the node knows it
    incarnation: int  # how often this node was started; part of every request id
    initialised: bool  # a database was made: from then on a missing one is a loss


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the database was surely on disk."""

    counter: int = 0
    sequence: int = 0
    manifest_number: int = 0
    manifest_bytes: int = 0


class Sentinel:
    """The witness of one data directory, which it also keeps locked against other processes."""

    __slots__ = ("_lock", "_mark_file", "_noting", "directory", "identity", "mark")

    def __init__(
        self, directory: Path, lock: int, identity: Identity, mark_file: int, mark: Mark
    ) -> None:
        self.directory = directory
        self._lock = lock
        self._mark_file = mark_file
        self._noting = Lock()  # a checkpoint in a worker thread meets a note of the event loop
        self.identity = identity
        self.mark = mark

    @classmethod
    def open(
        cls, directory: Path, name: str, new_node_id: Callable[[], str], database: Path
    ) -> Self:
        """Lock `directory` and read the witness, or begin one where there is neither witness nor
        database.

        Raises StorageRefused (in use, another node's), StorageCorrupt (damaged, or data missing),
        StorageFailed.
        """
        try:
            if not directory.exists():
                directory.mkdir(parents=True)
                _sync_directory(directory.parent)
            lock = _lock(directory / LOCK_FILE)
        except OSError as error:
            raise StorageFailed(f"storage: cannot use {directory}: {error}") from error
        try:
            identity = _read_identity(directory / IDENTITY_FILE)
            if identity is None:
                return cls._begin(directory, lock, name, new_node_id, database)
            _check_ours(directory, identity, name, database)
            mark_file, mark = _open_mark(directory / MARK_FILE)
            return cls(directory, lock, identity, mark_file, mark)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                raise StorageFailed(f"storage: cannot read {directory}: {error}") from error
            raise

    @classmethod
    def _begin(
        cls, directory: Path, lock: int, name: str, new_node_id: Callable[[], str], database: Path
    ) -> Self:
        if database.exists():
            raise StorageCorrupt(
                f"storage: {database} has data but {directory / IDENTITY_FILE} is missing: "
                "whose they are is unknown"
            )
        mark_file = os.open(directory / MARK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        _write_mark(mark_file, Mark())
        os.fsync(mark_file)
        sentinel = cls(
            directory,
            lock,
            Identity(FORMAT_VERSION, new_node_id(), name, "", 0, initialised=False),
            mark_file,
            Mark(),
        )
        sentinel._put(sentinel.identity)
        return sentinel

    # ------------------------------------------------------------------ identity

    def count_start(self) -> int:
        """Begin a new incarnation, durably; its number."""
        self._put(replace(self.identity, incarnation=self.identity.incarnation + 1))
        return self.identity.incarnation

    def set_initialised(self) -> None:
        """Say, durably, that from now on a missing database is a loss."""
        if not self.identity.initialised:
            self._put(replace(self.identity, initialised=True))

    def set_cluster(self, cluster_id: str) -> None:
        """Bind the data to a cluster, durably and once. StorageRefused when bound to another."""
        if self.identity.cluster_id == cluster_id:
            return
        if self.identity.cluster_id:
            raise StorageRefused(
                f"storage: {self.directory} belongs to cluster {self.identity.cluster_id}, "
                f"not {cluster_id}"
            )
        self._put(replace(self.identity, cluster_id=cluster_id))

    def _put(self, identity: Identity) -> None:
        line = json.dumps(asdict(identity), sort_keys=True)
        try:
            _replace(
                self.directory / IDENTITY_FILE, f"{line}\n{crc32(line.encode()):08x}\n".encode()
            )
        except OSError as error:
            raise StorageFailed(f"storage: cannot write {IDENTITY_FILE}: {error}") from error
        self.identity = identity

    # ------------------------------------------------------------------ mark

    def note(self, sequence: int) -> None:
        """Remember that everything up to `sequence` is on disk. After a sync, in whatever thread
        did it.
        """
        with self._noting:
            mark = self.mark
            if sequence > mark.sequence:
                self._put_mark(sequence, mark.manifest_number, mark.manifest_bytes)

    def note_manifest(self, number: int, size: int) -> None:
        """Remember that MANIFEST `number` had `size` synced bytes."""
        with self._noting:
            if (number, size) > (self.mark.manifest_number, self.mark.manifest_bytes):
                self._put_mark(self.mark.sequence, number, size)

    def persist(self) -> None:
        """Put the mark itself on disk, for the power cut."""
        try:
            os.fdatasync(self._mark_file)
        except OSError as error:
            raise StorageFailed(f"storage: cannot sync {MARK_FILE}: {error}") from error

    def _put_mark(self, sequence: int, manifest_number: int, manifest_bytes: int) -> None:
        mark = Mark(self.mark.counter + 1, sequence, manifest_number, manifest_bytes)
        try:
            _write_mark(self._mark_file, mark)
        except OSError as error:
            raise StorageFailed(f"storage: cannot write {MARK_FILE}: {error}") from error
        self.mark = mark

    def close(self) -> None:
        """Persist the mark and let go of the directory."""
        try:
            self.persist()
        finally:
            os.close(self._mark_file)
            os.close(self._lock)


def _check_ours(directory: Path, identity: Identity, name: str, database: Path) -> None:
    if identity.format != FORMAT_VERSION:
        raise StorageRefused(
            f"storage: {directory} has format {identity.format}; "
            f"this version reads {FORMAT_VERSION}"
        )
    if identity.name != name:
        raise StorageRefused(f"storage: {directory} belongs to node {identity.name}, not {name}")
    if identity.initialised and not database.exists():
        raise StorageCorrupt(
            f"storage: {database} is gone; a node never starts over on missing data: "
            "restore it, or replace the node"
        )


def _lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StorageRefused(f"storage: {path.parent} is in use by another process") from error
    return lock


def _read_identity(path: Path) -> Identity | None:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    lines = raw.split(b"\n")
    if len(lines) != 3 or lines[1] != b"%08x" % crc32(lines[0]) or lines[2]:
        raise StorageCorrupt(f"storage: {path} is damaged")
    try:
        return Identity(**json.loads(lines[0]))
    except (ValueError, TypeError) as error:
        raise StorageRefused(f"storage: {path} is of another version: {error}") from error


def _open_mark(path: Path) -> tuple[int, Mark]:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise StorageCorrupt(f"storage: {path} is gone: what must be there is unknown") from error
    slots = [_parse_mark(os.pread(file, _SLOT_USED, slot * _SLOT_BYTES)) for slot in (0, 1)]
    found = [mark for mark in slots if mark is not None]
    if not found:
        os.close(file)
        raise StorageCorrupt(f"storage: {path} is damaged: what must be there is unknown")
    return file, max(found, key=lambda mark: mark.counter)


def _parse_mark(raw: bytes) -> Mark | None:
    if len(raw) < _SLOT_USED or _CHECK.pack(crc32(raw[: _MARK.size])) != raw[_MARK.size :]:
        return None
    magic, *numbers = _MARK.unpack(raw[: _MARK.size])
    return Mark(*numbers) if magic == _MAGIC else None


def _write_mark(file: int, mark: Mark) -> None:
    body = _MARK.pack(
        _MAGIC, mark.counter, mark.sequence, mark.manifest_number, mark.manifest_bytes
    )
    os.pwrite(file, body + _CHECK.pack(crc32(body)), (mark.counter & 1) * _SLOT_BYTES)


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)
    fresh.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

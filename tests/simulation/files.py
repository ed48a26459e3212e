"""A virtual file system per node, for what `storage.store` and `storage.sentinel` keep beside the
database, and `search.saved`: `os`, `fcntl` and `Path`, as far as those use them.

Owned by a simulated node, and outlives its crashes. What is written can be read at once; a loss of
power takes, of each file and each name, what was not synced, or not: the operating system may have
written any of it. `installed` lays it, and the virtual database, under the storage of all nodes.
"""

import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from mq9cluster.search import saved
from mq9cluster.storage import sentinel, store
from mq9cluster.storage.errors import StorageCorrupt
from tests.simulation.disk import Disk

MANIFEST_BYTES = 100


class File:
    """What a name stands for; a folder has no content."""

    def __init__(self) -> None:
        self.content = self.synced = b""


class Files:
    """The files of one node."""

    system: "SimOs"  # while `installed`

    def __init__(self, disk: Disk, seed: str) -> None:
        self.disk = disk  # whose faults it shares
        self.names: dict[str, File] = {"/": File()}
        self.locked: set[str] = set()
        self.open_database: Callable[..., Any] | None = None
        self._synced_names = dict(self.names)
        self._luck = random.Random(seed)

    def crash(self, *, power: bool) -> None:
        """The process is gone, and with the power what was not synced."""
        self.locked.clear()
        if not power:
            return
        for name in sorted(self.names.keys() | self._synced_names.keys()):
            if self.names.get(name) is not self._synced_names.get(name) and self._lost():
                self._set(name, self._synced_names.get(name))
            file = self.names.get(name)
            if file and file.content != file.synced and self._lost():
                file.content = file.synced
        self._synced_names = dict(self.names)
        for file in self.names.values():
            file.synced = file.content

    def _lost(self) -> bool:
        return self._luck.random() < 0.5

    def _set(self, name: str, file: File | None) -> None:
        if file is None:
            del self.names[name]
        else:
            self.names[name] = file

    def sync(self, name: str, file: File) -> None:
        """fsync of a file, or of a folder's names. Raises OSError."""
        if self.disk.failing:
            raise OSError(errno.EIO, "input/output error")
        file.synced = file.content
        inside = name.rstrip("/") + "/"
        for each in self.names.keys() | self._synced_names.keys():
            if each.startswith(inside) and "/" not in each[len(inside) :]:
                if each in self.names:
                    self._synced_names[each] = self.names[each]
                else:
                    del self._synced_names[each]

    def write(self, name: str, content: bytes) -> None:
        """A whole file, safe at once: RocksDB's own."""
        file = self.names[name] = self._synced_names[name] = File()
        file.content = file.synced = content


class SimPath:
    """A `pathlib.Path` on a node."""

    def __init__(self, files: Files, text: str) -> None:
        self.files = files
        self.text = text

    def __truediv__(self, name: str) -> "SimPath":
        return SimPath(self.files, f"{self.text.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The last part."""
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> "SimPath":
        """The folder."""
        return SimPath(self.files, self.text.rpartition("/")[0] or "/")

    def with_name(self, name: str) -> "SimPath":
        """Another one in the same folder."""
        return self.parent / name

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        return self.text in self.files.names

    def with_suffix(self, suffix: str) -> "SimPath":
        """The same with another end."""
        return self.with_name(self.name.rpartition(".")[0] + suffix)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a folder."""
        del parents, exist_ok
        self.files.names.setdefault(self.text, File())

    def open(self, mode: str, buffering: int) -> "SimStream":
        """A file to be written anew."""
        del mode, buffering
        system = self.files.system
        flags = system.O_CREAT | system.O_TRUNC | system.O_WRONLY
        return SimStream(system, system.open(self, flags))

    def found(self) -> File:
        """The file. Raises FileNotFoundError."""
        file = self.files.names.get(self.text)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", self.text)
        return file

    def read_bytes(self) -> bytes:
        """All of it."""
        return self.found().content

    def read_text(self, encoding: str) -> str:
        """All of it."""
        return self.found().content.decode(encoding)

    def stat(self) -> SimpleNamespace:
        """Its size."""
        return SimpleNamespace(st_size=len(self.found().content))

    def replace(self, target: "SimPath") -> None:
        """Rename it, over another one."""
        self.files.names[target.text] = self.files.names.pop(self.text)


class SimStream:
    """A file that is open to be written, unbuffered."""

    def __init__(self, system: "SimOs", descriptor: int) -> None:
        self._system = system
        self._descriptor = descriptor

    def __enter__(self) -> "SimStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._system.close(self._descriptor)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._descriptor

    def write(self, data: bytes) -> int:
        """At the end."""
        return self._system.write(self._descriptor, bytes(data))


class SimOs:
    """The module `os`."""

    O_RDWR, O_RDONLY, O_WRONLY = os.O_RDWR, os.O_RDONLY, os.O_WRONLY
    O_CREAT, O_TRUNC, O_CLOEXEC, O_DIRECTORY = os.O_CREAT, os.O_TRUNC, os.O_CLOEXEC, os.O_DIRECTORY

    def __init__(self) -> None:
        self.environ: dict[str, str] = {}
        self.opened: dict[int, SimPath] = {}
        self._next = 2

    def open(self, path: SimPath, flags: int, _: int = 0) -> int:
        """A descriptor."""
        names = path.files.names
        if flags & self.O_CREAT and path.text not in names:
            if path.files.disk.full:
                raise OSError(errno.ENOSPC, "no space left on device")
            names[path.text] = File()
        file = path.found()
        if flags & self.O_TRUNC:
            file.content = b""
        self._next += 1
        self.opened[self._next] = path
        return self._next

    def close(self, descriptor: int) -> None:
        """Let go of it, and of its lock."""
        path = self.opened.pop(descriptor)
        path.files.locked.discard(path.text)

    def fsync(self, descriptor: int) -> None:
        """On disk."""
        path = self.opened[descriptor]
        if path.exists():  # or its name was lost in a crash that this process did not outlive
            path.files.sync(path.text, path.found())

    fdatasync = fsync

    def write(self, descriptor: int, data: bytes) -> int:
        """At the end."""
        path = self.opened[descriptor]
        if path.files.disk.full:
            raise OSError(errno.ENOSPC, "no space left on device")
        path.found().content += data
        return len(data)

    def pwrite(self, descriptor: int, data: bytes, at: int) -> int:
        """In the middle."""
        file = self.opened[descriptor].found()
        content = file.content.ljust(at, b"\0")
        file.content = content[:at] + data + content[at + len(data) :]
        return len(data)

    def pread(self, descriptor: int, size: int, at: int) -> bytes:
        """From the middle."""
        return self.opened[descriptor].found().content[at : at + size]


class SimLocks:
    """The module `fcntl`."""

    LOCK_EX, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_NB

    def __init__(self, system: SimOs) -> None:
        self._system = system

    def flock(self, descriptor: int, _: int) -> None:
        """Lock, or BlockingIOError."""
        path = self._system.opened[descriptor]
        if path.text in path.files.locked:
            raise BlockingIOError
        path.files.locked.add(path.text)


class SimDatabases:
    """`storage.database.Database`, as `store` opens it."""

    @staticmethod
    def open(
        path: SimPath, *, create: bool, limits: object, on_synced: Callable[[int], None]
    ) -> Any:
        """The node's database; its MANIFEST begins anew, as RocksDB's does, and an
        empty one is refused, as there: the mark may be of the one before.
        """
        del limits
        files, number = path.files, 0
        if create:
            files.write(path.text, b"")
        else:
            current = (path / "CURRENT").read_text("ascii").strip()
            if not files.names[f"{path}/{current}"].content:
                raise StorageCorrupt("storage: Corruption: no meta-nextfile entry in descriptor")
            number = int(current.removeprefix("MANIFEST-"))
        files.write(f"{path}/MANIFEST-{number + 1:06d}", b"x" * MANIFEST_BYTES)
        files.write(f"{path}/CURRENT", b"MANIFEST-%06d\n" % (number + 1))
        assert files.open_database
        return files.open_database(path, on_synced)


@contextmanager
def installed() -> Iterator[None]:
    """Virtual files for all nodes."""
    system = SimOs()
    with ExitStack() as patches:
        patches.enter_context(patch.object(Files, "system", system, create=True))
        for module in (store, sentinel, saved):
            patches.enter_context(patch.object(module, "os", system))
        patches.enter_context(patch.object(sentinel, "fcntl", SimLocks(system)))
        patches.enter_context(patch.object(store, "Database", SimDatabases))
        yield

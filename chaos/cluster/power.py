"""What a power cut leaves of a data directory: for tests that a killed process alone never fails.

A process that dies leaves everything it wrote in the page cache, synced or not; so `kill -9` never
finds a missing fsync. Two ways to lose what was not synced:

`cut_copy(source, target)` works everywhere. Start the node with `RECORDING` in its environment: the
store then records, after every sync, how many bytes of each WAL file that sync covered. Kill it
(SIGKILL, and wait for it), then copy: the newest WAL is cut back to the bytes recorded, to none if
no sync ever covered it. Older ones RocksDB closed, and syncs before anything relies on them, as it
does SST files and the MANIFEST; the sentinel's files stay as they are, the stricter choice.

    node = start(environment={**os.environ, **RECORDING}); …; node.kill(); node.wait()
    cut_copy(data_dir, other_dir)        # then start on other_dir and compare

`FragileDisk` is the real thing, for root on Linux: an ext4 image on a loop device whose journal is
committed only by an fsync (commit=600). `cut` stops the processes, shuts the file system down
without flushing its log (EXT4_IOC_SHUTDOWN), kills them, and mounts the image again.

    if not FragileDisk.works(tmp_path): pytest.skip(…)   # or take cut_copy
    with FragileDisk(tmp_path) as disk:
        node = start(data_dir=disk.path / "data"); …; disk.cut(node.pid); node.wait()
        # then start again on disk.path / "data" and compare

`WITHOUT_SYNC` in a node's environment makes it skip every fsync: under either of the two it must
lose acknowledged data, or the test that shows nothing was lost shows nothing.
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import struct
import subprocess
from pathlib import Path
from typing import Final, Self

# As mq9cluster/storage/store.py has them; a test holds the two together.
DATABASE_FOLDER: Final = "db"
RECORD_FILE: Final = "node.synced"
RECORDING: Final = {"MQ9_TEST_RECORD_SYNCED": "1"}
WITHOUT_SYNC: Final = {"MQ9_TEST_UNSAFE_NO_SYNC": "1"}

_EXT4_IOC_SHUTDOWN: Final = 0x8004587D
_SHUTDOWN_WITHOUT_LOG_FLUSH: Final = 2


def cut_copy(source: Path, target: Path) -> int:
    """Copy the data directory of a dead node as a power cut would leave it; the bytes lost."""
    safe: dict[str, int] = json.loads((source / RECORD_FILE).read_text())
    shutil.copytree(source, target)
    (target / RECORD_FILE).unlink()
    newest = max((target / DATABASE_FOLDER).glob("*.log"))
    lost = newest.stat().st_size - safe.get(newest.name, 0)
    os.truncate(newest, safe.get(newest.name, 0))
    return lost


class FragileDisk:
    """A mounted ext4 image that can lose its power."""

    def __init__(self, folder: Path, size_mib: int = 256) -> None:
        self._image = folder / "fragile.img"
        self.path = folder / "fragile"
        self._size_mib = size_mib

    @staticmethod
    def works(folder: Path) -> bool:
        """Whether this machine lets us mount one."""
        try:
            with FragileDisk(folder, 16) as disk:
                disk.cut()
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def __enter__(self) -> Self:
        with self._image.open("wb") as image:
            image.truncate(self._size_mib << 20)
        _run("mkfs.ext4", "-q", "-F", str(self._image))
        self.path.mkdir()
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", "--lazy", str(self.path))  # a failed test may hold files open
        self.path.rmdir()
        self._image.unlink()

    def cut(self, *pids: int) -> None:
        """The power goes: `pids` die, what was not synced is gone, and the disk is back."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            how = struct.pack("I", _SHUTDOWN_WITHOUT_LOG_FLUSH)
            fcntl.ioctl(folder, _EXT4_IOC_SHUTDOWN, how)
        finally:
            os.close(folder)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # dead, and seen to be
                os.kill(pid, signal.SIGKILL)
            _wait_until_dead(pid)
        _run("umount", str(self.path))
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop,commit=600", str(self._image), str(self.path))


def _wait_until_dead(pid: int) -> None:
    """Until `pid` has let go of its files; a child stays for its parent to reap."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            select.select([handle], [], [])
        finally:
            os.close(handle)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)

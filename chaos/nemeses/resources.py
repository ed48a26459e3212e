"""Too little memory, too few files."""

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from chaos.cluster.nodes import FaultyNode
from chaos.machine import MEMORY, MEMORY_GROUPS
from chaos.nemeses.scene import Scene

UNLIMITED = -1
GROWTH_BYTES = 1 << 20  # what a node has when it is limited is not counted, what it then wants is
FILES_SPARE = 2
CROWD_OVER_FILES, CROWD_OVER_MEMORY = 20, 400
CROWD_S = 1.0


class Descriptors:
    """One node may open no more files: nobody new gets in, and RocksDB cannot go on for long."""

    name = "files-limit"
    needs: frozenset[str] = frozenset()
    breaks_nodes = True

    async def play(self, scene: Scene) -> None:
        """Limit, and lift."""
        while not scene.over:
            victim = await scene.leader()
            with scene.fault(self.name, [victim], lost=True), _few_files(victim.pid):
                async with _crowd(victim, CROWD_OVER_FILES):
                    await scene.wait(scene.rng.uniform(2, 6))
            await scene.recover()


@contextmanager
def _few_files(pid: int) -> Iterator[None]:
    """A process that may open hardly more files; another nemesis may end it at any time."""
    try:
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        limits = (min(files + FILES_SPARE, before[1]), before[1])
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    except (ProcessLookupError, FileNotFoundError):
        yield
        return
    yield
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def _crowd(victim: FaultyNode, count: int) -> AsyncIterator[None]:
    """So many more clients, as far as they are let in: they want files and memory."""

    async def come() -> asyncio.StreamWriter | None:
        try:
            async with asyncio.timeout(CROWD_S):
                reader, writer = await asyncio.open_connection(victim.host, victim.port)
                writer.write(b"CONNECT {}\r\nSUB crowd.* 1\r\nPING\r\n")
                await reader.readline()
        except OSError:  # TimeoutError is one
            return None
        return writer

    there = await asyncio.gather(*(come() for _ in range(count)))
    try:
        yield
    finally:
        for writer in there:
            if writer is not None:
                writer.transport.abort()


class Memory:
    """One node gets hardly more memory than it has: the kernel kills it when it wants some."""

    name = "memory-limit"
    needs = frozenset({MEMORY})
    breaks_nodes = True

    async def play(self, scene: Scene) -> None:
        """Limit, and lift."""
        while not scene.over:
            victim = await scene.leader()
            with scene.fault(self.name, [victim], lost=True), self._limited(scene, victim):
                async with _crowd(victim, CROWD_OVER_MEMORY):
                    await scene.wait(scene.rng.uniform(3, 6))
            await scene.recover()

    @contextmanager
    def _limited(self, scene: Scene, victim: FaultyNode) -> Iterator[None]:
        group = MEMORY_GROUPS / f"mq9chaos{os.getpid()}{victim.name}"
        group.mkdir(exist_ok=True)
        undo = scene.janitor.undo_with("rmdir", str(group))
        prefix = victim.prefix
        try:
            with contextlib.suppress(ProcessLookupError):  # another nemesis may have ended it
                (group / "cgroup.procs").write_text(str(victim.pid))
            enter = 'echo $$ > "$0"/cgroup.procs; exec "$@"'
            victim.prefix = ("/bin/sh", "-c", enter, str(group), *prefix)  # restarts too
            _limit(group, GROWTH_BYTES)
            yield
        finally:
            victim.prefix = prefix
            _limit(group, UNLIMITED)
            home = MEMORY_GROUPS / "cgroup.procs"
            for pid in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    home.write_text(pid)
            with contextlib.suppress(OSError):
                group.rmdir()
                scene.janitor.done(undo)


def _limit(group: Path, size: int) -> None:
    (group / "memory.limit_in_bytes").write_text(str(size))

"""Too little memory, too few files."""

import contextlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.cluster.nodes import FaultyNode
from chaos.machine import MEMORY, MEMORY_GROUPS
from chaos.nemeses.scene import Scene

UNLIMITED = -1
GROWTH_BYTES = 4 << 20  # what a node has when it is limited is not counted, what it then wants is
FILES_SPARE = 2


class Descriptors:
    """One node may open no more files: nobody new gets in, and RocksDB cannot go on for long."""

    name = "files-limit"
    needs: frozenset[str] = frozenset()
    breaks_nodes = True

    async def play(self, scene: Scene) -> None:
        """Limit, and lift."""
        while not scene.over:
            victim = await scene.leader()
            with scene.fault(self.name, [victim], lost=True):
                pid = victim.pid
                before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
                limits = (min(files + FILES_SPARE, before[1]), before[1])
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
                await scene.wait(scene.rng.uniform(2, 6))
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            await scene.recover()


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
                await scene.wait(scene.rng.uniform(3, 6))
            await scene.recover()

    @contextmanager
    def _limited(self, scene: Scene, victim: FaultyNode) -> Iterator[None]:
        group = MEMORY_GROUPS / f"mq9chaos{os.getpid()}{victim.name}"
        group.mkdir(exist_ok=True)
        undo = scene.janitor.undo_with("rmdir", str(group))
        prefix = victim.prefix
        try:
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

"""Disks that lose power, fill up, are slow, stand still or fail."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from chaos.cluster.nodes import FaultyNode
from chaos.cluster.shim import IO_ERROR, NO_SPACE
from chaos.machine import DISK, SHIM
from chaos.nemeses.scene import Scene

BALLAST = "ballast"
BALLAST_PIECE = 1 << 20


class PowerLoss:
    """The power of one node, or of all, goes: what was not synced is gone."""

    needs = frozenset({DISK})
    breaks_nodes = False

    def __init__(self, whom: str, times: int = 0) -> None:
        self.name = f"power-{whom}"
        self._whom = whom
        self._times = times

    async def play(self, scene: Scene) -> None:
        """Cut the power, give it back."""
        for _ in scene.rounds(self._times):
            victims = scene.some(1) if self._whom == "one" else scene.cluster.nodes
            with scene.fault(self.name, victims, lost=True):
                await cut_power(scene, victims)
                await scene.wait(scene.rng.uniform(0.0, 3.0))
            await scene.recover()


async def cut_power(scene: Scene, victims: list[FaultyNode]) -> None:
    """At one moment for all of them."""
    for node in victims:
        node.wanted = False
        if node.running:
            node.signal(signal.SIGSTOP)
    for node in victims:
        pids = (node.pid,) if node.running else ()
        await asyncio.to_thread(scene.disks[node.name].cut, *pids)
        await node.wait()


class DiskFull:
    """One node's disk has no room left; later it has."""

    name = "disk-full"
    needs = frozenset({DISK})
    breaks_nodes = True

    async def play(self, scene: Scene) -> None:
        """Fill, wait, make room."""
        while not scene.over:
            victim = await scene.leader()
            ballast = scene.disks[victim.name].path / BALLAST
            with scene.fault(self.name, [victim], lost=True):
                try:
                    await asyncio.to_thread(_fill, ballast)
                    await scene.wait(scene.rng.uniform(2, 6))
                finally:
                    ballast.unlink()
            await scene.recover()


def _fill(ballast: Path) -> None:
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            end = file.seek(0, os.SEEK_END)
            os.posix_fallocate(file.fileno(), end, BALLAST_PIECE)
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


class BadDisk:
    """Calls of one node to its disk are slow, wait, or fail."""

    needs = frozenset({SHIM})
    breaks_nodes = True

    def __init__(self, how: str) -> None:
        self.name = f"disk-{how}"
        self._how = how

    async def play(self, scene: Scene) -> None:
        """Bad for some seconds."""
        while not scene.over:
            victims = [await scene.leader()]
            if self._how == "slow":
                victims = scene.some(scene.rng.randint(1, len(scene.cluster.nodes)))
            with scene.fault(self.name, victims, lost=True):
                try:
                    for node in victims:
                        scene.shims[node.name].tell(**self._told(scene))
                    await scene.wait(scene.rng.choice((1.0, 4.0, 7.0)))
                finally:
                    for node in victims:
                        scene.shims[node.name].heal()
            await scene.recover()

    def _told(self, scene: Scene) -> dict[str, int]:
        if self._how == "slow":
            return {"sync_wait_us": scene.rng.choice((5_000, 50_000, 300_000))}
        if self._how == "stalled":
            return {"stalled": 1}
        error = scene.rng.choice((IO_ERROR, NO_SPACE))
        return {scene.rng.choice(("write_errno", "sync_errno")): error}

"""Processes that die, stop, or are restarted."""

import asyncio

from chaos.cluster.nodes import FaultyNode
from chaos.nemeses.scene import Scene


async def _victims(scene: Scene, whom: str) -> list[FaultyNode]:
    if whom == "leader":
        return [await scene.leader()]
    count = {
        "one": 1,
        "majority": len(scene.cluster.nodes) - scene.minority,
        "all": len(scene.cluster.nodes),
    }[whom]
    return scene.some(count)


class Kill:
    """SIGKILL to some nodes at once, which come back after a while."""

    needs: frozenset[str] = frozenset()
    breaks_nodes = False

    def __init__(self, whom: str, times: int = 0) -> None:
        self.name = f"kill-{whom}"
        self._whom = whom
        self._times = times

    async def play(self, scene: Scene) -> None:
        """Kill, wait, start."""
        for _ in scene.rounds(self._times):
            victims = await _victims(scene, self._whom)
            with scene.fault(self.name, victims, lost=True):
                await scene.cluster.kill(*victims)
                await scene.wait(scene.rng.uniform(0.0, 5.0))
            await scene.recover()


class Pause:
    """SIGSTOP to some nodes: they keep their connections, and wake up not knowing."""

    needs: frozenset[str] = frozenset()
    breaks_nodes = False

    def __init__(self, whom: str) -> None:
        self.name = f"pause-{whom}"
        self._whom = whom

    async def play(self, scene: Scene) -> None:
        """Pause, shorter or longer than a lease, and resume."""
        while not scene.over:
            victims = await _victims(scene, self._whom)
            with scene.fault(self.name, victims, lost=True):
                scene.cluster.pause(*victims)
                await scene.wait(scene.rng.choice((0.5, 2.0, 4.2, 7.0)))
                scene.cluster.resume(*victims)
            await scene.recover()


class RollingRestart:
    """SIGTERM to one node after the other, each started again before the next."""

    name = "rolling-restart"
    needs: frozenset[str] = frozenset()
    breaks_nodes = False

    async def play(self, scene: Scene) -> None:
        """Round and round."""
        while not scene.over:
            for node in scene.cluster.nodes:
                with scene.fault(self.name, [node], lost=True):
                    code = await scene.cluster.terminate(node)
                    if code != 0:
                        scene.tell("wrong", why=f"{node.name} ended with {code} on SIGTERM")
                    await scene.cluster.revive(node)
                    await asyncio.sleep(0)
                await scene.recover()


class Nothing:
    """No fault at all: whatever goes wrong here is not a fault's doing."""

    name = "nothing"
    needs: frozenset[str] = frozenset()
    breaks_nodes = False

    async def play(self, scene: Scene) -> None:
        """Wait."""
        await scene.wait(scene.until - scene.now())

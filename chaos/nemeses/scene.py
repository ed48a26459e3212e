"""What a nemesis is given, and how it tells what it does.

Owns nothing of its own: the cluster, the disks and the shims are `run`'s. Every fault is told when
it begins and when it ends; what clients held over a node that is lost with it is not sure from then
on (`lost`).
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from chaos.clients.workload import Workload
from chaos.cluster.nodes import FaultyCluster, FaultyNode, Told

WHOLE_S_MAX = 60.0  # after one fault, before the next


@dataclass(slots=True)
class Scene:
    """Where a nemesis plays. `until` is when it has to be through."""

    cluster: FaultyCluster
    rng: random.Random
    now: Callable[[], float]
    tell: Told
    workloads: Sequence[Workload]
    until: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.now() >= self.until

    async def wait(self, seconds: float) -> None:
        """Let the fault last, but not beyond the end."""
        await asyncio.sleep(max(0.0, min(seconds, self.until - self.now())))

    @contextmanager
    def fault(self, what: str, nodes: Sequence[FaultyNode], *, lost: bool) -> Iterator[None]:
        """A fault of `nodes`, from here to the end of the block."""
        names = [node.name for node in nodes]
        began = self.now()
        self.tell("fault", fault=what, nodes=names)
        if lost:
            self.lost(nodes, began)
        try:
            yield
        finally:
            self.tell("healed", fault=what, nodes=names)
            if lost:  # what was fetched in the moment between too
                self.lost(nodes, began)

    def lost(self, nodes: Sequence[FaultyNode], at: float) -> None:
        """Nothing held over these nodes is sure from `at` on."""
        for workload in self.workloads:
            for node in nodes:
                workload.node_lost(node.name, at)

    async def leader(self) -> FaultyNode:
        """The node that leads some shard, which the seed chooses; any node if nobody says."""
        leaders = await self.cluster.leaders()
        known = [leader for _, leader in sorted(leaders.items()) if leader]
        return self.cluster[self.rng.choice(known or self.cluster.names)]

    def some(self, count: int) -> list[FaultyNode]:
        """That many nodes."""
        return self.rng.sample(self.cluster.nodes, count)

    @property
    def minority(self) -> int:
        """How many nodes may be lost."""
        return (len(self.cluster.nodes) - 1) // 2

    async def recover(self) -> None:
        """Everything runs, all is whole, and works for a moment."""
        await self.cluster.revive(*self.cluster.nodes)
        await self.cluster.until_whole(WHOLE_S_MAX)
        await self.wait(self.rng.uniform(0.3, 1.5))


class Nemesis(Protocol):
    """Something that goes wrong, again and again until the time is up.

    `needs`: what the machine must allow, as `machine` calls it.
    """

    name: str
    needs: frozenset[str]

    async def play(self, scene: Scene) -> None:
        """Do it; leaves nothing broken that `FaultyCluster.heal` does not mend."""

"""What a nemesis is given, and how it tells what it does.

Owns nothing of its own: the cluster, the disks and the shims are `run`'s. Every fault is told when
it begins and when it ends; what clients held over a node that is lost with it is not sure from then
on (`lost`).
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from chaos.clients.workload import Workload
from chaos.cluster.nodes import FaultyCluster, FaultyNode, Told
from chaos.cluster.power import FragileDisk
from chaos.cluster.shim import Shim
from chaos.janitor import Janitor

WHOLE_S_MAX = 60.0  # after one fault, before the next


@dataclass(slots=True)
class Scene:
    """Where a nemesis plays. `until` is when it has to be through."""

    cluster: FaultyCluster
    rng: random.Random
    now: Callable[[], float]
    tell: Told
    workloads: Sequence[Workload]
    disks: Mapping[str, FragileDisk]
    shims: Mapping[str, Shim]
    janitor: Janitor
    until: float = 0.0
    whole_s_max: float = WHOLE_S_MAX
    patient: bool = True  # wait until all is whole between two faults; not where another one plays

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.now() >= self.until

    def rounds(self, times: int) -> Iterator[int]:
        """So many rounds; 0: as many as there is time for."""
        number = 0
        while number < times if times else not self.over:
            number += 1
            yield number

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
        await self.cluster.revive(*(node for node in self.cluster.nodes if not node.running))
        if self.patient:
            await until_whole(self.cluster, self.tell, self.whole_s_max)
        await self.wait(self.rng.uniform(0.3, 1.5))


async def until_whole(cluster: FaultyCluster, tell: Told, within_s: float = WHOLE_S_MAX) -> None:
    """Until the cluster is whole; where it does not come to be, that is entered as wrong."""
    try:
        await cluster.until_whole(within_s)
    except TimeoutError:
        seen = await cluster.describe()
        tell("wrong", why=f"not whole within {within_s:g} s though nothing is broken: {seen}")


class Nemesis(Protocol):
    """Something that goes wrong, again and again until the time is up.

    `needs`: what the machine must allow, as `machine` calls it. `breaks_nodes`: nodes may end by
    themselves, saying why.
    """

    name: str
    breaks_nodes: bool

    @property
    def needs(self) -> frozenset[str]:
        """Names of `machine`."""

    async def play(self, scene: Scene) -> None:
        """Do it; leaves nothing broken that `FaultyCluster.heal` does not mend."""

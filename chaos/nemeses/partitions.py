"""The network between nodes: cut in two, in one direction, all but a bridge; slow, lossy, doubling.

Clients reach every node all the while, unless the name says otherwise: who talks to a node that is
cut off is who would see a stale answer.
"""

from collections.abc import Iterable
from itertools import permutations, product

from chaos.cluster.nodes import FaultyNode
from chaos.cluster.switch import Rule
from chaos.machine import NETWORK
from chaos.nemeses.scene import Scene

CUT = Rule(cut=True)
CLIENTS = "clients"  # no node's name: our own side of the switch
Rules = dict[tuple[str, str], Rule]


def between(some: Iterable[str], others: Iterable[str]) -> Rules:
    """Nothing passes between these and those, in either direction."""
    pairs = list(product(some, others))
    return {pair: CUT for one, other in pairs for pair in ((one, other), (other, one))}


class Partition:
    """Cuts of one shape, again and again."""

    needs = frozenset({NETWORK})
    breaks_nodes = False

    def __init__(self, shape: str, times: int = 0) -> None:
        self.name = f"partition-{shape}"
        self._shape = shape
        self._times = times

    async def play(self, scene: Scene) -> None:
        """Cut, longer or shorter than a lease, and heal."""
        for _ in scene.rounds(self._times):
            rules, nodes = await self._rules(scene)
            deaf = self._shape.endswith("clients")  # nobody can tell them that they lost something
            with scene.fault(self.name, nodes, lost=deaf):
                scene.cluster.network.rule(rules)
                await scene.wait(scene.rng.choice((1.0, 4.2, 8.0)))
                scene.cluster.network.rule({})
            await scene.recover()

    async def _rules(self, scene: Scene) -> tuple[Rules, list[FaultyNode]]:
        names = scene.cluster.names
        leader = await scene.leader()
        others = [name for name in names if name != leader.name]
        if self._shape == "leader":
            return between([leader.name], others), [leader]
        if self._shape == "leader-and-clients":
            return between([leader.name], [*others, CLIENTS]), [leader]
        if self._shape == "halves":
            few = scene.some(scene.minority)
            cut = [node.name for node in few]
            return between(cut, [name for name in names if name not in cut]), few
        if self._shape == "one-way":
            deaf = scene.rng.choice((True, False))
            pairs = product(others, [leader.name]) if deaf else product([leader.name], others)
            return dict.fromkeys(pairs, CUT), [leader]
        # bridge: the others reach the leader, but not each other
        return between(others[:1], others[1:]), [scene.cluster[name] for name in others]


class BadLinks:
    """Frames between nodes are late, lost or doubled, or all of it."""

    needs = frozenset({NETWORK})
    breaks_nodes = False

    def __init__(self, how: str) -> None:
        self.name = f"links-{how}"
        self._how = how

    async def play(self, scene: Scene) -> None:
        """Bad for some seconds, then good for one."""
        while not scene.over:
            with scene.fault(self.name, scene.cluster.nodes, lost=False):
                rule = self._rule(scene)
                pairs = permutations(scene.cluster.names, 2)
                scene.cluster.network.rule(dict.fromkeys(pairs, rule))
                await scene.wait(scene.rng.uniform(4, 8))
                scene.cluster.network.rule({})
            await scene.recover()

    def _rule(self, scene: Scene) -> Rule:
        chance = scene.rng
        slow = Rule(delay_ms=chance.choice((5.0, 50.0, 150.0)), jitter_ms=50.0)
        lossy = Rule(loss=chance.choice((0.02, 0.1, 0.25)))
        return {
            "slow": slow,
            "lossy": lossy,
            "doubling": Rule(double=0.3, jitter_ms=5.0),
            "bad": Rule(loss=0.05, double=0.1, delay_ms=10.0, jitter_ms=40.0),
        }[self._how]

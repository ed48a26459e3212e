"""A fault of one group in several acts: answers of an earlier term arrive in a later one.

Drawn by `raft_cluster` like any other. A leader and one follower are cut off together; what that
follower acknowledges there is held back. The others elect another leader, which replaces what those
two have; then the old leader is made to lead again, beside one voter that hears it, and only then
the old acknowledgements arrive. Whoever counts them commits what two of five have.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from mq9cluster.cluster.engine import NotLeader

if TYPE_CHECKING:
    from tests.simulation.raft_cluster import RaftCluster
    from tests.simulation.raft_node import SimNode

VOTERS_MIN = 5  # of three, two are a majority
AHEAD = 150  # entries that the two have for themselves: more than the others write meanwhile
APART_US = 1_300_000  # two election timeouts
LOOK_US = 50_000
LOOKS_MAX = 60
LATE_US = 400_000


class LateAnswers:
    """One such fault, under way."""

    def __init__(self, cluster: "RaftCluster", leader: "SimNode", voters: list[str]) -> None:
        """`voters`: all others."""
        self._cluster = cluster
        self._leader = leader
        self._follower, self._witness, *self._rest = voters
        self._looks = 0
        self._term = leader.engine.term if leader.engine else 0

    def begin(self) -> None:
        """Cut the two off, and have them write entries that nobody else gets."""
        network, pair = self._cluster.network, [self._leader.name, self._follower]
        network.hold_back(self._follower, self._leader.name)
        network.split(pair, [name for name in self._cluster.nodes if name not in pair])
        self._propose()
        self._after(APART_US, self._come_back)

    def _after(self, delay_us: int, act: Callable[[], None]) -> None:
        """The next act, unless all was healed by then."""

        def begin() -> None:
            if not self._cluster.healed:
                act()

        self._cluster.scheduler.after(delay_us, begin)

    def _propose(self) -> None:
        for number in range(AHEAD):
            self._leader.propose(b"late %d" % number)

    def _come_back(self) -> None:
        """The old leader hears the others again; its follower hears nobody."""
        network = self._cluster.network
        network.heal()
        others = [name for name in self._cluster.nodes if name != self._follower]
        network.split([self._follower], others)
        self._look()

    def _look(self) -> None:
        self._looks += 1
        engine = self._leader.engine
        if engine is None or self._looks > LOOKS_MAX:
            self._end()
        elif engine.is_leader and engine.term > self._term:
            self._lead_again()
        else:
            for node in self._cluster.nodes.values():
                if node.name in (*self._rest, self._witness):
                    self._hand_over(node)
            self._after(LOOK_US, self._look)

    def _hand_over(self, node: "SimNode") -> None:
        if node.engine is None or node.paused or not node.engine.is_leader:
            return
        if self._leader.name in node.engine.members.voters:
            with suppress(NotLeader):  # as it finds when asked
                node.engine.transfer(self._leader.name)
                node.wake()

    def _lead_again(self) -> None:
        network, pair = self._cluster.network, [self._leader.name, self._witness]
        network.split(pair, [name for name in self._cluster.nodes if name not in pair])
        self._propose()
        late = partial(network.let_through, self._follower, self._leader.name)
        self._after(LATE_US // 8, late)
        self._after(LATE_US, self._end)

    def _end(self) -> None:
        self._cluster.network.let_all_through()
        self._cluster.network.heal()


def answer_late(cluster: "RaftCluster") -> None:
    """Begin, if there is a leader of enough, and no other such fault is under way."""
    if cluster.network.holds_back:
        return
    for node in cluster.nodes.values():
        if node.engine is None or node.paused or not node.engine.is_leader:
            continue
        others = [name for name in node.engine.members.voters if name != node.name]
        if len(others) + 1 >= VOTERS_MIN:
            cluster.random.shuffle(others)
            LateAnswers(cluster, node, others).begin()
            return

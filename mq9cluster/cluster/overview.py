"""What each node knows of its replicas, told to the others once a second: any node can show the
whole cluster.

`cluster` asks peers and serves their asking; the HTTP side reads. For people, dashboards and
probes: nothing else is decided by it.
"""

from collections.abc import Iterable
from typing import NamedTuple

import orjson

from mq9cluster.cluster.replica import Replica


class ReplicaState(NamedTuple):
    """One replica, as its node last told."""

    shard: int
    node: str
    leader: str
    term: int
    commit_index: int
    applied_index: int
    state: str
    mailboxes: int
    messages: int
    agents: int = (
        0  # not told where there are none: versions before the registry know no such field
    )


class Overview:
    """The replicas of all nodes."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._elsewhere: dict[str, list[ReplicaState]] = {}

    def here(self, replicas: Iterable[Replica]) -> list[ReplicaState]:
        """Those of this node, now."""
        return [self._state(replica) for replica in replicas]

    def _state(self, replica: Replica) -> ReplicaState:
        engine, held = replica.engine, replica.machine.workspace.shard
        return ReplicaState(
            replica.shard,
            self._me,
            engine.leader,
            engine.term,
            engine.commit_index,
            held.applied_index,
            "leader" if engine.is_leader else "follower",
            held.mailboxes,
            held.messages,
            held.agents,
        )

    def tell(self, replicas: Iterable[Replica]) -> bytes:
        """What this node answers when asked."""
        told = [state if state.agents else state[:-1] for state in self.here(replicas)]
        return orjson.dumps([list(state) for state in told])

    def heard(self, peer: str, answer: bytes) -> None:
        """What a peer answered."""
        self._elsewhere[peer] = [ReplicaState(*fields) for fields in orjson.loads(answer)]

    def forget(self, peer: str) -> None:
        """A peer that does not answer is not shown as it once was."""
        self._elsewhere.pop(peer, None)

    def leader_of(self, shard: int) -> str:
        """Another node that says it leads the shard, or ""."""
        for states in self._elsewhere.values():
            for state in states:
                if state.shard == shard and state.state == "leader":
                    return state.node
        return ""

    def of_shard(self, shard: int, replicas: Iterable[Replica]) -> list[ReplicaState]:
        """All replicas of a shard that are known of, the leader's first."""
        everywhere = [*self.here(replicas)]
        for states in self._elsewhere.values():
            everywhere += states
        found = [state for state in everywhere if state.shard == shard]
        return sorted(found, key=lambda state: (state.state != "leader", -state.term, state.node))

"""Who should lead what: gives leaderships to the nodes they belong to, and away from one that
should have none.

Made by `cluster`, which calls `watch` four times a second and `hand_over` before it leaves. A node
whose clock is off the median stamps no entries, so it does not lead. One whose disk is slow leads
nothing that a node with a quicker one could: a leader's own sync holds up what its shards gather.
Otherwise a shard belongs to the first of its replicas once that one was well for a while.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from mq9cluster.cluster.clocks import ClusterClock
from mq9cluster.cluster.durability import Durability, Group
from mq9cluster.cluster.engine import NotLeader
from mq9cluster.cluster.meta import META_GROUP, MetaReplica
from mq9cluster.cluster.peers import Flag, Peers
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.cluster.replica import Replica

BALANCE_S: Final = 3.0  # a shard's preferred leader must have been well for so long

SLOW_DISK_S: Final = 0.02  # even the quickest of some syncs: no heartbeat is late yet, clients are
QUICK_DISK_S: Final = 0.005  # and only then it counts as quick again

_log = logging.getLogger(__name__)


class Leading:
    """The leaderships of one node. Everything is called from its event loop."""

    def __init__(
        self,
        me: str,
        groups: Mapping[int, tuple[Group, RaftEngine]],
        meta: MetaReplica,
        peers: Peers,
        clock: ClusterClock,
        durability: Durability,
    ) -> None:
        self._me = me
        self._groups = groups
        self._meta = meta
        self._peers = peers
        self._clock = clock
        self._durability = durability
        self._loop = asyncio.get_running_loop()
        self._flags: dict[str, Flag] = {}
        self._well_since_s: dict[str, float] = {}
        self.disk_is_slow = False

    # --- what is known of the others -------------------------------------------------------------

    def heard(self, peer: str, flags: Flag) -> bool:
        """What a peer says of itself; whether that is news."""
        news = self._flags.get(peer) != flags
        self._flags[peer] = flags
        return news

    def is_draining(self, peer: str) -> bool:
        """Whether a peer said that it is about to leave."""
        return bool(self._flags.get(peer, Flag(0)) & Flag.DRAINING)

    def is_well(self, peer: str) -> bool:
        """Whether a peer can be reached and is there to stay."""
        return self._peers.is_up(peer) and not self.is_draining(peer)

    def _could_lead(self, peer: str) -> bool:
        """Whether `peer` is well, and its clock is: it would not take over otherwise."""
        ahead_ms = self._peers.clock_offset_ms(peer)
        return self.is_well(peer) and ahead_ms is not None and self._clock.near_median(ahead_ms)

    def _should_lead(self, peer: str) -> bool:
        """Whether nothing speaks against it."""
        slow = self._flags.get(peer, Flag(0)) & Flag.SLOW_DISK
        return not slow and self._could_lead(peer)

    # --- moving leaderships ----------------------------------------------------------------------

    def watch_clocks(self) -> None:
        """Follow the median of all clocks, and lead only while near it."""
        offsets = [self._peers.clock_offset_ms(name) for name in self._peers.names]
        self._clock.hear(offset for offset in offsets if offset is not None)
        for _, engine in self._groups.values():
            engine.may_lead = self._clock.may_lead

    def watch(self, replicas: Iterable[Replica]) -> None:
        """Let go of what this node should not lead."""
        self._watch_disk()
        if not self._clock.may_lead:
            self.hand_over()
        elif self.disk_is_slow:
            self._hand_over_to(self._should_lead)
        self._balance(replicas)

    def _watch_disk(self) -> None:
        floor_s = self._durability.sync_floor_s
        slow = floor_s > (QUICK_DISK_S if self.disk_is_slow else SLOW_DISK_S)
        if slow != self.disk_is_slow:
            self.disk_is_slow = slow
            event = "the disk is slow" if slow else "the disk is quick again"
            _log.warning(event, extra={"sync_ms": round(floor_s * 1000, 1)})

    def hand_over(self) -> bool:
        """Transfer what this node leads; whether it still leads anything that another could."""
        return self._hand_over_to(self._could_lead)

    def _hand_over_to(self, fit: Callable[[str], bool]) -> bool:
        left = False
        for number, (group, engine) in self._groups.items():
            peer = next((n for n in self._replicas_of(number) if fit(n)), "")
            if engine.is_leader and peer:
                left = True
                self._transfer(engine, group, peer)
        return left

    def _replicas_of(self, group: int) -> Sequence[str]:
        names = self._peers.names if group == META_GROUP else self._meta.meta.placement[group]
        return [name for name in names if name != self._me]

    def _transfer(self, engine: RaftEngine, group: Group, peer: str) -> None:
        try:
            engine.transfer(peer)
        except NotLeader:
            return  # a transfer is under way already
        self._durability.wake(group)

    def _balance(self, replicas: Iterable[Replica]) -> None:
        """Hand each shard to the node that should lead it, once that one was well for a while."""
        now_s = self._loop.time()
        for name in self._peers.names:
            if self._should_lead(name):
                self._well_since_s.setdefault(name, now_s)
            else:
                self._well_since_s.pop(name, None)
        for replica in replicas:
            first = self._meta.meta.placement[replica.shard][0]
            since_s = self._well_since_s.get(first, now_s)
            if replica.leads and first != self._me and now_s - since_s >= BALANCE_S:
                group, engine = self._groups[replica.shard]
                follower = engine.status().peers.get(first)
                if follower and follower.match >= engine.commit_index:
                    self._transfer(engine, group, first)

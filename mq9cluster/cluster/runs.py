"""Runs and their leases: until when this node may promise anything, and what becomes of what silent
nodes held.

Made by `cluster`, which hands on pings and calls `watch` four times a second. A *run* is the time
from one start of a node to its end. A node that is cut off loses its lease first, by its own clock;
then `meta`'s leader ends its run, and the leaders of shards release what that held.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from mq9cluster.cluster import meta
from mq9cluster.cluster.meta import MetaReplica, Run
from mq9cluster.cluster.peers import Peers
from mq9cluster.cluster.replica import Replica

LEASE_S: Final = 5.0  # silent for so long, a node's run is ended by the others
LEASE_HELD_S: Final = (
    3.5  # and over by its own clock well before, also under a deposed leader of meta
)
RELEASE_AGAIN_S: Final = 1.0

_log = logging.getLogger(__name__)


class Runs:
    """The lease of this node's run, and the ends of others'."""

    def __init__(
        self,
        me: str,
        meta_replica: MetaReplica,
        peers: Peers,
        propose: Callable[[bytes], None],
        on_lease_lost: Callable[[], None],
    ) -> None:
        self.in_lease = False  # nothing is promised before there is a run
        self._me = me
        self._meta = meta_replica
        self._peers = peers
        self._propose = propose
        self._on_lease_lost = on_lease_lost
        self._loop = asyncio.get_running_loop()
        self._until_s = 0.0
        self._lost = False  # the lease ran out, and no new run has begun
        self._led_meta_since_s: float | None = None
        self._released: dict[tuple[int, int, int], float] = {}

    @property
    def holds(self) -> bool:
        """Whether what is handed out now stays with who gets it: nobody has ended the run. Asked at
        the moment itself: after a pause messages come before `watch` notices what time it is.
        """
        return self.in_lease and (self._meta.engine.is_leader or self._loop.time() <= self._until_s)

    def begin(self) -> None:
        """This node's run is known to all: its lease begins."""
        self.in_lease = True
        self._lost = False
        self._until_s = self._loop.time() + LEASE_HELD_S

    def renew(self, silent_ms: int) -> None:
        """`meta`'s leader heard from this node what left so long ago, or later."""
        until_s = self._loop.time() - silent_ms / 1000 + LEASE_HELD_S
        self._until_s = max(self._until_s, until_s)

    def lose(self) -> None:
        """Whatever this node promised is over, also what it was given to hand out since it lost the
        lease: contact may come back for a moment, and go before another run has begun.
        """
        self._lost = True
        self.in_lease = False
        self._on_lease_lost()

    def watch(self, incarnation: int, replicas: Iterable[Replica]) -> bool:
        """Do what is due; whether this node has to begin another run than `incarnation`.

        So it is when the others ended it, and when the lease ran out but nobody ended the run: cut
        off for less than they wait, or they were gone too. What the run held was given up then.
        """
        self._watch_lease(incarnation)
        self._end_silent()
        self._release_ended(replicas)
        run = self._meta.meta.runs.get(self._me)
        if run is None or run.incarnation != incarnation:
            return False
        in_contact = self._loop.time() <= self._until_s
        return run.ended or (self._lost and in_contact)

    def _watch_lease(self, incarnation: int) -> None:
        now_s = self._loop.time()
        if self._meta.engine.is_leader:
            self._until_s = now_s + LEASE_HELD_S
        if now_s > self._until_s and (self.in_lease or self._lost):
            if self.in_lease:
                _log.warning("lease lost", extra={"incarnation": incarnation})
            self.lose()

    def _end_silent(self) -> None:
        """As leader of meta, for long enough to know: end the runs of nodes that are silent."""
        now_s = self._loop.time()
        if not self._meta.engine.is_leader:
            self._led_meta_since_s = None
            return
        if self._led_meta_since_s is None:
            self._led_meta_since_s = now_s
        if now_s - self._led_meta_since_s < LEASE_S:
            return
        for name, run in self._meta.meta.runs.items():
            silent = name != self._me and self._peers.silent_ms(name) >= LEASE_S * 1000
            if silent and not run.ended:
                _log.warning("run ended", extra={"node": name, "incarnation": run.incarnation})
                self._propose(meta.end_run(name, run.incarnation))

    def _release_ended(self, replicas: Iterable[Replica]) -> None:
        """As leader of shards, release there what ended runs held, until the shard says it did."""
        leading = [replica for replica in replicas if replica.leads]
        for run in self._meta.meta.runs.values():
            for replica in leading:
                self._release(replica, run)

    def _release(self, replica: Replica, run: Run) -> None:
        over = run.incarnation if run.ended else run.incarnation - 1
        if replica.machine.ended_run(run.node_id) >= over:
            return
        now_s = self._loop.time()
        key = (replica.shard, run.node_id, over)
        if now_s - self._released.get(key, -RELEASE_AGAIN_S) >= RELEASE_AGAIN_S:
            self._released[key] = now_s
            replica.end_run(run.node_id, over)

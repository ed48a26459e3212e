"""Runs and their leases: until when this node may promise anything, and what becomes of what silent
nodes held.

Made by `cluster`, which hands on pings and calls `watch` four times a second. A *run* is the time
from one start of a node to its end. A node that is cut off loses its lease first, by its own clock;
then `meta`'s leader ends its run, and the leaders of shards release what that held.

A node may also have stood still, alone or with all others: a virtual machine that is moved, a host
that has no time for it. Whether its run was ended meanwhile it cannot know, nor do anything about
it. So time that it stood still takes nothing off a lease, but makes it doubtful, and while it is,
nothing is handed out. A doubtful lease holds again once a command that was proposed after contact
was back has been applied here: what ended the run, if anything did, comes before it in the log.
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
STANDSTILL_S: Final = 1.0  # between two looks at the lease, of which four are due every second
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
        """`propose` takes commands to `meta`'s leader, or loses them."""
        self.in_lease = False  # nothing is promised before there is a run
        self._me = me
        self._meta = meta_replica
        self._peers = peers
        self._propose = propose
        self._on_lease_lost = on_lease_lost
        self._loop = asyncio.get_running_loop()
        self._looked_s = self._loop.time()
        self._until_s = 0.0
        self._doubtful_until_s: float | None = None  # None: the lease is not doubtful
        self._questions = 0
        self._question = ""  # what `meta` is to apply, "" while there is no contact
        self._lost = False  # the lease ran out, and no new run has begun
        self._led_meta_since_s: float | None = None
        self._released: dict[tuple[int, int, int], float] = {}

    @property
    def holds(self) -> bool:
        """Whether what is handed out now stays with who gets it: nobody has ended the run. Asked at
        the moment itself: after a pause messages come before `watch` notices what time it is.
        """
        if not self.in_lease or self._doubtful_until_s is not None:
            return False
        return self._loop.time() <= self._until_s or not self._peers.names

    def begin(self) -> None:
        """This node's run is known to all: its lease begins."""
        self.in_lease = True
        self._lost = False
        self._doubtful_until_s = None
        self._looked_s = self._loop.time()
        self._until_s = self._looked_s + LEASE_HELD_S

    def renew(self, silent_ms: int) -> None:
        """`meta`'s leader heard from this node what left so long ago, or later."""
        now_s = self._look()
        self._until_s = max(self._until_s, now_s - silent_ms / 1000 + LEASE_HELD_S)

    def lose(self) -> None:
        """Whatever this node promised is over, also what it was given to hand out since it lost the
        lease: contact may come back for a moment, and go before another run has begun.
        """
        self._lost = True
        self.in_lease = False
        self._doubtful_until_s = None
        self._on_lease_lost()

    def watch(self, incarnation: int, replicas: Iterable[Replica]) -> bool:
        """Do what is due; whether this node has to begin another run than `incarnation`.

        So it is when the others ended it, and when the lease ran out but nobody ended the run: cut
        off for less than they wait, or they were gone too. What the run held was given up then.
        """
        lost_before = self._lost
        now_s = self._look()
        if self._meta.engine.is_leader:
            self._until_s = now_s + LEASE_HELD_S
        in_contact = now_s <= self._until_s
        if lost_before and not in_contact:
            self.lose()
        if self._doubtful_until_s is not None:
            self._ask(incarnation, in_contact=in_contact)
        self._end_silent()
        self._release_ended(replicas)
        run = self._meta.meta.runs.get(self._me)
        if run is None or run.incarnation != incarnation:
            return False
        return run.ended or (self._lost and in_contact)

    def _look(self) -> float:
        """What time it is, and what that does to the lease."""
        now_s, looked_s = self._loop.time(), self._looked_s
        self._looked_s = now_s
        stood_still_s = now_s - looked_s if now_s - looked_s > STANDSTILL_S else 0.0
        if stood_still_s:
            self._led_meta_since_s = None  # and heard nobody
        if not self.in_lease:
            return now_s
        if self._doubtful_until_s is not None:
            self._doubtful_until_s += stood_still_s
        elif now_s > self._until_s and self._peers.names:
            self._doubtful_until_s = self._until_s  # over, unless it ran out in a standstill
            self._question = ""
            if stood_still_s and looked_s <= self._until_s:
                self._doubtful_until_s += stood_still_s
                _log.warning("stood still", extra={"seconds": round(stood_still_s, 1)})
        if self._doubtful_until_s is not None and now_s > self._doubtful_until_s:
            _log.warning("lease lost")
            self.lose()
        return now_s

    def _ask(self, incarnation: int, *, in_contact: bool) -> None:
        """Have `meta` apply something, to see whether it still has this run then."""
        if not in_contact:
            self._question = ""
            return
        if not self._question:
            self._questions += 1
            self._question = f"{incarnation}.{self._questions}"
        run = self._meta.meta.runs.get(self._me)
        if run is not None and run.incarnation == incarnation:
            self._propose(meta.begin_run(self._me, run, self._question))

    def told(self, name: str, question: str) -> None:
        """`meta` has applied a question here, and everything before it."""
        run = self._meta.meta.runs.get(self._me)
        asked = name == self._me and question == self._question != ""
        if self._doubtful_until_s is not None and asked and run is not None and not run.ended:
            _log.info("lease confirmed")
            self._doubtful_until_s = None

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

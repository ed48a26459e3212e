"""This node as a member of its cluster: builds peers, `meta` and the shards, and hands on what is
said between them. `runs` and `leading` look after them.

`node` makes one, starts it before it listens to clients and stops it after. A cluster of one is the
same without peers.

A start: peers listen and dial; `meta` finds a leader; the first leader founds the cluster; this
node opens its replicas as the placement says, announces its run, and is a member. A node that is
cut off: its lease runs out by its own clock first, and `on_lease_lost` closes what it may no longer
promise; then the others end its run and release what it held; when it is back it begins a new one.
One that only stood still asks `meta` whether it was missed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from mq9cluster.cluster import meta, wire
from mq9cluster.cluster.beat import TICK_MS, Beat, Instants, ReportBeat
from mq9cluster.cluster.clocks import AwakeClock, ClusterClock
from mq9cluster.cluster.directory import Directory
from mq9cluster.cluster.durability import Durability, Group
from mq9cluster.cluster.embedders import Announced
from mq9cluster.cluster.engine import Members, Message, NotLeader
from mq9cluster.cluster.features import FEATURES
from mq9cluster.cluster.finding import Finder
from mq9cluster.cluster.finding_here import Here
from mq9cluster.cluster.finding_service import SERVED, FindingService
from mq9cluster.cluster.leading import Leading
from mq9cluster.cluster.links import Links, Service
from mq9cluster.cluster.membership import ForeignData, Jitter, MemberEvents, Membership
from mq9cluster.cluster.meta import META_GROUP, MetaReplica, Run
from mq9cluster.cluster.overview import Overview
from mq9cluster.cluster.peers import Answered, Flag, PeerIdentity, PeerReply, Peers
from mq9cluster.cluster.placement import place
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.cluster.raft_rules import Timing
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.runs import LEASE_S, Runs
from mq9cluster.cluster.shard import Shard
from mq9cluster.cluster.shards import Shards
from mq9cluster.cluster.snapshots import Snapshots
from mq9cluster.cluster.ticking import TICK_S, Ticking
from mq9cluster.cluster.tracing import ParcelTraces, TracedShard
from mq9cluster.cluster.wire import Kind
from mq9cluster.domain.errors import Overloaded
from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.ports import Clock, Random
from mq9cluster.storage.database import Database
from mq9cluster.storage.log import GroupLog
from mq9cluster.storage.state import ShardState

# Due at every tick, also at one that comes a little early: one message per peer for all groups.
TIMING: Final = Timing(heartbeat_ms=TICK_MS - 10)
WATCH_TICKS: Final = 2  # four times a second
OVERVIEW_S: Final = 2.0  # each is four frames
HAND_OVER_S_MAX: Final = 3.0

_log = logging.getLogger(__name__)


class Cluster:
    """The node's membership; implements `peers.PeerHandler`."""

    def __init__(
        self,
        membership: Membership,
        database: Database,
        durability: Durability,
        clock: Clock,
        random: Random,
        incarnation: int,
        new_incarnation: Callable[[], int],
        above: MemberEvents,
    ) -> None:
        self.me = membership
        self.clock = ClusterClock(clock, len(membership.addresses))
        self._awake = AwakeClock(self.clock)
        self.traces: ParcelTraces | None = None  # set before the start, where tracing is on
        self.draining = False
        self._database = database
        self._durability = durability
        self._random = random
        self._new_incarnation = new_incarnation
        self._above = above
        instants = Instants()
        self.report_beat = ReportBeat(self.clock.wall_ms, instants)
        self._hold = Beat.of_holds(self.clock.wall_ms, instants)
        self._watches = Beat.of_ticks(self.clock.wall_ms, instants, every=WATCH_TICKS)
        self._groups: dict[int, tuple[Group, RaftEngine]] = {}
        ticks = Beat.of_ticks(self.clock.wall_ms, instants)
        self._ticking = Ticking(self._groups, durability.wake, ticks)
        self._loop = asyncio.get_running_loop()
        self._asked_s = 0.0
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False  # the first run has begun; `_watch` begins the later ones
        self._beginning: asyncio.Task[None] | None = None
        self.overview = Overview(membership.name)
        self.incarnation = incarnation
        identity = PeerIdentity(membership.name, f"{membership.node_id:016x}", self.incarnation)
        self.peers = Peers(identity, membership.addresses, self, clock, random, membership.tls)
        self.snapshots = Snapshots(
            database, durability, self.peers, lambda: self.peers.cluster_id, clock.seconds
        )
        self.meta = MetaReplica(
            ShardState(database, META_GROUP),
            partial(self._send, META_GROUP),
            partial(self.snapshots.send, META_GROUP),
            self._meta_changed,
        )
        self._leading = Leading(
            membership.name, self._groups, self.meta, self.peers, self.clock, durability
        )
        self._runs = Runs(
            membership.name, self.meta, self.peers, self.tell_meta, above.on_lease_lost
        )
        self.meta.told = self._runs.told
        self.shards: Shards
        self.finder: Finder
        self.finding: FindingService
        self.directories: dict[int, Directory] = {}
        self._links: Links
        self._service: Service

    # --- life ------------------------------------------------------------------------------------

    def why_not_ready(self) -> str:
        """What keeps this node from serving every client; "" for nothing."""
        if not self._runs.in_lease:
            return "no contact with the cluster"
        lagging = sum(not replica.caught_up.is_set() for replica in self.shards.replicas)
        if lagging:
            return f"{lagging} shards are catching up with their logs"
        lost = sum(not self._leader_of(shard) for shard in self.shards.all)
        return f"{lost} shards have no leader" if lost else ""

    @property
    def may_hand_out(self) -> bool:
        """Whether messages that clients here are handed stay theirs: this node's lease holds."""
        return self._runs.holds

    def _leader_of(self, shard: Shard) -> str:
        """Its leader; of a shard without a replica here, who says so, used by a client or not."""
        known = self._links.leader_of(shard.shard)
        return known if known or shard.replica else self.overview.leader_of(shard.shard)

    def elections_won(self) -> list[tuple[int, int]]:
        """(group, elections this node won in it since it started)."""
        groups = self._groups.items()
        return [(number, engine.status().elections_won) for number, (_, engine) in groups]

    def is_alive(self, name: str) -> bool:
        """Whether a member gives signs of life."""
        return name == self.me.name or self.peers.is_up(name)

    def is_draining(self, name: str) -> bool:
        """Whether a member is about to leave."""
        if name == self.me.name:
            return self.draining
        return self._leading.is_draining(name)

    def clock_offset_ms(self, name: str) -> int:
        """How far a member's clock is from the median, as far as known."""
        ahead = 0 if name == self.me.name else self.peers.clock_offset_ms(name) or 0
        return ahead - self.clock.offset_ms

    def connect_urls(self) -> list[str]:
        """Where clients can connect, at nodes that are alive and not leaving."""
        urls = []
        for name, run in sorted(self.meta.meta.runs.items()):
            here = name == self.me.name and not self.draining
            if run.listen and (here or self._leading.is_well(name)):
                urls.append(run.listen)
        return urls

    async def start(self, cluster_id: str) -> None:
        """Join the cluster, or found it; returns as a member. Raises OSError, ForeignData."""
        self.peers.cluster_id = cluster_id
        names = tuple(sorted(self.me.addresses))
        self._check_members(names)
        applied = self.meta.meta.applied_index
        engine, group = self._open_group(META_GROUP, self.meta, names, applied)
        self.meta.start(engine, self._durability, group)
        self._know_peers()  # before anybody dials: an emptied disk must not vote under its old name
        if len(names) > 1:
            await self.peers.start(self.me.peer_host, self.me.peer_port)
        self._tasks = [asyncio.create_task(self._ticking.run()), asyncio.create_task(self._watch())]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        while not self.meta.meta.cluster_id:
            self._found(names)
            await self._next_change(meta.RETRY_S)
        state = self.meta.meta
        if cluster_id and cluster_id != state.cluster_id:
            raise ForeignData(f"the data belong to cluster {cluster_id}, not {state.cluster_id}")
        self._check_members(names)
        self.peers.cluster_id = state.cluster_id
        self._open_shards(state)
        await self._begin_run()
        self._started = True

    def _check_members(self, names: Sequence[str]) -> None:
        born = self.meta.meta.members
        if born and born != list(names):
            raise ForeignData(f"--peers: the cluster was born with {', '.join(born)}")

    def _found(self, names: Sequence[str]) -> None:
        """As leader of an empty `meta`, found the cluster, once all first members are there.

        A majority would do for Raft, but not be enough to tell a birth from a majority of emptied
        disks: the node that still has its data has a cluster, and does not talk to these.
        """
        everybody = all(map(self.peers.is_up, self.peers.names))
        if self.meta.engine.is_leader and everybody:
            cluster_id = self._random.token(16).hex()
            placement = place(names, self.me.shards)
            self.meta.propose(meta.found(cluster_id, names, self.me.shards, placement, FEATURES))

    async def _next_change(self, seconds: float) -> None:
        """Wait until `meta` changed, but no longer than this."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _open_group(
        self, number: int, replica: Replica | MetaReplica, names: Sequence[str], applied: int
    ) -> tuple[RaftEngine, Group]:
        self.snapshots.tidy(number)
        log = GroupLog(self._database, number)
        if isinstance(replica, Replica):
            replica.recall(log)
        engine = RaftEngine(
            name=self.me.name,
            members=Members(tuple(sorted(names))),
            log=log,
            hard_state=log.hard_state,
            applied=applied,
            clock=self._awake,
            random=Jitter(self._random),
            timing=TIMING,
        )
        engine.may_lead = self.clock.may_lead
        group = self._durability.register(number, engine, log, replica, applied)
        self._groups[number] = group, engine
        self.snapshots.add(group, engine, replica)
        return engine, group

    def _open_shards(self, state: meta.Meta) -> None:
        self._links = Links(self.me.name, self.peers, state.placement)
        replicas: dict[int, Replica] = {}
        shards: list[Shard] = []
        for number, names in enumerate(state.placement):
            replica = None
            if self.me.name in names:
                replica = replicas[number] = self._open_replica(number, names, len(state.placement))
            shards.append(self._shard(number, replica))
        self._links.know(replicas)
        self._service = Service(replicas)
        if self.me.searchable:
            thread = self.me.searchable.thread
            here = Here(replicas, self.directories, thread)
            count = len(state.placement)
            self.finding = FindingService(here)
            self.finder = Finder(self.me.name, count, here, self._links, self.peers, thread)
        self.shards = Shards(shards, self._durability)

    def _shard(self, number: int, replica: Replica | None) -> Shard:
        kind = TracedShard if self.traces else Shard
        shard = kind(
            number,
            self.me.node_id,
            self.incarnation,
            replica,
            self.report_beat,
            self._awake,
            self._links.find_leader,
            lambda: self.meta.meta.features,
        )
        if isinstance(shard, TracedShard) and self.traces:
            shard.traces = self.traces
            if replica:
                replica.proposals.traces = self.traces
        return shard

    def _open_replica(self, number: int, names: Sequence[str], shards: int) -> Replica:
        state = ShardState(self._database, number)
        send_state = partial(self.snapshots.send, number)
        send = partial(self._send, number)
        replica = Replica(number, state, self.clock, self._hold, send, send_state, shards=shards)
        if self.me.searchable:
            directory = Directory(self.me.searchable, replica.all_agents, number)
            replica.directory = self.directories[number] = directory
        engine, group = self._open_group(number, replica, names, replica.machine.applied_index)
        replica.start(engine, self._durability, group)
        return replica

    @failpoint("run.begin")
    async def _begin_run(self) -> None:
        """Announce this node's run, and wait until everybody will know."""
        while not await self._announce_run():
            self._take_next_run()
        self._runs.begin()
        # Whoever connects now finds what this node's earlier runs held open again, wherever there
        # is a leader.
        with suppress(TimeoutError):
            async with asyncio.timeout(LEASE_S):
                await self.shards.end_earlier_runs(self.me.node_id, self.incarnation)

    async def _announce_run(self) -> bool:
        """Whether the run goes on. Who was cut off before it heard that its run has begun may hear
        that together with the end: the others have waited for a lease.
        """
        run = Run(self.me.node_id, self.incarnation, self.me.listen, features=FEATURES)
        outcomes = (run, replace(run, ended=True))

        def known(state: meta.Meta) -> bool:
            if state.features > FEATURES:
                raise ForeignData(
                    f"the cluster has feature level {state.features}, this version {FEATURES}: "
                    "run the version that the other nodes run"
                )
            return state.runs.get(self.me.name) in outcomes

        begin = meta.begin_run(self.me.name, run)
        await meta.propose_until(self.meta, self._forward_to_meta, begin, known)
        return self.meta.meta.runs[self.me.name] == run

    def _take_next_run(self) -> None:
        """Act as another run from now on; nothing is promised before it has begun."""
        self._runs.lose()
        self.incarnation = self._new_incarnation()
        for shard in self.shards.all:
            shard.begin_run(self.incarnation)
        self._above.on_new_run(self.incarnation)

    def _forward_to_meta(self, command: bytes) -> None:
        leader = self.meta.engine.leader
        if leader and leader != self.me.name:
            self.peers.request(leader, Kind.META, command, _ignore)

    async def leave(self) -> None:
        """Hand leaderships over; returns when none is left, or after a while."""
        self.draining = True
        self._above.on_members()  # this node is no place to connect to any more
        for _ in range(round(HAND_OVER_S_MAX / TICK_S)):
            if not self._leading.hand_over():
                return
            await asyncio.sleep(TICK_S)

    async def stop(self) -> None:
        """Stop taking part."""
        self._ticking.stop()
        for task in (*self._tasks, *([self._beginning] if self._beginning else [])):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.snapshots.stop()
        if hasattr(self, "finding"):
            self.finding.stop()
        if hasattr(self, "shards"):
            await self.shards.stop()
        await self.peers.stop()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """What ended by a mistake must not leave a node that only looks alive."""
        if not task.cancelled() and (error := task.exception()):
            _log.critical("a mistake ended the node", exc_info=error)
            self._durability.fail(error)

    # --- time ------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """What has to be looked after, four times a second."""
        while True:
            await self._watches.come()
            self._leading.watch_clocks()
            if hasattr(self, "shards"):
                replicas = self.shards.replicas
                self._leading.watch(replicas)
                over = self._runs.watch(self.incarnation, replicas)
                if over and self._started and self._beginning is None:
                    self._beginning = asyncio.create_task(self._begin_again())
                    self._beginning.add_done_callback(self._ended)
                self._raise_features()
                self._ask_around()

    def _raise_features(self) -> None:
        """As leader of meta, raise the cluster's level once all members have a higher one."""
        state = self.meta.meta
        level = state.features_of_all()
        if self.meta.engine.is_leader and level > state.features:
            _log.info("feature level raised", extra={"from": state.features, "to": level})
            self._propose_to_meta(meta.raise_features(level))

    def _ask_around(self) -> None:
        """Once a second: what do the others know of their replicas?"""
        now_s = self._loop.time()
        if now_s - self._asked_s < OVERVIEW_S:
            return
        self._asked_s = now_s
        for name in self.peers.names:
            self.peers.request(name, Kind.OVERVIEW, b"", partial(self._told, name))

    def _told(self, peer: str, reply: PeerReply) -> None:
        if isinstance(reply, Answered):
            self.overview.heard(peer, reply.data)
        else:
            self.overview.forget(peer)

    async def _begin_again(self) -> None:
        self._take_next_run()
        await self._begin_run()
        _log.warning("new run begun", extra={"incarnation": self.incarnation})
        self._beginning = None

    def _propose_to_meta(self, command: bytes) -> None:
        try:
            self.meta.propose(command)
        except (NotLeader, Overloaded):
            _log.debug("meta takes no command now")

    # --- what peers say --------------------------------------------------------------------------

    @failpoint("raft.send")
    def _send(self, group: int, messages: Sequence[Message]) -> None:
        for message in messages:
            peer, data, bulk, patient = message
            self.peers.send_raft(peer, group, data, bulk=bulk, patient=patient)

    def _meta_changed(self) -> None:
        self._changed.set()
        self._know_peers()
        self._above.on_members()

    def _know_peers(self) -> None:
        ids = {name: f"{run.node_id:016x}" for name, run in self.meta.meta.runs.items()}
        self.peers.know(ids)

    def leader_of(self, shard: int) -> str:
        """The node that is believed to lead a shard, or ""."""
        return self._links.leader_of(shard)

    async def announce_surely(self, embedders: Announced) -> None:
        """Have `meta` know what this node embeds with, and wait until it does here."""
        await meta.propose_until(
            self.meta,
            self._forward_to_meta,
            meta.announce_embedders(self.me.name, embedders),
            lambda state: state.embedders.nodes.get(self.me.name) == embedders,
        )

    def announce(self, embedders: Announced) -> None:
        """Have `meta` know what this node embeds with; of no effect where it does already."""
        known = self.meta.meta.embedders.nodes.get(self.me.name)
        if known != embedders:
            self.tell_meta(meta.announce_embedders(self.me.name, embedders))

    def tell_meta(self, command: bytes) -> None:
        """Propose to `meta`, at its leader; whoever does asks again until it holds."""
        if self.meta.engine.is_leader:
            self._propose_to_meta(command)
        else:
            self._forward_to_meta(command)

    def flags(self) -> Flag:
        """What this node says of itself with every ping."""
        flags = Flag(0)
        if self.meta.engine.is_leader:
            flags |= Flag.LEADS_META
        if self.draining:
            flags |= Flag.DRAINING
        if self._leading.disk_is_slow:
            flags |= Flag.SLOW_DISK
        return flags

    def on_ping(self, peer: str, flags: Flag, silent_ms: int) -> None:
        """A ping of meta's leader renews the lease, as of when that one last heard of us."""
        if self._leading.heard(peer, flags):
            self._above.on_members()
        if flags & Flag.LEADS_META:
            self._runs.renew(silent_ms)

    @failpoint("raft.receive")
    def on_raft(self, peer: str, messages: Sequence[tuple[int, bytes]]) -> None:
        """Hand Raft's messages to their groups."""
        for number, data in messages:
            known = self._groups.get(number)
            if known and not known[0].standing_still:
                group, engine = known
                engine.receive(peer, data)
                self._durability.wake(group)

    def on_request(
        self, peer: str, kind: int, data: bytes, respond: Callable[[bytes], None]
    ) -> Callable[[], None] | None:
        """Serve what another node asks."""
        del peer
        if kind == Kind.META:
            self._propose_to_meta(data)
            respond(b"")
            return None
        if kind == Kind.OVERVIEW:
            respond(self.overview.tell(self.shards.replicas if hasattr(self, "shards") else ()))
            return None
        if not hasattr(self, "shards"):
            respond(wire.not_leader(""))
            return None
        if kind in SERVED and self.me.searchable:
            return self.finding.on_request(kind, data, respond)
        return self._service.on_request(kind, data, respond)

    def on_route(self, peer: str, data: bytes) -> None:
        """Core NATS is the gateway's."""
        self._above.on_route(peer, data)

    def on_up(self, peer: str) -> None:
        """Streams to a peer are open."""
        _log.info("peer up", extra={"peer": peer})
        self._above.on_peer_up(peer)
        self._above.on_members()

    def on_down(self, peer: str) -> None:
        """They are not, any more."""
        _log.warning("peer down", extra={"peer": peer})
        for group, engine in self._groups.values():
            engine.peer_lost(peer)
            self._durability.wake(group)
        self._ticking.look_ahead()
        self._above.on_peer_down(peer)
        self._above.on_members()

    async def on_snapshot(self, peer: str, header: bytes, chunks: AsyncIterator[bytes]) -> bytes:
        """A group's state from its leader."""
        return await self.snapshots.receive(peer, header, chunks)


def _ignore(_: PeerReply) -> None:
    """The command is proposed again until it holds."""

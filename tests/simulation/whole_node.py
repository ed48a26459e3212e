"""One node of a simulated cluster: all of it between its sockets and RocksDB, on a virtual disk.

Owned by `whole.World`. It does what `mq9cluster.node` does: builds durability loop, cluster, broker
and core NATS, starts them on what the disk holds, closes connections when the cluster says so, and
ends when the disk fails. A life of it is a `Process`.
"""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mq9cluster.broker.agents import Agents, no_codes
from mq9cluster.broker.mailboxes import Mailboxes
from mq9cluster.broker.pushes import Pushes
from mq9cluster.broker.router import Router
from mq9cluster.broker.search_side import SearchSide
from mq9cluster.broker.traced import TracedRouter
from mq9cluster.cluster.cluster import Cluster
from mq9cluster.cluster.durability import Durability
from mq9cluster.cluster.membership import MemberEvents, Membership
from mq9cluster.cluster.runs import LEASE_S
from mq9cluster.cluster.scrubbing import Scrubbing
from mq9cluster.cluster.search_thread import Searchable
from mq9cluster.cluster.tracing import ParcelTraces
from mq9cluster.domain.limits import DUPLICATE_WINDOW_MS_DEFAULT
from mq9cluster.gateway.exchange import Exchange
from mq9cluster.gateway.routes import Routes
from mq9cluster.node import NODE_ID_BYTES, NODE_NUMBER_DIGITS
from mq9cluster.search.embedders import BUILT_IN
from mq9cluster.storage.errors import StorageFailed
from mq9cluster.storage.store import Store, open_store
from tests.simulation.clock import NodeClock, NodeRandom
from tests.simulation.database import SimDatabase
from tests.simulation.disk import Disk
from tests.simulation.files import Files, SimPath
from tests.simulation.process import PROCESS, Died, Process
from tests.simulation.search import SERVICE
from tests.simulation.whole_core import CoreSession
from tests.simulation.whole_pushes import READERS_MAX, Reader

if TYPE_CHECKING:
    from tests.simulation.whole import World
    from tests.simulation.whole_history import BoxHistory

EPOCH_MS = 1_700_000_000_000  # the wall clocks' beginning
WAITING_FETCHES_MAX = 100
AGENT_TTL_S = 300
LATENCY_S = 0.001
INDEXES = "/data/search"
ENDED_S_MIN = LEASE_S - 1.0  # so long its run goes on for sure: pings were under way, clocks differ
SUPERVISOR_S = 1.0  # until a node that ended by itself is started again


class _NoDiscovery:
    """Where a run has no agents, nobody looks for any."""

    def discover(self, *_: object) -> None:
        """Nobody asks."""

    def connection_closed(self, _: int) -> None:
        """Nobody has asked."""


class WholeNode(MemberEvents):
    """A node's disk, and the process on it while it runs."""

    def __init__(self, world: "World", number: int, name: str) -> None:
        options = world.options
        self.world = world
        self.name = name
        self.number = number
        self.disk = Disk(world.scheduler)
        self.disk.sync_us = options.sync_us[number - 1]
        self.clock = NodeClock(
            world.scheduler,
            started_ms=1_000 * number,
            offset_ms=EPOCH_MS + options.clock_offsets_ms[number - 1],
            rate=options.clock_rates[number - 1],
        )
        self.files = Files(self.disk, f"files/{options.seed}/{name}")
        self.files.open_database = self._open_database
        self.starts = 0
        self.is_member = False  # it has belonged to a cluster
        self.gone = False  # for good: its disk is lost
        self.states_taken = 0
        self.process: Process | None = None
        self.database: SimDatabase | None = None
        self.refused: StorageFailed | None = None  # why the last start failed
        self.cluster: Cluster | None = None
        self.serving = False
        self.connections: dict[int, Callable[[], None]] = {}  # what tells the client of its end
        self.sessions: dict[int, CoreSession] = {}
        self._readers: dict[int, list[Reader]] = {}  # by connection
        self._next_connection = 0
        self._mailboxes: Mailboxes | None = None
        self._router: Router | None = None
        self._routes: Routes | None = None
        self.exchange: Exchange | None = None
        self.search: SearchSide | None = None
        self.model = world.model  # that it was last started with

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start on what the disk holds, unless it runs already."""
        if self.process is None and not self.gone:
            self.starts += 1
            self.process = Process(self.clock.rate, self._stands_still)
            self.process.enter(self._boot)

    def _boot(self) -> None:
        seed = f"{self.world.options.seed}/{self.name}/{self.starts}"
        tokens = NodeRandom(f"{seed}/id")
        self.refused = None
        try:
            store = open_store(
                SimPath(self.files, "/data"),  # type: ignore[arg-type]
                self.name,
                lambda: tokens.token(NODE_ID_BYTES).hex(),
            )
        except StorageFailed as error:
            self._refuse(error)
            return
        database = self.database
        assert database
        durability = Durability(
            database,
            self._failed,
            database.offload,
            database.seconds,
            retention=self.world.options.retention,
            checkpoint=store.checkpoint,
        )
        database.on_read_failed = durability.fail
        task = asyncio.get_running_loop().create_task(self._serve(store, durability, seed))
        task.add_done_callback(self._served)

    def _open_database(self, path: SimPath, on_synced: Callable[[int], None]) -> SimDatabase:
        world = self.world
        moved = partial(world.watch.state_moved, self)
        self.database = SimDatabase(self.disk, world.scheduler, moved, path, on_synced)
        return self.database

    def _refuse(self, error: StorageFailed) -> None:
        """The data directory could not be opened: a node says so and exits."""
        self.world.seen["refused to start"] += 1
        self.refused = error
        assert self.process
        self.process.die()
        self.process = None
        self.files.crash(power=False)
        self.world.later(SUPERVISOR_S, self.start)

    async def _serve(self, store: Store, durability: Durability, seed: str) -> None:
        search, searchable = None, None
        if "registry" in self.world.options.features:
            self.model = self.world.model
            served = "embedder" in self.world.options.features
            folder: Any = SimPath(self.files, INDEXES)
            search = SearchSide(f"{SERVICE}{self.model}" if served else BUILT_IN, "", folder)
            searchable = await search.open()
        cluster = self.cluster = self._make_cluster(store, durability, searchable, seed)
        if "traces" in self.world.options.features:
            cluster.traces = ParcelTraces(self.world.tracer, self.clock)
        await cluster.start(store.cluster_id)
        if not store.cluster_id:
            store.set_cluster(cluster.meta.meta.cluster_id)
        self.is_member = True
        scrubbing = Scrubbing(
            store.scrub(), store.database.rows_in_files, self._failed, self.clock.seconds
        )
        asyncio.get_running_loop().create_task(scrubbing.run(at_once=not store.scrubbed))
        if search:
            await search.start(cluster)
        self._open_broker(cluster, search, seed)
        self.search = search
        self.serving = True

    def _make_cluster(
        self, store: Store, durability: Durability, searchable: Searchable | None, seed: str
    ) -> Cluster:
        membership = Membership(
            name=self.name,
            node_id=int(store.node_id[:NODE_NUMBER_DIGITS], 16),
            listen=f"{self.name}:4222",
            addresses={node.name: "sim" for node in self.world.nodes},
            shards=self.world.options.shards,
            searchable=searchable,
        )
        return Cluster(
            membership,
            store.database,
            durability,
            self.clock,
            NodeRandom(seed),
            store.incarnation,
            store.sentinel.count_start,
            self,
        )

    def _open_broker(self, cluster: Cluster, search: SearchSide | None, seed: str) -> None:
        self._mailboxes = Mailboxes(
            cluster.shards,
            NodeRandom(f"{seed}/names"),
            cluster.me.node_id,
            cluster.incarnation,
            lambda: cluster.may_hand_out,
            self._duplicate_window_ms(),
            WAITING_FETCHES_MAX,
        )
        self._pushes = Pushes(
            cluster.shards,
            cluster.me.node_id,
            cluster.incarnation,
            lambda: cluster.may_hand_out,
        )
        embed = search.embedding.embed if search else no_codes
        agents = Agents(cluster.shards, embed, AGENT_TTL_S)
        discovery = search.discovery if search else _NoDiscovery()
        parts: Any = (self._mailboxes, self._pushes, agents, discovery, self.clock)
        traces = cluster.traces
        self._router = TracedRouter(traces, *parts) if traces else Router(*parts)
        chance = random.Random(seed)
        self._routes = Routes(cluster.peers.send_route, chance)
        for peer in cluster.peers.names:
            if cluster.peers.is_up(peer):
                self._routes.on_up(peer)
        self.exchange = Exchange(asyncio.get_running_loop().call_soon, chance, self._routes)

    def _duplicate_window_ms(self) -> int:
        options = self.world.options
        forgets = options.tiny and "retries" not in options.features
        return 1_000 if forgets else DUPLICATE_WINDOW_MS_DEFAULT

    def _served(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StorageFailed):
            self._failed(error)
        elif error is not None and not isinstance(error, Died):
            raise error

    def _failed(self, error: BaseException) -> None:
        """The disk failed: a node says so and exits."""
        if self.database is None or self.database.dead:
            return
        if not isinstance(error, StorageFailed):
            raise error
        self.world.seen["ended by its disk"] += 1
        self.crash(0)
        self.world.later(SUPERVISOR_S, self.start)
        raise Died

    def crash(self, keep: int) -> None:
        """Lose the process, and what was not synced but for the first `keep` batches."""
        if self.process is None:
            return
        cluster = self.cluster
        if self.database:
            self.database.dead = True
        if cluster is not None:
            cluster.peers.die()
            self.states_taken += cluster.snapshots.counts.received
        connections, self.connections = self.connections, {}
        self.process.die()
        self.process = self.cluster = self._mailboxes = self._router = None
        self._routes = self.exchange = self.search = None
        self.sessions.clear()
        self._readers.clear()
        self.serving = False
        lost = self.disk.unsynced - keep
        self.files.crash(power=lost > 0 or self.world.random.random() < 0.5)
        self.disk.crash(keep)
        self.world.watch.crashed(self)
        for told in connections.values():
            told()

    def pause(self) -> None:
        """Stand still, as after SIGSTOP."""
        if self.process is not None:
            self.process.pause()

    def _stands_still(self) -> None:
        """Told to stop, or by a sync on its loop that does not come back (seed 4056)."""
        for client in self.world.clients:
            if client.node is self:
                client.may_lose_all(self.world.now_s + ENDED_S_MIN)

    def resume(self) -> None:
        """Go on."""
        if self.process is not None and self.process.paused:
            self.process.resume()

    def leave(self) -> None:
        """As after SIGTERM: hand over, stop in order; and be started again."""
        process, cluster = self.process, self.cluster
        if process is None or cluster is None or not self.serving:
            return

        async def stop() -> None:
            await cluster.leave()
            for number in list(self.connections):
                self.close(number)
            if self.search:
                await self.search.stop()
            await cluster.stop()
            self.world.in_turn(partial(self._left, process))

        process.enter(lambda: asyncio.get_running_loop().create_task(stop()))

    def _left(self, process: Process) -> None:
        if self.process is process:
            self.crash(self.disk.unsynced)
            self.world.later(SUPERVISOR_S, self.start)

    # --- clients ---------------------------------------------------------------------------------

    def connect(self, on_closed: Callable[[], None]) -> int:
        """A client connects; `on_closed` tells it that the connection is gone."""
        self._next_connection += 1
        self.connections[self._next_connection] = on_closed
        return self._next_connection

    def ask(
        self,
        connection: int,
        subject: str,
        header: bytes | None,
        body: bytes,
        respond: Callable[[bytes], None],
    ) -> None:
        """A client's request reaches this node."""
        if self.process is not None:
            self.process.enter(self._handle, connection, subject, header, body, respond)

    def _handle(
        self,
        connection: int,
        subject: str,
        header: bytes | None,
        body: bytes,
        respond: Callable[[bytes], None],
    ) -> None:
        if self._router is not None and connection in self.connections:
            self._router.handle(connection, "$G", subject.encode(), header, body, respond)

    def hang_up(self, connection: int) -> None:
        """A client ends its connection."""
        if connection in self.connections:
            # It may be on another one when this node, paused now, gets to it or crashes: told then,
            # it would take that one for closed, which would stay open and hold messages for ever.
            self.connections[connection] = _nobody_listens
        if self.process is not None:
            self.process.enter(self.close, connection)

    def close(self, connection: int) -> None:
        """The end of a connection, here."""
        told = self.connections.pop(connection, None)
        if told is not None:
            told()
            session = self.sessions.pop(connection, None)
            if session is not None:
                session.close()
            for reader in self._readers.pop(connection, ()):
                reader.end()
            if self._router is not None:
                self._router.connection_closed(connection)

    # --- push subscriptions ----------------------------------------------------------------------

    @property
    def router(self) -> Router | None:
        """What carries out commands, once it serves."""
        return self._router

    def open_reader(
        self,
        connection: int,
        box: "BoxHistory",
        group: str,
        then: Callable[[Reader], None] = lambda reader: reader.begin(),
    ) -> None:
        """A client's subscription reaches this node."""

        def arrived() -> None:
            readers = self._readers.setdefault(connection, [])
            if connection in self.connections and self._router and len(readers) < READERS_MAX:
                reader = Reader(self.world, self, connection, box, group)
                readers.append(reader)
                then(reader)

        if self.process is not None:
            self.process.enter(arrived)

    def close_reader(self, connection: int) -> None:
        """A client ends its oldest subscription."""

        def arrived() -> None:
            readers = self._readers.get(connection)
            if readers:
                readers.pop(0).end()

        if self.process is not None:
            self.process.enter(arrived)

    # --- core NATS -------------------------------------------------------------------------------

    def open_session(
        self, connection: int, account: str, begin: Callable[[CoreSession], object]
    ) -> None:
        """A client that just connected also speaks core NATS; `begin` subscribes."""

        def opened() -> None:
            if connection in self.connections:
                session = CoreSession(self.world.core, self, account)
                self.sessions[connection] = session
                begin(session)

        if self.process is not None:
            self.process.enter(opened)

    def in_session(self, connection: int, do: Callable[[CoreSession], object]) -> None:
        """What a client publishes or subscribes to reaches this node."""

        def arrived() -> None:
            session = self.sessions.get(connection)
            if session is not None:
                do(session)

        if self.process is not None:
            self.process.enter(arrived)

    def in_process(self, do: Callable[[], object]) -> None:
        """What a client here does, a moment later, because of what it was sent."""
        process = self.process
        if process is not None:
            self.world.later(LATENCY_S, partial(process.enter, do))

    # --- what the cluster tells ------------------------------------------------------------------

    def on_lease_lost(self) -> None:
        """Cut off: connections that hold messages are closed."""
        self.world.seen["lease lost"] += 1
        if self._mailboxes is not None:
            for number in self._mailboxes.holding():
                self.close(number)

    def on_new_run(self, incarnation: int) -> None:
        """Back again, as another run."""
        self.world.seen["new run"] += 1
        if self._mailboxes is not None:
            self._mailboxes.begin_run(incarnation)
            self._pushes.begin_run(incarnation)

    def on_peer_up(self, peer: str) -> None:
        """Core NATS reaches one node more."""
        if self._routes is not None:
            self._routes.on_up(peer)

    def on_peer_down(self, peer: str) -> None:
        """And one less."""
        if self._routes is not None:
            self._routes.on_down(peer)

    def on_route(self, peer: str, data: bytes) -> None:
        """Interest or a message from a peer."""
        if self._routes is not None:
            self._routes.on_frame(peer, data)

    # --- failpoints ------------------------------------------------------------------------------

    @staticmethod
    def trapped(world: "World", point: str) -> None:
        """Every failpoint comes here: die, if that was set for this process."""
        process = PROCESS.get()
        if process is None or process.trap is None or not process.alive:
            return
        process.trap(point)

    def at_failpoint(self, _: str, stall_ms: int | None) -> None:
        """The failpoint that was set is reached: die, or stand still."""
        if stall_ms is not None:
            self.world.seen["stalled at a failpoint"] += 1
            self.pause()
            self.world.later(stall_ms / 1000, self.resume)
            return
        self.world.seen["died at a failpoint"] += 1
        self.crash(self.world.crash_keeps(self))
        self.world.later(SUPERVISOR_S, self.start)
        raise Died


def _nobody_listens() -> None:
    """The client ended the connection itself."""

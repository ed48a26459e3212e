"""The node as its HTTP side sees it: admin's `NodeView`, by asking the parts that keep the numbers.

Built by node, which sets `phase` and hands the parts over once they run; called by admin. Reads,
never changes.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import version
from typing import TypeVar

from mq9cluster import search_view
from mq9cluster.admin.view import (
    ClusterFacts,
    ConnectionFacts,
    Counted,
    InterestFacts,
    Level,
    NodeFacts,
    Reading,
    ReplicaFacts,
    RouteFacts,
    ServerFacts,
    ShardFacts,
    Spread,
    SubscriptionFacts,
)
from mq9cluster.broker.mailboxes import Mailboxes
from mq9cluster.broker.pushes import Pushes
from mq9cluster.broker.router import Router
from mq9cluster.broker.search_side import SearchSide
from mq9cluster.cluster.cluster import Cluster
from mq9cluster.cluster.durability import Durability
from mq9cluster.cluster.shard import Shard
from mq9cluster.cluster.snapshots import TransferCounts
from mq9cluster.config import Config
from mq9cluster.config_values import Address
from mq9cluster.domain.measures import LATENCY_BOUNDS_S, SIZE_BOUNDS, Histogram
from mq9cluster.domain.ports import Clock
from mq9cluster.gateway.exchange import Exchange
from mq9cluster.gateway.listener import Listener
from mq9cluster.gateway.password_checks import PasswordChecks
from mq9cluster.gateway.session import Session
from mq9cluster.gateway.settings import Settings
from mq9cluster.storage.store import Store

T = TypeVar("T")


class Phase(StrEnum):
    """Where a node is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Parts:
    """The running parts of a node that keep numbers."""

    store: Store
    durability: Durability
    cluster: Cluster
    router: Router
    mailboxes: Mailboxes
    pushes: Pushes
    search: SearchSide
    checks: PasswordChecks
    exchange: Exchange
    settings: Settings
    listener: Listener


class View:
    """What /healthz, /readyz, /metrics and the monitoring pages are told."""

    def __init__(self, config: Config, clock: Clock, *, with_hashes: bool = False) -> None:
        self._config = config
        self._clock = clock
        self._with_hashes = with_hashes
        self._started_ms = clock.wall_ms()
        self.phase = Phase.STARTING
        self.http_port = config.http.port
        self.parts: Parts | None = None

    # --- probes ----------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """The wall clock."""
        return self._clock.wall_ms()

    def why_not_alive(self) -> str:
        """The disk's error, if it failed; a loop that hangs does not even answer."""
        error = self.parts.durability.error if self.parts else None
        return str(error) if error is not None else ""

    def why_not_ready(self) -> str:
        """The phase, unless it is serving; then what the cluster lacks."""
        if self.phase is not Phase.SERVING or self.parts is None:
            return self.phase.value
        return self.parts.cluster.why_not_ready()

    # --- nats-server's pages ---------------------------------------------------------------------

    def server(self) -> ServerFacts:
        """Identity, limits, totals."""
        config, parts = self._config, self.parts
        settings = parts.settings if parts else Settings()
        traffic = _Traffic(parts.listener if parts else None)
        totals = traffic.totals
        return ServerFacts(
            server_id=parts.store.node_id if parts else "",
            server_name=config.name,
            version=version("mq9cluster"),
            host=config.listen.host,
            port=self.port,
            http_host=config.http.host,
            http_port=self.http_port,
            started_ms=self._started_ms,
            connections_max=settings.connections_max,
            payload_bytes_max=settings.payload_bytes_max if parts else config.payload_bytes_max,
            pending_bytes_max=settings.pending_bytes_max,
            control_line_bytes_max=settings.control_line_bytes_max,
            ping_interval_s=settings.ping_interval_s,
            pings_outstanding_max=settings.pings_out_max,
            auth_timeout_s=settings.auth_timeout_s,
            write_deadline_s=settings.write_deadline_s,
            connections=traffic.connections,
            connections_total=totals.connections if totals else 0,
            routes=sum(parts.cluster.peers.is_up(peer) for peer in self._peers) if parts else 0,
            in_msgs=traffic.in_messages,
            in_bytes=traffic.in_bytes,
            out_msgs=traffic.out_messages,
            out_bytes=traffic.out_bytes,
            slow_consumers=totals.slow_consumers if totals else 0,
            stale_connections=totals.stale_connections if totals else 0,
            subscriptions=traffic.subscriptions,
            connect_urls=parts.cluster.connect_urls() if parts else (),
            cluster_host=config.peer_listen.host,
            cluster_port=config.peer_listen.port,
            cluster_urls=[parts.cluster.me.addresses[peer] for peer in self._peers]
            if parts
            else (),
            websocket_host=config.ws_listen.host if config.ws_listen else "",
            websocket_port=parts.listener.ws_port if parts else 0,
            auth_required=parts.listener.auth_required if parts else False,
            tls_required=config.tls is not None and config.tls.handshake != "optional",
            tls_verify=config.tls is not None and config.tls.verify != "no",
        )

    @property
    def _peers(self) -> Sequence[str]:
        return tuple(self.parts.cluster.peers.names) if self.parts else ()

    @property
    def port(self) -> int:
        """The port clients connect to, also when 0 was asked for."""
        return self.parts.listener.port if self.parts else self._config.listen.port

    def connections(self, *, with_subjects: bool) -> Sequence[ConnectionFacts]:
        """The client connections, oldest first."""
        if self.parts is None:
            return ()
        now_s, now_ms = asyncio.get_running_loop().time(), self.now_ms()

        def wall_ms(loop_s: float) -> int:
            return now_ms - round((now_s - loop_s) * 1000)

        return [
            _connection(session, wall_ms, with_subjects=with_subjects)
            for session in self.parts.listener.sessions.values()
        ]

    def interest(self) -> InterestFacts:
        """The subscription table."""
        if self.parts is None:
            return InterestFacts(0, 0, 0, 0)
        tables = self.parts.exchange.accounts().values()
        traffic = _Traffic(self.parts.listener)
        cached = sum(table.answers_cached for table in tables)
        inserts = sum(table.inserts for table in tables)
        removes = inserts - sum(table.count for table in tables)
        return InterestFacts(
            traffic.subscriptions,
            cached,
            inserts,
            removes,
            traffic.in_messages,
            sum(table.searches for table in tables),
            [fanout for table in tables for fanout in table.fanouts()],
        )

    def routes(self) -> Sequence[RouteFacts]:
        """One link to each other node."""
        if self.parts is None:
            return ()
        return [
            _route(number, name, self.parts.cluster)
            for number, name in enumerate(self.parts.cluster.peers.names, 1)
        ]

    # --- the cluster -----------------------------------------------------------------------------

    def cluster(self) -> ClusterFacts:
        """All nodes and shards, as far as this node has heard."""
        parts = self.parts
        if parts is None:
            return ClusterFacts(cluster_id="", nodes=(self._me(),), shards=())
        count = range(len(parts.cluster.shards.all))
        return ClusterFacts(
            cluster_id=parts.store.cluster_id,
            nodes=[self._node(name, parts.cluster) for name in sorted(parts.cluster.me.addresses)],
            shards=[self._shard(shard, parts.cluster) for shard in count],
            embedders=search_view.embedders(parts.search),
        )

    def state_hashes(self) -> Mapping[str, tuple[int, str]]:
        """Of this node's replicas, if it was started to show them."""
        if self.parts is None or not self._with_hashes:
            return {}
        cluster = self.parts.cluster
        replicas = cluster.shards.replicas
        return {str(one.shard): cluster.snapshots.state_hash(one.shard) for one in replicas}

    def _me(self) -> NodeFacts:
        config = self._config
        return NodeFacts(
            name=config.name,
            listen=str(Address(config.listen.host, self.port)),
            peer=str(config.peer_listen),
            alive=True,
            draining=self.phase in {Phase.DRAINING, Phase.STOPPING},
            clock_offset_ms=0,
        )

    def _node(self, name: str, cluster: Cluster) -> NodeFacts:
        if name == self._config.name:
            return replace(self._me(), clock_offset_ms=cluster.clock_offset_ms(name))
        run = cluster.meta.meta.runs.get(name)
        return NodeFacts(
            name=name,
            listen=run.listen if run else "",
            peer=cluster.me.addresses[name],
            alive=cluster.is_alive(name),
            draining=cluster.is_draining(name),
            clock_offset_ms=cluster.clock_offset_ms(name),
        )

    @staticmethod
    def _shard(shard: int, cluster: Cluster) -> ShardFacts:
        states = cluster.overview.of_shard(shard, cluster.shards.replicas)
        first = states[0] if states else None
        return ShardFacts(
            id=shard,
            leader=first.leader if first else "",
            term=max((state.term for state in states), default=0),
            replicas=[
                ReplicaFacts(state.node, state.commit_index, state.applied_index, state.state)
                for state in states
            ],
            mailboxes=first.mailboxes if first else 0,
            messages=first.messages if first else 0,
            agents=first.agents if first else 0,
        )

    # --- metrics ---------------------------------------------------------------------------------

    def readings(self) -> Iterator[Reading]:
        """Every number worth watching."""
        yield Level("mq9_ready", "1 while this node serves clients.", self.phase is Phase.SERVING)
        if self.parts is not None:
            yield from _gateway_readings(self.parts.listener)
            yield from _access_readings(self.parts.listener, self.parts.checks)
            yield from _router_readings(self.parts.router)
            text = "FETCHes refused because too many of their client waited."
            refused = self.parts.mailboxes.waiting_refused
            yield Counted("mq9_waiting_fetches_refused_total", text, refused)
            text = "Mailboxes and lists that push subscriptions read."
            yield Level("mq9_push_readers", text, self.parts.pushes.readers)
            yield from _shard_readings(self.parts.cluster.shards.all)
            yield from search_view.readings(self.parts.search)
            yield from _peer_readings(self.parts.cluster)
            yield from _disk_readings(self.parts.durability, self.parts.store)
            yield from _snapshot_readings(self.parts.cluster.snapshots.counts)


def _route(number: int, name: str, cluster: Cluster) -> RouteFacts:
    """A link as nats-server shows its own; what arrives is counted by the node that sent it."""
    host, _, port = cluster.me.addresses[name].rpartition(":")
    numbers = cluster.peers.numbers(name)
    return RouteFacts(
        rid=number,
        remote_name=name,
        ip=host,
        port=int(port),
        pending_bytes=numbers.waiting_bytes,
        in_msgs=0,
        in_bytes=0,
        out_msgs=numbers.sent_frames,
        out_bytes=numbers.sent_bytes,
        subscriptions=0,
    )


def _peer_readings(cluster: Cluster) -> Iterator[Reading]:
    for name in cluster.peers.names:
        labels = (("peer", name),)
        numbers = cluster.peers.numbers(name)
        yield Level("mq9_peer_up", "1 while there are streams to the peer.", numbers.up, labels)
        for what, text, value in (
            ("connects", "Times streams to the peer were opened.", numbers.connects),
            ("sent_frames", "gRPC messages sent to the peer.", numbers.sent_frames),
            ("sent_bytes", "Bytes sent to the peer.", numbers.sent_bytes),
            ("dropped", "Raft messages dropped for want of a connection or room.", numbers.dropped),
        ):
            yield Counted(f"mq9_peer_{what}_total", text, value, labels)
        text = "Bytes that wait to be sent to the peer."
        yield Level("mq9_peer_waiting_bytes", text, numbers.waiting_bytes, labels)
        text = "How far the peer's clock is from the median."
        yield Level("mq9_peer_clock_offset_ms", text, cluster.clock_offset_ms(name), labels)
    for number, won in cluster.elections_won():
        text = "Elections this node won in a group; 65535 is meta."
        yield Counted("mq9_elections_won_total", text, won, (("group", str(number)),))


class _Traffic:
    """Sums over connections gone and present."""

    def __init__(self, listener: Listener | None) -> None:
        sessions = list(listener.sessions.values()) if listener else []
        totals = listener.totals if listener else None
        self.totals = totals
        self.connections = len(sessions)
        self.subscriptions = sum(len(session.subscriptions) for session in sessions)
        self.in_flight = sum(session.in_flight for session in sessions)
        self.in_messages = sum(session.in_messages for session in sessions)
        self.in_bytes = sum(session.in_bytes for session in sessions)
        self.out_messages = sum(session.out_messages for session in sessions)
        self.out_bytes = sum(session.out_bytes for session in sessions)
        if totals:
            self.in_messages += totals.in_messages
            self.in_bytes += totals.in_bytes
            self.out_messages += totals.out_messages
            self.out_bytes += totals.out_bytes


def _connection(
    session: Session, wall_ms: Callable[[float], int], *, with_subjects: bool
) -> ConnectionFacts:
    options = session.options
    subscribed = [
        SubscriptionFacts(
            session.account,
            one.subject.decode(errors="replace"),
            (one.queue or b"").decode(errors="replace"),
            one.sid.decode(errors="replace"),
            one.delivered,
            session.connection,
        )
        for one in (session.subscriptions.values() if with_subjects else ())
    ]
    tls = session.tls_cipher
    return ConnectionFacts(
        cid=session.connection,
        ip=session.peer[0],
        port=session.peer[1],
        started_ms=wall_ms(session.started),
        last_activity_ms=wall_ms(session.last_active),
        rtt_s=session.rtt_s or 0.0,
        pending_bytes=session.pending_bytes,
        in_msgs=session.in_messages,
        in_bytes=session.in_bytes,
        out_msgs=session.out_messages,
        out_bytes=session.out_bytes,
        subscriptions=len(session.subscriptions),
        name=options.name,
        lang=options.lang,
        version=options.version,
        subscribed=subscribed,
        over_websocket=session.over_websocket,
        account=session.account,
        user=session.identity.user,
        tls_version=tls[1].removeprefix("TLSv") if tls else "",
        tls_cipher=tls[0] if tls else "",
    )


def _gateway_readings(listener: Listener) -> Iterator[Reading]:
    traffic, totals = _Traffic(listener), listener.totals
    yield Level("mq9_connections", "Client connections.", traffic.connections)
    yield Level("mq9_subscriptions", "Subscriptions of clients.", traffic.subscriptions)
    yield Level("mq9_commands_in_flight", "Commands not answered yet.", traffic.in_flight)
    for name, text, value in (
        ("connections", "Client connections ever accepted.", totals.connections),
        ("connections_refused", "Connections over the limit.", totals.refused_connections),
        ("messages_in", "Messages from clients, commands included.", traffic.in_messages),
        ("messages_out", "Messages to clients, replies included.", traffic.out_messages),
        ("bytes_in", "Bytes read from clients.", traffic.in_bytes),
        ("bytes_out", "Bytes written to clients.", traffic.out_bytes),
        ("stale_connections", "Clients that answered no PING.", totals.stale_connections),
        ("protocol_errors", "Connections ended by an error of theirs.", totals.protocol_errors),
        ("auth_violations", "Refused credentials.", totals.auth_violations),
        ("reading_paused", "Times a client waited for its own commands.", totals.reading_paused),
        ("turns_over", "Times a client's input waited for others' turns.", totals.turns_over),
        ("subscriptions_refused", "SUBs over the limit.", totals.refused_subscriptions),
        ("requests_over_rate", "Commands over the rate of a connection.", totals.over_rate),
    ):
        yield Counted(f"mq9_{name}_total", text, value)
    for why, value in (("pending", totals.over_pending), ("deadline", totals.over_deadline)):
        text = "Clients cut off because they did not read, by the limit they were over."
        yield Counted("mq9_slow_consumers_total", text, value, (("limit", why),))


def _access_readings(listener: Listener, checks: PasswordChecks) -> Iterator[Reading]:
    totals = listener.totals
    for name, text, value in (
        ("permission_violations", "What users tried and may not.", totals.permission_violations),
        ("tls_failures", "TLS handshakes of clients that failed.", totals.tls_failures),
        ("password_checks", "Passwords compared with a hash.", checks.checked),
        ("password_checks_refused", "Logins that found no room to wait.", checks.refused),
    ):
        yield Counted(f"mq9_{name}_total", text, value)
    for account, use in listener.seats.accounts.items():
        labels = (("account", account),)
        text = "Connections of an account to this node."
        yield Level("mq9_account_connections", text, use.connections, labels)
        text = "Subscriptions of an account at this node."
        yield Level("mq9_account_subscriptions", text, use.subscriptions, labels)


def _router_readings(router: Router) -> Iterator[Reading]:
    for command, counted in router.counted.items():
        text = "Commands, from parsed to answered; FETCH includes its waiting."
        yield Spread("mq9_command_seconds", text, counted.latency, (("command", command),))
    for code, times in router.refused.items():
        yield Counted("mq9_commands_refused_total", "Refused commands.", times, (("code", code),))


def _shard_readings(shards: Sequence[Shard]) -> Iterator[Reading]:
    replicas = [shard.replica for shard in shards if shard.replica]
    batches = merged([replica.entry_commands for replica in replicas], SIZE_BOUNDS)
    yield Spread("mq9_batch_commands", "Commands of one log entry.", batches)
    commits = merged([replica.proposals.commit_seconds for replica in replicas], LATENCY_BOUNDS_S)
    yield Spread("mq9_commit_seconds", "Entries led here, from proposed to applied.", commits)
    for shard in shards:
        labels = (("shard", str(shard.shard)),)
        for name, text, value in (
            ("pending_commands", "Commands taken and not yet answered.", shard.pending_commands),
            ("waiting_fetches", "FETCHes of this node's clients.", shard.waiting_fetches),
        ):
            yield Level(f"mq9_shard_{name}", text, value, labels)
    for replica in replicas:
        labels = (("shard", str(replica.shard)),)
        held, engine = replica.machine.workspace.shard, replica.engine
        for name, text, value in (
            ("mailboxes", "Mailboxes.", held.mailboxes),
            ("messages", "Messages, delayed ones included.", held.messages),
            ("agents", "Agents, expired ones not swept yet included.", held.agents),
            ("commit_index", "Highest entry known to be committed.", engine.commit_index),
            ("applied_index", "Last entry that is in the state.", held.applied_index),
            ("leader", "1 where this node leads the shard.", int(engine.is_leader)),
            ("term", "The shard's term, as this node knows it.", engine.term),
        ):
            yield Level(f"mq9_shard_{name}", text, value, labels)


def _disk_readings(durability: Durability, store: Store) -> Iterator[Reading]:
    yield Spread("mq9_sync_seconds", "Syncs of the log to disk.", durability.sync_seconds)
    yield Spread("mq9_turn_entries", "Log entries of one write.", durability.turn_entries)
    yield Spread("mq9_turn_rows", "Rows of one write.", durability.turn_rows)
    text = "1 while syncs run on the event loop, as on a fast disk."
    yield Level("mq9_sync_inline", text, int(durability.syncs_inline))
    for kind, size in store.database.memory_bytes().items():
        text = "Memory that RocksDB holds."
        yield Level("mq9_storage_memory_bytes", text, size, (("kind", kind),))


def _snapshot_readings(counts: TransferCounts) -> Iterator[Reading]:
    for name, text, value in (
        ("sent", "States brought to followers that were too far behind.", counts.sent),
        ("received", "States taken from leaders.", counts.received),
        ("broken", "Transfers of states, either way, that came to nothing.", counts.broken),
        ("bytes_sent", "Bytes of states sent.", counts.bytes_sent),
        ("bytes_received", "Bytes of states received.", counts.bytes_received),
    ):
        yield Counted(f"mq9_snapshot_{name}_total", text, value)


def merged(histograms: Sequence[Histogram], bounds: tuple[float, ...]) -> Histogram:
    """All observations of `histograms`, which have these bounds, as one."""
    total = Histogram(bounds)
    for histogram in histograms:
        total.counts = [
            mine + theirs for mine, theirs in zip(total.counts, histogram.counts, strict=True)
        ]
        total.total += histogram.total
    return total

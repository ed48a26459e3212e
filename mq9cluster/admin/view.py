"""What the HTTP side may ask of its node: the `NodeView` port and the facts it answers with.

Implemented by the node, and by stubs in tests. Facts are read when somebody asks and cost nothing
in between. Times are Unix milliseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mq9cluster.domain.measures import Histogram

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One node as a NATS server: what it is, what it allows, what passed through it."""

    server_id: str
    server_name: str
    version: str
    host: str
    port: int
    http_host: str
    http_port: int
    started_ms: int
    connections_max: int
    payload_bytes_max: int
    pending_bytes_max: int
    control_line_bytes_max: int
    ping_interval_s: float
    pings_outstanding_max: int
    auth_timeout_s: float
    write_deadline_s: float
    connections: int
    connections_total: int
    routes: int
    in_msgs: int
    in_bytes: int
    out_msgs: int
    out_bytes: int
    slow_consumers: int
    stale_connections: int
    subscriptions: int
    connect_urls: Sequence[str]
    cluster_host: str
    cluster_port: int
    cluster_urls: Sequence[str]  # of the other nodes
    websocket_host: str
    websocket_port: int  # 0: there is no such listener
    auth_required: bool = False
    tls_required: bool = False
    tls_verify: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """One client connection. `subscribed` only where it was asked for."""

    cid: int
    ip: str
    port: int
    started_ms: int
    last_activity_ms: int
    rtt_s: float
    pending_bytes: int
    in_msgs: int
    in_bytes: int
    out_msgs: int
    out_bytes: int
    subscriptions: int
    name: str
    lang: str
    version: str
    subscribed: "Sequence[SubscriptionFacts]" = ()
    over_websocket: bool = False
    account: str = ""
    user: str = ""  # or public nkey; never a token
    tls_version: str = ""  # "": in clear
    tls_cipher: str = ""


class SubscriptionFacts(NamedTuple):
    """One subscription; `queue` is "" where it is in no group."""

    account: str
    subject: str
    queue: str
    sid: str
    delivered: int
    cid: int


@dataclass(frozen=True, slots=True)
class InterestFacts:
    """The subscription table. `matches` is how many messages clients sent: how often it is asked is
    not counted, for that is the hottest path. `searches`: the subject was not in the cache.
    `fanouts`: of each subject in the cache, how many deliveries a message leads to.
    """

    subscriptions: int
    cached: int
    inserts: int
    removes: int
    matches: int = 0
    searches: int = 0
    fanouts: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """One link to a peer node."""

    rid: int
    remote_name: str
    ip: str
    port: int
    pending_bytes: int
    in_msgs: int
    in_bytes: int
    out_msgs: int
    out_bytes: int
    subscriptions: int


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One member of the cluster, as this node sees it."""

    name: str
    listen: str
    peer: str
    alive: bool
    draining: bool
    clock_offset_ms: int


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """One replica of one shard. `state`: leader, follower, candidate, learner or unknown."""

    node: str
    commit_index: int
    applied_index: int
    state: str


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """One shard; `leader` is "" while none is known."""

    id: int
    leader: str
    term: int
    replicas: Sequence[ReplicaFacts]
    mailboxes: int
    messages: int
    agents: int


@dataclass(frozen=True, slots=True)
class EmbedderFacts:
    """By what agents are found: ids of the cluster's embedders, "" for none.

    `codes` are those of which this node's search holds vectors; `differs` says how this node's own
    embedders are not the cluster's.
    """

    concept: str = ""
    model: str = ""
    following: str = ""
    codes: Sequence[str] = ()
    differs: str = ""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """The cluster, as this node sees it."""

    cluster_id: str
    nodes: Sequence[NodeFacts]
    shards: Sequence[ShardFacts]
    embedders: EmbedderFacts = EmbedderFacts()


class Counted(NamedTuple):
    """A number that only grows; its name ends in `_total`."""

    name: str
    help: str
    value: float
    labels: Labels = ()


class Level(NamedTuple):
    """A number that goes up and down."""

    name: str
    help: str
    value: float
    labels: Labels = ()


class Spread(NamedTuple):
    """How values were spread."""

    name: str
    help: str
    histogram: Histogram
    labels: Labels = ()


Reading = Counted | Level | Spread


class NodeView(Protocol):
    """The node, as its HTTP side sees it."""

    def now_ms(self) -> int:
        """The wall clock."""

    def why_not_alive(self) -> str:
        """Why this process should be restarted, or "". Never depends on other nodes."""

    def why_not_ready(self) -> str:
        """Why no client should be sent here now, or ""."""

    def server(self) -> ServerFacts:
        """For /varz."""

    def connections(self, *, with_subjects: bool) -> Sequence[ConnectionFacts]:
        """For /connz, oldest first."""

    def interest(self) -> InterestFacts:
        """For /subsz."""

    def routes(self) -> Sequence[RouteFacts]:
        """For /routez."""

    def cluster(self) -> ClusterFacts:
        """For /cluster."""

    def state_hashes(self) -> Mapping[str, tuple[int, str]]:
        """For /cluster?state_hashes=1: by shard, where this node's replica stands, and its hash."""

    def readings(self) -> Iterable[Reading]:
        """For /metrics. Readings of one name stand together or apart; their help is the same."""

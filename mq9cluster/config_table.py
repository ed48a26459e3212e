"""The tables of settings: what they are called, what they are if not given, and who reads them.

`SERVE` makes the flags of `serve` (cli) and the `Config` of a node (config); likewise `DEV` and
`STATUS`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from mq9cluster.config_tls import HANDSHAKES, VERIFICATIONS
from mq9cluster.config_values import (
    read_address,
    read_admin_token,
    read_directory,
    read_embedder,
    read_integer,
    read_node_name,
    read_one_of,
    read_optional_address,
    read_optional_directory,
    read_optional_file,
    read_origins,
    read_peers,
)
from mq9cluster.domain.limits import (
    DUPLICATE_WINDOW_MS_DEFAULT,
    PAYLOAD_BYTES_DEFAULT,
    PAYLOAD_BYTES_MAX,
    TTL_SECONDS_MAX,
    WAITING_FETCHES_DEFAULT,
)

SHARDS_MAX = 1024  # 16 slots each; more groups cost heartbeats and bring nothing
CONNECTIONS_MAX = 1_000_000
CONNECTIONS_DEFAULT = 65_536  # nats-server's
DUPLICATE_WINDOW_S_MAX = 86_400  # ids of the window are rows: a day of them is plenty
AGENT_TTL_S_DEFAULT = 300
SUBSCRIPTIONS_DEFAULT = 100_000  # of one connection: 40 MB at worst
SUBSCRIPTIONS_MAX = 10_000_000
PENDING_BYTES_DEFAULT = 67_108_864  # nats-server's
PENDING_BYTES_MIN = 1_048_576  # below that one reply of many messages would end its client
PENDING_BYTES_MAX = 4_294_967_296
WRITE_DEADLINE_S_DEFAULT = 10  # nats-server's
WRITE_DEADLINE_S_MAX = 3_600
WAITING_FETCHES_MAX = 100_000  # as many as may wait in one shard
REQUEST_RATE_MAX = 10_000_000
AUTH_TIMEOUT_S_MAX = 60
AUTH_TIMEOUT_S_DEFAULT = 2  # nats-server's
LAME_DUCK_S_MAX = 3_600
LAME_DUCK_S_DEFAULT = 10  # well under the 30 s a StatefulSet gives by default
DEV_NODES_MAX = 9


class Setting(NamedTuple):
    """One setting: `flag` without dashes, the default as a user would write it, how to read it."""

    flag: str
    metavar: str
    default: str
    parse: Callable[[str], Any]
    help: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "MQ9_" + self.key.upper()

    @property
    def key(self) -> str:
        """Its key in the TOML file, and the name of its argument."""
        return self.flag.replace("-", "_")


_LISTEN = Setting("listen", "HOST:PORT", "0.0.0.0:4222", read_address, "where NATS clients connect")
_HTTP = Setting("http", "HOST:PORT", "0.0.0.0:9090", read_address, "health, metrics and monitoring")

SERVE: tuple[Setting, ...] = (
    Setting("name", "NODE", "node1", read_node_name, "this node's name, unique in the cluster"),
    Setting("data-dir", "DIR", "mq9-data", read_directory, "where everything is kept"),
    _LISTEN,
    _HTTP,
    Setting("peer-listen", "HOST:PORT", "0.0.0.0:7422", read_address, "where other nodes connect"),
    Setting("peers", "NODE=HOST:PORT,…", "", read_peers, "all first members, this one included"),
    Setting(
        "peer-tls-cert", "FILE", "", read_optional_file, "this node's certificate for its peers"
    ),
    Setting("peer-tls-key", "FILE", "", read_optional_file, "the key of --peer-tls-cert"),
    Setting(
        "peer-tls-ca", "FILE", "", read_optional_file, "who signs the certificates of all nodes"
    ),
    Setting("shards", "N", "8", read_integer(1, SHARDS_MAX), "shards of a new cluster"),
    Setting(
        "max-payload",
        "BYTES",
        str(PAYLOAD_BYTES_DEFAULT),
        read_integer(1_024, PAYLOAD_BYTES_MAX),
        "the largest message a client may publish",
    ),
    Setting(
        "duplicate-window",
        "SECONDS",
        str(DUPLICATE_WINDOW_MS_DEFAULT // 1000),
        read_integer(1, DUPLICATE_WINDOW_S_MAX),
        "how long a Nats-Msg-Id is remembered",
    ),
    Setting(
        "agent-ttl",
        "SECONDS",
        str(AGENT_TTL_S_DEFAULT),
        read_integer(0, TTL_SECONDS_MAX),
        "how long an agent that names no ttl stays without reporting; 0: for ever",
    ),
    Setting(
        "embedder",
        "EMBEDDER",
        "concept",
        read_embedder,
        "what finds agents by meaning: concept, model2vec:DIR, fastembed:DIR, openai:URL#MODEL "
        "or vectors:DIMENSIONS",
    ),
    Setting("embedder-key", "KEY", "", str, "what the service of --embedder openai: asks for"),
    Setting(
        "max-connections",
        "N",
        str(CONNECTIONS_DEFAULT),
        read_integer(1, CONNECTIONS_MAX),
        "clients at a time",
    ),
    Setting(
        "max-subscriptions",
        "N",
        str(SUBSCRIPTIONS_DEFAULT),
        read_integer(0, SUBSCRIPTIONS_MAX),
        "subscriptions of one client; 0: no limit",
    ),
    Setting(
        "max-pending",
        "BYTES",
        str(PENDING_BYTES_DEFAULT),
        read_integer(PENDING_BYTES_MIN, PENDING_BYTES_MAX),
        "a client that lets more than this wait unread is cut off",
    ),
    Setting(
        "write-deadline",
        "SECONDS",
        str(WRITE_DEADLINE_S_DEFAULT),
        read_integer(1, WRITE_DEADLINE_S_MAX),
        "so is one that has not read for so long what waits for it",
    ),
    Setting(
        "max-waiting-fetches",
        "N",
        str(WAITING_FETCHES_DEFAULT),
        read_integer(1, WAITING_FETCHES_MAX),
        "FETCHes of one client that may wait at a time, and mailboxes it may be pushed",
    ),
    Setting(
        "max-request-rate",
        "N",
        "0",
        read_integer(0, REQUEST_RATE_MAX),
        "commands a second of one client; 0: no limit",
    ),
    Setting(
        "ws-listen",
        "HOST:PORT",
        "",
        read_optional_address,
        "where browsers connect, over websockets",
    ),
    Setting(
        "ws-origins",
        "ORIGIN,…",
        "",
        read_origins,
        "the only web origins whose pages may connect there; any, if not given",
    ),
    Setting(
        "admin-token",
        "TOKEN",
        "",
        read_admin_token,
        "with it as bearer token, monitoring shows subjects in full; better in a file than here",
    ),
    Setting("tls-cert", "FILE", "", read_optional_file, "this node's certificate for clients"),
    Setting("tls-key", "FILE", "", read_optional_file, "the key of --tls-cert"),
    Setting("tls-ca", "FILE", "", read_optional_file, "who signs the certificates of clients"),
    Setting(
        "tls-verify",
        "WHETHER",
        "no",
        read_one_of(*VERIFICATIONS),
        "yes: clients show a certificate; map: and are the user it names",
    ),
    Setting(
        "tls-handshake",
        "WHEN",
        "upgrade",
        read_one_of(*HANDSHAKES),
        "upgrade: behind INFO; first: before it; auto: either; optional: behind INFO, if at all",
    ),
    Setting(
        "auth-timeout",
        "SECONDS",
        str(AUTH_TIMEOUT_S_DEFAULT),
        read_integer(1, AUTH_TIMEOUT_S_MAX),
        "how long a client may take for the TLS handshake, and again to say who it is",
    ),
    Setting(
        "lame-duck",
        "SECONDS",
        str(LAME_DUCK_S_DEFAULT),
        read_integer(0, LAME_DUCK_S_MAX),
        "how long clients are given to leave before the node stops",
    ),
    Setting(
        "traces",
        "TO",
        "none",
        read_one_of("none", "otlp"),
        "none, or otlp: spans of requests that bring a sampled traceparent, by OpenTelemetry",
    ),
    Setting("log-format", "FORMAT", "console", read_one_of("console", "json"), "console or json"),
    Setting(
        "log-level",
        "LEVEL",
        "info",
        read_one_of("debug", "info", "warning", "error"),
        "debug, info, warning or error",
    ),
)
DEV: tuple[Setting, ...] = (
    Setting("nodes", "N", "3", read_integer(1, DEV_NODES_MAX), "how many nodes"),
    Setting("port", "PORT", "4222", read_integer(1, 65_535), "NATS port of the first node"),
    Setting("http-port", "PORT", "9090", read_integer(1, 65_535), "HTTP port of the first node"),
    Setting(
        "data-dir",
        "DIR",
        "",
        read_optional_directory,
        "where to keep data; a temporary folder if not given",
    ),
)
STATUS: tuple[Setting, ...] = (
    _HTTP._replace(default="127.0.0.1:9090", help="any node's HTTP address"),
)

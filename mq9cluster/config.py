"""Settings: what they are called, where they come from, what they may be.

Owns the tables of settings (`SERVE`, `DEV`, `STATUS`) and the frozen `Config` of a node. Called by
cli, which makes its flags from the table, and by node, which takes the `Config`; imports only
domain. Users are read by config_access, TLS of clients by config_tls.

A value comes from a flag, else from the environment (`MQ9_` and the flag's name), else from the
TOML file that `--config` names (the flag's name with underscores), else from the table. Whatever is
wrong with it is a ConfigError of one line that names the place it came from.
"""

import os
import re
import ssl
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mq9cluster.config_access import ACCESS_KEYS, WrongAccess, read_access
from mq9cluster.config_tls import HANDSHAKES, VERIFICATIONS, ClientTlsSettings, client_tls
from mq9cluster.domain.access import Access
from mq9cluster.domain.limits import (
    DUPLICATE_WINDOW_MS_DEFAULT,
    PAYLOAD_BYTES_DEFAULT,
    PAYLOAD_BYTES_MAX,
    TTL_SECONDS_MAX,
    WAITING_FETCHES_DEFAULT,
)

NODE_NAME_CHARS_MAX = 63  # a DNS label: pods are called so
PEERS_MAX = 64  # the meta group is on all nodes; beyond this its heartbeats outweigh its use
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
ADMIN_TOKEN_CHARS_MIN = 16  # nobody guesses it, however often he may try
AUTH_TIMEOUT_S_MAX = 60
AUTH_TIMEOUT_S_DEFAULT = 2  # nats-server's
EMBEDDER_KINDS = ("model2vec", "fastembed", "openai", "vectors")
LAME_DUCK_S_MAX = 3_600
LAME_DUCK_S_DEFAULT = 10  # well under the 30 s a StatefulSet gives by default
DEV_NODES_MAX = 9


class ConfigError(Exception):
    """A setting is wrong; the text is one line for the operator."""


class Address(NamedTuple):
    """Where to listen or connect. Port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_ANY_HOST = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound to


class PeerAddress(NamedTuple):
    """A first member of the cluster and where its peers reach it."""

    name: str
    address: Address


@dataclass(frozen=True, slots=True)
class PeerTlsFiles:
    """What the three --peer-tls files hold, as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What one connection may take; 0 where that means no limit."""

    subscriptions_max: int
    pending_bytes_max: int
    write_deadline_s: int
    waiting_fetches_max: int
    requests_per_s_max: int


@dataclass(frozen=True, slots=True)
class Config:
    """What one node is told. Units stand last in the names."""

    name: str
    data_dir: Path
    listen: Address
    http: Address
    peer_listen: Address
    peers: tuple[PeerAddress, ...]
    peer_tls: PeerTlsFiles | None
    shards: int
    payload_bytes_max: int
    duplicate_window_ms: int
    agent_ttl_s: int
    embedder: str
    embedder_key: str = field(repr=False)
    connections_max: int
    limits: ClientLimits
    ws_listen: Address | None
    ws_origins: tuple[str, ...]
    admin_token: str = field(repr=False)
    tls: ClientTlsSettings | None
    access: Access
    auth_timeout_s: int
    lame_duck_s: int
    traces: str
    log_format: str
    log_level: str

    @property
    def advertised(self) -> str:
        """Where clients of other nodes are told to find this one; "" where that is not known."""
        host = self.listen.host
        if host in _ANY_HOST:
            host = next((p.address.host for p in self.peers if p.name == self.name), "")
        return str(Address(host, self.listen.port)) if host and self.listen.port else ""


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


# ---------------------------------------------------------------- how values are read


_NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]", re.ASCII)
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_TOKEN = re.compile(r"[!-~]*", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


def _node_name(raw: str) -> str:
    if len(raw) > NODE_NAME_CHARS_MAX or not _NODE_NAME.fullmatch(raw):
        raise ValueError(
            f"{raw!r} is no node name: 1 to {NODE_NAME_CHARS_MAX} letters, digits and . _ - inside"
        )
    return raw


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not _DIGITS.fullmatch(raw) or not low <= int(raw) <= high:
            raise ValueError(f"{raw!r} is no whole number from {low} to {high}")
        return int(raw)

    return parse


def _address(raw: str) -> Address:
    host, colon, port = raw.rpartition(":")
    if not colon or not _HOST.fullmatch(host):
        raise ValueError(f"{raw!r} is not HOST:PORT")
    return Address(host.strip("[]"), _port(port))


_port = _integer(0, 65_535)


def _peers(raw: str) -> tuple[PeerAddress, ...]:
    peers = []
    for item in filter(None, (part.strip() for part in raw.split(","))):
        name, equals, address = item.partition("=")
        if not equals:
            raise ValueError(f"{item!r} is not NODE=HOST:PORT")
        peers.append(PeerAddress(_node_name(name), _address(address)))
    if len(peers) > PEERS_MAX:
        raise ValueError(f"{len(peers)} peers, at most {PEERS_MAX} are possible")
    for what, values in (
        ("node", [peer.name for peer in peers]),
        ("address", [str(peer.address) for peer in peers]),
    ):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"{what} {twice[0]} is named twice")
    return tuple(peers)


def _optional_address(raw: str) -> Address | None:
    return _address(raw) if raw else None


def _origins(raw: str) -> tuple[str, ...]:
    origins = tuple(filter(None, (part.strip().lower() for part in raw.split(","))))
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin: https://HOST or https://HOST:PORT")
    return origins


def _admin_token(raw: str) -> str:
    """A token; what is wrong with it is told without it."""
    if raw and (len(raw) < ADMIN_TOKEN_CHARS_MIN or not _TOKEN.fullmatch(raw)):
        raise ValueError(
            f"not at least {ADMIN_TOKEN_CHARS_MIN} printable ASCII characters without blanks"
        )
    return raw


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw not in words:
            raise ValueError(f"{raw!r} is none of {', '.join(words)}")
        return raw

    return parse


def _embedder(raw: str) -> str:
    kind, colon, where = raw.partition(":")
    if raw != "concept" and not (kind in EMBEDDER_KINDS and colon and where):
        kinds = ", ".join(f"{kind}:…" for kind in EMBEDDER_KINDS)
        raise ValueError(f"{raw!r} is none of concept, {kinds}")
    return raw


def _directory(raw: str) -> Path:
    if not raw or "\0" in raw:
        raise ValueError(f"{raw!r} is no directory")
    return Path(raw).expanduser()


def _optional_directory(raw: str) -> Path | None:
    return _directory(raw) if raw else None


def _optional_file(raw: str) -> Path | None:
    if "\0" in raw:
        raise ValueError(f"{raw!r} is no file")
    return Path(raw).expanduser() if raw else None


# ---------------------------------------------------------------- the table

_LISTEN = Setting("listen", "HOST:PORT", "0.0.0.0:4222", _address, "where NATS clients connect")
_HTTP = Setting("http", "HOST:PORT", "0.0.0.0:9090", _address, "health, metrics and monitoring")

SERVE: tuple[Setting, ...] = (
    Setting("name", "NODE", "node1", _node_name, "this node's name, unique in the cluster"),
    Setting("data-dir", "DIR", "mq9-data", _directory, "where everything is kept"),
    _LISTEN,
    _HTTP,
    Setting("peer-listen", "HOST:PORT", "0.0.0.0:7422", _address, "where other nodes connect"),
    Setting("peers", "NODE=HOST:PORT,…", "", _peers, "all first members, this one included"),
    Setting("peer-tls-cert", "FILE", "", _optional_file, "this node's certificate for its peers"),
    Setting("peer-tls-key", "FILE", "", _optional_file, "the key of --peer-tls-cert"),
    Setting("peer-tls-ca", "FILE", "", _optional_file, "who signs the certificates of all nodes"),
    Setting("shards", "N", "8", _integer(1, SHARDS_MAX), "shards of a new cluster"),
    Setting(
        "max-payload",
        "BYTES",
        str(PAYLOAD_BYTES_DEFAULT),
        _integer(1_024, PAYLOAD_BYTES_MAX),
        "the largest message a client may publish",
    ),
    Setting(
        "duplicate-window",
        "SECONDS",
        str(DUPLICATE_WINDOW_MS_DEFAULT // 1000),
        _integer(1, DUPLICATE_WINDOW_S_MAX),
        "how long a Nats-Msg-Id is remembered",
    ),
    Setting(
        "agent-ttl",
        "SECONDS",
        str(AGENT_TTL_S_DEFAULT),
        _integer(0, TTL_SECONDS_MAX),
        "how long an agent that names no ttl stays without reporting; 0: for ever",
    ),
    Setting(
        "embedder",
        "EMBEDDER",
        "concept",
        _embedder,
        "what finds agents by meaning: concept, model2vec:DIR, fastembed:DIR, openai:URL#MODEL "
        "or vectors:DIMENSIONS",
    ),
    Setting("embedder-key", "KEY", "", str, "what the service of --embedder openai: asks for"),
    Setting(
        "max-connections",
        "N",
        str(CONNECTIONS_DEFAULT),
        _integer(1, CONNECTIONS_MAX),
        "clients at a time",
    ),
    Setting(
        "max-subscriptions",
        "N",
        str(SUBSCRIPTIONS_DEFAULT),
        _integer(0, SUBSCRIPTIONS_MAX),
        "subscriptions of one client; 0: no limit",
    ),
    Setting(
        "max-pending",
        "BYTES",
        str(PENDING_BYTES_DEFAULT),
        _integer(PENDING_BYTES_MIN, PENDING_BYTES_MAX),
        "a client that lets more than this wait unread is cut off",
    ),
    Setting(
        "write-deadline",
        "SECONDS",
        str(WRITE_DEADLINE_S_DEFAULT),
        _integer(1, WRITE_DEADLINE_S_MAX),
        "so is one that has not read for so long what waits for it",
    ),
    Setting(
        "max-waiting-fetches",
        "N",
        str(WAITING_FETCHES_DEFAULT),
        _integer(1, WAITING_FETCHES_MAX),
        "FETCHes of one client that may wait at a time",
    ),
    Setting(
        "max-request-rate",
        "N",
        "0",
        _integer(0, REQUEST_RATE_MAX),
        "commands a second of one client; 0: no limit",
    ),
    Setting(
        "ws-listen", "HOST:PORT", "", _optional_address, "where browsers connect, over websockets"
    ),
    Setting(
        "ws-origins",
        "ORIGIN,…",
        "",
        _origins,
        "the only web origins whose pages may connect there; any, if not given",
    ),
    Setting(
        "admin-token",
        "TOKEN",
        "",
        _admin_token,
        "with it as bearer token, monitoring shows subjects in full; better in a file than here",
    ),
    Setting("tls-cert", "FILE", "", _optional_file, "this node's certificate for clients"),
    Setting("tls-key", "FILE", "", _optional_file, "the key of --tls-cert"),
    Setting("tls-ca", "FILE", "", _optional_file, "who signs the certificates of clients"),
    Setting(
        "tls-verify",
        "WHETHER",
        "no",
        _one_of(*VERIFICATIONS),
        "yes: clients show a certificate; map: and are the user it names",
    ),
    Setting(
        "tls-handshake",
        "WHEN",
        "upgrade",
        _one_of(*HANDSHAKES),
        "upgrade: behind INFO; first: before it; auto: either; optional: behind INFO, if at all",
    ),
    Setting(
        "auth-timeout",
        "SECONDS",
        str(AUTH_TIMEOUT_S_DEFAULT),
        _integer(1, AUTH_TIMEOUT_S_MAX),
        "how long a client may take for the TLS handshake, and again to say who it is",
    ),
    Setting(
        "lame-duck",
        "SECONDS",
        str(LAME_DUCK_S_DEFAULT),
        _integer(0, LAME_DUCK_S_MAX),
        "how long clients are given to leave before the node stops",
    ),
    Setting(
        "traces",
        "TO",
        "none",
        _one_of("none", "otlp"),
        "none, or otlp: spans of requests that bring a sampled traceparent, by OpenTelemetry",
    ),
    Setting("log-format", "FORMAT", "console", _one_of("console", "json"), "console or json"),
    Setting(
        "log-level",
        "LEVEL",
        "info",
        _one_of("debug", "info", "warning", "error"),
        "debug, info, warning or error",
    ),
)
DEV: tuple[Setting, ...] = (
    Setting("nodes", "N", "3", _integer(1, DEV_NODES_MAX), "how many nodes"),
    Setting("port", "PORT", "4222", _integer(1, 65_535), "NATS port of the first node"),
    Setting("http-port", "PORT", "9090", _integer(1, 65_535), "HTTP port of the first node"),
    Setting(
        "data-dir",
        "DIR",
        "",
        _optional_directory,
        "where to keep data; a temporary folder if not given",
    ),
)
STATUS: tuple[Setting, ...] = (
    _HTTP._replace(default="127.0.0.1:9090", help="any node's HTTP address"),
)

_KNOWN_KEYS = ACCESS_KEYS.union(setting.key for setting in (*SERVE, *DEV, *STATUS))


# ---------------------------------------------------------------- from flags, environment and file


def resolve(
    settings: tuple[Setting, ...],
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    file: Path | None,
) -> dict[str, Any]:
    """The value of each setting by its key. Raises ConfigError.

    `flags` holds what was said on the command line, by key. An empty variable counts as not set.
    Keys of the file that belong to another command are left to it; keys that belong to none are
    refused.
    """
    from_file = {
        key: _as_written(file, key, value)
        for key, value in _read(file).items()
        if key not in ACCESS_KEYS
    }
    values: dict[str, Any] = {}
    for setting in settings:
        flag = flags.get(setting.key)
        if flag is not None:
            source, raw = f"--{setting.flag}", flag
        elif environment.get(setting.variable):
            source, raw = setting.variable, environment[setting.variable]
        elif setting.key in from_file:
            source, raw = f"{file}: {setting.key}", from_file[setting.key]
        else:
            source, raw = f"--{setting.flag}", setting.default
        try:
            values[setting.key] = setting.parse(raw)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from error
    return values


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config: cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {file} is not TOML: {error}") from error
    if unknown := sorted(set(table) - _KNOWN_KEYS):
        raise ConfigError(f"{file}: unknown key {', '.join(unknown)}")
    return table


def _as_written(file: Path | None, key: str, value: object) -> str:
    """A TOML value as one would write it behind the flag."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    raise ConfigError(f"{file}: {key}: expected text, a whole number or a list of texts")


def node_config(
    flags: Mapping[str, str | None], environment: Mapping[str, str], file: Path | None
) -> Config:
    """The configuration of `serve`. Raises ConfigError."""
    values = resolve(SERVE, flags, environment, file)
    config = Config(
        name=values["name"],
        data_dir=values["data_dir"],
        listen=values["listen"],
        http=values["http"],
        peer_listen=values["peer_listen"],
        peers=values["peers"],
        peer_tls=_peer_tls(values),
        shards=values["shards"],
        payload_bytes_max=values["max_payload"],
        duplicate_window_ms=values["duplicate_window"] * 1000,
        agent_ttl_s=values["agent_ttl"],
        embedder=values["embedder"],
        embedder_key=values["embedder_key"],
        connections_max=values["max_connections"],
        limits=ClientLimits(
            subscriptions_max=values["max_subscriptions"],
            pending_bytes_max=values["max_pending"],
            write_deadline_s=values["write_deadline"],
            waiting_fetches_max=values["max_waiting_fetches"],
            requests_per_s_max=values["max_request_rate"],
        ),
        ws_listen=values["ws_listen"],
        ws_origins=values["ws_origins"],
        admin_token=values["admin_token"],
        tls=_client_tls(values),
        access=_access(file, by_certificate=values["tls_verify"] == "map"),
        auth_timeout_s=values["auth_timeout"],
        lame_duck_s=values["lame_duck"],
        traces=values["traces"],
        log_format=values["log_format"],
        log_level=values["log_level"],
    )
    if config.peers and config.name not in {peer.name for peer in config.peers}:
        raise ConfigError(f"--peers: this node, {config.name}, is not among them")
    taken = {config.listen}
    for flag, address in (("--http", config.http), ("--ws-listen", config.ws_listen)):
        if address and address.port and address in taken:
            other = "--listen" if address == config.listen else "--http"
            raise ConfigError(f"{flag}: {address} is the address of {other} too")
        taken.add(address or config.listen)
    return config


def _client_tls(values: Mapping[str, Any]) -> ClientTlsSettings | None:
    names = ("tls_cert", "tls_key", "tls_ca", "tls_verify", "tls_handshake")
    try:
        return client_tls(*(values[name] for name in names))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _access(file: Path | None, *, by_certificate: bool) -> Access:
    tables = {key: value for key, value in _read(file).items() if key in ACCESS_KEYS}
    try:
        return read_access(tables, by_certificate=by_certificate)
    except WrongAccess as error:
        raise ConfigError(f"{file or '--tls-verify'}: {error}") from error


def _peer_tls(values: Mapping[str, Any]) -> PeerTlsFiles | None:
    """What the --peer-tls files hold, if they are given. Raises ConfigError."""
    files = {key: values[key] for key in ("peer_tls_cert", "peer_tls_key", "peer_tls_ca")}
    missing = [key for key, path in files.items() if path is None]
    if len(missing) == len(files):
        return None
    if missing:
        raise ConfigError(f"{_as_flag(missing[0])}: the three --peer-tls settings go together")
    certificate, key, authority = (_pem(name, path) for name, path in files.items())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files["peer_tls_cert"], files["peer_tls_key"], password=b"")
    except ssl.SSLError as error:
        raise ConfigError(
            f"--peer-tls-cert, --peer-tls-key: no certificate with its key, unencrypted ({error})"
        ) from error
    try:
        context.load_verify_locations(files["peer_tls_ca"])
    except ssl.SSLError as error:
        raise ConfigError(f"--peer-tls-ca: holds no certificate ({error})") from error
    return PeerTlsFiles(certificate, key, authority)


def _pem(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{_as_flag(key)}: cannot read {path}: {error.strerror}") from error


def _as_flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def prepare_directory(path: Path, source: str) -> None:
    """Make `path` if it is missing. Raises ConfigError where nothing can be written."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{source}: {path} is not a directory") from error
    except OSError as error:
        raise ConfigError(f"{source}: cannot make {path}: {error.strerror}") from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{source}: cannot write in {path}")

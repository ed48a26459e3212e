"""The configuration of a node: where settings come from, and whether they fit together.

Makes the frozen `Config` of a node from the table in config_table, whose values config_values
reads; users are read by config_access, TLS of clients by config_tls. Called by cli and node;
imports only domain.

A value comes from a flag, else from the environment (`MQ9_` and the flag's name), else from the
TOML file that `--config` names (the flag's name with underscores), else from the table. Whatever is
wrong with it is a ConfigError of one line that names the place it came from.
"""

import os
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mq9cluster.config_access import ACCESS_KEYS, WrongAccess, read_access
from mq9cluster.config_table import DEV, SERVE, STATUS, Setting
from mq9cluster.config_tls import ClientTlsSettings, client_tls
from mq9cluster.config_values import Address, ConfigError, PeerAddress
from mq9cluster.domain.access import Access

_ANY_HOST = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound to
_KNOWN_KEYS = ACCESS_KEYS.union(setting.key for setting in (*SERVE, *DEV, *STATUS))


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

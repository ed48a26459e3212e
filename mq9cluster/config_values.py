"""What single settings may be: from what was written to a value, or a ValueError that says why not.

Called by config_table, which names these readers, and by config. Imports nothing of the project.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

NODE_NAME_CHARS_MAX = 63  # a DNS label: pods are called so
PEERS_MAX = 64  # the meta group is on all nodes; beyond this its heartbeats outweigh its use
ADMIN_TOKEN_CHARS_MIN = 16  # nobody guesses it, however often he may try
EMBEDDER_KINDS = ("model2vec", "fastembed", "openai", "vectors")


class ConfigError(Exception):
    """A setting is wrong; the text is one line for the operator."""


class Address(NamedTuple):
    """Where to listen or connect. Port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class PeerAddress(NamedTuple):
    """A first member of the cluster and where its peers reach it."""

    name: str
    address: Address


_NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]", re.ASCII)
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_TOKEN = re.compile(r"[!-~]*", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


def read_node_name(raw: str) -> str:
    """A node's name."""
    if len(raw) > NODE_NAME_CHARS_MAX or not _NODE_NAME.fullmatch(raw):
        raise ValueError(
            f"{raw!r} is no node name: 1 to {NODE_NAME_CHARS_MAX} letters, digits and . _ - inside"
        )
    return raw


def read_integer(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`."""

    def parse(raw: str) -> int:
        if not _DIGITS.fullmatch(raw) or not low <= int(raw) <= high:
            raise ValueError(f"{raw!r} is no whole number from {low} to {high}")
        return int(raw)

    return parse


def read_address(raw: str) -> Address:
    """HOST:PORT; an IPv6 host stands in brackets."""
    host, colon, port = raw.rpartition(":")
    if not colon or not _HOST.fullmatch(host):
        raise ValueError(f"{raw!r} is not HOST:PORT")
    return Address(host.strip("[]"), read_port(port))


read_port = read_integer(0, 65_535)


def read_peers(raw: str) -> tuple[PeerAddress, ...]:
    """NODE=HOST:PORT,…; none is named twice."""
    peers = []
    for item in filter(None, (part.strip() for part in raw.split(","))):
        name, equals, address = item.partition("=")
        if not equals:
            raise ValueError(f"{item!r} is not NODE=HOST:PORT")
        peers.append(PeerAddress(read_node_name(name), read_address(address)))
    if len(peers) > PEERS_MAX:
        raise ValueError(f"{len(peers)} peers, at most {PEERS_MAX} are possible")
    for what, values in (
        ("node", [peer.name for peer in peers]),
        ("address", [str(peer.address) for peer in peers]),
    ):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"{what} {twice[0]} is named twice")
    return tuple(peers)


def read_optional_address(raw: str) -> Address | None:
    """The same, or None for nothing."""
    return read_address(raw) if raw else None


def read_origins(raw: str) -> tuple[str, ...]:
    """Web origins, as browsers write them."""
    origins = tuple(filter(None, (part.strip().lower() for part in raw.split(","))))
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin: https://HOST or https://HOST:PORT")
    return origins


def read_admin_token(raw: str) -> str:
    """A token; what is wrong with it is told without it."""
    if raw and (len(raw) < ADMIN_TOKEN_CHARS_MIN or not _TOKEN.fullmatch(raw)):
        raise ValueError(
            f"not at least {ADMIN_TOKEN_CHARS_MIN} printable ASCII characters without blanks"
        )
    return raw


def read_one_of(*words: str) -> Callable[[str], str]:
    """A reader of one of these words."""

    def parse(raw: str) -> str:
        if raw not in words:
            raise ValueError(f"{raw!r} is none of {', '.join(words)}")
        return raw

    return parse


def read_embedder(raw: str) -> str:
    """What finds agents by meaning."""
    kind, colon, where = raw.partition(":")
    if raw != "concept" and not (kind in EMBEDDER_KINDS and colon and where):
        kinds = ", ".join(f"{kind}:…" for kind in EMBEDDER_KINDS)
        raise ValueError(f"{raw!r} is none of concept, {kinds}")
    return raw


def read_directory(raw: str) -> Path:
    """A directory, which need not exist."""
    if not raw or "\0" in raw:
        raise ValueError(f"{raw!r} is no directory")
    return Path(raw).expanduser()


def read_optional_directory(raw: str) -> Path | None:
    """The same, or None for nothing."""
    return read_directory(raw) if raw else None


def read_optional_file(raw: str) -> Path | None:
    """A file, which need not exist, or None for nothing."""
    if "\0" in raw:
        raise ValueError(f"{raw!r} is no file")
    return Path(raw).expanduser() if raw else None

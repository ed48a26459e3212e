"""What the registry tells of itself: its rows, and how they changed, for those who follow it.

Made by machine/registry.py and machine/agents_read.py; read by the search index of each replica and
by whoever shows agents. Times in Unix milliseconds of shard time; `expires_ms` 0: never.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

NO_CODES: Mapping[str, bytes] = MappingProxyType({})


class Change(IntEnum):
    """What happened to an agent."""

    REGISTERED = 1  # it is new, or its card or codes are others: `body`, `codes`, `expires_ms`
    CODED = 2  # codes came late: `codes` holds the new ones
    GONE = 3  # it unregistered, or expired long ago and was swept


class AgentChange(NamedTuple):
    """One change, in the order of application."""

    account: str
    name: str
    kind: Change
    expires_ms: int = 0
    body: bytes = b""
    codes: Mapping[str, bytes] = NO_CODES  # by embedder id


class AgentsSeen(NamedTuple):
    """Agents that reported, or registered the same again, in one entry, and expire together."""

    expires_ms: int
    agents: list[tuple[str, str]]  # (account, name)


Changes = Sequence[AgentChange | AgentsSeen]
"""What an entry did to the registry, in order."""


class AgentRow(NamedTuple):
    """An agent as an index is built from it; it may have expired."""

    account: str
    name: str
    expires_ms: int
    body: bytes
    codes: Mapping[str, bytes]


class AgentFound(NamedTuple):
    """An agent as DISCOVER shows it; it may have expired. `report_info` is JSON, or empty."""

    name: str
    mailbox: str
    body: bytes
    seen_ms: int
    expires_ms: int
    report_info: bytes

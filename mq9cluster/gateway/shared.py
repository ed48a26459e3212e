"""What all sessions of one listener share. Made by `listener`, read and counted in by `session`."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mq9cluster.gateway.auth import Authenticator
from mq9cluster.gateway.commands import CommandHandler
from mq9cluster.gateway.exchange import Exchange
from mq9cluster.gateway.patience import Patience
from mq9cluster.gateway.seats import Seats
from mq9cluster.gateway.settings import Settings
from mq9cluster.gateway.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Callable

    from mq9cluster.gateway.connection import Connection
    from mq9cluster.gateway.session import Session


@dataclass(slots=True)
class Totals:
    """What happened to connections that are gone, and what happened too often (/varz, /metrics)."""

    in_messages: int = 0
    in_bytes: int = 0
    out_messages: int = 0
    out_bytes: int = 0
    connections: int = 0  # ever accepted
    commands: int = 0
    over_pending: int = 0  # clients cut off because more than pending_bytes_max waited for them
    over_deadline: int = 0  # … because what waited did not leave within write_deadline_s
    stale_connections: int = 0
    protocol_errors: int = 0
    auth_violations: int = 0
    permission_violations: int = 0
    tls_failures: int = 0  # handshakes that did not succeed
    refused_connections: int = 0
    refused_subscriptions: int = 0  # over subscriptions_max
    over_rate: int = 0  # commands refused by requests_per_s_max
    turns_over: int = 0  # times a client's input waited so that others had their turn
    reading_paused: int = 0  # times a client had to wait for its own commands

    @property
    def slow_consumers(self) -> int:
        """Clients cut off because they did not read."""
        return self.over_pending + self.over_deadline


@dataclass(slots=True)
class Shared:
    """What all sessions of a listener use."""

    settings: Settings
    exchange: Exchange
    handler: CommandHandler
    authenticator: Authenticator
    shares: Shares
    patience: Patience
    info: (
        "Callable[[Session, bool], bytes]"  # (session, whether it answers CONNECT) → the INFO line
    )
    sessions: "dict[int, Session]" = field(default_factory=dict)
    leaving: "set[Connection]" = field(default_factory=set)  # ended, their sockets still open
    empty: asyncio.Event = field(default_factory=asyncio.Event)  # every socket is closed
    seats: Seats = field(default_factory=Seats)
    totals: Totals = field(default_factory=Totals)
    last_connection: int = 0

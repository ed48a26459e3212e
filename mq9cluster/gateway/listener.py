"""The listening socket of one node: accepts clients, says who we are, and sends clients away when
the node goes.

Made and stopped by `node`; makes a `session` for every connection. Owns INFO, the sweep (keepalive,
write deadlines) and lame duck mode.
"""

import asyncio
import contextlib
import random
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from ssl import SSLContext, SSLObject
from typing import TYPE_CHECKING, Any

from mq9cluster.gateway.auth import Authenticator
from mq9cluster.gateway.commands import CommandHandler
from mq9cluster.gateway.exchange import Exchange
from mq9cluster.gateway.patience import Beats, Patience
from mq9cluster.gateway.seats import Seats
from mq9cluster.gateway.session import Session
from mq9cluster.gateway.settings import SWEEP_S, SWEEP_SLICES, Settings
from mq9cluster.gateway.shared import Shared, Totals
from mq9cluster.gateway.shares import Shares
from mq9cluster.gateway.tls import ClientTls, Handshake, TlsDoor
from mq9cluster.gateway.websocket import WebSocket
from mq9cluster.protocol.nats import encode_info

if TYPE_CHECKING:
    from mq9cluster.gateway.connection import Connection

NATS_LEVEL = "2.15.1"  # the nats-server whose behaviour ours was compared with
BACKLOG = (
    4096  # connections that wait to be accepted: a whole fleet comes back at once after an outage
)
CLOSE_WAIT_S = 1.0  # how long close() lets written bytes leave before it cuts


@dataclass(frozen=True, slots=True)
class ServerName:
    """How a node presents itself in INFO. `extra` is added as it is (cluster name, durability mode,
    …).
    """

    server_id: str
    server_name: str
    extra: dict[str, Any] = field(default_factory=dict)


class Listener:
    """Serves NATS clients on one address. `totals` and `sessions` are there for monitoring."""

    def __init__(
        self,
        name: ServerName,
        settings: Settings,
        exchange: Exchange,
        handler: CommandHandler,
        authenticator: Authenticator,
        chance: random.Random,
        seconds: Callable[[], float],
        beats: Beats,
    ) -> None:
        """Nothing is opened yet. `chance` spreads the goodbyes of lame duck mode, `seconds`
        measures what clients take of the loop's time, and REPORTs wait unread for `beats`.
        """
        self._name = name
        self._tls: ClientTls | None = None
        self._door: TlsDoor | None = None
        self._chance = chance
        shares = Shares(asyncio.get_running_loop().call_soon, seconds)
        patience = Patience(beats, shares)
        self._shared = Shared(
            settings, exchange, handler, authenticator, shares, patience, self._info
        )
        self._servers: list[asyncio.Server] = []
        self._host = ""
        self._port = self._ws_port = 0
        self._connect_urls: list[str] = []
        self._lame = False
        self._unswept: list[Connection] = []
        self._slice = 1
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, also when 0 was asked for."""
        return self._port

    @property
    def ws_port(self) -> int:
        """The port that browsers connect to; 0: none."""
        return self._ws_port

    @property
    def totals(self) -> Totals:
        """Counters of connections that are gone and of things that went wrong."""
        return self._shared.totals

    @property
    def sessions(self) -> dict[int, Session]:
        """The connections of now, by number."""
        return self._shared.sessions

    @property
    def auth_required(self) -> bool:
        """Whether clients have to say who they are."""
        return self._shared.authenticator.anonymous is None

    @property
    def seats(self) -> Seats:
        """What accounts and users have of this node."""
        return self._shared.seats

    async def start(self, host: str, port: int, tls: ClientTls | None = None) -> None:
        """Listen. Raises OSError where the address is taken."""
        loop = asyncio.get_running_loop()
        self._host = host
        self._tls = tls
        if tls is None:
            server = await loop.create_server(self._accept, host, port, backlog=BACKLOG)
            self._servers.append(server)
            self._port = server.sockets[0].getsockname()[1]
        else:
            door = TlsDoor(tls, self._shared, lambda session: self._info(session, False))
            self._port = await door.open(host, port, BACKLOG)
            self._door = door
        self._sweep()

    def change(
        self, settings: Settings, authenticator: Authenticator, tls: ClientTls | None
    ) -> None:
        """Other limits, users and certificates from now on: whoever is still allowed stays.

        Whether there is TLS at all does not change. A client over a new limit keeps what it has;
        of a new payload limit it is told.
        """
        shared = self._shared
        told_anew = settings.payload_bytes_max != shared.settings.payload_bytes_max
        shared.settings, shared.authenticator = settings, authenticator
        if self._door is not None and tls is not None:
            self._door.tls = self._tls = tls
        for session in list(shared.sessions.values()):
            session.renew()
            if told_anew:
                session.change_payload_max(settings.payload_bytes_max)
                session.announce()

    async def start_websockets(self, host: str, port: int, origins: Collection[str] = ()) -> int:
        """Listen for browsers too, from pages of `origins` only, where there are any; the port.
        With TLS where clients have it.

        Raises OSError where the address is taken.
        """
        tls = None
        if self._tls is not None:
            tls = self._tls.context
            tls.sni_callback = self._use_newest
        upgrade_s = self._shared.settings.auth_timeout_s

        def accept() -> WebSocket:
            return WebSocket(self._accept, origins, upgrade_s, self._shared.shares)

        loop = asyncio.get_running_loop()
        server = await loop.create_server(accept, host, port, backlog=BACKLOG, ssl=tls)
        self._servers.append(server)
        self._ws_port = int(server.sockets[0].getsockname()[1])
        return self._ws_port

    def set_connect_urls(self, urls: Sequence[str]) -> None:
        """Tell clients where else they may connect (`host:port`); those that take INFO at any time
        hear it now.
        """
        if list(urls) == self._connect_urls:
            return
        self._connect_urls = list(urls)
        for session in self._shared.sessions.values():
            session.announce()

    async def lame_duck(self) -> None:
        """Accept nobody any more, say so, and send clients away one by one over `lame_duck_s`, each
        behind its answers.
        """
        self._lame = True
        self._stop_accepting()
        loop = asyncio.get_running_loop()
        sessions = list(self._shared.sessions.values())
        self._chance.shuffle(sessions)
        for session in sessions:
            session.announce()
        deadline = loop.time() + self._shared.settings.lame_duck_s
        for left in range(len(sessions), 0, -1):
            await asyncio.sleep(max(deadline - loop.time(), 0.0) / (left + 1))
            sessions[left - 1].retire()
        await self._all_gone(deadline - loop.time())

    async def close(self) -> None:
        """Close everything: what was written may leave for CLOSE_WAIT_S, then it is cut."""
        self._stop_accepting()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for session in list(self._shared.sessions.values()):
            session.close()
        await self._all_gone(CLOSE_WAIT_S)
        for connection in list(self._shared.leaving):
            connection.abort()
        await self._all_gone(CLOSE_WAIT_S)

    async def _all_gone(self, within_s: float) -> None:
        if self._shared.sessions or self._shared.leaving:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._shared.empty.wait(), max(within_s, 0.0))

    def _use_newest(self, handshake: SSLObject, _name: str, _first: SSLContext) -> None:
        """A server keeps the context it was started with; each handshake takes the present one."""
        if self._tls is not None:
            handshake.context = self._tls.context

    def _stop_accepting(self) -> None:
        if self._door is not None:
            self._door.close()
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _accept(self) -> Session:
        return Session(self._shared)

    def _sweep(self) -> None:
        """Look after the next slice of connections."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._unswept:
            self._unswept = [*self._shared.sessions.values(), *self._shared.leaving]
            self._slice = len(self._unswept) // SWEEP_SLICES + 1
        for connection in self._unswept[-self._slice :]:
            connection.sweep(now)
        del self._unswept[-self._slice :]
        settings = self._shared.settings
        period = min(SWEEP_S, settings.ping_interval_s / 4, settings.write_deadline_s / 4)
        self._sweeping = loop.call_later(period / SWEEP_SLICES, self._sweep)

    def _info(self, session: Session, connect_info: bool) -> bytes:
        fields: dict[str, Any] = {
            "server_id": self._name.server_id,
            "server_name": self._name.server_name,
            "version": NATS_LEVEL,
            "proto": 1,
            "go": f"python{sys.version_info.major}.{sys.version_info.minor}",
            "host": self._host,
            "port": self._ws_port if session.over_websocket else self._port,
            "headers": True,
            "max_payload": self._shared.settings.payload_bytes_max,
            "client_id": session.connection,
            "client_ip": session.peer[0],
        }
        if self.auth_required:
            fields["auth_required"] = True
        tls = self._tls
        if tls is not None:
            if session.over_websocket:  # wss:// before INFO, whatever the others do; nats-server's
                fields["tls_required"] = fields["tls_available"] = True
            else:
                required = tls.handshake is not Handshake.OPTIONAL
                fields["tls_required" if required else "tls_available"] = True
            if tls.verify:
                fields["tls_verify"] = True
        if session.nonce:
            fields["nonce"] = session.nonce
        if self._connect_urls and not session.over_websocket:  # they speak no websocket
            fields["connect_urls"] = self._connect_urls
        if self._lame:
            fields["ldm"] = True
        if connect_info:
            fields["connect_info"] = True
            fields["remote_account"] = session.account
        fields.update(self._name.extra)
        return encode_info(fields)

"""TLS at the listening socket: who asks for it, who has to, and when the handshake is made.

Made by `listener` where the node has a certificate; hands every socket over to a session once it is
settled whether it speaks TLS. Sockets are accepted here, and not by the event loop, because what a
client says first decides: INFO may go out in clear before the handshake, and a client that speaks
in clear where it may not is told so. `tls` may be replaced at any time; handshakes begun later use
the new one.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ssl import SSLContext
from typing import Final

from mq9cluster.gateway.session import Session
from mq9cluster.gateway.shared import Shared
from mq9cluster.protocol.nats import encode_error

ACCEPTED_PER_TURN_MAX: Final = 64  # a handshake costs about a millisecond
AUTO_WAIT_S: Final = 0.05  # nats-server's: who begins with TLS has said so by then
SHUTDOWN_S: Final = 1.0  # for a client to answer our goodbye
NO_FILES_PAUSE_S: Final = 1.0  # out of file descriptors: accepting goes on when some are free
HANDSHAKE: Final = 0x16  # the first byte of TLS, and of no NATS operation

_log = logging.getLogger(__name__)


class Handshake(StrEnum):
    """When TLS begins."""

    UPGRADE = "upgrade"  # behind INFO, which goes out in clear
    FIRST = "first"  # before everything
    AUTO = "auto"  # before everything with those who begin at once, behind INFO with the others
    OPTIONAL = "optional"  # behind INFO, with those who want it


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What is used for the next handshake. `verify`: clients have to show a certificate."""

    context: SSLContext
    handshake: Handshake = Handshake.UPGRADE
    verify: bool = False


class TlsDoor:
    """Accepts sockets and settles TLS with each, in a task of its own."""

    def __init__(self, tls: ClientTls, shared: Shared, info: Callable[[Session], bytes]) -> None:
        self.tls = tls
        self._shared = shared
        self._info = info
        self._loop = asyncio.get_running_loop()
        self._listening: list[socket.socket] = []
        self._settling: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int, backlog: int) -> int:
        """Listen; the port. Raises OSError where the address is taken."""
        found = await self._loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, *_, address in dict.fromkeys(found):
                # One port, whatever the number of addresses.
                wanted = self._listening[0].getsockname()[1] if self._listening else port
                at = (str(address[0]), wanted)
                listening = socket.create_server(at, family=family, backlog=backlog)
                listening.setblocking(False)
                self._listening.append(listening)
        except OSError:
            self.close()
            raise
        for listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening)
        return int(self._listening[0].getsockname()[1])

    def close(self) -> None:
        """Accept nobody any more, and leave those whose handshake is under way."""
        for listening in self._listening:
            self._loop.remove_reader(listening)
            listening.close()
        self._listening.clear()
        for task in self._settling:
            task.cancel()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_PER_TURN_MAX):
            try:
                client, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("cannot accept", extra={"why": error.strerror})
                self._loop.remove_reader(listening)
                self._loop.call_later(NO_FILES_PAUSE_S, self._accept_again, listening)
                return
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session = Session(self._shared)
            session.peer = (address[0], address[1])
            task = self._loop.create_task(self._settle(client, session))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening)

    async def _settle(self, client: socket.socket, session: Session) -> None:
        """Everything up to the session's first byte. The socket is the session's then, or closed.

        What goes wrong is the client's affair: it is counted, nothing else.
        """
        shared = self._shared
        within_s = shared.settings.auth_timeout_s
        handed_over = False
        # The event loop closes its socket when a handshake fails; the client is told why over this.
        spare = client.dup() if self.tls.verify else None

        def hand_over() -> Session:
            nonlocal handed_over
            handed_over = True
            return session

        try:
            # Handshakes are bounded like connections, beside them; each session looks once more.
            limit = shared.settings.connections_max
            if len(shared.sessions) >= limit or len(self._settling) > limit:
                self._refuse(client, session)
                return
            async with asyncio.timeout(within_s):
                secured = await self._begins_with_tls(client, session)
            if secured is None:
                return
            await self._loop.connect_accepted_socket(
                hand_over,
                client,
                ssl=self.tls.context if secured else None,
                ssl_handshake_timeout=within_s if secured else None,
                ssl_shutdown_timeout=SHUTDOWN_S if secured else None,
            )
        except (OSError, TimeoutError) as error:
            shared.totals.tls_failures += 1
            alert = getattr(error, "alert", b"")
            if alert and spare is not None:
                with contextlib.suppress(OSError):
                    self._say(spare, alert)
        finally:
            if not handed_over:
                client.close()
            if spare is not None:
                spare.close()

    async def _begins_with_tls(self, client: socket.socket, session: Session) -> bool | None:
        """Whether to go on with TLS or in clear; None: not at all."""
        handshake = self.tls.handshake
        if handshake is Handshake.AUTO:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AUTO_WAIT_S):
                    await self._readable(client)
                    handshake = Handshake.FIRST
        if handshake is not Handshake.FIRST:
            client.send(self._info(session))
            session.greeted = True
        await self._readable(client)
        first = client.recv(1, socket.MSG_PEEK)
        if not first:
            return None
        if first[0] == HANDSHAKE:
            return True
        if handshake is Handshake.OPTIONAL:
            return False
        self._shared.totals.tls_failures += 1
        self._say(client, encode_error(b"Secure Connection - TLS Required"))
        return None

    async def _readable(self, client: socket.socket) -> None:
        ready = self._loop.create_future()
        self._loop.add_reader(client, _ring, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(client)

    def _refuse(self, client: socket.socket, session: Session) -> None:
        self._shared.totals.connections += 1
        self._shared.totals.refused_connections += 1
        if self.tls.handshake is not Handshake.FIRST:
            self._say(client, self._info(session) + encode_error(b"maximum connections exceeded"))

    @staticmethod
    def _say(client: socket.socket, last_words: bytes) -> None:
        """What was already sent is read into the void: unread, it would make the end a reset, and
        the last words would be lost.
        """
        client.send(last_words)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(BlockingIOError):
            client.recv(65_536)


def _ring(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)

"""The listening side of gRPC between nodes: connections to us, and a task for each call on them.

Owned by `peers`, which says by a call's path what serves it.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from mq9cluster.cluster import grpc_stream
from mq9cluster.cluster.grpc_connection import GrpcConnection
from mq9cluster.cluster.grpc_stream import GrpcStream
from mq9cluster.cluster.peer_words import PeerRefused, PeerUnavailable, Stream

STOP_S_MAX: Final = 0.5  # for streams to end in order
HANDSHAKE_S_MAX: Final = 2.0  # of TLS
CONNECTIONS_MAX: Final = 1_024  # a peer has one, and one for each snapshot under way
TURNS_TO_CLOSE: Final = 4  # of the event loop, from an accepted socket to a closed one
SILENT_S_MAX: Final = 5.0  # a connection without a call is nobody's

_log = logging.getLogger(__name__)

Serve = Callable[[Stream], Awaitable[None]]


class GrpcServer:
    """Accepts connections and serves calls; implements `grpc_connection.Calls`."""

    def __init__(self, methods: Mapping[str, Serve], tls: ssl.SSLContext | None) -> None:
        self._methods = methods
        self._tls = tls
        self._tls_now = tls
        if tls is not None:
            tls.sni_callback = self._use_newest
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[GrpcConnection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._stopped = False

    def change_tls(self, tls: ssl.SSLContext) -> None:
        """Certificates of the next handshakes."""
        self._tls_now = tls

    def _use_newest(
        self, handshake: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext
    ) -> None:
        """A server keeps the context it was started with; each handshake takes the present one."""
        if self._tls_now is not None:
            handshake.context = self._tls_now

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError."""
        self._server = await self._loop.create_server(
            lambda: GrpcConnection(self),
            host or None,
            port,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_S_MAX if self._tls else None,
        )
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Take no more, wait a moment for calls to end, and close all connections."""
        self._stopped = True
        if self._server:
            await asyncio.sleep(0)  # asyncio leaks a socket that was accepted in this very turn
            self._server.close()
        if self._serving:
            await asyncio.wait(self._serving, timeout=STOP_S_MAX)
        for task in self._serving:
            task.cancel()
        for end in (GrpcConnection.close, GrpcConnection.abort):
            for connection in list(self._connections):
                end(connection)
            for _ in range(TURNS_TO_CLOSE):  # what was just written leaves
                await asyncio.sleep(0)

    def joined(self, connection: GrpcConnection) -> None:
        """Somebody connected to us."""
        self._connections.add(connection)
        if self._stopped or len(self._connections) > CONNECTIONS_MAX:
            connection.abort()
        else:
            self._loop.call_later(SILENT_S_MAX, self._look_at, connection)

    def left(self, connection: GrpcConnection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    def _look_at(self, connection: GrpcConnection) -> None:
        if connection in self._connections:
            if connection.busy:
                self._loop.call_later(SILENT_S_MAX, self._look_at, connection)
            else:
                connection.close()

    def opened(self, stream: GrpcStream) -> None:
        """A call begins."""
        serve = self._methods.get(stream.path)
        if serve is None:
            stream.finish(grpc_stream.UNIMPLEMENTED, "no such method")
            return
        stream.task = task = self._loop.create_task(_serve(serve, stream))
        self._serving.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if not task.cancelled() and task.exception():
            _log.error("a call failed", exc_info=task.exception())


async def _serve(serve: Serve, stream: GrpcStream) -> None:
    """Serve one call, and say how it ended."""
    try:
        await serve(stream)
    except PeerRefused as error:
        stream.finish(grpc_stream.PERMISSION_DENIED, str(error))
    except PeerUnavailable as error:
        stream.finish(grpc_stream.ABORTED, str(error))
    else:
        stream.finish(grpc_stream.OK)
    finally:
        stream.finish(grpc_stream.UNKNOWN, "it could not be served")  # unless that was told

"""The only door to other nodes: gRPC streams, one per purpose and direction.

`node` starts it with a `PeerHandler`; `links`, replicas and routes send through it. Sending never
waits: it puts into a bounded outbox, and one writer per stream sends everything that gathered
since its last write as one message. Each node dials each peer for what it has to say
(`peer_link`); answers come back on the same stream (`peer_service`). Here are only the streams
themselves: channels, the server, TLS, and gRPC's errors as ours.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

# gRPC's core writes to stderr, past all logging, again at every try; what is worth knowing comes
# as an error of a call. It reads this when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Its event engine hands every frame from thread to thread before ours sees it; without it the one
# thread that polls does the reading and writing itself: half of the processor time per frame.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")

import grpc
import grpc.aio

from mq9cluster.cluster.outbox import PIECE_BYTES_MAX
from mq9cluster.cluster.peer_hello import Doorkeeper
from mq9cluster.cluster.peer_link import (
    BACKOFF_S,
    CONNECT_S_MAX,
    PING_S,
    SILENCE_S_MAX,
    Link,
    PeerNumbers,
    until_one_ends,
)
from mq9cluster.cluster.peer_requests import (
    Answered,
    Lost,
    NotSent,
    PeerReply,
    PendingRequest,
    not_sent,
)
from mq9cluster.cluster.peer_service import PeerService
from mq9cluster.cluster.peer_words import (
    Flag,
    PeerHandler,
    PeerIdentity,
    PeerRefused,
    PeerTls,
    PeerUnavailable,
    Stream,
    read,
)
from mq9cluster.cluster.proto import peers_pb2 as pb
from mq9cluster.domain.ports import Clock, Random

# The parts are nobody else's business: whoever talks to peers imports this module.
__all__ = [
    "PING_S",
    "SILENCE_S_MAX",
    "SNAPSHOT_CHUNK_BYTES_MAX",
    "Answered",
    "Flag",
    "Lost",
    "NotSent",
    "PeerHandler",
    "PeerIdentity",
    "PeerNumbers",
    "PeerReply",
    "PeerTls",
    "PeerUnavailable",
    "Peers",
    "PendingRequest",
]

SERVICE: Final = "mq9.peers.v1.Peers"
STREAMS: Final = ("Raft", "Requests", "Routes")
SNAPSHOT: Final = "Snapshot"
SNAPSHOT_CHUNK_BYTES_MAX: Final = 1 << 20  # two or three of them are in memory on either side
MESSAGE_BYTES_MAX: Final = PIECE_BYTES_MAX + (4 << 20)  # the largest piece behind a full frame
WINDOW_BYTES: Final = 4 << 20  # what a stream may be ahead of its reader: a full frame
STOP_S_MAX: Final = 0.5  # for streams to end in order

_log = logging.getLogger(__name__)

_OPTIONS: Final = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel must not inherit an old one's backoff
    ("grpc.so_reuseport", 0),  # a second process on the same port has to fail
    ("grpc.http2.bdp_probe", 0),  # it pings to size windows: a quarter of an idle node's writes
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    ("grpc.enable_retries", 0),  # the same Hello twice; and each message would be kept for it
    ("grpc.enable_http_proxy", 0),  # a proxy for the world is none between nodes
    ("grpc.service_config_disable_resolution", 1),  # no TXT look-ups before each connection
)
_RAW: Final = {"request_serializer": None, "response_deserializer": None}  # bytes: parsed by us
_RAW_SERVED: Final = {"request_deserializer": None, "response_serializer": None}
_BROKEN: Final = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)


def _certificates(tls: PeerTls) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(tls.key, tls.certificate)], root_certificates=tls.authority
    )


class _GrpcStream:
    """A gRPC call, of either side, as a `Stream`."""

    __slots__ = ("_call", "_raw_read", "_raw_write")

    def __init__(self, call: Any) -> None:
        self._call = call
        self._raw_read = call.read
        self._raw_write = call.write

    async def send(self, data: bytes) -> None:
        """Write one message; waits while the other side is slow. Raises PeerUnavailable."""
        try:
            await self._raw_write(data)
        except _BROKEN as error:
            raise _translated(error) from error

    async def receive(self) -> bytes:
        """The next message. Raises PeerUnavailable at the end."""
        try:
            data = await self._raw_read()
        except _BROKEN as error:
            raise _translated(error) from error
        if data is grpc.aio.EOF:
            raise PeerUnavailable("the stream ended")
        return bytes(data)


def _translated(error: Exception) -> PeerUnavailable:
    if not isinstance(error, grpc.aio.AioRpcError):
        return PeerUnavailable(str(error) or type(error).__name__)
    why = error.details() or error.code().name
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        return PeerRefused(f"it refuses us: {why}")
    return PeerUnavailable(why)


class Peers:
    """All other nodes, as this one reaches and is reached by them."""

    def __init__(
        self,
        me: PeerIdentity,
        addresses: Mapping[str, str],
        handler: PeerHandler,
        clock: Clock,
        random: Random,
        tls: PeerTls | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._addresses = {name: at for name, at in addresses.items() if name != me.name}
        self._door = Doorkeeper(me, addresses, self._loop.time)
        self._service = PeerService(self._door, handler, clock)
        self._links = {
            name: Link(name, partial(self._dial, address), self._door, handler, clock, random)
            for name, address in self._addresses.items()
        }
        self._began_s = self._loop.time()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._server: Any = None
        self._stopped = False

    # --- life ------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> int:
        """Listen and begin to dial; the port. Raises OSError where it cannot listen."""
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._methods(),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._tls:
                credentials = grpc.dynamic_ssl_server_credentials(
                    _certificates(self._tls),
                    self._newest_certificates,
                    require_client_authentication=True,
                )
                bound = server.add_secure_port(address, credentials)
            else:
                bound = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(0, "address in use or not ours") from error
        await server.start()
        self._server = server
        for link in self._links.values():
            self._keep_up(link)
        return int(bound)

    def change_tls(self, tls: PeerTls) -> None:
        """Other certificates from the next connection on, in either direction; connections that
        are there stay. Whether there is TLS at all does not change.
        """
        if self._tls is not None:
            self._tls = tls

    def _keep_up(self, link: Link) -> None:
        if not self._stopped:
            task = self._loop.create_task(link.keep_up(), name=f"peer {link.name}")
            self._tasks[link.name] = task
            task.add_done_callback(partial(self._ended, link))

    def _ended(self, link: Link, task: asyncio.Task[None]) -> None:
        """A link ends only when cancelled, or by a mistake in what was called: go on without it."""
        if not task.cancelled():
            _log.error("link failed", extra={"peer": link.name}, exc_info=task.exception())
            self._loop.call_later(BACKOFF_S[1], self._keep_up, link)

    async def stop(self) -> None:
        """Close everything, in less than a second. Requests under way are told about."""
        self._stopped = True
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        self._service.stop()
        if self._server:
            await self._server.stop(STOP_S_MAX)

    # --- sending ---------------------------------------------------------------------------------

    def send_raft(
        self, peer: str, group: int, data: bytes, *, bulk: bool = False, patient: bool = False
    ) -> None:
        """Queue a Raft message; dropped where the peer is down, unknown, or its outbox full.

        A `patient` one may wait a moment for others to leave with.
        """
        link = self._links.get(peer)
        if link:
            link.send_raft(group, data, bulk=bulk, patient=patient)

    def request(
        self, peer: str, kind: int, data: bytes, done: Callable[[PeerReply], None]
    ) -> PendingRequest:
        """Ask `peer`; `done` is called exactly once, later, unless the request is cancelled."""
        link = self._links.get(peer)
        return link.request(kind, data, done) if link else not_sent(done)

    def send_route(self, peer: str, data: bytes) -> bool:
        """Queue a frame of core NATS; False where the peer is down or its outbox full."""
        link = self._links.get(peer)
        return link is not None and link.send_route(data)

    async def send_snapshot(self, peer: str, header: bytes, chunks: AsyncIterator[bytes]) -> bytes:
        """Stream a snapshot, as fast as it is taken; the receiver's result. Raises PeerUnavailable,
        also as soon as the peer gives no sign of life.
        """
        link = self._links.get(peer)
        if link is None or not link.up:
            raise PeerUnavailable(f"no streams to {peer}")
        sending = self._loop.create_task(self._send_snapshot(peer, header, chunks))
        await until_one_ends(sending, link.down.wait())
        if sending.cancelled():
            raise PeerUnavailable(f"{peer} went down")
        return sending.result()

    async def _send_snapshot(self, peer: str, header: bytes, chunks: AsyncIterator[bytes]) -> bytes:
        async with self._channel(self._addresses[peer]) as channel:
            stream = _GrpcStream(channel.stream_stream(f"/{SERVICE}/{SNAPSHOT}", **_RAW)())
            answering = self._loop.create_task(stream.receive())
            answering.add_done_callback(_take_note)
            try:
                first = pb.SnapshotFrame(hello=self._door.hello(peer), header=header)
                await stream.send(first.SerializeToString())
                async for chunk in chunks:
                    if answering.done():
                        break
                    await stream.send(pb.SnapshotFrame(chunk=chunk).SerializeToString())
                else:
                    await stream.send(pb.SnapshotFrame(last=True).SerializeToString())
            except PeerUnavailable:
                # It may have answered without hearing it all: the end overtakes what is written.
                await asyncio.wait((answering,), timeout=CONNECT_S_MAX)
                if not answering.done():
                    answering.cancel()
                    raise
            except BaseException:
                answering.cancel()
                raise
            return read(pb.SnapshotResult, await answering).result

    # --- what is known ---------------------------------------------------------------------------

    @property
    def cluster_id(self) -> str:
        """The cluster this node belongs to; "" before it has learnt it."""
        return self._door.cluster_id

    @cluster_id.setter
    def cluster_id(self, cluster_id: str) -> None:
        self._door.cluster_id = cluster_id

    def know(self, node_ids: Mapping[str, str]) -> None:
        """The node ids the cluster has on record: others under these names are refused."""
        self._door.know(node_ids)

    @property
    def names(self) -> list[str]:
        """All peers."""
        return list(self._links)

    def numbers(self, peer: str) -> PeerNumbers:
        """What there is to tell of one of `names`."""
        return self._links[peer].numbers()

    def is_up(self, peer: str) -> bool:
        """Whether there are streams to `peer`, and it gave a sign of life lately."""
        link = self._links.get(peer)
        return link is not None and link.up

    def silent_ms(self, peer: str) -> int:
        """How long ago `peer` last answered a ping; counted from the start for one never heard."""
        link = self._links.get(peer)
        return link.silent_ms() if link else round((self._loop.time() - self._began_s) * 1000)

    def clock_offset_ms(self, peer: str) -> int | None:
        """How far the peer's wall clock is ahead of ours; None before it is known."""
        link = self._links.get(peer)
        return link.offset_ms if link else None

    # --- streams ---------------------------------------------------------------------------------

    def _channel(self, address: str) -> Any:
        if self._tls is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            self._tls.authority, self._tls.key, self._tls.certificate
        )
        return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)

    @asynccontextmanager
    async def _dial(self, address: str) -> AsyncIterator[Sequence[Stream]]:
        """A fresh connection, and a stream on it for each purpose."""
        async with self._channel(address) as channel:
            yield [
                _GrpcStream(channel.stream_stream(f"/{SERVICE}/{name}", **_RAW)())
                for name in STREAMS
            ]

    def _newest_certificates(self) -> Any:
        """For the next handshake; gRPC asks from threads of its own."""
        return _certificates(self._tls) if self._tls else None

    def _methods(self) -> Any:
        service = self._service
        handlers = (service.raft, service.requests, service.routes, service.snapshot)
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.stream_stream_rpc_method_handler(partial(_serve, serve), **_RAW_SERVED)
                for name, serve in zip((*STREAMS, SNAPSHOT), handlers, strict=True)
            },
        )


def _take_note(answering: "asyncio.Task[bytes]") -> None:
    """Who gave up sending does not ask for the answer any more; asyncio would complain of that."""
    if not answering.cancelled():
        answering.exception()


async def _serve(serve: Callable[[Stream], Awaitable[None]], _: Any, context: Any) -> None:
    """Serve one stream, and say how it ended."""
    try:
        await serve(_GrpcStream(context))
    except PeerRefused as error:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
    except PeerUnavailable as error:
        await context.abort(grpc.StatusCode.ABORTED, str(error))

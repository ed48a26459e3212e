"""The only door to other nodes: gRPC streams, one per purpose and direction.

`node` starts it with a `PeerHandler`; `links`, replicas and routes send through it. Sending never
waits: it puts into a bounded outbox, and one writer per stream sends everything that gathered
since its last write as one message. Each node dials each peer for what it has to say
(`peer_link`); answers come back on the same stream (`peer_service`). The bytes on the wire are the
business of `grpc_connection` and `grpc_server`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from mq9cluster.cluster import peer_tls
from mq9cluster.cluster.grpc_connection import GrpcConnection
from mq9cluster.cluster.grpc_server import GrpcServer
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
_log = logging.getLogger(__name__)


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
        self._addresses = {name: at for name, at in addresses.items() if name != me.name}
        self._door = Doorkeeper(me, addresses, self._loop.time)
        self._service = PeerService(self._door, handler, clock)
        self._links = {
            name: Link(name, partial(self._dial, address), self._door, handler, clock, random)
            for name, address in self._addresses.items()
        }
        self._began_s = self._loop.time()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        service = self._service
        serving = (service.raft, service.requests, service.routes, service.snapshot)
        paths = (f"/{SERVICE}/{name}" for name in (*STREAMS, SNAPSHOT))
        methods = dict(zip(paths, serving, strict=True))
        self._server = GrpcServer(methods, peer_tls.server_context(tls) if tls else None)
        self._tls = peer_tls.client_context(tls) if tls else None
        self._stopped = False

    # --- life ------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> int:
        """Listen and begin to dial; the port. Raises OSError where it cannot listen."""
        bound = await self._server.start(host, port)
        for link in self._links.values():
            self._keep_up(link)
        return bound

    def change_tls(self, tls: PeerTls) -> None:
        """Other certificates from the next connection on, in either direction; connections that
        are there stay. Whether there is TLS at all does not change. Raises ssl.SSLError.
        """
        if self._tls is not None:
            self._server.change_tls(peer_tls.server_context(tls))
            self._tls = peer_tls.client_context(tls)

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
        await self._server.stop()

    # --- sending ---------------------------------------------------------------------------------

    def send_raft(self, peer: str, group: int, data: bytes, *, bulk: bool = False) -> None:
        """Queue a Raft message; dropped where the peer is down, unknown, or its outbox full."""
        link = self._links.get(peer)
        if link:
            link.send_raft(group, data, bulk=bulk)

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
        async with self._dial(self._addresses[peer], (SNAPSHOT,)) as (stream,):
            answering = self._loop.create_task(stream.receive())
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

    @asynccontextmanager
    async def _dial(
        self, address: str, methods: Sequence[str] = STREAMS
    ) -> AsyncIterator[Sequence[Stream]]:
        """A fresh connection, and a stream on it for each purpose. Raises PeerUnavailable."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                _, connection = await self._loop.create_connection(
                    GrpcConnection, host.strip("[]"), int(port), ssl=self._tls
                )
        except TimeoutError as error:
            raise PeerUnavailable("no answer") from error
        except OSError as error:
            raise PeerUnavailable(error.strerror or str(error)) from error
        try:
            yield [connection.open(f"/{SERVICE}/{name}", address) for name in methods]
        finally:
            connection.abort()

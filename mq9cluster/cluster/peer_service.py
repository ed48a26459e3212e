"""What peers say to this node: the answering side of their streams.

`peers` calls it with each stream that was opened. A stream of the same purpose from the same peer
ends the older one: what that one still holds comes from before the peer dialled anew. All streams
of a peer end when it sends no ping for a while, and what it asked is cancelled.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NoReturn

from mq9cluster.cluster.peer_hello import Doorkeeper
from mq9cluster.cluster.peer_link import CONNECT_S_MAX, until_one_ends
from mq9cluster.cluster.peer_pulse import PingAnswers
from mq9cluster.cluster.peer_requests import Served
from mq9cluster.cluster.peer_words import Flag, M, PeerHandler, PeerUnavailable, Stream, read
from mq9cluster.cluster.proto import peers_pb2 as pb
from mq9cluster.domain.ports import Clock

LOOK_S: Final = 0.5
UNHEARD_LOOKS_MAX: Final = 4  # twice what the peer itself waits: it ends its streams first
ROUTE_FRAMES_A_TURN: Final = 256  # a peer that tells all its interest sends thousands at once
_FLAGS: Final = Flag.LEADS_META | Flag.DRAINING | Flag.SLOW_DISK


class _Session:
    """One stream being served; `over` is set when it should end."""

    __slots__ = ("heard", "over", "peer")

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.over = asyncio.Event()
        self.heard = True  # a ping, since somebody looked


class PeerService:
    """Serves all streams that were opened to this node."""

    def __init__(self, door: Doorkeeper, handler: PeerHandler, clock: Clock) -> None:
        self._door = door
        self._handler = handler
        self._clock = clock
        self._sessions: dict[str, dict[object, _Session]] = defaultdict(dict)
        self._stopping = False

    def stop(self) -> None:
        """End all streams in order, soon."""
        self._stopping = True
        for peer in list(self._sessions):
            self._end_all(peer)

    def _end_all(self, peer: str) -> None:
        for session in self._sessions[peer].values():
            session.over.set()

    @contextmanager
    def _session(self, peer: str, purpose: object) -> Iterator[_Session]:
        """A session that takes the place of the one with the same purpose."""
        session = _Session(peer)
        sessions = self._sessions[peer]
        older = sessions.get(purpose)
        if older:
            older.over.set()
        sessions[purpose] = session
        if self._stopping:
            session.over.set()
        try:
            yield session
        finally:
            if sessions.get(purpose) is session:
                del sessions[purpose]

    async def _greet(
        self,
        stream: Stream,
        frame: type[pb.RaftFrame | pb.RequestFrame | pb.RouteFrame],
    ) -> str:
        """Hear and check the Hello of whoever opened a stream, and answer; the peer's name."""
        peer = self._door.check((await _first(stream, frame)).hello)
        await stream.send(frame(hello=self._door.hello(peer)).SerializeToString())
        return peer

    # --- one for each purpose --------------------------------------------------------------------

    async def raft(self, stream: Stream) -> None:
        """Raft's messages and pings. This, and its siblings, raise PeerUnavailable."""
        peer = await self._greet(stream, pb.RaftFrame)
        with self._session(peer, pb.RaftFrame) as session:
            await until_one_ends(
                session.over.wait(), self._read_raft(session, stream), self._until_unheard(session)
            )

    async def _read_raft(self, session: _Session, stream: Stream) -> None:
        answers = PingAnswers()
        loop = asyncio.get_running_loop()
        handler = self._handler
        while True:
            frame = read(pb.RaftFrame, await stream.receive())
            if session.over.is_set():
                return
            if frame.messages:
                handler.on_raft(session.peer, [(m.group, m.data) for m in frame.messages])
            if frame.ping:
                session.heard = True
                now_s = loop.time()
                silent_ms = answers.silent_ms(frame.heard, now_s)
                handler.on_ping(session.peer, Flag(frame.flags & _FLAGS), silent_ms)
                answers.answer(frame.ping, now_s)
                answer = pb.RaftFrame(pong=frame.ping, wall_ms=self._clock.wall_ms())
                await stream.send(answer.SerializeToString())

    async def _until_unheard(self, session: _Session) -> None:
        """End all streams of a peer that is silent for too long.

        Looks are counted, not time: for a node that stood still, that was a look.
        """
        unheard = 0
        while unheard < UNHEARD_LOOKS_MAX:
            await asyncio.sleep(LOOK_S)
            unheard = 0 if session.heard else unheard + 1
            session.heard = False
        self._end_all(session.peer)

    async def requests(self, stream: Stream) -> None:
        """Requests, and the answers to them."""
        peer = await self._greet(stream, pb.RequestFrame)
        served = Served(partial(self._handler.on_request, peer))
        with self._session(peer, pb.RequestFrame) as session:
            try:
                await until_one_ends(
                    session.over.wait(),
                    self._read_requests(session, stream, served),
                    self._write_answers(stream, served),
                    served.overflowed.wait(),
                )
            finally:
                served.end()
        if served.overflowed.is_set():
            raise PeerUnavailable("it does not read its answers")

    @staticmethod
    async def _read_requests(session: _Session, stream: Stream, served: Served) -> None:
        while True:
            frame = read(pb.RequestFrame, await stream.receive())
            if session.over.is_set():
                return
            served.hear(frame.items)

    @staticmethod
    async def _write_answers(stream: Stream, served: Served) -> NoReturn:
        while True:
            frame = pb.RequestFrame(items=await served.outbox.take())
            await stream.send(frame.SerializeToString())

    async def routes(self, stream: Stream) -> None:
        """Core NATS."""
        peer = await self._greet(stream, pb.RouteFrame)
        with self._session(peer, pb.RouteFrame) as session:
            await until_one_ends(session.over.wait(), self._read_routes(session, stream))

    async def _read_routes(self, session: _Session, stream: Stream) -> None:
        while True:
            frame = read(pb.RouteFrame, await stream.receive())
            if session.over.is_set():
                return
            for number, data in enumerate(frame.frames, 1):
                self._handler.on_route(session.peer, data)
                if number % ROUTE_FRAMES_A_TURN == 0:
                    await asyncio.sleep(0)
                    if session.over.is_set():
                        return

    async def snapshot(self, stream: Stream) -> None:
        """A snapshot: its chunks are read as fast as the handler takes them, one at a time."""
        first = await _first(stream, pb.SnapshotFrame)
        peer = self._door.check(first.hello)
        with self._session(peer, stream) as session:
            await until_one_ends(session.over.wait(), self._install(peer, first.header, stream))

    async def _install(self, peer: str, header: bytes, stream: Stream) -> None:
        result = await self._handler.on_snapshot(peer, header, _chunks(stream))
        await stream.send(pb.SnapshotResult(result=result).SerializeToString())


async def _first(stream: Stream, frame: type[M]) -> M:
    """The first frame. Raises PeerUnavailable where none comes."""
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            return read(frame, await stream.receive())
    except TimeoutError as error:
        raise PeerUnavailable("no hello") from error


async def _chunks(stream: Stream) -> AsyncIterator[bytes]:
    """The chunks of a snapshot. Raises PeerUnavailable where it is not complete."""
    while True:
        frame = read(pb.SnapshotFrame, await stream.receive())
        if frame.last:
            return
        yield frame.chunk

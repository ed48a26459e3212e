"""What this node says to one peer, and the answers: dials, talks until it breaks, dials again.

One stream for Raft and pings, one for requests, one for routes; each has an outbox and a writer
that sends everything that gathered since its last write as one frame. When one stream breaks, all
end together, what is queued is dropped, requests under way are told about, and dialling begins
anew. `peers` makes one for each peer and opens streams for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple, NoReturn

from mq9cluster.cluster.outbox import Outbox
from mq9cluster.cluster.peer_hello import UNREACHED, Doorkeeper
from mq9cluster.cluster.peer_pulse import Pulse
from mq9cluster.cluster.peer_requests import Asked, PeerReply, PendingRequest, not_sent
from mq9cluster.cluster.peer_words import (
    PeerHandler,
    PeerRefused,
    PeerUnavailable,
    Stream,
    read,
)
from mq9cluster.cluster.proto import peers_pb2 as pb
from mq9cluster.domain.ports import Clock, Random

RAFT_OUTBOX_BYTES_MAX: Final = 64 << 20  # beyond it messages are dropped; Raft is made for that
ROUTE_OUTBOX_BYTES_MAX: Final = 64 << 20  # nats-server's bound for one slow connection
PING_S: Final = 0.25
SILENCE_S_MAX: Final = 1.0  # without an answered ping the peer counts as gone
CONNECT_S_MAX: Final = 1.0
BACKOFF_S: Final = (0.05, 0.4)  # between two tries, at random: peers do not dial in step
COMPLAIN_S: Final = 5.0  # for so long not reaching a peer is what starts and restarts look like

_log = logging.getLogger(__name__)

Dial = Callable[[], AbstractAsyncContextManager[Sequence[Stream]]]


class PeerNumbers(NamedTuple):
    """What there is to tell of one peer."""

    up: bool
    connects: int
    sent_frames: int
    sent_bytes: int
    dropped: int  # Raft's messages, for want of a connection or of room
    waiting_bytes: int


class Link:
    """The way to one peer."""

    def __init__(
        self,
        name: str,
        dial: Dial,
        door: Doorkeeper,
        handler: PeerHandler,
        clock: Clock,
        random: Random,
    ) -> None:
        self.name = name
        self.up = False
        self.down = asyncio.Event()  # set while there are no streams
        self.down.set()
        self._dial = dial
        self._door = door
        self._handler = handler
        self._clock = clock
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(self._loop.time())
        self._told_up = False
        self._down_since_s = self._loop.time()
        self._connects = 0
        self._dropped = 0
        self._sent_bytes = 0
        self._sent_frames = 0
        self._begin()

    def _begin(self) -> None:
        self._raft: Outbox[tuple[int, bytes] | None] = Outbox(RAFT_OUTBOX_BYTES_MAX)  # None: a ping
        self._routes: Outbox[bytes] = Outbox(ROUTE_OUTBOX_BYTES_MAX)
        self._asked = Asked()

    # --- sending ---------------------------------------------------------------------------------

    def send_raft(self, group: int, data: bytes, *, bulk: bool, patient: bool) -> None:
        """Queue a Raft message, or drop it."""
        piece = (group, data)
        if not self.up or not self._raft.put(piece, len(data), urgent=not bulk, patient=patient):
            self._dropped += 1

    def send_route(self, data: bytes) -> bool:
        """Queue a frame of core NATS, if there is a connection and room."""
        return self.up and self._routes.put(data, len(data))

    def request(self, kind: int, data: bytes, done: Callable[[PeerReply], None]) -> PendingRequest:
        """Ask; `done` is called exactly once, later, unless the request is cancelled."""
        return self._asked.ask(kind, data, done) if self.up else not_sent(done)

    # --- what is known ---------------------------------------------------------------------------

    def silent_ms(self) -> int:
        """How long ago the peer last gave a sign of life."""
        return max(0, round(self._pulse.silent_s(self._loop.time()) * 1000))

    @property
    def offset_ms(self) -> int | None:
        """How far the peer's wall clock is ahead of ours; None where it is not known now."""
        return self._pulse.offset_ms if self.up else None

    def numbers(self) -> PeerNumbers:
        """What there is to tell."""
        waiting = self._raft.bytes + self._routes.bytes + self._asked.outbox.bytes
        sent = (self._sent_frames, self._sent_bytes)
        return PeerNumbers(self.up, self._connects, *sent, self._dropped, waiting)

    # --- the connection --------------------------------------------------------------------------

    async def keep_up(self) -> None:
        """Dial, talk until it breaks, and dial again, until cancelled."""
        while True:
            self._went_down()  # also after a failure that nobody foresaw
            try:
                await self._talk()
            except (TimeoutError, PeerUnavailable) as error:
                self._tell(error)
            finally:
                self._break_off()
            self._went_down()
            low, high = BACKOFF_S
            part = int.from_bytes(self._random.token(2), "big") / 0xFFFF
            await asyncio.sleep(low + part * (high - low))

    def _tell(self, error: Exception) -> None:
        """Warn of what lasts; the rest, peers coming and going, `on_down` tells."""
        why = str(error) or "no answer"
        _log.debug("peer %s: %s", self.name, why)
        if isinstance(error, PeerRefused):
            self._door.complain(self.name, why, dialled=True)
        elif not self.up and self._loop.time() - self._down_since_s > COMPLAIN_S:
            self._door.complain(self.name, why, dialled=True, what=UNREACHED)

    async def _talk(self) -> None:
        async with self._dial() as streams:
            raft, requests, routes = streams
            async with asyncio.timeout(CONNECT_S_MAX):
                await self._greet(raft, pb.RaftFrame)
                await self._greet(requests, pb.RequestFrame)
                await self._greet(routes, pb.RouteFrame)
            self._came_up()
            await until_one_ends(
                self._write_raft(raft),
                self._read_raft(raft),
                self._write_requests(requests),
                self._read_requests(requests),
                self._write_routes(routes),
                self._read_routes(routes),
                self._ping(self._loop.time()),
            )

    async def _greet(
        self, stream: Stream, frame: type[pb.RaftFrame | pb.RequestFrame | pb.RouteFrame]
    ) -> None:
        await stream.send(frame(hello=self._door.hello(self.name)).SerializeToString())
        self._door.check(read(frame, await stream.receive()).hello, self.name)

    def _came_up(self) -> None:
        self._begin()
        self._pulse.begin(self._loop.time())
        self._connects += 1
        self.up = True
        self.down.clear()
        self._door.forget(self.name)
        self._told_up = True
        self._handler.on_up(self.name)

    def _break_off(self) -> None:
        """Nothing that is queued will be sent, nothing asked be answered."""
        asked = self._asked
        self._begin()
        asked.break_off()
        self.down.set()
        if self.up:
            self.up = False
            self._down_since_s = self._loop.time()

    def _went_down(self) -> None:
        if self._told_up:
            self._told_up = False
            self._handler.on_down(self.name)

    async def _ping(self, due_s: float) -> NoReturn:
        """From `due_s` on. A turn that comes late came to a node that did not listen either."""
        first = True
        while True:
            now_s = self._loop.time()
            self._pulse.overslept(max(0.0, now_s - due_s), now_s)
            if self._pulse.silent_s(now_s) > SILENCE_S_MAX:
                raise PeerUnavailable(f"no sign of life for {SILENCE_S_MAX} s")
            self._raft.put(None, 0, urgent=True, always=True, patient=not first)
            first = False
            due_s = now_s + PING_S
            await asyncio.sleep(PING_S)

    # --- writers and readers ---------------------------------------------------------------------

    async def _write(self, stream: Stream, data: bytes) -> None:
        self._sent_frames += 1
        self._sent_bytes += len(data)
        await stream.send(data)

    async def _write_raft(self, stream: Stream) -> NoReturn:
        while True:
            frame = pb.RaftFrame()
            add = frame.messages.add
            for message in await self._raft.take():
                if message is None:
                    now_s = self._loop.time()
                    frame.ping = self._pulse.ping(now_s)
                    frame.heard = self._pulse.heard
                    frame.flags = self._handler.flags()
                else:
                    add(group=message[0], data=message[1])
            await self._write(stream, frame.SerializeToString())

    async def _read_raft(self, stream: Stream) -> NoReturn:
        while True:
            frame = read(pb.RaftFrame, await stream.receive())
            now_s = self._loop.time()
            self._pulse.answered(frame.pong, frame.wall_ms, now_s, self._clock.wall_ms())

    async def _write_requests(self, stream: Stream) -> NoReturn:
        outbox = self._asked.outbox
        while True:
            frame = pb.RequestFrame(items=await outbox.take())
            await self._write(stream, frame.SerializeToString())

    async def _read_requests(self, stream: Stream) -> NoReturn:
        while True:
            self._asked.hear(read(pb.RequestFrame, await stream.receive()).items)

    async def _write_routes(self, stream: Stream) -> NoReturn:
        while True:
            frame = pb.RouteFrame(frames=await self._routes.take())
            await self._write(stream, frame.SerializeToString())

    async def _read_routes(self, stream: Stream) -> NoReturn:
        """Nothing is said here after the Hello, but the end is heard."""
        while True:
            await stream.receive()


async def until_one_ends(*work: Awaitable[object]) -> None:
    """Run all until one ends or fails, then end the others. Raises what it raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        # Collects what the others end with, and, unlike awaiting each, never takes a cancellation
        # of this one for one of theirs.
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
    for task in done:
        if task.cancelled():  # gRPC's way to say that the call was cancelled
            raise PeerUnavailable("the stream was cancelled")
        task.result()

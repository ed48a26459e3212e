"""One gRPC call between nodes: a stream of messages each way, as `peer_words.Stream`.

`grpc_connection` hands it what arrives and carries what it sends; `peers` opens and serves streams.
A message is a byte of flags, its length, and its bytes; it may be cut into DATA frames anywhere.
What the other side may send ahead is bounded by STREAM_WINDOW: more of it is allowed only as
messages are received.
"""

import asyncio
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Final

from mq9cluster.cluster import http2
from mq9cluster.cluster.http2 import Code, Kind, ProtocolBroken
from mq9cluster.cluster.outbox import PIECE_BYTES_MAX
from mq9cluster.cluster.peer_words import PeerRefused, PeerUnavailable

if TYPE_CHECKING:
    from mq9cluster.cluster.grpc_connection import GrpcConnection

STREAM_WINDOW: Final = 2 << 20  # sent ahead of the reader: two chunks of a snapshot
MESSAGE_BYTES_MAX: Final = PIECE_BYTES_MAX + (4 << 20)  # the largest piece behind a full frame
PREFIX: Final = Struct(">BI")
OK, UNKNOWN, PERMISSION_DENIED, ABORTED, UNIMPLEMENTED = 0, 2, 7, 10, 12  # of gRPC's status codes


class GrpcStream:
    """A call, of either side. All sending is of one task at a time, and so is all receiving."""

    __slots__ = (
        "_connection",
        "_heard_end",
        "_messages",
        "_owed",
        "_partial",
        "_reading",
        "_room",
        "_unread",
        "answered",
        "number",
        "over",
        "path",
        "task",
        "window",
    )

    def __init__(self, connection: "GrpcConnection", number: int, path: str, window: int) -> None:
        self.number = number
        self.path = path
        self.window = window  # what may be sent
        self.over: PeerUnavailable | None = None  # why nothing more can be sent
        self.answered = False  # as server: the first headers are sent
        self.task: asyncio.Task[None] | None = None  # as server: what ends with the stream
        self._connection = connection
        self._heard_end = False
        self._messages: deque[bytes] = deque()
        self._unread = 0  # their bytes
        self._owed = 0  # received, and not yet allowed anew
        self._partial = bytearray()
        self._reading: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    # --- for whoever talks over it ---------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Write one message; waits while the other side is slow. Raises PeerUnavailable."""
        connection = self._connection
        size = len(data) + 5
        if self.over:
            raise self.over
        if not self.answered:
            connection.answer(self)
        if size <= self.window and size <= connection.frame_room():
            self.window -= size
            connection.window -= size
            start = http2.head(Kind.DATA, 0, self.number, size) + PREFIX.pack(0, size - 5)
            connection.write(start + data)
        else:
            await self._send_in_pieces(memoryview(PREFIX.pack(0, size - 5) + data))

    async def _send_in_pieces(self, left: memoryview) -> None:
        connection = self._connection
        while left:
            if self.over:
                raise self.over
            room = min(self.window, connection.frame_room())
            if room <= 0:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
                continue
            piece, left = left[:room], left[room:]
            self.window -= len(piece)
            connection.window -= len(piece)
            connection.write(http2.head(Kind.DATA, 0, self.number, len(piece)) + piece)

    async def receive(self) -> bytes:
        """The next message. Raises PeerUnavailable at the end."""
        while not self._messages:
            if self.over:
                raise self.over
            if self._heard_end:
                raise PeerUnavailable("the stream ended")
            self._reading = asyncio.get_running_loop().create_future()
            await self._reading
        message = self._messages.popleft()
        self._unread -= len(message)
        self._allow_more()
        return message

    def finish(self, status: int, why: str = "") -> None:
        """As server: this was all, and why."""
        if not self.over:
            self._connection.finish(self, status, why, cut_off=not self._heard_end)
            self.broken(PeerUnavailable("the stream was ended here"))

    # --- for the connection ----------------------------------------------------------------------

    def take(self, payload: bytes) -> None:
        """DATA has arrived. Raises ProtocolBroken."""
        size = len(payload)
        if size + self._owed > STREAM_WINDOW:
            raise ProtocolBroken(Code.FLOW_CONTROL_ERROR, "more than was allowed")
        self._owed += size
        if not self._partial and size >= 5 and PREFIX.unpack_from(payload) == (0, size - 5):
            self._arrived(payload[5:])  # as nearly all do: one message, one frame
        elif size:
            self._partial += payload
            self._cut()
        self._allow_more()

    def _cut(self) -> None:
        while len(self._partial) >= 5:
            flags, size = PREFIX.unpack_from(self._partial)
            if flags:
                raise ProtocolBroken(Code.PROTOCOL_ERROR, "a compressed message")
            if size > MESSAGE_BYTES_MAX:
                raise ProtocolBroken(Code.ENHANCE_YOUR_CALM, f"a message of {size} bytes")
            if len(self._partial) < 5 + size:
                return
            self._arrived(bytes(self._partial[5 : 5 + size]))
            del self._partial[: 5 + size]

    def _arrived(self, message: bytes) -> None:
        self._messages.append(message)
        self._unread += len(message)
        self._wake(self._reading)

    def _allow_more(self) -> None:
        if self._owed >= STREAM_WINDOW // 4 and self._unread < STREAM_WINDOW // 2:
            if not self._heard_end and not self.over:
                self._connection.write(http2.window_update(self.number, self._owed))
            self._owed = 0

    def may_go_on(self) -> None:
        """There may be room for more to be sent."""
        self._wake(self._room)

    def heard_end(self) -> None:
        """The other side has said all it wanted to."""
        self._heard_end = True
        self._wake(self._reading)

    def broken(self, why: PeerUnavailable) -> None:
        """It is over: what was received can still be read, nothing more be sent."""
        if self.over is None:
            self.over = why
            self._wake(self._reading)
            self._wake(self._room)

    @staticmethod
    def _wake(waiter: "asyncio.Future[None] | None") -> None:
        if waiter and not waiter.done():
            waiter.set_result(None)


def ended_with(status: int, why: str) -> PeerUnavailable:
    """The end of a call as its server told it."""
    if status == OK:
        return PeerUnavailable("the stream ended")
    if status == PERMISSION_DENIED:
        return PeerRefused(f"it refuses us: {why}")
    return PeerUnavailable(why or f"status {status}")

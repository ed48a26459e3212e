"""gRPC over one connection, spoken by ourselves: HTTP/2 streams on an asyncio transport.

gRPC's own library takes several thread hand-overs and ten times the processor time for a message
(docs/adr/0019); on the wire there is no difference, and the tests of peers talk to a node with
gRPC's own. `peers` opens connections and listens; each call is a `grpc_stream.GrpcStream`.

Both sides of a connection are this class: a client serves no `Calls`, and opens streams itself.
Everything that is written in a turn of the event loop leaves as one write.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast
from urllib.parse import quote, unquote

import hpack

from mq9cluster.cluster import http2
from mq9cluster.cluster.grpc_stream import (
    STREAM_WINDOW,
    UNIMPLEMENTED,
    UNKNOWN,
    GrpcStream,
    ended_with,
)
from mq9cluster.cluster.http2 import Code, Frame, FrameReader, Kind, ProtocolBroken, Setting
from mq9cluster.cluster.peer_words import PeerUnavailable

STREAMS_MAX: Final = 64  # of one connection; a peer has three, and one for each snapshot
HEADER_LIST_BYTES_MAX: Final = 16_384
CONNECTION_WINDOW: Final = 1 << 30  # streams bound themselves; none may hold up the others
UNREAD_BYTES_MAX: Final = 96 << 20  # a client that asks and never reads is cut off
_MESSAGE_SAFE: Final = " !\"#$&'()*+,-./:;<=>?@[]^_`{|}~"  # of gRPC's percent-encoding

Headers = list[tuple[str, str]]


class Calls(Protocol):
    """What a server does with connections and the calls on them."""

    def joined(self, connection: "GrpcConnection") -> None:
        """It is open."""

    def left(self, connection: "GrpcConnection") -> None:
        """It is gone."""

    def opened(self, stream: GrpcStream) -> None:
        """A call begins."""


class GrpcConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self, calls: Calls | None = None) -> None:
        self.window = http2.WINDOW_DEFAULT  # what may be sent, all streams together
        self._calls = calls
        self._transport: asyncio.Transport
        self._frames = FrameReader(STREAM_WINDOW)
        self._preface = http2.PREFACE if calls else b""  # still to come
        self._greeted = False  # the other side's SETTINGS have come
        self._streams: dict[int, GrpcStream] = {}
        self._last = 0 if calls else -1  # the number of the newest stream
        self._received = 0
        self._paused = False
        self._over: PeerUnavailable | None = None
        self._frame_bytes_max = http2.FRAME_BYTES_DEFAULT
        self._stream_window = http2.WINDOW_DEFAULT
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(HEADER_LIST_BYTES_MAX)
        self._headers: tuple[int, int, bytes] | None = None  # unfinished: stream, flags, block

    # --- for peers -------------------------------------------------------------------------------

    def open(self, path: str, authority: str) -> GrpcStream:
        """As client, begin a call. Raises PeerUnavailable."""
        if self._over:
            raise self._over
        self._last += 2
        stream = GrpcStream(self, self._last, path, self._stream_window)
        stream.answered = True
        self._streams[stream.number] = stream
        asked = [(":method", "POST"), (":scheme", "http"), (":path", path)]
        asked += [(":authority", authority), ("te", "trailers")]
        asked += [("content-type", "application/grpc"), ("user-agent", "mq9cluster")]
        self._send_headers(stream.number, asked)
        return stream

    @property
    def busy(self) -> bool:
        """Whether calls are under way."""
        return bool(self._streams)

    def close(self) -> None:
        """End it, once what was written has left; calls under way are over."""
        if not self._over:
            self.write(http2.goaway(max(self._last, 0), Code.NO_ERROR))
            self._transport.close()
            self._end(PeerUnavailable("the connection was closed here"))

    def abort(self) -> None:
        """End it now."""
        self._transport.abort()
        self._end(PeerUnavailable("the connection was closed here"))

    # --- for streams -----------------------------------------------------------------------------

    def frame_room(self) -> int:
        """How large a frame of DATA may be written now; 0 while the other side is slow."""
        return 0 if self._paused else min(self.window, self._frame_bytes_max)

    def write(self, data: bytes) -> None:
        """Write whole frames."""
        if not self._over:
            self._transport.write(data)

    def answer(self, stream: GrpcStream) -> None:
        """As server, send the headers before the first message."""
        stream.answered = True
        self._send_headers(
            stream.number, [(":status", "200"), ("content-type", "application/grpc")]
        )

    def finish(self, stream: GrpcStream, status: int, why: str, *, cut_off: bool) -> None:
        """As server, end a call."""
        said: Headers = [] if stream.answered else [(":status", "200")]
        if not stream.answered:
            said.append(("content-type", "application/grpc"))
        said.append(("grpc-status", str(status)))
        if why:
            said.append(("grpc-message", quote(why, safe=_MESSAGE_SAFE)))
        self._send_headers(stream.number, said, http2.END_STREAM)
        if cut_off:
            self.write(http2.reset(stream.number, Code.NO_ERROR))
        self._streams.pop(stream.number, None)

    def _send_headers(self, stream: int, headers: Headers, flags: int = 0) -> None:
        block = self._encoder.encode(headers)
        self.write(http2.frame(Kind.HEADERS, flags | http2.END_HEADERS, stream, block))

    # --- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what we take."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by name
        said = [
            (Setting.STREAMS_MAX, STREAMS_MAX),
            (Setting.INITIAL_WINDOW, STREAM_WINDOW),
            (Setting.FRAME_BYTES_MAX, STREAM_WINDOW),
            (Setting.HEADER_LIST_BYTES_MAX, HEADER_LIST_BYTES_MAX),
        ]
        if self._calls is None:
            said.append((Setting.ENABLE_PUSH, 0))
        more = http2.window_update(0, CONNECTION_WINDOW - http2.WINDOW_DEFAULT)
        self.write((b"" if self._calls else http2.PREFACE) + http2.settings(said) + more)
        if self._calls:
            self._calls.joined(self)

    def data_received(self, data: bytes) -> None:
        """Frames, or parts of them."""
        if self._over:
            return
        try:
            if self._preface:
                data = self._without_preface(data)
            for frame in self._frames.feed(data):
                if frame.kind == http2.DATA:
                    self._on_data(frame)
                else:
                    self._on_control(frame)
        except ProtocolBroken as error:
            self._break(error.code, str(error))
        except hpack.HPACKError as error:
            self._break(Code.COMPRESSION_ERROR, str(error))

    def _without_preface(self, data: bytes) -> bytes:
        seen = min(len(data), len(self._preface))
        if data[:seen] != self._preface[:seen]:
            raise ProtocolBroken(Code.PROTOCOL_ERROR, "no HTTP/2")
        self._preface = self._preface[seen:]
        return data[seen:]

    def pause_writing(self) -> None:
        """The other side is slow."""
        self._paused = True
        if self._transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self._break(Code.ENHANCE_YOUR_CALM, "it does not read")

    def resume_writing(self) -> None:
        """It has caught up."""
        self._paused = False
        self._go_on()

    def eof_received(self) -> bool:
        """Half a connection is none."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """All calls are over."""
        self._end(PeerUnavailable(f"the connection broke: {exc or 'closed by the other side'}"))
        if self._calls:
            self._calls.left(self)

    def _break(self, code: Code, why: str) -> None:
        """The other side has done what it must not."""
        if not self._over:
            self.write(http2.goaway(max(self._last, 0), code, why))
            self._transport.close()
            self._end(PeerUnavailable(why))

    def _end(self, why: PeerUnavailable) -> None:
        if self._over:
            return
        self._over = why
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            self._lose(stream, why)

    @staticmethod
    def _lose(stream: GrpcStream, why: PeerUnavailable) -> None:
        stream.broken(why)
        if stream.task:
            stream.task.cancel()

    def _go_on(self) -> None:
        for stream in list(self._streams.values()):
            stream.may_go_on()

    # --- frames ----------------------------------------------------------------------------------

    def _on_data(self, frame: Frame) -> None:
        self._received += len(frame.payload)
        if self._received >= CONNECTION_WINDOW // 4:
            self.write(http2.window_update(0, self._received))
            self._received = 0
        stream = self._streams.get(frame.stream)
        if stream is None:
            if not self._was_open(frame.stream):
                raise ProtocolBroken(Code.PROTOCOL_ERROR, "DATA of no stream")
            return  # it ended here, and this was under way
        if frame.flags & http2.PADDED:
            stream.take(http2.without_padding(frame.flags & http2.PADDED, frame.payload))
        else:
            stream.take(frame.payload)
        if frame.flags & http2.END_STREAM:
            self._heard_end(stream)

    def _was_open(self, number: int) -> bool:
        return number % 2 == 1 and number <= self._last

    def _heard_end(self, stream: GrpcStream) -> None:
        stream.heard_end()
        if self._calls is None:  # a server that ends a stream without a status
            self._streams.pop(stream.number, None)
            stream.broken(PeerUnavailable("the stream ended"))

    def _on_control(self, frame: Frame) -> None:
        if self._headers and frame.kind != Kind.CONTINUATION:
            raise ProtocolBroken(Code.PROTOCOL_ERROR, "headers that do not go on")
        if not self._greeted and frame.kind != Kind.SETTINGS:
            raise ProtocolBroken(Code.PROTOCOL_ERROR, "no SETTINGS first")
        handler = _HANDLERS.get(frame.kind)
        if handler:
            handler(self, frame)

    def _on_settings(self, frame: Frame) -> None:
        self._greeted = True
        if frame.flags & http2.ACK:
            return
        for setting, value in http2.read_settings(frame.payload):
            if setting == Setting.INITIAL_WINDOW:
                if value > http2.WINDOW_MAX:
                    raise ProtocolBroken(Code.FLOW_CONTROL_ERROR, "too large a window")
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif setting == Setting.HEADER_TABLE_BYTES:
                self._encoder.header_table_size = min(value, http2.HEADER_TABLE_BYTES)
            elif setting == Setting.FRAME_BYTES_MAX:
                if not http2.FRAME_BYTES_DEFAULT <= value < 2**24:
                    raise ProtocolBroken(Code.PROTOCOL_ERROR, "frames of an odd size")
                self._frame_bytes_max = value
        self.write(http2.frame(Kind.SETTINGS, http2.ACK, 0))
        self._go_on()

    def _on_window_update(self, frame: Frame) -> None:
        more = http2.read_number(frame.payload)
        if not frame.stream:
            self.window += more
            if self.window > http2.WINDOW_MAX:
                raise ProtocolBroken(Code.FLOW_CONTROL_ERROR, "too large a window")
            self._go_on()
        elif stream := self._streams.get(frame.stream):
            stream.window += more
            if stream.window > http2.WINDOW_MAX:
                raise ProtocolBroken(Code.FLOW_CONTROL_ERROR, "too large a window")
            stream.may_go_on()

    def _on_ping(self, frame: Frame) -> None:
        if len(frame.payload) != 8:
            raise ProtocolBroken(Code.FRAME_SIZE_ERROR, "a PING of an odd size")
        if not frame.flags & http2.ACK:
            self._write_reply(http2.frame(Kind.PING, http2.ACK, 0, frame.payload))

    def _write_reply(self, data: bytes) -> None:
        """Nobody is to fill our memory with answers that are not read."""
        if self._transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            raise ProtocolBroken(Code.ENHANCE_YOUR_CALM, "it does not read")
        self.write(data)

    def _on_reset(self, frame: Frame) -> None:
        code = http2.read_number(frame.payload)
        stream = self._streams.pop(frame.stream, None)
        if stream:
            self._lose(stream, PeerUnavailable(f"the stream was reset ({code})"))

    def _on_goaway(self, _: Frame) -> None:
        """No new calls; those under way go on until the connection ends."""

    def _on_push(self, _: Frame) -> None:
        raise ProtocolBroken(Code.PROTOCOL_ERROR, "a PUSH_PROMISE")

    def _on_headers(self, frame: Frame) -> None:
        flags = frame.flags
        block = http2.without_padding(flags, frame.payload)
        self._gather(frame.stream, flags, block, done=bool(flags & http2.END_HEADERS))

    def _on_continuation(self, frame: Frame) -> None:
        if not self._headers or self._headers[0] != frame.stream:
            raise ProtocolBroken(Code.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        number, flags, block = self._headers
        done = bool(frame.flags & http2.END_HEADERS)
        self._gather(number, flags, block + frame.payload, done=done)

    def _gather(self, number: int, flags: int, block: bytes, *, done: bool) -> None:
        if len(block) > http2.CONTROL_FRAME_BYTES_MAX:
            raise ProtocolBroken(Code.ENHANCE_YOUR_CALM, "too many headers")
        self._headers = None if done else (number, flags, block)
        if done:
            headers = {str(name): str(value) for name, value in self._decoder.decode(block)}
            if self._calls:
                self._asked(self._calls, number, headers, ended=bool(flags & http2.END_STREAM))
            else:
                self._heard_headers(number, headers, ended=bool(flags & http2.END_STREAM))

    def _asked(self, calls: Calls, number: int, headers: dict[str, str], *, ended: bool) -> None:
        """As server: a call begins, or, where it is known, its client's trailers end it."""
        if number in self._streams:
            self._streams[number].heard_end()
            return
        if number % 2 == 0 or number <= self._last:
            raise ProtocolBroken(Code.PROTOCOL_ERROR, "a stream with an odd number")
        self._last = number
        if len(self._streams) >= STREAMS_MAX:
            self._write_reply(http2.reset(number, Code.REFUSED_STREAM))
            return
        stream = GrpcStream(self, number, headers.get(":path", ""), self._stream_window)
        self._streams[number] = stream
        if ended:
            stream.heard_end()
        if headers.get("content-type", "").startswith("application/grpc"):
            calls.opened(stream)
        else:
            stream.finish(UNIMPLEMENTED, "only gRPC is spoken here")

    def _heard_headers(self, number: int, headers: dict[str, str], *, ended: bool) -> None:
        """As client: the server answers, or says how the call ended."""
        stream = self._streams.get(number)
        if stream is None or not ended:
            return
        del self._streams[number]
        status = headers.get("grpc-status", "")
        code = int(status) if status.isascii() and status.isdigit() else UNKNOWN
        stream.broken(ended_with(code, unquote(headers.get("grpc-message", ""))))


_HANDLERS: Final[dict[int, Callable[[GrpcConnection, Frame], None]]] = {
    Kind.HEADERS: GrpcConnection._on_headers,
    Kind.RST_STREAM: GrpcConnection._on_reset,
    Kind.SETTINGS: GrpcConnection._on_settings,
    Kind.PUSH_PROMISE: GrpcConnection._on_push,
    Kind.PING: GrpcConnection._on_ping,
    Kind.GOAWAY: GrpcConnection._on_goaway,
    Kind.WINDOW_UPDATE: GrpcConnection._on_window_update,
    Kind.CONTINUATION: GrpcConnection._on_continuation,
}

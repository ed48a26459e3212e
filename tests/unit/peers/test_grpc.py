"""gRPC as we speak it: with its own library on the other side, and with speakers of nonsense."""

import asyncio
import struct
from contextlib import suppress

import grpc
import grpc.aio
import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9cluster.cluster import grpc_connection, http2
from mq9cluster.cluster.grpc_connection import GrpcConnection
from mq9cluster.cluster.grpc_server import GrpcServer
from mq9cluster.cluster.grpc_stream import MESSAGE_BYTES_MAX, STREAM_WINDOW
from mq9cluster.cluster.http2 import Code, Frame, FrameReader, Kind, ProtocolBroken
from mq9cluster.cluster.peer_words import PeerRefused, PeerUnavailable

ENOUGH_S = 30.0
SIZES = [0, 1, 16_384, 70_000, STREAM_WINDOW - 5, STREAM_WINDOW, 3 << 20, 20 << 20]
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
ECHO = "/mq9.test/Echo"
REFUSE = "/mq9.test/Refuse"
WHY = "nö: 100 %, and\na line"


class Theirs:
    """A server of gRPC's own."""

    async def __aenter__(self):
        async def echo(_, context):
            while (data := await context.read()) is not grpc.aio.EOF:
                await context.write(data)

        async def refuse(_, context):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, WHY)

        methods = {"Echo": echo, "Refuse": refuse}
        handlers = {
            name: grpc.stream_stream_rpc_method_handler(one) for name, one in methods.items()
        }
        self.server = grpc.aio.server(options=OPTIONS)
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("mq9.test", handlers),)
        )
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        _, self.connection = await asyncio.get_running_loop().create_connection(
            GrpcConnection, "127.0.0.1", port
        )
        return self

    async def __aexit__(self, *_):
        self.connection.abort()
        await self.server.stop(0)

    def open(self, path):
        return self.connection.open(path, "localhost")


async def _echo(stream):
    while True:
        await stream.send(await stream.receive())


async def _refuse(stream):
    await stream.receive()
    raise PeerRefused(WHY)


async def _fail(stream):
    raise LookupError("a mistake of ours")


@pytest.fixture
async def ours():
    """A server of ours; its port."""
    cancelled = asyncio.Event()

    async def wait(_):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    methods = {ECHO: _echo, REFUSE: _refuse, "/mq9.test/Fail": _fail, "/mq9.test/Wait": wait}
    server = GrpcServer(methods, None)
    server.cancelled = cancelled
    server.port = await server.start("127.0.0.1", 0)
    async with asyncio.timeout(ENOUGH_S):
        yield server
    await server.stop()


# --- with gRPC's own library ----------------------------------------------------------------------


async def test_our_client_and_their_server_exchange_messages_of_any_size():
    async with asyncio.timeout(ENOUGH_S), Theirs() as theirs:
        stream = theirs.open(ECHO)
        for size in SIZES:
            await stream.send(bytes(size))
            assert len(await stream.receive()) == size


async def test_our_client_hears_why_their_server_ends_a_call():
    async with asyncio.timeout(ENOUGH_S), Theirs() as theirs:
        with pytest.raises(PeerRefused, match=f"it refuses us: {WHY}"):
            await theirs.open(REFUSE).receive()
        with pytest.raises(PeerUnavailable, match="Method not found"):
            await theirs.open("/mq9.test/Nothing").receive()
        stream = theirs.open(ECHO)
        await stream.send(b"the connection goes on")
        assert await stream.receive() == b"the connection goes on"


async def test_our_client_hears_that_their_server_is_gone():
    async with asyncio.timeout(ENOUGH_S), Theirs() as theirs:
        stream = theirs.open(ECHO)
        await stream.send(b"x")
        await stream.receive()
        await theirs.server.stop(0)
        with pytest.raises(PeerUnavailable):
            await stream.receive()


async def test_their_client_and_our_server_exchange_messages_of_any_size(ours):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ours.port}", options=OPTIONS) as channel:
        call = channel.stream_stream(ECHO)()
        for size in SIZES:
            await call.write(bytes(size))
            assert len(await call.read()) == size


async def test_their_client_hears_why_our_server_ends_a_call(ours, caplog):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ours.port}") as channel:
        for path, code, why in (
            (REFUSE, grpc.StatusCode.PERMISSION_DENIED, WHY),
            ("/mq9.test/Nothing", grpc.StatusCode.UNIMPLEMENTED, "no such method"),
            ("/mq9.test/Fail", grpc.StatusCode.UNKNOWN, "it could not be served"),
        ):
            call = channel.stream_stream(path)()
            if path == REFUSE:
                await call.write(b"x")
            assert (await call.code(), await call.details()) == (code, why)
    assert [r.message for r in caplog.records if r.name.startswith("mq9")] == ["a call failed"]


async def test_a_call_that_their_client_cancels_is_cancelled_here(ours):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ours.port}") as channel:
        call = channel.stream_stream("/mq9.test/Wait")()
        await call.write(b"x")
        call.cancel()
        await ours.cancelled.wait()


async def test_a_call_ends_with_its_connection(ours):
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{ours.port}")
    await channel.stream_stream("/mq9.test/Wait")().write(b"x")
    await channel.close()
    await ours.cancelled.wait()


# --- nonsense -------------------------------------------------------------------------------------


HELLO = http2.PREFACE + http2.settings([])
OPENED = b"\x83\x86\x04\x0e" + ECHO.encode() + b"\x0f\x10\x10application/grpc"


def _data(payload):
    return http2.frame(Kind.HEADERS, http2.END_HEADERS, 1, OPENED) + http2.frame(
        Kind.DATA, 0, 1, payload
    )


def _window(stream):
    return b"".join(http2.window_update(stream, http2.WINDOW_MAX) for _ in range(2))


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Code.PROTOCOL_ERROR),
        (http2.PREFACE + http2.frame(Kind.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
        (HELLO + http2.frame(Kind.PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (HELLO + http2.frame(Kind.SETTINGS, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (HELLO + http2.settings([(4, 2**31)]), Code.FLOW_CONTROL_ERROR),
        (HELLO + http2.settings([(5, 100)]), Code.PROTOCOL_ERROR),
        (HELLO + http2.frame(Kind.PUSH_PROMISE, 0, 1), Code.PROTOCOL_ERROR),
        (HELLO + http2.frame(Kind.DATA, 0, 7, b"x"), Code.PROTOCOL_ERROR),
        (HELLO + http2.frame(Kind.DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
        (HELLO + http2.head(Kind.DATA, 0, 1, STREAM_WINDOW + 1), Code.FRAME_SIZE_ERROR),
        (HELLO + http2.head(Kind.HEADERS, 0, 1, 40_000), Code.FRAME_SIZE_ERROR),
        (HELLO + http2.frame(Kind.HEADERS, 4, 2, OPENED), Code.PROTOCOL_ERROR),
        (HELLO + http2.frame(Kind.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
        (HELLO + http2.frame(Kind.HEADERS, 12, 1, b"\xff"), Code.PROTOCOL_ERROR),
        (HELLO + http2.frame(Kind.CONTINUATION, 4, 1, OPENED), Code.PROTOCOL_ERROR),
        (
            HELLO
            + http2.frame(Kind.HEADERS, 0, 1, OPENED)
            + http2.frame(Kind.PING, 0, 0, bytes(8)),
            Code.PROTOCOL_ERROR,
        ),
        (
            HELLO
            + http2.frame(Kind.HEADERS, 0, 1, OPENED)
            + http2.frame(Kind.CONTINUATION, 0, 1, bytes(20_000)) * 2,
            Code.ENHANCE_YOUR_CALM,
        ),
        (HELLO + _window(0), Code.FLOW_CONTROL_ERROR),
        (HELLO + _data(b"") + _window(1), Code.FLOW_CONTROL_ERROR),
        (HELLO + _data(b"\1\0\0\0\1x"), Code.PROTOCOL_ERROR),
        (HELLO + _data(struct.pack(">BI", 0, MESSAGE_BYTES_MAX + 1)), Code.ENHANCE_YOUR_CALM),
    ],
)
async def test_who_breaks_the_protocol_is_told_so_and_cut_off(ours, said, code):
    reader, writer = await asyncio.open_connection("127.0.0.1", ours.port)
    writer.write(said)
    heard = await reader.read()
    frames = FrameReader(STREAM_WINDOW).feed(heard)
    assert frames[-1].kind == Kind.GOAWAY
    assert struct.unpack(">II", frames[-1].payload[:8])[1] == code
    writer.close()


async def test_more_than_the_window_allows_is_not_taken(ours):
    """A reader that takes nothing: what is sent beyond its window ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ours.port)
    waiting = OPENED.replace(ECHO.encode(), b"/mq9.test/Wait")
    writer.write(HELLO + http2.frame(Kind.HEADERS, http2.END_HEADERS, 1, waiting))
    message = struct.pack(">BI", 0, 1 << 19) + bytes(1 << 19)
    for _ in range(8):
        writer.write(http2.frame(Kind.DATA, 0, 1, message))
    with suppress(ConnectionError):  # the word itself may be lost: not all was read
        frames = FrameReader(STREAM_WINDOW).feed(await reader.read())
        assert struct.unpack(">II", frames[-1].payload[:8])[1] == Code.FLOW_CONTROL_ERROR
    await ours.cancelled.wait()
    writer.close()


async def test_streams_beyond_the_limit_are_refused_and_the_others_go_on(ours, monkeypatch):
    monkeypatch.setattr(grpc_connection, "STREAMS_MAX", 2)
    reader, writer = await asyncio.open_connection("127.0.0.1", ours.port)
    writer.write(HELLO)
    for stream in (1, 3, 5):
        writer.write(http2.frame(Kind.HEADERS, http2.END_HEADERS, stream, OPENED))
    writer.write(http2.frame(Kind.DATA, 0, 3, b"\0\0\0\0\1x"))
    frames: list[Frame] = []
    cut = FrameReader(STREAM_WINDOW)
    while not any(frame.kind == Kind.DATA for frame in frames):
        frames += cut.feed(await reader.read(65_536))
    refused = [frame for frame in frames if frame.kind == Kind.RST_STREAM]
    assert [(f.stream, f.payload[-1]) for f in refused] == [(5, Code.REFUSED_STREAM)]
    writer.close()


async def test_a_client_that_remembers_no_headers_is_answered_with_whole_ones(ours):
    """SETTINGS_HEADER_TABLE_SIZE 0: what is compressed must not lean on what was said before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ours.port)
    writer.write(http2.PREFACE + http2.settings([(1, 0)]))
    decoder, cut, frames = hpack.Decoder(), FrameReader(STREAM_WINDOW), []
    decoder.max_allowed_table_size = 0
    for stream in (1, 3):
        writer.write(http2.frame(Kind.HEADERS, http2.END_HEADERS, stream, OPENED))
        writer.write(http2.frame(Kind.DATA, 0, stream, b"\0\0\0\0\1x"))
    while sum(frame.kind == Kind.HEADERS for frame in frames) < 2:
        frames += cut.feed(await reader.read(65_536))
    for frame in frames:
        if frame.kind == Kind.HEADERS:
            headers = [(":status", "200"), ("content-type", "application/grpc")]
            assert decoder.decode(frame.payload) == headers
    assert decoder.header_table_size == 0
    writer.close()


async def test_what_arrives_for_a_call_that_is_over_is_let_pass(ours):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ours.port}") as channel:
        call = channel.stream_stream(REFUSE)()
        await call.write(b"x")
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
        echo = channel.stream_stream(ECHO)()
        await echo.write(b"y")
        assert await echo.read() == b"y"


@given(
    frames=st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=200)), max_size=8),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
def test_frames_are_the_same_however_they_are_cut(frames, cuts):
    said = b"".join(http2.frame(kind, 1, 3, payload) for kind, payload in frames)
    reader, heard, at = FrameReader(1_000), [], 0
    for cut in [*sorted(cuts), len(said)]:
        heard += reader.feed(said[at:cut])
        at = max(at, min(cut, len(said)))
    assert heard == [Frame(kind, 1, 3, payload) for kind, payload in frames]


def test_padding_is_taken_off():
    assert http2.without_padding(http2.PADDED, b"\2ab\0\0") == b"ab"
    assert http2.without_padding(http2.PADDED | http2.WITH_PRIORITY, b"\1....." + b"ab\0") == b"ab"
    with pytest.raises(ProtocolBroken):
        http2.without_padding(http2.PADDED, b"")

"""What is fuzzed: functions of arbitrary bytes that must neither crash nor keep what they are fed.

`python -m tests.fuzz NAME` runs one under atheris (coverage-guided); test_fuzz.py runs all of them
under Hypothesis, briefly, on every change. A target raises only where something is wrong: errors of
the project's own families are answers, everything else is a finding.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import orjson
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from mq9cluster.admin.http import AdminServer
from mq9cluster.domain.address import parse_address
from mq9cluster.domain.command import (
    AckMessages,
    Command,
    CreateMailbox,
    DeleteMessage,
    Expire,
    FetchMessages,
    Owner,
    SendMessage,
)
from mq9cluster.domain.errors import Mq9Error
from mq9cluster.gateway.shares import Shares
from mq9cluster.gateway.websocket import UPGRADE_BYTES_MAX, WebSocket
from mq9cluster.machine.codec import (
    PARCEL_OF_NOBODY,
    UnknownFormat,
    decode_command,
    decode_entry,
    decode_outcomes,
    decode_parcel,
    encode_command,
    encode_entry,
    encode_parcel,
)
from mq9cluster.protocol import agent_requests, discovery, nats_headers, requests
from mq9cluster.protocol.nats import FAIL, PUB, ServerParser
from mq9cluster.protocol.nats_client import ClientParser, ProtocolError
from mq9cluster.protocol.nats_connect import BadConnect, ConnectOptions
from mq9cluster.search.filter import filter_from_wire, filter_to_wire, parse_filter
from tests.unit.admin.stub import StubView

PAYLOAD_MAX = 256
CONTROL_MAX = 128
REF = b"$G\0box"
OWNER = Owner(1, 1, 1)


def nats(data: bytes) -> None:
    """A client's stream, in pieces that its first byte chooses; any split gives the same events."""
    step = (data[0] if data else 0) % 7 + 1
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    whole, split = ServerParser(PAYLOAD_MAX, CONTROL_MAX), ServerParser(PAYLOAD_MAX, CONTROL_MAX)
    events = _drained(whole, [data])
    assert _drained(split, pieces) == events, "a split changes what is understood"
    assert whole.held_bytes <= CONTROL_MAX + PAYLOAD_MAX + 8, "more is kept than a message"
    for event in events:
        if event[0] == PUB:
            assert len(event[4]) + len(event[3] or b"") <= PAYLOAD_MAX
        if event[0] == FAIL:
            assert event is events[-1], "something is understood behind a failure"


def _drained(parser: ServerParser, pieces: list[bytes]) -> list[tuple[object, ...]]:
    events: list[tuple[object, ...]] = []
    for piece in pieces:
        events += parser.feed(piece)
        while parser.has_more:
            events += parser.feed(b"")
    return events


def nats_of_servers(data: bytes) -> None:
    """What a server may say to a client."""
    with contextlib.suppress(ProtocolError):
        ClientParser().feed(data)


def connect(data: bytes) -> None:
    """The JSON of CONNECT."""
    with contextlib.suppress(BadConnect):
        ConnectOptions().updated(data)


def headers(data: bytes) -> None:
    """A header block, as stored and as a SEND's."""
    nats_headers.parse(data)
    _answered(requests.parse_send, REF, data, b"payload", 120_000)


def bodies(data: bytes) -> None:
    """The JSON of each command."""
    _answered(requests.parse_create, data)
    _answered(requests.parse_fetch, REF, OWNER, data)
    _answered(requests.parse_ack, "box", REF, OWNER, data)
    _answered(requests.parse_nack, "box", REF, OWNER, data)
    _answered(requests.parse_query, REF, data)
    _answered(parse_address, data.decode("utf-8", "replace"))


def agents(data: bytes) -> None:
    """The JSON of what is asked about agents: cards, reports, questions and their filters."""
    _answered(agent_requests.parse_register, data)
    _answered(agent_requests.parse_unregister, data)
    _answered(agent_requests.parse_report, data)
    _answered(_discover, data)


def _discover(data: bytes) -> None:
    condition = parse_filter(discovery.parse_discover(data).filter)
    assert filter_from_wire(filter_to_wire(condition)) == condition


def _answered(parse: Callable[..., object], *arguments: object) -> None:
    """Parsed, or refused in a text that shows nothing from inside and fits a reply."""
    try:
        parse(*arguments)
    except Mq9Error as error:
        text = str(error)
        assert "Traceback" not in text
        assert "object at 0x" not in text
        orjson.dumps(text)


def peers(data: bytes) -> None:
    """What other nodes and the log hand to the state machine's codec."""
    for decode in (decode_command, decode_parcel, decode_entry, decode_outcomes):
        with contextlib.suppress(UnknownFormat):
            decode(data)
    with contextlib.suppress(UnknownFormat):
        written = encode_command(decode_command(data))  # one way of writing it; data may be another
        assert encode_command(decode_command(written)) == written


class _Nowhere(asyncio.Transport):
    """A socket whose other end reads nothing and says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        """Nothing is read anyway."""

    def resume_reading(self) -> None:
        """As little as before."""

    def get_write_buffer_size(self) -> int:
        return 0


class _Session(asyncio.Protocol):
    """What is behind the frames: it counts."""

    connection = 1

    def __init__(self) -> None:
        self.heard = 0

    def data_received(self, data: bytes) -> None:
        self.heard += len(data)


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def websocket(data: bytes) -> None:
    """Bytes at --ws-listen: an even first byte for the upgrade itself, an odd one for frames."""
    loop = _loop()
    session, socket = _Session(), _Nowhere()

    async def play() -> None:
        shares = Shares(loop.call_soon, time.perf_counter)
        client = WebSocket(lambda: session, ("https://a",), 60.0, shares)
        client.connection_made(socket)
        if data[:1] and data[0] % 2:
            client.data_received(UPGRADE)
            assert socket.written.startswith(b"HTTP/1.1 101 ")
        for at in range(1, len(data), 64):
            if not socket.closing:
                client.data_received(data[at : at + 64])
        for _ in range(4):
            await asyncio.sleep(0)
        client.connection_lost(None)

    loop.run_until_complete(play())
    assert session.heard <= len(data)
    assert len(socket.written) <= UPGRADE_BYTES_MAX + 64 * len(data)
    assert b"Traceback" not in socket.written


_loops: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0]


_SERVER = AdminServer(StubView(), "127.0.0.1", 0, "the-admin-token-of-fuzz")


def http(data: bytes) -> None:
    """A path and query of the HTTP side, answered by its own handlers over a stubbed node."""
    path = data.decode("latin-1")
    if not path.isprintable() or "#" in path:
        return
    name, _, query = path.partition("?")
    handler = _SERVER._routes.get(name if name.startswith("/") else f"/{name}")
    if handler is None:
        return
    answer = handler(make_mocked_request("GET", f"/{name.lstrip('/')}?{query}"))
    assert isinstance(answer, web.Response)
    assert answer.status in {200, 400, 503}
    assert b"Traceback" not in bytes(answer.body or b"")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "nats": nats,
    "nats_of_servers": nats_of_servers,
    "connect": connect,
    "headers": headers,
    "bodies": bodies,
    "agents": agents,
    "peers": peers,
    "websocket": websocket,
    "http": http,
}

COMMANDS: tuple[Command, ...] = (
    SendMessage(REF, b"x"),
    SendMessage(REF, b"x", key=b"k", meta=b"{}", ttl_s=5, delay_s=6, dedupe_id=b"d"),
    CreateMailbox(REF, ttl_s=1, max_msgs=2),
    FetchMessages(REF, "g", OWNER, tags=("t",), ack_wait_ms=1000),
    AckMessages(REF, "g", 3, OWNER),
    DeleteMessage(REF, 4),
    Expire(),
)

# Where a fuzzer begins, and what it puts together.
SEEDS: dict[str, tuple[bytes, ...]] = {
    "nats": (
        b'CONNECT {"verbose":false}\r\nPING\r\nSUB a.* 1\r\nPUB a.b r 5\r\nhello\r\nUNSUB 1 2\r\n',
        b"HPUB h r 22 25\r\nNATS/1.0\r\nmq9-key: k\r\n\r\nxyz\r\nPONG\r\n+OK\r\n-ERR 'x'\r\n",
        b"pub\ta  4\n\r\n\r\n\r\nMSG a 1 0\r\n\r\n",
    ),
    "nats_of_servers": (
        b"INFO {}\r\nMSG a 1 r 3\r\nabc\r\nHMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
    ),
    "connect": (b'{"verbose":true,"name":"a","protocol":1,"headers":true,"user":"a","pass":"b"}',),
    "headers": (
        b"NATS/1.0\r\nmq9-priority: critical\r\nmq9-tags: a, b\r\nmq9-delay: 5\r\n\r\n",
        b"NATS/1.0 503\r\nNats-Msg-Id: x\r\nmq9-ttl: 1\r\nA: b\r\nA: c\r\n\r\n",
    ),
    "bodies": (
        b'{"name":"a.b","ttl":5,"max_msgs":1,"retain":"acked"}',
        b'{"group_name":"g","deliver":"from_id","from_id":3,"config":{"num_msgs":5}}',
        b'{"group_name":"g","msg_id":1,"scope":"progress","handout":"x","delay":3}',
        b'{"tags":["a"],"since":5,"limit":7,"encoding":"text"}',
    ),
    "agents": (
        b'{"name":"a","mailbox":"mq9://b/a.b","ttl":5,"payload":"text","tags":["x"],'
        b'"skills":[{"id":"s","name":"n","description":"d","tags":["t"],"examples":["e"]}],'
        b'"provider":{"organization":"o","url":"u"},"version":"1.2","_mq9":{}}',
        b'{"mailbox":"a.b","report_info":{"load":0.5,"at":[1,null,true]}}',
        b'{"semantic":"who","text":"w","mode":"hybrid","limit":3,"page":2,"min_score":0.5,'
        b'"exact":true,"consistency":"stale","filter":{"name":"a","tags":["x","y"],'
        b'"not":{"skills":"s","provider":"o","version":["1"]}}}',
        b'{"vector":[0.1,0.2],"embedder":"vectors:2","live":false}',
    ),
    "peers": (
        b"",
        b"\x01" * 64,
        b"\x01" + b"\0" * 8 + b"\xff" * 4,
        *map(encode_command, COMMANDS),
        b'J[["stored",1,true],["handed","1.2",[[0,5]],null],["refused","x","y"],["done"]]',
        encode_parcel(PARCEL_OF_NOBODY, list(map(encode_command, COMMANDS))),
        encode_entry(5, [encode_parcel(PARCEL_OF_NOBODY, [encode_command(COMMANDS[0])])]),
    ),
    "websocket": (
        b"\x00" + UPGRADE,
        b"\x01\x82\x85\0\0\0\0PING\r\x89\x80\0\0\0\0\x88\x80\0\0\0\0",
        b"\x01\x02\x81\1\2\3\4x\x80\x81\1\2\3\4y\x81\x82\0\0\0\0hi",
    ),
    "http": (b"/connz?subs=1&limit=5&offset=2", b"/metrics", b"/cluster?state_hashes=1", b"/varz"),
}

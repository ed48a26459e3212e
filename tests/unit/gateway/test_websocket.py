"""Websocket clients: the same sessions, and nothing that frames alone could do to a node."""

import asyncio
import json
from itertools import count as count_up
from itertools import pairwise

import pytest
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    TextMessage,
)

from mq9cluster.gateway.shares import SLICE_S
from mq9cluster.gateway.websocket import (
    FRAMES_ALONE_MAX,
    FRAMES_IN_COMPANY_MAX,
    UPGRADE_BYTES_MAX,
    WebSocket,
)
from tests.support.websocket import Browser
from tests.support.wire import CONNECT, WAIT_S, eventually


@pytest.fixture
async def ws(gateway):
    """The port of the gateway's websocket listener."""
    return await gateway.listener.start_websockets("127.0.0.1", 0)


async def test_a_browser_and_a_plain_client_hear_each_other(gateway, ws):
    browser, plain = await Browser.connect(ws, CONNECT), await gateway.open()
    await browser.answers(b"SUB to.browser 1\r\n")
    await plain.answers(b"SUB to.plain 1\r\n")
    assert await plain.answers(b"PUB to.browser 3\r\nabc\r\n") == b""
    assert await browser.hears(b"abc\r\n") == b"MSG to.browser 1 3\r\nabc\r\n"
    assert await browser.answers(b"PUB to.plain 3\r\nxyz\r\n") == b""
    assert await plain.until(b"xyz\r\n") == b"MSG to.plain 1 3\r\nxyz\r\n"
    browser.abort()


async def test_commands_are_answered(ws):
    browser = await Browser.connect(ws, CONNECT)
    said = await browser.answers(b"SUB i 1\r\nPUB $mq9.AI.X i 2\r\nhi\r\n")
    assert said == b"MSG i 1 2\r\nhi\r\n"
    browser.abort()


async def test_info_names_the_websocket_port_and_no_plain_addresses(gateway, ws):
    gateway.listener.set_connect_urls(["h:1"])
    browser = await Browser.open(ws)
    await browser.answer()
    info = json.loads((await browser.hears(b"\r\n"))[5:])
    assert (info["port"], "connect_urls" in info) == (ws, False)
    browser.abort()


async def test_any_split_into_frames_is_the_same_stream(ws):
    browser = await Browser.connect(ws, CONNECT)
    for piece in b"SUB i 1\r\nPUB i 3\r\nabc\r\n":
        browser.send(bytes([piece]))
    assert await browser.answers() == b"MSG i 1 3\r\nabc\r\n"
    for text in ("PUB i 2\r\n", "ü\r\n"):
        browser.say(TextMessage(data=text, message_finished=text.startswith("ü")))
    assert await browser.answers() == "MSG i 1 2\r\nü\r\n".encode()
    browser.say(BytesMessage(data=b"PUB i ", message_finished=False))
    browser.say(Ping(payload=b"between"))
    browser.say(BytesMessage(data=b"1\r\nx\r\n"))
    assert await browser.answers() == b"MSG i 1 1\r\nx\r\n"
    assert [e.payload for e in browser.control if isinstance(e, Pong)] == [b"between"]
    browser.abort()


async def test_a_large_message_crosses_both_ways(ws):
    browser = await Browser.connect(ws, CONNECT)
    payload = b"x" * 1_000_000
    said = await browser.answers(b"SUB i 1\r\nPUB i 1000000\r\n%b\r\n" % payload)
    assert said == b"MSG i 1 1000000\r\n%b\r\n" % payload
    browser.abort()


async def test_more_frames_than_a_turn_allows_all_arrive(gateway, ws):
    browser = await Browser.connect(ws, CONNECT)
    count = 3 * FRAMES_ALONE_MAX
    for _ in range(count):
        browser.send(b"PUB $mq9.AI.X 0\r\n\r\n")
    await browser.answers()
    assert len(gateway.handler.commands) == count
    browser.abort()


async def test_a_client_that_says_goodbye_keeps_what_it_sent_and_is_told_goodbye(gateway, ws):
    browser = await Browser.connect(ws, CONNECT)
    browser.send(b"PUB $mq9.AI.X 0\r\n\r\n")
    browser.say(CloseConnection(code=1000))
    await browser.rest()
    assert (len(gateway.handler.commands), browser.close_code) == (1, 1000)
    await eventually(lambda: not gateway.listener.sessions)


async def test_an_error_of_the_client_is_told_before_the_goodbye(ws):
    browser = await Browser.connect(ws, CONNECT)
    browser.send(b"rubbish\r\n")
    assert await browser.rest() == b"-ERR 'Unknown Protocol Operation'\r\n"
    assert browser.close_code == 1000


async def test_a_vanished_client_is_forgotten(gateway, ws):
    browser = await Browser.connect(ws, CONNECT)
    browser.abort()
    await eventually(lambda: not gateway.listener.sessions)
    assert gateway.handler.closed == [1]


async def test_lame_duck_reaches_browsers(start_gateway):
    gateway = await start_gateway(lame_duck_s=0.1)
    port = await gateway.listener.start_websockets("127.0.0.1", 0)
    browser = await Browser.connect(port, CONNECT.replace(b"}", b',"protocol":1}'))
    await gateway.listener.lame_duck()
    said = await browser.rest()
    assert b'"ldm":true' in said
    with pytest.raises(OSError, match=r"Connect call failed|refused"):
        await Browser.open(port)


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("https://app.example", True),
        ("HTTPS://App.Example", True),
        ("", True),
        ("https://evil.example", False),
        ("https://app.example.evil.example", False),
        ("null", False),
    ],
)
async def test_only_pages_of_named_origins_may_connect(gateway, origin, welcome):
    origins = ("https://app.example",)
    port = await gateway.listener.start_websockets("127.0.0.1", 0, origins)
    browser = await Browser.open(port, origin)
    answer = await browser.answer()
    if welcome:
        assert isinstance(answer, AcceptConnection)
    else:
        assert isinstance(answer, RejectConnection)
        assert answer.status_code == 403
        await browser.rest()
    browser.abort()


KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"

NO_UPGRADES = {
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n": b"400",
    b"POST / HTTP/1.1\r\nHost: a\r\n" + UPGRADE + KEY + VERSION + b"\r\n": b"400",
    b"GET / HTTP/1.1\r\n" + UPGRADE + KEY + VERSION + b"\r\n": b"400",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + UPGRADE + VERSION + b"\r\n": b"400",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + UPGRADE + KEY + b"Sec-WebSocket-Version: 8\r\n\r\n": b"426",
    b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n" + UPGRADE + KEY + VERSION + b"\r\n": b"400",
    b"GET / HTTP/1.1\r\nHost: xn--a\xc3\r\n" + UPGRADE + KEY + VERSION + b"\r\n": b"400",
    b"rubbish\r\n\r\n": b"400",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n": b"400",
    b"CONNECT {}\r\nPING\r\n\r\n": b"400",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * UPGRADE_BYTES_MAX + b"\r\n\r\n": b"4",
}


@pytest.mark.parametrize("sent", NO_UPGRADES, ids=lambda sent: repr(sent[:40]))
async def test_what_is_no_upgrade_is_refused(gateway, ws, sent):
    reader, writer = await asyncio.open_connection("127.0.0.1", ws)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), WAIT_S)
    assert answer.startswith(b"HTTP/1.1 " + NO_UPGRADES[sent])
    assert b"Traceback" not in answer
    assert gateway.listener.totals.connections == 0
    writer.close()
    await writer.wait_closed()


async def test_who_does_not_ask_for_the_upgrade_in_time_is_cut_off(start_gateway):
    gateway = await start_gateway(auth_timeout_s=0.1)
    port = await gateway.listener.start_websockets("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: ")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), WAIT_S)
    writer.transport.abort()


BAD_FRAMES = {
    "without a mask": b"\x82\x01x",
    "an unknown operation": b"\x83\x80\0\0\0\0",
    "a reserved bit, as of compression": b"\xc2\x80\0\0\0\0",
    "a long PING": b"\x89\xfe\x00\x7e\0\0\0\0" + b"x" * 126,
    "a PING in parts": b"\x09\x80\0\0\0\0",
    "a length of 2**63": b"\x82\xff" + b"\xff" * 8 + b"\0\0\0\0",
    "text that is none": b"\x81\x81\0\0\0\0\xff",
    "a continuation of nothing": b"\x80\x80\0\0\0\0",
}


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_frames_that_are_none_end_their_connection_alone(gateway, ws, name):
    browser, other = await Browser.connect(ws, CONNECT), await Browser.connect(ws, CONNECT)
    browser.writer.write(BAD_FRAMES[name])
    await browser.rest()
    await eventually(lambda: len(gateway.listener.sessions) == 1)
    assert await other.answers() == b""
    other.abort()


async def test_a_frame_that_never_ends_is_worked_off_as_it_comes(gateway, ws):
    browser = await Browser.connect(ws, CONNECT)
    header = b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0"  # a terabyte, masked by zeros
    browser.writer.write(header + b"PUB $mq9.AI.X 0\r\n\r\n")
    await eventually(lambda: gateway.handler.commands)
    browser.abort()


async def test_pings_of_a_client_that_reads_nothing_are_answered_no_more(gateway, ws):
    browser = await Browser.connect(ws, CONNECT)
    browser.reader._transport.pause_reading()
    ping = browser.wire.send(Ping(payload=b"x" * 125))
    for _ in range(200):
        browser.writer.write(ping * 500)
        await asyncio.sleep(0)
    (session,) = gateway.listener.sessions.values()
    await asyncio.sleep(0.1)
    assert session.pending_bytes < 1_000_000
    browser.abort()
    assert browser.wire.state is ConnectionState.OPEN


async def test_a_flood_of_frames_has_a_small_share_beside_others(start_gateway, monkeypatch):
    clock = count_up(0.0, SLICE_S)  # each look at it uses a slice up: one turn in each
    gateway = await start_gateway(seconds=lambda: next(clock))
    ws = await gateway.listener.start_websockets("127.0.0.1", 0)
    pings = []
    monkeypatch.setattr(WebSocket, "_answer_ping", lambda _, ping: pings.append(ping))
    flooder, calm = await Browser.connect(ws, CONNECT), await gateway.open()
    await calm.answers()
    count = 200 * FRAMES_IN_COMPANY_MAX
    flooder.writer.write(b"".join(flooder.wire.send(Ping()) for _ in range(count)))
    seen = [0]
    while len(pings) < count:
        await calm.answers()
        seen.append(len(pings))
    assert max(after - before for before, after in pairwise(seen)) <= 4 * FRAMES_IN_COMPANY_MAX
    flooder.abort()

"""The websocket listeners of both servers: the same conversations, and the official client."""

import asyncio
from collections.abc import Iterator

import nats
import pytest

from tests.conformance.core.test_bytes import FULL, HPUB, LOUD, MODERN, QUIET
from tests.support.core_servers import CoreConfig, NatsServer, OurServer
from tests.support.nats_py import settled
from tests.support.websocket import Browser
from tests.support.wire import WAIT_S


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """The websocket ports of ours and of nats-server."""
    servers = {"ours": OurServer(CoreConfig(websocket=True))}
    servers["nats-server"] = NatsServer(CoreConfig(websocket=True))
    for server in servers.values():
        server.start()
    yield {name: server.ws_port for name, server in servers.items()}
    for server in servers.values():
        server.end()


CONVERSATIONS = {
    "deliveries": (QUIET + b"SUB > 1\r\nPUB a r 3\r\nabc\r\nPUB b 0\r\n\r\n",),
    "headers": (FULL + b"SUB > 1\r\n" + HPUB,),
    "verbose": (LOUD + b"SUB a 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\n",),
    "the second INFO": (MODERN, b"", b""),
    "no responders": (FULL + b"SUB i 1\r\nPUB no i 0\r\n\r\n",),
    "in pieces": tuple(bytes([byte]) for byte in QUIET + b"SUB a 1\r\nPUB a 1\r\nx\r\n"),
    "a large payload": (QUIET + b"SUB a 1\r\nPUB a 500000\r\n" + b"x" * 500_000 + b"\r\n",),
    "a thousand messages": (QUIET + b"SUB a 1\r\n" + b"PUB a 1\r\nx\r\n" * 1000,),
}


async def said(port: int, pieces: tuple[bytes, ...]) -> bytes:
    """All that one browser heard, without INFO lines."""
    browser = await Browser.open(port)
    await browser.answer()
    await browser.hears(b"\r\n")
    for piece in pieces[:-1]:
        browser.send(piece)
    heard = await browser.answers(pieces[-1])
    heard += await browser.answers()
    browser.abort()
    return b"\r\n".join(line for line in heard.split(b"\r\n") if not line.startswith(b"INFO "))


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_inside_the_frames_are_nats_servers_bytes(ports: dict[str, int], name: str) -> None:
    pieces = CONVERSATIONS[name]
    ours, theirs = await asyncio.gather(*(said(port, pieces) for port in ports.values()))
    assert ours == theirs


LAST_WORDS = {
    b"rubbish\r\n": b"-ERR 'Unknown Protocol Operation'\r\n",
    b"PUB a 1048577\r\n": b"-ERR 'Maximum Payload Violation'\r\n",
    b"PUB " + b"x" * 5000 + b" 0\r\n\r\n": b"-ERR 'maximum control line exceeded'\r\n",
    b"CONNECT {\r\n": b"",
}


async def last_words(port: int, data: bytes) -> bytes:
    browser = await Browser.connect(port, QUIET)
    browser.send(data)
    return await browser.rest()


@pytest.mark.parametrize("data", LAST_WORDS, ids=lambda data: repr(data[:12]))
async def test_last_words_are_nats_servers(ports: dict[str, int], data: bytes) -> None:
    ours, theirs = await asyncio.gather(*(last_words(port, data) for port in ports.values()))
    assert ours == LAST_WORDS[data]
    assert theirs in {ours, b""}  # a reset of its socket may swallow what it said last


async def refusal(port: int, request: bytes) -> bytes:
    """The status an HTTP request is refused with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    line = await asyncio.wait_for(reader.readline(), WAIT_S)
    writer.transport.abort()
    return line.split(b" ")[1]


KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n" + KEY + b"\r\n",
    ],
    ids=["no upgrade", "no key", "no connection header"],
)
async def test_what_is_no_upgrade_is_refused_alike(ports, request_bytes) -> None:
    ours, theirs = [await refusal(port, request_bytes) for port in ports.values()]
    assert ours == theirs == b"400"


@pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning")  # nats-py to aiohttp
@pytest.mark.parametrize("server", ["ours", "nats-server"])
async def test_the_official_client_talks_to_either(ports: dict[str, int], server: str) -> None:
    url = f"ws://127.0.0.1:{ports[server]}"
    client, other = await nats.connect(url), await nats.connect(url)

    async def answer(message):
        await message.respond(b"re: " + message.data)

    await other.subscribe("service", cb=answer)
    await settled(other)
    asked = (client.request("service", b"%d" % n, timeout=WAIT_S) for n in range(100))
    assert [m.data for m in await asyncio.gather(*asked)] == [b"re: %d" % n for n in range(100)]
    subscription = await client.subscribe("large")
    await settled(client)
    await other.publish("large", b"x" * 900_000, headers={"A": "b"})
    message = await subscription.next_msg(WAIT_S)
    assert (len(message.data), message.headers) == (900_000, {"A": "b"})
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request("nobody", b"", timeout=WAIT_S)
    for one in (client, other):
        await one.drain()

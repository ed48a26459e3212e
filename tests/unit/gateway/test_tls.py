"""TLS at the listener, apart from what conformance/core/test_tls.py compares."""

import ssl

import pytest

from mq9cluster.config_tls import client_tls
from mq9cluster.gateway.auth import AllowAll
from mq9cluster.gateway.settings import Settings
from mq9cluster.gateway.tls import ClientTls, Handshake
from tests.support.certificates import LOCALHOST, Authority, Issued
from tests.support.websocket import Browser
from tests.support.wire import CONNECT, Wire, eventually
from tests.unit.gateway.conftest import Gateway


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def tls_of(pair: Issued, handshake: str = "upgrade") -> ClientTls:
    built = client_tls(pair.certificate_file, pair.key_file, None, "no", handshake)
    assert built is not None
    return ClientTls(built.context, Handshake(built.handshake))


@pytest.fixture
async def start_secure(authority):
    """`await start_secure("first", connections_max=2)` serves with TLS until the test ends."""
    running: list[Gateway] = []

    async def start(handshake: str = "upgrade", **settings) -> Gateway:
        gateway = Gateway(Settings(**settings))
        pair = authority.issue("server", names=LOCALHOST)
        await gateway.listener.start("127.0.0.1", 0, tls_of(pair, handshake))
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        await gateway.stop()


async def secured(port: int, trusted: ssl.SSLContext) -> Wire:
    """A client that was upgraded behind INFO."""
    wire = await Wire.open(port)
    await wire.writer.start_tls(trusted, server_hostname="localhost")
    wire.send(CONNECT)
    await wire.answers()
    return wire


async def test_much_passes_both_ways_over_tls(start_secure, authority):
    gateway = await start_secure()
    reader = await secured(gateway.listener.port, authority.trusted())
    writer = await secured(gateway.listener.port, authority.trusted())
    await reader.answers(b"SUB big 1\r\n")
    payload = bytes(range(256)) * 2048
    for _ in range(8):
        writer.send(b"PUB big %d\r\n%b\r\n" % (len(payload), payload))
    heard = b"MSG big 1 %d\r\n%b\r\n" % (len(payload), payload)
    for _ in range(8):
        assert await reader.exactly(len(heard)) == heard
    reader.close()
    writer.close()


async def test_what_was_sent_before_the_end_is_worked_off(start_secure, authority):
    gateway = await start_secure()
    reader = await secured(gateway.listener.port, authority.trusted())
    await reader.answers(b"SUB a 1\r\n")
    writer = await secured(gateway.listener.port, authority.trusted())
    writer.send(b"PUB a 1\r\nx\r\n" * 5_000)
    writer.close()
    assert len(await reader.exactly(5_000 * len(b"MSG a 1 1\r\nx\r\n"))) == 70_000
    reader.close()


async def test_connections_have_their_limit_over_tls_too(start_secure, authority):
    gateway = await start_secure(connections_max=2)
    wires = [await secured(gateway.listener.port, authority.trusted()) for _ in range(2)]
    over = await Wire.open(gateway.listener.port)
    assert await over.rest() == b"-ERR 'maximum connections exceeded'\r\n"
    wires[0].close()
    await eventually(lambda: len(gateway.listener.sessions) == 1)
    wires.append(await secured(gateway.listener.port, authority.trusted()))
    for wire in (*wires, over):
        wire.close()


async def test_who_never_begins_is_cut_off_and_holds_up_nobody(start_secure, authority):
    gateway = await start_secure(auth_timeout_s=0.5)
    silent = [await Wire.open(gateway.listener.port) for _ in range(20)]
    wire = await secured(gateway.listener.port, authority.trusted())
    for one in silent:
        assert await one.rest() == b""
        one.close()
    assert gateway.listener.totals.tls_failures == 20
    assert await wire.answers(b"SUB a 1\r\nPUB a 0\r\n\r\n") == b"MSG a 1 0\r\n\r\n"
    wire.close()


async def test_closing_ends_handshakes_under_way(start_secure):
    gateway = await start_secure(auth_timeout_s=60.0)
    waiting = await Wire.open(gateway.listener.port)
    await gateway.listener.close()
    assert await waiting.rest() == b""
    waiting.close()


async def test_browsers_get_the_newest_certificate_too(start_secure, authority):
    gateway = await start_secure()
    port = await gateway.listener.start_websockets("127.0.0.1", 0)

    async def shown() -> int:
        browser = await Browser.connect(
            port, CONNECT, ssl=authority.trusted(), server_hostname="localhost"
        )
        assert await browser.answers(b"SUB a 1\r\nPUB a 0\r\n\r\n") == b"MSG a 1 0\r\n\r\n"
        serial = int(browser.writer.get_extra_info("peercert")["serialNumber"], 16)
        browser.abort()
        return serial

    first = await shown()
    issued = authority.issue("server", names=LOCALHOST)
    gateway.listener.change(gateway.settings, AllowAll(), tls_of(issued))
    assert first != issued.serial
    assert await shown() == issued.serial

"""INFO, lame duck mode, closing, counters."""

import asyncio
import json

import pytest

from tests.support.wire import CONNECT, Wire, eventually

CONNECT_1 = CONNECT.replace(b"}", b',"protocol":1}')


async def test_info_says_who_we_are(gateway):
    wire = await gateway.open()
    info = wire.info
    assert info["server_id"] == "NTEST"
    assert (info["proto"], info["headers"], info["max_payload"]) == (1, True, 1_048_576)
    assert info["port"] == gateway.listener.port
    assert info["client_ip"] == "127.0.0.1"
    assert "jetstream" not in info
    assert "auth_required" not in info
    assert wire.info_line.endswith(b" \r\n")


async def test_a_second_info_follows_the_first_pong_where_the_client_takes_it(gateway):
    wire = await Wire.open(gateway.listener.port)
    wire.send(CONNECT_1 + b"PING\r\n")
    assert await wire.until(b"\r\n") == b"PONG\r\n"
    info = json.loads((await wire.until(b"\r\n"))[5:])
    assert (info["connect_info"], info["remote_account"]) == (True, "$G")
    assert await wire.answers() == b""
    wire.close()


async def test_new_connect_urls_are_told_to_clients_that_take_info(gateway):
    modern, old = await gateway.open(connect=CONNECT_1), await gateway.open()
    await modern.until(b"INFO ")
    await modern.until(b"\r\n")
    gateway.listener.set_connect_urls(["h:1", "h:2"])
    gateway.listener.set_connect_urls(["h:1", "h:2"])
    said = await modern.answers()
    assert json.loads(said[5:])["connect_urls"] == ["h:1", "h:2"]
    assert await old.answers() == b""
    assert (await gateway.open()).info["connect_urls"] == ["h:1", "h:2"]


async def test_lame_duck_says_so_answers_what_is_under_way_and_ends(start_gateway):
    gateway = await start_gateway(lame_duck_s=0.6)
    gateway.handler.hold = True
    busy, idle = await gateway.open(connect=CONNECT_1), await gateway.open()
    await busy.answers(b"SUB i 1\r\nPUB $mq9.AI.X i 0\r\n\r\n")
    leaving = asyncio.create_task(gateway.listener.lame_duck())
    info = json.loads((await busy.until(b"\r\n"))[5:])
    assert info["ldm"] is True
    with pytest.raises(OSError, match=r"Connect call failed|refused"):
        await Wire.open(gateway.listener.port)
    assert await idle.rest() == b""
    await asyncio.sleep(0.3)
    assert not busy.reader.at_eof()
    gateway.handler.held[0](b"done")
    assert await busy.rest() == b"MSG i 1 4\r\ndone\r\n"
    await leaving
    assert gateway.listener.sessions == {}


async def test_close_ends_everything_and_lets_written_bytes_leave(gateway):
    wire = await gateway.open()
    await wire.answers(b"SUB a 1\r\n")
    gateway.exchange.publish("$G", b"a", None, None, b"bye")
    await gateway.listener.close()
    assert await wire.rest() == b"MSG a 1 3\r\nbye\r\n"
    assert gateway.handler.closed == [1]
    await gateway.listener.close()


async def test_counters_count(gateway):
    wire = await gateway.open()
    await wire.answers(b"SUB a 1\r\nPUB a 3\r\nabc\r\nPUB b 1\r\nx\r\n")
    session = gateway.listener.sessions[1]
    assert (session.in_messages, session.out_messages) == (2, 1)
    assert session.in_bytes == len(CONNECT) + 2 * 6 + 9 + 14 + 12
    assert len(session.subscriptions) == 1
    wire.close()
    await eventually(lambda: not gateway.listener.sessions)
    totals = gateway.listener.totals
    assert (totals.connections, totals.in_messages, totals.out_messages) == (1, 2, 1)
    assert totals.in_bytes == len(CONNECT) + 2 * 6 + 9 + 14 + 12

"""Limits and times of both servers: the same settings, the same last words."""

import asyncio

import pytest

from tests.conformance.core.script import play, until_closed
from tests.support.wire import Wire

QUIET = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
LOUD = b'CONNECT {"pedantic":false}\r\n'


async def hear_until_closed(both, data: bytes, **config) -> tuple[bytes, bytes]:
    ours, theirs = both(**config)
    heard = await asyncio.gather(until_closed(ours, data), until_closed(theirs, data))
    return heard[0].text(), heard[1].text()


TOKEN = {"token": "s3cret"}
USER = {"user": "ann", "password": "pw"}


@pytest.mark.parametrize(
    ("config", "data"),
    [
        (TOKEN, b'CONNECT {"auth_token":"wrong"}\r\nPING\r\n'),
        (TOKEN, b"CONNECT {}\r\nPING\r\n"),
        (TOKEN, b"PING\r\n"),
        (TOKEN, b"SUB a 1\r\n"),
        (TOKEN, b"PUB a 0\r\n\r\n"),
        (TOKEN, b"rubbish\r\n"),
        (USER, b'CONNECT {"user":"ann","pass":"wrong"}\r\nPING\r\n'),
        (USER, b'CONNECT {"user":"bob","pass":"pw"}\r\nPING\r\n'),
        (USER, b'CONNECT {"user":"ann"}\r\nPING\r\n'),
        (USER, b'CONNECT {"user":"ann","pass":"","auth_token":"pw"}\r\nPING\r\n'),
    ],
)
async def test_16_wrong_credentials_end_the_connection(both, config, data):
    ours, theirs = await hear_until_closed(both, data, **config)
    assert ours == theirs == b"-ERR 'Authorization Violation'\r\n"


@pytest.mark.parametrize(
    ("config", "data"),
    [
        (TOKEN, b'CONNECT {"auth_token":"s3cret"}\r\nSUB a 1\r\nPUB a 0\r\n\r\n'),
        (USER, b'CONNECT {"user":"ann","pass":"pw"}\r\nSUB a 1\r\nPUB a 0\r\n\r\n'),
    ],
)
async def test_16_right_credentials_are_asked_for_and_accepted(both, config, data):
    ours, theirs = await asyncio.gather(*(play(port, [("a", data)]) for port in both(**config)))
    assert ours["a"].events() == theirs["a"].events()
    assert ours["a"].text() == theirs["a"].text()


async def test_16_saying_nothing_ends_with_a_timeout(both):
    ours, theirs = await hear_until_closed(both, b"", **TOKEN, auth_timeout_ms=100)
    assert ours == theirs == b"-ERR 'Authentication Timeout'\r\n"


async def test_8_a_lower_max_payload_is_told_and_kept(both):
    data = LOUD + b"PUB a 10\r\n0123456789\r\nPUB a 11\r\n"
    heard = await asyncio.gather(
        *(play(port, [("a", data)]) for port in both(payload_bytes_max=10))
    )
    ours, theirs = (side["a"] for side in heard)
    assert ours.events() == theirs.events()
    assert ours.text() == theirs.text()
    assert ours.events()[0][2]["max_payload"] == 10


async def test_17_too_many_subscriptions_are_refused_one_by_one(both):
    steps = [
        ("a", LOUD + b"SUB a 1\r\nSUB b 2\r\nSUB c 3\r\nUNSUB 1\r\nSUB c 3\r\nPUB c 0\r\n\r\n")
    ]
    ours, theirs = await asyncio.gather(*(play(port, steps) for port in both(subscriptions_max=2)))
    assert ours["a"].text() == theirs["a"].text()
    assert b"maximum subscriptions exceeded" in ours["a"].text()


async def test_17_one_connection_too_many_is_refused_until_one_leaves(both):
    said = []
    for port in both(connections_max=2):
        wires = [await Wire.open(port, connect=QUIET) for _ in range(2)]
        refused = await Wire.open(port)
        said.append((refused.info_line[:5], await refused.rest()))
        wires[0].close()
        await wires[0].writer.wait_closed()
        while True:
            again = await Wire.open(port)
            again.send(QUIET + b"PING\r\n")
            if await again.reader.readline() == b"PONG\r\n":
                break
            again.close()
        for wire in (*wires, refused, again):
            wire.abort()
    assert said == [(b"INFO ", b"-ERR 'maximum connections exceeded'\r\n")] * 2


async def test_18_who_answers_no_ping_is_stale(both):
    ours, theirs = await hear_until_closed(both, QUIET, ping_interval_ms=200, pings_out_max=2)
    assert ours == theirs == b"PING\r\nPING\r\n-ERR 'Stale Connection'\r\n"


async def test_18_who_answers_stays(both):
    for port in both(ping_interval_ms=100, pings_out_max=1):
        wire = await Wire.open(port, connect=QUIET)
        for _ in range(5):
            assert await wire.until(b"\r\n") == b"PING\r\n"
            wire.send(b"PONG\r\n")
        wire.abort()


@pytest.mark.parametrize(
    "config", [{"pending_bytes_max": 4_000_000}, {"write_deadline_ms": 300}], ids=str
)
async def test_18_who_does_not_read_is_cut_off_and_nobody_else(both, config):
    for port in both(**config):
        slow = await Wire.open(port, connect=QUIET, limit=65_536)
        slow.send(QUIET + b"SUB flood 1\r\n")
        await slow.answers()
        slow.reader._transport.pause_reading()
        fast = await Wire.open(port, connect=QUIET + b"SUB flood 1\r\n")
        publisher = await Wire.open(port, connect=QUIET)
        for _ in range(240):
            publisher.send(b"PUB flood 65536\r\n" + b"x" * 65536 + b"\r\n")
            await fast.exactly(len(b"MSG flood 1 65536\r\n") + 65538)
        await asyncio.sleep(0.8 if "write_deadline_ms" in config else 0)
        await publisher.answers()
        slow.reader._transport.resume_reading()
        assert len(await slow.rest()) < 240 * 65_557
        for wire in (slow, fast, publisher):
            wire.abort()

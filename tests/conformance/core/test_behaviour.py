"""What bytes alone cannot show, on both servers: chance, time, and clients that leave."""

import asyncio
import collections

from tests.support.wire import Wire

QUIET = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
FULL = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'


async def sids(wire: Wire) -> list[bytes]:
    """The sids of all messages heard so far."""
    lines = (await wire.answers()).split(b"\r\n")
    return [line.split(b" ")[2] for line in lines if line.startswith(b"MSG ")]


async def test_2_client_ids_are_unique_and_server_ids_the_same(port):
    wires = [await Wire.open(port, connect=QUIET) for _ in range(5)]
    assert len({wire.info["client_id"] for wire in wires}) == 5
    assert len({wire.info["server_id"] for wire in wires}) == 1
    for wire in wires:
        wire.abort()


async def test_5_what_was_published_in_one_write_precedes_the_pong(port):
    reader = await Wire.open(port, connect=QUIET + b"SUB many 1\r\n")
    publisher = await Wire.open(port, connect=QUIET)
    await publisher.answers(b"".join(b"PUB many 5\r\n%05d\r\n" % n for n in range(20_000)))
    said = await reader.answers(wait_s=20)
    assert said == b"".join(b"MSG many 1 5\r\n%05d\r\n" % n for n in range(20_000))
    for wire in (reader, publisher):
        wire.abort()


async def test_12_a_half_closed_socket_keeps_what_it_published(port):
    reader = await Wire.open(port, connect=QUIET + b"SUB half.> 1\r\n")
    publisher = await Wire.open(port, connect=QUIET)
    publisher.send(b"".join(b"PUB half.%d 0\r\n\r\n" % n for n in range(5_000)))
    publisher.writer.write_eof()
    await reader.until(b"MSG half.4999 1 0\r\n\r\n")
    assert await publisher.rest() == b""
    for wire in (reader, publisher):
        wire.abort()


async def test_12_a_reader_that_stalls_disturbs_nobody(port):
    stalled = await Wire.open(port, connect=QUIET + b"SUB wide 1\r\n")
    stalled.reader._transport.pause_reading()
    reader = await Wire.open(port, connect=QUIET + b"SUB wide 1\r\n")
    publisher = await Wire.open(port, connect=QUIET)
    await publisher.answers(b"PUB wide 1000\r\n" + b"x" * 1000 + b"\r\n")
    for _ in range(50):
        await publisher.answers(b"PUB wide 10000\r\n" + b"x" * 10_000 + b"\r\n")
    assert len(await reader.answers()) > 500_000
    for wire in (stalled, reader, publisher):
        wire.abort()


async def test_13_a_group_shares_evenly_enough_and_loses_nothing(port):
    members = [await Wire.open(port, connect=QUIET + b"SUB work q 1\r\n") for _ in range(4)]
    publisher = await Wire.open(port, connect=QUIET)
    await publisher.answers(b"PUB work 0\r\n\r\n" * 1000)
    shares = [len(await sids(member)) for member in members]
    assert sum(shares) == 1000
    assert min(shares) > 150
    for wire in (*members, publisher):
        wire.abort()


async def test_13_one_group_spans_overlapping_filters(port):
    names = {b"g.*": b"1", b"g.a": b"2", b"g.>": b"3"}
    subscribe = b"".join(b"SUB %b q %b\r\n" % pair for pair in names.items())
    members = await Wire.open(port, connect=QUIET + subscribe)
    publisher = await Wire.open(port, connect=QUIET)
    await publisher.answers(b"PUB g.a 0\r\n\r\n" * 600)
    counts = collections.Counter(await sids(members))
    assert sum(counts.values()) == 600
    assert set(counts) == {b"1", b"2", b"3"}
    for wire in (members, publisher):
        wire.abort()


async def test_13_when_members_die_the_others_get_everything(port):
    members = [await Wire.open(port, connect=QUIET + b"SUB dying q 1\r\n") for _ in range(3)]
    publisher = await Wire.open(port, connect=FULL + b"SUB i 1\r\n")
    for member in members[1:]:
        member.abort()

    async def everything_arrives() -> bool:
        await members[0].answers()
        await publisher.answers(b"PUB dying 0\r\n\r\n" * 50)
        return len(await sids(members[0])) == 50

    async with asyncio.timeout(60):
        while not await everything_arrives():
            pass
    members[0].abort()
    async with asyncio.timeout(60):
        while b"503" not in await publisher.answers(b"PUB dying i 0\r\n\r\n"):
            pass
    publisher.abort()


async def test_13_a_member_that_reaches_its_maximum_hands_over(port):
    short = await Wire.open(port, connect=QUIET + b"SUB hand q 1\r\nUNSUB 1 5\r\n")
    long = await Wire.open(port, connect=QUIET + b"SUB hand q 1\r\n")
    publisher = await Wire.open(port, connect=QUIET)
    await publisher.answers(b"PUB hand 0\r\n\r\n" * 200)
    assert (len(await sids(short)), len(await sids(long))) == (5, 195)
    for wire in (short, long, publisher):
        wire.abort()


async def test_14_a_subscriber_that_left_is_nobody(port):
    asker = await Wire.open(port, connect=FULL + b"SUB i 1\r\n")
    service = await Wire.open(port, connect=QUIET + b"SUB svc 1\r\n")
    assert await asker.answers(b"PUB svc i 0\r\n\r\n") == b""
    await service.answers(b"UNSUB 1\r\n")
    assert b"503" in await asker.answers(b"PUB svc i 0\r\n\r\n")
    for wire in (asker, service):
        wire.abort()


async def test_12_a_vanished_client_takes_its_subscriptions_with_it(port):
    asker = await Wire.open(port, connect=FULL + b"SUB i 1\r\n")
    service = await Wire.open(
        port, connect=QUIET + b"".join(b"SUB v.%d %d\r\n" % (n, n) for n in range(500))
    )
    service.abort()
    async with asyncio.timeout(60):
        while b"503" not in await asker.answers(b"PUB v.499 i 0\r\n\r\n"):
            pass
    asker.abort()

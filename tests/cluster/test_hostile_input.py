"""Rubbish, lines without end and giant headers end their own connection alone."""

import asyncio
import contextlib
import json

import pytest

from chaos.cluster.process import ServedNode
from tests.conftest import ServeNode
from tests.support.hostile import (
    CALM_S_MAX,
    ENDED_S_MAX,
    MIB,
    calm_client,
    calm_log,
    giant_headers,
    memory_bytes,
    mute_socket,
    rubbish,
    send_all,
)
from tests.support.mq9 import Mq9, ids, payloads
from tests.support.raw_nats import RawNats, publication


async def test_a_message_cut_off_in_the_middle_is_not_stored(serve_node: ServeNode) -> None:
    node = await serve_node()
    owner = Mq9(await RawNats.connect(node.host, node.port))
    address = await owner.box("cut")
    whole = publication(f"$mq9.AI.MSG.SEND.{address}", b"whole or nothing")
    for length in range(1, len(whole)):
        _, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(whole[:length])
        await writer.drain()
        writer.close()
    _, writer = await asyncio.open_connection(node.host, node.port)
    writer.write(whole)
    writer.write_eof()
    assert payloads(await owner.fetch(address, "g", max_wait_ms=30_000)) == [b"whole or nothing"]
    assert ids(await owner.query(address)) == [1]
    assert calm_log(node) == []
    writer.close()


async def test_rubbish_ends_its_own_connection_alone(serve_node: ServeNode) -> None:
    node = await serve_node()
    before = memory_bytes(node)

    async def throw(seed: int) -> None:
        client = await RawNats.open(node.host, node.port)
        client.post(rubbish(seed))
        with contextlib.suppress(TimeoutError):  # some rubbish is a valid beginning
            await asyncio.wait_for(client.ended.wait(), 0.3)
        await client.close()

    async with calm_client(node):
        for start in range(0, 400, 40):
            await asyncio.gather(*(throw(seed) for seed in range(start, start + 40)))
    assert memory_bytes(node) - before < 32 * MIB
    assert calm_log(node) == []


OVERSIZED = (
    (b"PUB " + b"a" * 5000, "maximum control line exceeded"),
    (b"PUB " + b"a" * 5000 + b" 1\r\nx\r\n", "maximum control line exceeded"),
    (b"SUB " + b"a" * 100_000 + b" 1\r\n", "maximum control line exceeded"),
    (b"x" * 1_000_000, "Unknown Protocol Operation"),
    (b"PUB a 1048577\r\n", "Maximum Payload Violation"),
    (b"PUB a 999999999\r\n", "Maximum Payload Violation"),
    (b"HPUB a 1048577 1048577\r\n", "Maximum Payload Violation"),
    (b"HPUB a 12 1048577\r\n", "Maximum Payload Violation"),
)


@pytest.mark.parametrize(("sent", "error"), OVERSIZED, ids=lambda value: str(value)[:24])
async def test_an_oversized_line_is_told_and_ends_its_connection(
    shared_node: ServedNode, sent: bytes, error: str
) -> None:
    client = await RawNats.connect(shared_node.host, shared_node.port)
    async with calm_client(shared_node):
        client.post(sent)
        await asyncio.wait_for(client.ended.wait(), ENDED_S_MAX)
    assert client.errors == [error]


async def test_a_line_that_never_ends_does_not_grow_in_memory(serve_node: ServeNode) -> None:
    node = await serve_node()
    before = memory_bytes(node)
    async with calm_client(node):
        for beginning in (b"PUB ", b"CONNECT ", b"SUB ", b"INFO ", b"PING"):
            endless = mute_socket(node)
            await send_all(endless, beginning)
            for _ in range(64):
                if not await send_all(endless, b"x" * MIB):
                    break
            endless.close()
    assert memory_bytes(node) - before < 32 * MIB
    assert calm_log(node) == []


async def test_giant_headers_are_refused_and_delay_nobody(serve_node: ServeNode) -> None:
    node = await serve_node()
    before = memory_bytes(node)
    client = await RawNats.connect(node.host, node.port)
    address = await Mq9(client).box("headed")
    inbox = client.subscribe("_INBOX.giant")
    async with calm_client(node):
        for block in giant_headers():
            client.post(
                b"HPUB $mq9.AI.MSG.SEND.%b _INBOX.giant %d %d\r\n%b\r\n"
                % (address.encode(), len(block), len(block), block)
            )
            reply = json.loads((await asyncio.wait_for(inbox.get(), CALM_S_MAX)).payload)
            assert reply["error"] == "invalid header: more than 65536 bytes as sent", reply
    assert memory_bytes(node) - before < 48 * MIB
    assert calm_log(node) == []
    await client.close()


async def test_malformed_headers_harm_nobody(serve_node: ServeNode) -> None:
    node = await serve_node()
    client = await RawNats.connect(node.host, node.port)
    address = await Mq9(client).box("headed")
    blocks = (
        b"",
        b"\r\n",
        b"NATS/1.0",
        b"NATS/1.0\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n: no name\r\n\r\n",
        b"NATS/1.0\r\na:b",
        b"NATS/9.9\r\na: b\r\n\r\n",
        b"\xff\xfe\xfd\r\n\r\n",
        b"NATS/1.0\r\n\xff: \xfe\r\n\r\n",
        b"NATS/1.0\r\na\r\n b\r\n\r\n",
    )
    async with calm_client(node):
        for block in blocks:
            client.post(
                b"HPUB $mq9.AI.MSG.SEND.%b %d %d\r\n%b\r\n"
                % (address.encode(), len(block), len(block), block)
            )
        await asyncio.wait(
            [asyncio.ensure_future(client.flush()), asyncio.ensure_future(client.ended.wait())],
            timeout=CALM_S_MAX,
            return_when="FIRST_COMPLETED",
        )
    assert calm_log(node) == []
    await client.close()

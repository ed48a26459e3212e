"""Floods of subscriptions, FETCHes and searches are bounded, and others do not wait for them."""

import asyncio
import json

import pytest

from chaos.cluster.process import ServedNode
from tests.conftest import ServeNode
from tests.support.hostile import CALM_S_MAX, MIB, calm_client, calm_log, memory_bytes, searches
from tests.support.mq9 import Mq9, encoded, payloads
from tests.support.raw_nats import RawNats, publication

WAITING_MAX = 1_000  # FETCHes of one connection


async def test_a_flood_of_subscriptions_is_bounded_and_forgotten_with_its_connection(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    grown = []
    before = memory_bytes(node)
    async with calm_client(node):
        for flood in range(3):
            client = await RawNats.connect(node.host, node.port)
            for start in range(0, 120_000, 10_000):
                lines = (
                    f"SUB flood{flood}.{number % 7}.{'*' if number % 2 else 'x'}.{number} {number}"
                    for number in range(start, start + 10_000)
                )
                client.post("\r\n".join(lines).encode() + b"\r\n")
                await client.flush()
            assert set(client.errors) == {"maximum subscriptions exceeded"}
            assert not client.ended.is_set()
            await client.close()
            grown.append(memory_bytes(node) - before)
    # the same memory serves each flood anew
    assert grown[2] < grown[0] + 48 * MIB
    assert grown[0] < 192 * MIB
    assert calm_log(node) == []


async def test_a_flood_of_waiting_fetches_is_bounded_and_told_overloaded(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    owner = Mq9(await RawNats.connect(node.host, node.port))
    address = await owner.box("wanted")
    before = memory_bytes(node)
    flood = 20_000
    body = encoded({"deliver": "earliest", "config": {"max_wait_ms": 300_000}})
    async with calm_client(node):
        client = await RawNats.connect(node.host, node.port)
        answers = [client.ask(f"$mq9.AI.MSG.FETCH.{address}", body) for _ in range(flood)]
        await client.flush()
        # the flooded connection itself is still served
        assert json.loads((await client.request("$mq9.AI.MAILBOX.CREATE")).payload)["error"] == ""
        refused = [json.loads(one.result().payload) for one in answers if one.done()]
        assert {reply["code"] for reply in refused} == {"overloaded"}
        assert all(reply["error"].startswith("overloaded: ") for reply in refused)
        assert len(refused) == flood - WAITING_MAX
        assert memory_bytes(node) - before < 96 * MIB
        # one message answers all that wait
        waited = [answer for answer in answers if not answer.done()]
        await owner.send(address, b"for all")
        replies = await asyncio.wait_for(asyncio.gather(*waited), 60)
        assert len(replies) == flood - len(refused)
        assert all(b'"messages":[{' in reply.payload for reply in replies)
        await client.close()
    assert calm_log(node) == []


async def test_waiting_fetches_of_a_connection_that_ended_are_forgotten(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    owner = Mq9(await RawNats.connect(node.host, node.port))
    address = await owner.box("wanted")
    body = encoded({"deliver": "earliest", "config": {"max_wait_ms": 300_000}})
    grown = []
    async with calm_client(node):
        before = memory_bytes(node)
        for _ in range(6):
            client = await RawNats.connect(node.host, node.port)
            for _ in range(5000):
                client.ask(f"$mq9.AI.MSG.FETCH.{address}", body)
            await client.flush()
            await client.close()
            grown.append(memory_bytes(node) - before)
        # another connection still may wait
        waiting = asyncio.create_task(owner.fetch(address, max_wait_ms=300_000))
        await asyncio.sleep(0.1)
        sender = Mq9(await RawNats.connect(node.host, node.port))
        await sender.send(address, b"here")
        assert payloads(await asyncio.wait_for(waiting, 30)) == [b"here"]
    assert grown[-1] < grown[1] + 24 * MIB


MANY = 10_000


async def filled(node: ServedNode) -> tuple[RawNats, str]:
    """A hostile client, and its mailbox with many messages."""
    client = await RawNats.connect(node.host, node.port)
    address = await Mq9(client).box("large")
    tagged = (("mq9-tags", "some"),)
    for _ in range(MANY // 1000):
        sends = (client.ask(f"$mq9.AI.MSG.SEND.{address}", b"x", tagged) for _ in range(1000))
        await asyncio.gather(*sends)
    return client, address


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["queries", "reads", "searches", "hand-outs"])
async def test_a_flood_of_long_searches_is_not_waited_for_by_others(
    serve_node: ServeNode, kind: str
) -> None:
    node = await serve_node()
    client, address = await filled(node)
    async with calm_client(node):
        client.post(b"".join(searches(address, kind)))
        await client.drain()  # not flush: its PONG comes when the client's own searches are done
        await asyncio.sleep(0.5)
    await client.close()
    async with calm_client(node):
        pass
    assert calm_log(node) == []


@pytest.mark.slow
async def test_a_thousand_searches_that_one_message_wakes_are_not_waited_for_by_others(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    client, address = await filled(node)
    body = encoded({"deliver": "earliest", "tags": ["none"], "config": {"max_wait_ms": 300_000}})
    async with calm_client(node):
        client.post(publication(f"$mq9.AI.MSG.FETCH.{address}", body) * WAITING_MAX)
        for _ in range(20):
            await client.request(f"$mq9.AI.MSG.SEND.{address}", b"x", timeout_s=CALM_S_MAX)
    await client.close()
    assert calm_log(node) == []

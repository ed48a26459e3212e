"""Limits of one client as an operator sets them: kept, told, counted, per connection."""

import asyncio
import json

from chaos.cluster.process import ServedNode
from tests.conftest import ServeNode
from tests.support.mq9 import Mq9, encoded
from tests.support.raw_nats import RawNats

RATE, FLOOD = 5, 100


async def counted(node: ServedNode, metric: str) -> float:
    lines = (await node.get("/metrics")).body.decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(metric + " "))


async def test_what_is_set_for_one_client_is_kept_told_and_counted(serve_node: ServeNode) -> None:
    node = await serve_node(max_waiting_fetches=2, max_subscriptions=3, max_request_rate=RATE)
    client, flooder = [await RawNats.connect(node.host, node.port) for _ in range(2)]
    address = await Mq9(client).box("limited")  # its inbox is the first subscription
    for number in range(4):
        client.subscribe(f"s.{number}")
    await client.flush()
    assert client.errors == ["maximum subscriptions exceeded"] * 2
    assert await counted(node, "mq9_subscriptions_refused_total") == 2

    body = encoded({"config": {"max_wait_ms": 300_000}})
    waiting = [client.ask(f"$mq9.AI.MSG.FETCH.{address}", body) for _ in range(3)]
    refused = json.loads((await waiting[2]).payload)
    assert refused == {
        "error": "overloaded: 2 FETCHes wait on this connection",
        "code": "overloaded",
    }
    assert [one.done() for one in waiting] == [False, False, True]
    assert await counted(node, "mq9_waiting_fetches_refused_total") == 1

    asked = [flooder.ask(f"$mq9.AI.MSG.QUERY.{address}") for _ in range(FLOOD)]
    answers = [json.loads(one.payload)["error"] for one in await asyncio.gather(*asked)]
    told = f"overloaded: {RATE} requests a second on this connection"
    assert answers[:RATE] == [""] * RATE
    assert set(answers) == {"", told}
    assert await counted(node, "mq9_requests_over_rate_total") == answers.count(told)
    await client.close()
    await flooder.close()


async def test_so_many_mailboxes_push_to_one_client(serve_node: ServeNode) -> None:
    node = await serve_node(max_waiting_fetches=2)
    client, other = [await RawNats.connect(node.host, node.port) for _ in range(2)]
    for number in range(2):
        client.subscribe(f"$mq9.AI.MAILBOX.MSG.box.{number}.*")
    await client.flush()
    assert (client.errors, await counted(node, "mq9_push_readers")) == ([], 2)
    client.subscribe("$mq9.AI.MAILBOX.MSG.box.2.*")
    other.subscribe("$mq9.AI.MAILBOX.MSG.box.2.*")
    await client.flush()
    await other.flush()
    assert client.errors == ["maximum subscriptions exceeded"]
    assert await counted(node, "mq9_push_readers") == 3
    assert await counted(node, "mq9_subscriptions_refused_total") == 1
    client.post(b"UNSUB 1\r\n")
    client.subscribe("$mq9.AI.MAILBOX.MSG.box.2.*")
    await client.flush()
    assert await counted(node, "mq9_push_readers") == 3
    await client.close()
    await other.close()

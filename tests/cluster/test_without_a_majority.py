"""Without a majority: `timeout` where a command may have happened, `unavailable` where not."""

import asyncio
import json
from contextlib import AsyncExitStack

import nats
from nats.aio.client import Client

from tests.conftest import ServeCluster
from tests.support.cluster import until

ANSWER_S_MAX = 60


async def send(client: Client, payload: bytes) -> dict[str, object]:
    reply = await client.request("$mq9.AI.MSG.SEND.box", payload, timeout=ANSWER_S_MAX)
    answer: dict[str, object] = json.loads(reply.data)
    return answer


async def test_a_node_alone_tells_unknown_from_not_done(serve_cluster: ServeCluster) -> None:
    cluster = await serve_cluster(shards=1)
    await until(cluster.agrees_now, "all nodes agree")
    leader = await cluster.leader_of(0)
    client = await nats.connect(leader.url, allow_reconnect=False)
    created = await client.request(
        "$mq9.AI.MAILBOX.CREATE", b'{"name":"box"}', timeout=ANSWER_S_MAX
    )
    assert json.loads(created.data)["error"] == ""
    async with AsyncExitStack() as paused:
        for other in cluster.others(leader):
            await paused.enter_async_context(other.paused())
        unknown = await send(client, b"maybe")
        refused, query = await asyncio.gather(
            send(client, b"no"),
            client.request("$mq9.AI.MSG.QUERY.box", b"", timeout=ANSWER_S_MAX),
        )
    assert (unknown["code"], str(unknown["error"])[:8]) == ("timeout", "timeout:")
    assert (refused["code"], str(refused["error"])[:12]) == ("unavailable", "unavailable:")
    assert json.loads(query.data)["code"] == "unavailable"
    await until(cluster.agrees_now, "all nodes agree again")
    again = await nats.connect(cluster.others(leader)[0].url, allow_reconnect=False)
    async with asyncio.timeout(ANSWER_S_MAX):
        while (await send(again, b"yes"))["error"]:
            pass
    found = await again.request(
        "$mq9.AI.MSG.QUERY.box", b'{"encoding":"text"}', timeout=ANSWER_S_MAX
    )
    payloads = [message["payload"] for message in json.loads(found.data)["messages"]]
    assert "yes" in payloads
    assert "no" not in payloads
    await client.close()
    await again.close()

"""Without a majority: `timeout` where a command may have happened, `unavailable` where not; and who
asks again, as PROTOCOL section 5 has it, is served once.
"""

import asyncio
import json
from contextlib import AsyncExitStack

import nats
from nats.aio.client import Client

from tests.conftest import ServeCluster
from tests.support.careful import CarefulMq9
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
    careful = CarefulMq9(client)
    assert await careful.create("box") == "box"
    async with AsyncExitStack() as paused:
        for other in cluster.others(leader):
            await paused.enter_async_context(other.paused())
        surely = asyncio.create_task(careful.send("box", b"surely"))
        unknown = await send(client, b"maybe")
        refused, query = await asyncio.gather(
            send(client, b"no"),
            client.request("$mq9.AI.MSG.QUERY.box", b"", timeout=ANSWER_S_MAX),
        )
        assert not surely.done()
    assert (unknown["code"], str(unknown["error"])[:8]) == ("timeout", "timeout:")
    assert (refused["code"], str(refused["error"])[:12]) == ("unavailable", "unavailable:")
    assert json.loads(query.data)["code"] == "unavailable"
    await until(cluster.agrees_now, "all nodes agree again")
    assert await asyncio.wait_for(surely, ANSWER_S_MAX) >= 1
    again = await nats.connect(cluster.others(leader)[0].url, allow_reconnect=False)
    async with asyncio.timeout(ANSWER_S_MAX):
        while (await send(again, b"yes"))["error"]:
            pass
    found = await again.request(
        "$mq9.AI.MSG.QUERY.box", b'{"encoding":"text"}', timeout=ANSWER_S_MAX
    )
    payloads = [message["payload"] for message in json.loads(found.data)["messages"]]
    assert payloads.count("surely") == 1
    assert "yes" in payloads
    assert "no" not in payloads
    await client.close()
    await again.close()

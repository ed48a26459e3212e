"""A machine that stands still with all nodes on it, for longer than a lease: nothing happened
meanwhile, so nobody loses anything by it.
"""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.cluster.conftest import At
from tests.support.careful import CarefulMq9
from tests.support.cluster import ServedCluster, until
from tests.support.mq9 import ids

STOOD_STILL_S = 8.0  # more than a lease, and than a leader must have led to end anybody's run
MAILBOXES = 8  # in several shards
AGREED_S_MAX = 60.0
WAIT_MS = 30_000

pytestmark = pytest.mark.timeout(240)


async def stand_still(cluster: ServedCluster) -> None:
    async with AsyncExitStack() as paused:
        for node in cluster:
            await paused.enter_async_context(node.paused())
        await asyncio.sleep(STOOD_STILL_S)


async def test_what_is_held_stays_held_though_all_nodes_stood_still(
    cluster: ServedCluster, at: At
) -> None:
    connections = [await at(node) for node in cluster]
    holders = [CarefulMq9(connection) for connection in connections]
    other = CarefulMq9(await at(cluster[0]))
    boxes = [await other.box() for _ in range(MAILBOXES)]
    for number, box in enumerate(boxes):
        await other.send_all(box, [b"1", b"2"])
        assert ids(await holders[number % 3].fetch(box, "g")) == [1, 2]
    ended = [len(node.events("new run begun")) for node in cluster]

    await stand_still(cluster)
    await cluster.until_ready()
    await until(cluster.agrees_now, "all nodes agree", AGREED_S_MAX)

    for number, box in enumerate(boxes):
        assert ids(await other.fetch(box, "g")) == []
        assert (await holders[number % 3].ack(box, "g", 1, scope="message"))["error"] == ""
        assert ids(await other.fetch(box, "g")) == []
    assert not any(connection.ended.is_set() for connection in connections)
    assert [len(node.events("new run begun")) for node in cluster] == ended
    # Their leases hold again: what they give back and ask for, they get.
    for number, box in enumerate(boxes):
        holder = holders[number % 3]
        assert (await holder.nack(box, "g", 2))["error"] == ""
        assert ids(await holder.fetch(box, "g", max_wait_ms=WAIT_MS)) == [2]

"""A node whose disk is far slower than the others' leads nothing, and takes part all the same."""

import asyncio

import pytest

from tests.cluster.conftest import At
from tests.conftest import ServeCluster
from tests.support.careful import CarefulMq9
from tests.support.cluster import ServedCluster, until
from tests.support.load import Load

SLOW = "n1"
MAILBOXES = 16
IN_TIME_S_MAX = 90.0

pytestmark = pytest.mark.timeout(300)


def leaders(cluster: ServedCluster) -> set[str]:
    return set(cluster.leaders_now(seen_by=cluster["n2"]).values())


async def test_leaderships_move_away_from_a_slow_disk_and_nothing_is_lost(
    serve_cluster: ServeCluster, at: At
) -> None:
    slow = {SLOW: {"MQ9_TEST_SYNC_DELAY_MS": "150"}}
    cluster = await serve_cluster(environments=slow)
    clients = [CarefulMq9(await at(node)) for node in cluster]
    addresses = [await clients[0].box() for _ in range(MAILBOXES)]
    async with Load(clients * 2, addresses, "s") as load:
        await until(
            lambda: bool(cluster[SLOW].events("the disk is slow")), "it knows", IN_TIME_S_MAX
        )
        others = {node.name for node in cluster.others(cluster[SLOW])}
        await until(lambda: leaders(cluster) <= others, "the others lead", IN_TIME_S_MAX)
        await asyncio.sleep(4)  # longer than a preferred leader must be well to be given its shards
        await until(lambda: leaders(cluster) <= others, "they still do", IN_TIME_S_MAX)
    await load.check(clients[0])

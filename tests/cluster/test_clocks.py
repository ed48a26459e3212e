"""A cluster of real processes in which one node's clock is an hour off.

Compared are the wall clock of this machine around each command and what the cluster makes of it, so
that a slow machine widens the brackets and fails nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
import pytest

from tests.conftest import ServeCluster
from tests.support.careful import CarefulMq9
from tests.support.cluster import ServedCluster, until
from tests.support.mq9 import Mq9
from tests.support.returning import close_for_good

HOUR_MS = 3_600_000
OFF = "n2"
EPSILON_S = 1.0
ROUNDING_S = 1  # create_time is in whole seconds
DELAY_S = 2
TTL_S = 3
LONG_S = 3_000  # less than the clock is off, far more than the test takes
BOXES = 6  # at each node: some in every shard
VISIBLE_MS_MAX = 30_000
LOOK_S = 0.2

pytestmark = pytest.mark.timeout(240)

Open = Callable[[Any], Any]


@pytest.fixture
async def open_at() -> AsyncIterator[Open]:
    opened = []

    async def open_one(node: Any) -> Mq9:
        opened.append(await nats.connect(node.url, max_reconnect_attempts=-1))
        return CarefulMq9(opened[-1])

    yield open_one
    for connection in opened:
        await close_for_good(connection)


async def delayed(mq9: Mq9) -> None:
    """A message that becomes visible when it should, and is stamped so."""
    box = await mq9.box("delayed")
    before_s = time.time()
    await mq9.send(box, delay=DELAY_S)
    after_s = time.time()
    (message,) = (await mq9.fetch(box, max_wait_ms=VISIBLE_MS_MAX))["messages"]
    assert time.time() >= before_s + DELAY_S - EPSILON_S
    stamped_s = message["create_time"]
    assert stamped_s >= before_s + DELAY_S - EPSILON_S - ROUNDING_S
    assert stamped_s <= after_s + DELAY_S + EPSILON_S


async def expiring(mq9: Mq9) -> float:
    """A message that is there as long as it should be; how long it was there beyond that, in s."""
    box = await mq9.box("expiring")
    before_s = time.time()
    await mq9.send(box, ttl=TTL_S)
    after_s = time.time()
    late_s = 0.0
    while True:
        asked_s = time.time()
        there = bool((await mq9.query(box))["messages"])
        if not there:
            assert time.time() >= before_s + TTL_S - EPSILON_S
            return late_s
        late_s = max(late_s, asked_s - after_s - TTL_S)
        await asyncio.sleep(LOOK_S)


async def all_in_time(clients: list[Mq9]) -> None:
    stamped = asyncio.gather(*(delayed(mq9) for mq9 in clients for _ in range(BOXES)))
    for late_s in await asyncio.gather(
        *(asyncio.gather(*(expiring(mq9) for _ in range(BOXES))) for mq9 in clients)
    ):
        # A wrong clock makes all of them late; a machine that is slow for a moment, some.
        assert min(late_s) <= EPSILON_S
    await stamped


def leads_nothing(cluster: ServedCluster, *views: str) -> None:
    for name in views:
        assert OFF not in cluster.leaders_now(seen_by=cluster[name]).values()
    assert cluster.counted_now("mq9_elections_won_total", cluster[OFF]) == 0


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_node_an_hour_off_leads_nothing_and_makes_nothing_early_late_or_lost(
    serve_cluster: ServeCluster, open_at: Open, hours: int
) -> None:
    off = {OFF: {"MQ9_TEST_CLOCK_OFFSET_MS": str(hours * HOUR_MS)}}
    cluster = await serve_cluster(environments=off)
    clients = [await open_at(node) for node in cluster]
    kept = [(await mq9.box("kept"), await mq9.box("later")) for mq9 in clients]
    for mq9, (box, later) in zip(clients, kept, strict=True):
        assert await mq9.send(box, ttl=LONG_S) == 1
        assert await mq9.send(box, msg_id="once") == 2
        assert await mq9.send(later, delay=LONG_S) == -1
    await all_in_time(clients)
    leads_nothing(cluster, *(node.name for node in cluster))

    # Two clocks are left, and no median between them: the one that was right before counts.
    await cluster["n3"].kill()
    await until(
        lambda: set(cluster.leaders_now(seen_by=cluster["n1"]).values()) == {"n1"}, "n1 leads all"
    )
    await all_in_time(clients[:2])
    leads_nothing(cluster, "n1", OFF)

    for box, later in kept:
        assert len((await clients[1].query(box))["messages"]) == 2
        assert (await clients[1].query(later))["messages"] == []
        repeat = await clients[1].try_send(box, msg_id="once")
        assert (repeat["msg_id"], repeat.get("duplicate")) == (2, True)

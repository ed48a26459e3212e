"""Five nodes: every shard is on three of them, any of them serves any client, and two may die."""

import asyncio
import time
from collections import Counter

import pytest

from mq9cluster.domain.address import mailbox_ref, slot_of
from mq9cluster.domain.limits import SLOTS
from tests.cluster.conftest import At
from tests.conftest import ServeCluster
from tests.support.careful import CarefulMq9
from tests.support.cluster import ServedCluster, until
from tests.support.load import Load
from tests.support.mq9 import Mq9, ids

NODES = 5
SHARDS = 10
REPLICAS = 3
MAILBOXES = 30  # so that each shard has some
IN_TIME_S_MAX = 60.0
LOOK_S = 0.2
CALM_S = 1.0

pytestmark = pytest.mark.timeout(240)


def replicas(cluster: ServedCluster) -> dict[int, set[str]]:
    """The nodes of each shard, as the first node that runs knows them."""
    node = next(node for node in cluster if node.running)
    shards = node.get_now("/cluster").json()["shards"]
    return {shard["id"]: {one["node"] for one in shard["replicas"]} for shard in shards}


def shard_of(box: str) -> int:
    return slot_of(mailbox_ref("$G", box)) * SHARDS // SLOTS


def all_replicas_known(cluster: ServedCluster) -> bool:
    return all(len(names) == REPLICAS for names in replicas(cluster).values())


def leaders_are_spread(cluster: ServedCluster) -> bool:
    counts = Counter(cluster.leaders_now().values())
    return sorted(counts.values()) == [SHARDS // NODES] * NODES


async def test_five_nodes_serve_as_one_and_survive_two(serve_cluster: ServeCluster, at: At) -> None:
    cluster = await serve_cluster(NODES, shards=SHARDS)
    await until(lambda: all_replicas_known(cluster), "three replicas of each shard", IN_TIME_S_MAX)
    await until(lambda: leaders_are_spread(cluster), "leaders are spread", IN_TIME_S_MAX)
    placed = replicas(cluster)
    assert {name for names in placed.values() for name in names} == {node.name for node in cluster}

    # Any node serves any shard, also one that has no replica of it.
    clients = [CarefulMq9(await at(node)) for node in cluster]
    addresses = [await clients[number % NODES].box() for number in range(MAILBOXES)]
    for number, client in enumerate(clients, 1):
        assert [await client.send(box, b"first-%d" % number) for box in addresses] == [
            number
        ] * MAILBOXES
    for number, box in enumerate(addresses):
        reader = clients[(number + 2) % NODES]
        assert ids(await reader.fetch(box, "g")) == [1, 2, 3, 4, 5]

    # Two die at once. Shards that keep a majority go on; the others do nothing, and say so.
    victims = cluster.nodes[1:3]
    names = {node.name for node in victims}
    alive = cluster.others(*victims)
    left = [client for client, node in zip(clients, cluster, strict=True) if node in alive]
    goes_on = {shard for shard, nodes in placed.items() if len(nodes - names) > REPLICAS // 2}
    served = [box for box in addresses if shard_of(box) in goes_on]
    stopped = [box for box in addresses if shard_of(box) not in goes_on]
    async with Load(left * 2, served, "f") as load:
        await asyncio.sleep(CALM_S)
        await asyncio.gather(*(node.kill() for node in victims))
        killed_s = time.monotonic()
        again_s = await load.until_acked_again(killed_s, IN_TIME_S_MAX)
        refused = await asyncio.gather(
            *(Mq9(left[0].connection).try_send(box, b"late", msg_id="late") for box in stopped[:4])
        )
    assert again_s < IN_TIME_S_MAX
    assert {reply["code"] for reply in refused} <= {"unavailable", "timeout"}

    # One of them comes back, and with it everything.
    await victims[0].start()
    await victims[0].until_ready()
    back = CarefulMq9(await at(victims[0]))
    async with Load([back, left[0]], addresses, "b") as later:
        assert await later.until_acked_again(time.monotonic(), IN_TIME_S_MAX) < IN_TIME_S_MAX
    await load.check(back)
    await later.check(left[1])
    # What the dead held goes to another, what the living hold does not.
    for number, box in enumerate(addresses):
        reader = (number + 2) % NODES
        if cluster.nodes[reader] in victims:
            await fetched(left[-1], box, [1, 2, 3, 4, 5])
        elif clients[reader] is not left[-1]:
            taken = ids(await left[-1].fetch(box, "g", num_msgs=5))
            assert not set(taken) & {1, 2, 3, 4, 5}


async def fetched(client: Mq9, box: str, expected: list[int]) -> None:
    """Ask until these are what it is handed out: its own and the open ones, best first."""
    async with asyncio.timeout(IN_TIME_S_MAX):
        while True:
            if ids(await client.fetch(box, "g", num_msgs=len(expected))) == expected:
                return
            await asyncio.sleep(LOOK_S)

"""Nodes whose data directory is gone: they do not come back under their old names by themselves."""

import asyncio
import shutil

import pytest

from tests.cluster.conftest import At
from tests.conftest import ServeCluster
from tests.support.careful import CarefulMq9
from tests.support.cluster import ClusterNode, until
from tests.support.mq9 import Mq9, payloads

REFUSED_S_MAX = 60.0
STAYS_OUT_S = 5.0  # several election timeouts

pytestmark = pytest.mark.timeout(300)


async def emptied(node: ClusterNode) -> None:
    await node.kill()
    await asyncio.to_thread(shutil.rmtree, node.data_dir)


def complains(node: ClusterNode) -> bool:
    return any("another node's data" in str(line) for line in node.events("peer refused"))


async def test_a_node_with_an_empty_disk_is_not_let_in_also_by_peers_that_just_started(
    serve_cluster: ServeCluster, at: At
) -> None:
    cluster = await serve_cluster()
    first, second, victim = cluster
    box = await CarefulMq9(await at(first)).box()
    await CarefulMq9(await at(first)).send(box, b"kept")
    await emptied(victim)
    await first.kill()
    await second.kill()
    # One of the others alone: with the emptied one it would be a majority, and must not be.
    victim.spawn_now()
    first.spawn_now()
    await until(lambda: complains(first), "the emptied node is refused", REFUSED_S_MAX)
    await asyncio.sleep(STAYS_OUT_S)
    assert not first.events("ready")
    assert not victim.events("ready")
    second.spawn_now()
    await first.until_ready()
    await second.until_ready()
    assert not victim.events("ready")
    there = CarefulMq9(await at(second))
    assert payloads(await there.query(box)) == [b"kept"]
    assert await there.send(box, b"more") == 2


async def test_a_majority_of_empty_disks_founds_no_new_cluster(
    serve_cluster: ServeCluster, at: At
) -> None:
    cluster = await serve_cluster()
    kept, *victims = cluster
    box = await CarefulMq9(await at(kept)).box()
    for victim in victims:
        await emptied(victim)
        victim.spawn_now()
    await until(lambda: complains(kept), "they are refused", REFUSED_S_MAX)
    refused, _ = await asyncio.gather(
        Mq9(await at(kept)).try_send(box, b"nobody to agree with"), asyncio.sleep(STAYS_OUT_S)
    )
    assert not any(victim.events("ready") for victim in victims)
    assert refused["code"] in ("unavailable", "timeout")

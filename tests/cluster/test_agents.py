"""The registry under kill -9, changes of leaders and catching up by state: nothing acknowledged is
lost or comes back, and all replicas end with the same rows, cards, codes and heartbeats alike.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import ServeCluster
from tests.support.careful import UNSURE
from tests.support.cluster import ClusterNode, ServedCluster, until
from tests.support.mq9 import Mq9, Reply, fresh
from tests.support.raw_nats import ConnectionEnded, RawNats

ENVIRONMENT = {"MQ9_TEST_STATE_HASHES": "1"}
LOG_KEPT = {"MQ9_TEST_LOG_ENTRIES_KEPT": "40"}
AGENTS = 24  # so that every one of 8 shards has some
AGAIN_S = 0.2
SAME_S_MAX = 60.0
GONE = -1  # in place of a revision

At = Callable[[ClusterNode], Awaitable[Mq9]]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def at() -> AsyncIterator[At]:
    """`await at(node)` is a client of one node that does not go elsewhere."""
    opened: list[RawNats] = []

    async def one_more(node: ClusterNode) -> Mq9:
        opened.append(await RawNats.connect(node.host, node.port))
        return Mq9(opened[-1])

    yield one_more
    for client in opened:
        await client.close()


class Life:
    """One agent that registers revision after revision, reports, and now and then unregisters.

    `acked` is the last revision that was acknowledged, `tried` the one that was asked for since.
    """

    def __init__(self, client: Mq9, name: str) -> None:
        self.client = client
        self.name = name
        self.acked = self.tried = GONE
        self.reported = self.told = GONE
        self.count = 0

    async def live(self, stopping: asyncio.Event) -> None:
        try:
            while not stopping.is_set():
                self.count += 1
                await (self._unregister() if self.count % 7 == 0 else self._register())
        except ConnectionEnded:
            pass  # its node was killed: what was under way may have happened or not

    async def _register(self) -> None:
        self.tried = self.told = self.count
        card = {"name": self.name, "mailbox": f"m.{self.count % 3}", "payload": f"r{self.count}"}
        await self._surely("REGISTER", card)
        self.acked = self.count
        await self._surely("REPORT", {"name": self.name, "report_info": self.count})
        self.reported = self.count

    async def _unregister(self) -> None:
        self.tried = GONE
        await self._surely("UNREGISTER", {"name": self.name})
        self.acked = GONE

    async def _surely(self, command: str, body: dict[str, Any]) -> None:
        """Ask until it is done: each of these may happen twice."""
        repeated = False
        while True:
            reply = await self.client.ask(f"AGENT.{command}", body)
            if reply["error"] == "":
                return
            if repeated and reply["code"] == "agent_not_found" and command == "UNREGISTER":
                return  # the one before had been carried out
            assert reply["code"] in UNSURE, reply
            repeated = True
            await asyncio.sleep(AGAIN_S)


class Flood:
    """Many lives over some clients."""

    def __init__(self, clients: list[Mq9]) -> None:
        self.prefix = fresh("flood")
        self.lives = [
            Life(clients[n % len(clients)], f"{self.prefix}.{n:02}") for n in range(AGENTS)
        ]
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.ensure_future(life.live(self._stopping)) for life in self.lives]

    async def until_done(self, each: int) -> None:
        """Wait until every agent came so much further."""
        goals = [life.count + each for life in self.lives]
        async with asyncio.timeout(SAME_S_MAX):
            while any(life.count < goal for life, goal in zip(self.lives, goals, strict=True)):
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def ended(self) -> None:
        """Wait until every client noticed that its node is gone."""
        await asyncio.gather(*self._tasks)

    def check(self, reply: Reply) -> None:
        """What DISCOVER shows is what was acknowledged, or what was under way."""
        hits = {hit["name"]: hit for hit in reply["agents"]}
        for life in self.lives:
            hit = hits.get(life.name)
            shown = int(hit["payload"][1:]) if hit else GONE
            assert shown in (life.acked, life.tried), (life.name, shown, life.acked, life.tried)
            if hit and shown == life.acked == life.reported:
                assert hit["_mq9"]["report_info"] in (life.reported, life.told)
        assert set(hits) <= {life.name for life in self.lives}


async def shown(client: Mq9, flood: Flood, **fields: Any) -> Reply:
    """What DISCOVER shows of the flood's agents, once it can be asked."""
    body = {"filter": {"name": flood.prefix}, "limit": 1_000, **fields}
    async with asyncio.timeout(SAME_S_MAX):
        while True:
            reply = await client.ask("AGENT.DISCOVER", body)
            if reply["error"] == "" and "partial" not in reply:
                return reply
            await asyncio.sleep(AGAIN_S)


def hashes(node: ClusterNode) -> dict[str, list[Any]]:
    """Where the node's replicas stand, and what their states hash to."""
    found: dict[str, list[Any]] = node.get_now("/cluster?state_hashes=1").json()["state_hashes"]
    return found


async def until_same(cluster: ServedCluster) -> None:
    def same() -> bool:
        first, *others = [hashes(node) for node in cluster]
        return bool(first) and all(other == first for other in others)

    await until(same, "states are the same", SAME_S_MAX)


async def check_everywhere(cluster: ServedCluster, flood: Flood, at: At) -> None:
    """Every node shows the same, from the leaders and from its own replicas' indexes."""
    await until_same(cluster)
    for node in cluster:
        client = await at(node)
        flood.check(await shown(client, flood))
        flood.check(await shown(client, flood, consistency="stale"))


async def test_a_leader_killed_in_a_flood_costs_nothing_that_was_acknowledged(
    serve_cluster: ServeCluster, at: At
) -> None:
    cluster = await serve_cluster(environment=ENVIRONMENT)
    victim = await cluster.leader_of(0)
    flood = Flood([await at(node) for node in cluster.others(victim)] * 4)
    await flood.until_done(5)
    await victim.kill()
    await flood.until_done(10)
    await victim.start()
    await flood.until_done(5)
    await flood.stop()
    await check_everywhere(cluster, flood, at)


async def test_all_nodes_killed_in_a_flood_come_back_with_the_registry(
    serve_cluster: ServeCluster, at: At
) -> None:
    cluster = await serve_cluster(environment=ENVIRONMENT)
    flood = Flood([await at(node) for node in cluster] * 4)
    await flood.until_done(10)
    await cluster.kill()
    await flood.ended()
    await cluster.start()
    await check_everywhere(cluster, flood, at)
    later = Flood([await at(node) for node in cluster])
    await later.until_done(3)
    await later.stop()
    await check_everywhere(cluster, later, at)


async def test_a_node_that_was_away_too_long_is_brought_the_registry(
    serve_cluster: ServeCluster, at: At
) -> None:
    cluster = await serve_cluster(shards=2, environment={**ENVIRONMENT, **LOG_KEPT})
    *others, late = cluster
    await late.kill()
    flood = Flood([await at(node) for node in others] * 4)
    await flood.until_done(14)
    await late.start()
    await flood.until_done(5)
    await flood.stop()
    assert cluster.counted_now("mq9_snapshot_received_total", late) >= 1
    await check_everywhere(cluster, flood, at)
    agents = sum(life.acked != GONE for life in flood.lives)
    for node in cluster:
        assert cluster.counted_now("mq9_shard_agents", node) == agents

"""DISCOVER while nodes die, come back, are brought the state, and leaders change: what was
acknowledged is found at every node, the same everywhere, and who does not answer is named.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats

from chaos.cluster.process import ServedNode
from tests.cluster.conftest import At, Connect
from tests.conftest import ServeCluster, ServeNode
from tests.support.cluster import LOOK_S, ClusterNode, ServedCluster, until
from tests.support.mq9 import ANSWER_S_MAX, Mq9, Reply
from tests.support.raw_nats import ConnectionEnded

HASHES = {"MQ9_TEST_STATE_HASHES": "1"}
LOG_KEPT = {"MQ9_TEST_LOG_ENTRIES_KEPT": "40"}  # a second's work: who was away needs the state
SHARDS = 4
WHOLE_S_MAX = 60.0  # until a DISCOVER is answered by all shards, on a busy machine
QUESTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"text": "violins"},
    {"semantic": "music lessons", "exact": True},
    {"text": "violins", "semantic": "book a plane ticket", "mode": "hybrid", "exact": True},
    {"filter": {"tags": "even"}, "text": "flights"},
    {"text": "flights", "limit": 7, "page": 3},
)


@asynccontextmanager
async def asking(node: ServedNode) -> AsyncIterator[Mq9]:
    """A client for some questions."""
    client = await nats.connect(node.url, allow_reconnect=False)
    try:
        yield Mq9(client)
    finally:
        await client.close()


def card(number: int) -> dict[str, Any]:
    does = ("restores violins", "books flights and hotels", "teaches music", "翻译文件")[number % 4]
    return {
        "name": f"agent-{number:04}",
        "description": f"{does} number {number % 10}",
        "tags": ["even" if number % 2 == 0 else "odd"],
        "ttl": 0,
    }


async def register(mq9: Mq9, numbers: Sequence[int]) -> None:
    replies = await asyncio.gather(*(mq9.ask("AGENT.REGISTER", card(n)) for n in numbers))
    assert [reply["error"] for reply in replies] == [""] * len(numbers)


async def answers(node: ServedNode) -> list[Reply]:
    """What a node says to all questions, without when agents were last seen."""
    found = []
    async with asking(node) as mq9:
        for question in QUESTIONS:
            reply = await whole_answer(mq9, {"limit": 500, **question})
            for agent in reply["agents"]:
                del agent["_mq9"]["last_seen"]
            found.append(reply)
    return found


async def whole_answer(mq9: Mq9, question: dict[str, Any]) -> Reply:
    """Ask until all shards answer: on a busy machine a shard may be without a leader for a while,
    which is said. Raises TimeoutError.
    """
    async with asyncio.timeout(WHOLE_S_MAX):
        while True:
            reply = await mq9.ask("AGENT.DISCOVER", question)
            if not reply["error"] and "partial" not in reply:
                return reply
            assert reply["error"] == "" or reply["code"] == "unavailable", reply
            await asyncio.sleep(LOOK_S)


async def names(node: ServedNode) -> list[str]:
    [every, *_] = await answers(node)
    return [agent["name"] for agent in every["agents"]]


def same_state(cluster: ServedCluster) -> bool:
    first, *others = [
        node.get_now("/cluster?state_hashes=1").json()["state_hashes"] for node in cluster
    ]
    return len(first) == SHARDS and all(other == first for other in others)


async def all_the_same(cluster: ServedCluster) -> list[Reply]:
    """Wait for equal rows on all replicas; then all nodes say the same."""
    await until(lambda: same_state(cluster), "replicas have the same state", 60)
    first, *others = [await answers(node) for node in cluster]
    assert others == [first] * len(others)
    return first


async def test_one_node_that_was_killed_finds_all_it_acknowledged(
    serve_node: ServeNode, connect: Connect
) -> None:
    node = await serve_node()
    mq9 = await connect(node)
    await register(mq9, range(300))
    gone = [mq9.ask("AGENT.UNREGISTER", {"name": f"agent-{n:04}"}) for n in range(0, 300, 10)]
    await asyncio.gather(*gone)
    before = await answers(node)
    assert before[0]["total"] == 270
    await node.kill()
    await node.start()
    assert await answers(node) == before


async def test_all_nodes_find_the_same_after_all_were_killed(
    serve_cluster: ServeCluster, connect: Connect
) -> None:
    cluster = await serve_cluster(3, shards=SHARDS, environment=HASHES)
    clients = [await connect(node) for node in cluster]
    await asyncio.gather(*(register(mq9, range(at, 300, 3)) for at, mq9 in enumerate(clients)))
    before = await all_the_same(cluster)
    assert before[0]["total"] == 300
    await cluster.kill()
    await cluster.start()
    assert await all_the_same(cluster) == before


async def test_a_node_that_is_brought_the_state_finds_what_the_others_find(
    serve_cluster: ServeCluster,
    connect: Connect,
) -> None:
    cluster = await serve_cluster(3, shards=SHARDS, environment={**HASHES, **LOG_KEPT})
    mq9 = await connect(cluster[0])
    await register(mq9, range(100))
    away = cluster[2]
    await away.kill()
    for start in range(100, 400, 5):  # in many entries: more than the logs keep
        await register(mq9, range(start, start + 5))
    for number in range(0, 400, 7):
        await mq9.ask("AGENT.UNREGISTER", {"name": f"agent-{number:04}"})
    await away.start()
    await away.until_ready()
    replies = await all_the_same(cluster)
    assert replies[0]["total"] == 400 - len(range(0, 400, 7))
    received = away.get_now("/metrics").body.decode()
    assert "mq9_snapshot_received_total 0.0" not in received


async def test_leaders_change_in_a_flood_of_registrations(
    serve_cluster: ServeCluster, at: At
) -> None:
    cluster = await serve_cluster(3, shards=SHARDS, environment=HASHES)
    acknowledged: set[str] = set()
    maybe: set[str] = set()
    over = asyncio.Event()

    async def flood(node: ClusterNode, first: int) -> None:
        number = first
        while not over.is_set():
            try:
                mq9 = Mq9(await at(node))
                while not over.is_set():
                    name = card(number)["name"]
                    maybe.add(name)  # and if its node is killed under it, no more than that
                    reply = await mq9.ask("AGENT.REGISTER", card(number))
                    if not reply["error"]:
                        acknowledged.add(name)
                    number += 10
            except (ConnectionEnded, OSError):
                number += 10
                await asyncio.sleep(LOOK_S)

    floods = [
        asyncio.create_task(flood(node, 10 * 1_000 * place + lane))
        for place, node in enumerate(cluster)
        for lane in range(3)
    ]
    for victim in (cluster[0], cluster[1]):
        await asyncio.sleep(1.0)
        await victim.kill()
        await asyncio.sleep(1.0)
        await victim.start()
        await cluster.until_ready()
    over.set()
    await asyncio.gather(*floods)
    assert len(acknowledged) > 50
    await until(lambda: same_state(cluster), "replicas have the same state", 60)
    found = [set(await all_names(node)) for node in cluster]
    assert found[0] == found[1] == found[2]
    assert acknowledged <= found[0] <= maybe


async def all_names(node: ServedNode) -> list[str]:
    """All there are, page by page."""
    found: list[str] = []
    async with asking(node) as mq9:
        for page in range(1, 1_000):
            reply = await whole_answer(mq9, {"limit": 1_000, "page": page})
            found += [agent["name"] for agent in reply["agents"]]
            if len(found) == reply["total"]:
                return found
    raise AssertionError("pages without end")


async def test_shards_that_do_not_answer_are_named_and_stale_is_answered(
    serve_cluster: ServeCluster,
    connect: Connect,
) -> None:
    cluster = await serve_cluster(3, shards=SHARDS)
    mq9 = await connect(cluster[0])
    await register(mq9, range(100))
    for node in cluster:
        assert len(await names(node)) == 100
    async with cluster[1].paused(), cluster[2].paused():
        started_s = time.monotonic()
        reply = await Mq9(mq9.connection).ask("AGENT.DISCOVER", {"limit": 500})
        assert reply["code"] == "unavailable", reply
        assert time.monotonic() - started_s < ANSWER_S_MAX
        stale = await mq9.ask("AGENT.DISCOVER", {"limit": 500, "consistency": "stale"})
        assert len(stale["agents"]) == 100
        assert "partial" not in stale
    await cluster.until_ready()
    assert len(await names(cluster[0])) == 100


async def test_five_nodes_ask_each_other_for_what_they_do_not_hold(
    serve_cluster: ServeCluster,
    connect: Connect,
) -> None:
    cluster = await serve_cluster(5, shards=6)
    mq9 = await connect(cluster[4])
    await register(mq9, range(200))
    first, *others = [await answers(node) for node in cluster]
    assert first[0]["total"] == 200
    assert "partial" not in first[0]
    assert others == [first] * 4
    # With two nodes dead every shard still has two of its three replicas, or one and no leader:
    # those are named, and what is found is from the others.
    await asyncio.gather(cluster[0].kill(), cluster[1].kill())
    at_last = await connect(cluster[4])

    async def settled() -> Reply:
        while True:
            reply = await at_last.ask("AGENT.DISCOVER", {"limit": 500})
            if not reply["error"] and len(reply.get("partial", [])) + len(reply["agents"]) > 0:
                return reply

    reply = await asyncio.wait_for(settled(), 60)
    missing = reply.get("partial", [])
    assert len(missing) < 6
    assert (reply["total"] == 200) == (not missing)

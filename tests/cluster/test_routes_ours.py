"""Core NATS over three nodes where there is nothing to compare with: replies of mq9 commands across
nodes, and what clients of the others see when a node dies, comes back or leaves.
"""

import asyncio
import json
import signal

from tests.cluster.conftest import At
from tests.support.careful import CarefulMq9
from tests.support.cluster import ClusterNode, ServedCluster, until
from tests.support.mq9 import fresh, ids
from tests.support.raw_nats import Delivered, RawNats, publication

NOTICED_S_MAX = 60.0  # a dead node, by the others; a second or two where nothing else runs
LOOK_S = 0.02

Queue = asyncio.Queue[Delivered]


async def reached(writer: RawNats, subject: str, *heard: Queue) -> None:
    """Publish until each of `heard` got something, and throw away what came of that."""
    async with asyncio.timeout(NOTICED_S_MAX):
        while not all(queue.qsize() for queue in heard):
            writer.post(publication(subject, b"probe"))
            await asyncio.sleep(LOOK_S)
    await writer.flush()
    await asyncio.sleep(10 * LOOK_S)
    for queue in heard:
        while not queue.empty():
            queue.get_nowait()


async def told_urls(client: RawNats, nodes: list[ClusterNode]) -> None:
    """Wait until the newest INFO of `client` names exactly `nodes`."""
    expected = sorted(node.address for node in nodes)

    def told() -> bool:
        urls = client.info.get("connect_urls")
        return isinstance(urls, list) and sorted(urls) == expected

    await until(told, f"connect_urls are {expected}", NOTICED_S_MAX)


# --- replies of commands -------------------------------------------------------------------------


async def test_a_commands_reply_reaches_exactly_the_literal_subscriber_on_another_node(
    cluster: ServedCluster, at: At
) -> None:
    asker, listener, spy = [await at(node) for node in cluster]
    inbox = fresh("_INBOX")
    box = await CarefulMq9(asker).box()
    heard = listener.subscribe(inbox)
    seen = [
        spy.subscribe(pattern)
        for pattern in (">", "_INBOX.>", f"{inbox.rpartition('.')[0]}.*", "*.*.*", "_INBOX.*.*")
    ]
    for node in cluster:
        await reached(await at(node), inbox, heard, *seen)
    asker.post(publication(f"$mq9.AI.MSG.SEND.{box}", b"secret", inbox))
    reply = await asyncio.wait_for(heard.get(), NOTICED_S_MAX)
    assert json.loads(reply.payload) == {"error": "", "msg_id": 1}
    # Behind it, in order, what the spy may see: if it saw anything else, it saw it before.
    await reached(await at(cluster[0]), f"{fresh('after')}.only.the.first", *seen[:1])
    assert heard.empty()
    assert [queue.qsize() for queue in seen] == [0] * 5


async def test_a_spy_on_another_node_sees_no_command_and_no_reply(
    cluster: ServedCluster, at: At
) -> None:
    asker, worker, spy = [await at(node) for node in cluster]
    seen = spy.subscribe(">")
    after = fresh("after")
    await reached(await at(cluster[0]), fresh("before"), seen)
    box = await CarefulMq9(asker).create()
    await CarefulMq9(worker).send(box, b"secret")
    assert ids(await CarefulMq9(asker).fetch(box, "g")) == [1]
    assert ids(await CarefulMq9(worker).query(box)) == [1]
    assert (await CarefulMq9(asker).ack(box, "g", 1))["error"] == ""
    for client in (asker, worker):  # behind the replies, on the same streams
        client.post(publication(after, b"over"))
    async with asyncio.timeout(NOTICED_S_MAX):
        came = [await seen.get() for _ in range(2)]
    assert [(message.subject, message.payload) for message in came] == [(after, b"over")] * 2


# --- nodes that come and go ----------------------------------------------------------------------


async def test_interest_of_a_dead_node_ends_and_that_of_its_next_run_counts(
    cluster: ServedCluster, at: At
) -> None:
    asker, subject = await at(cluster[0]), fresh()
    heard = (await at(cluster[1])).subscribe(subject)
    stays = await at(cluster[0])
    kept = stays.subscribe(f"{subject}.back")
    await reached(asker, subject, heard)
    await cluster[1].kill()
    async with asyncio.timeout(NOTICED_S_MAX):  # answered by nobody until the death is noticed
        while True:
            answer = asker.ask(subject)
            done, _ = await asyncio.wait([answer], timeout=10 * LOOK_S)
            if done and answer.result().headers.startswith(b"NATS/1.0 503"):
                break
    await cluster[1].start()
    again = await at(cluster[1])
    heard = again.subscribe(subject)
    await reached(asker, subject, heard)
    await reached(again, f"{subject}.back", kept)  # and it knows what the others want
    asker.post(publication(subject, b"once"))
    assert (await asyncio.wait_for(heard.get(), NOTICED_S_MAX)).payload == b"once"


async def test_a_group_goes_on_without_the_node_of_a_member(cluster: ServedCluster, at: At) -> None:
    subject = fresh()
    stays, dies = [(await at(node)).subscribe(subject, "g") for node in cluster.nodes[:2]]
    writer = await at(cluster[2])
    await reached(writer, subject, stays, dies)
    await cluster[1].kill()
    await until(lambda: bool(_down(cluster[2], "n2")), "n3 misses n2", NOTICED_S_MAX)
    for number in range(100):
        writer.post(publication(subject, b"%d" % number))
    async with asyncio.timeout(NOTICED_S_MAX):
        came = [(await stays.get()).payload for _ in range(100)]
    assert came == [b"%d" % number for number in range(100)]


def _down(node: ClusterNode, peer: str) -> bool:
    """Whether `peer` went down and did not come up again since, by the node's log."""
    told = [line for line in node.log if line.get("event") in ("peer up", "peer down")]
    last = next((line for line in reversed(told) if line.get("peer") == peer), {})
    return last.get("event") == "peer down"


async def test_connect_urls_follow_a_node_that_dies_and_comes_back(
    cluster: ServedCluster, at: At
) -> None:
    client = await at(cluster[0])
    await client.flush()
    await told_urls(client, cluster.nodes)
    await cluster[2].kill()
    await told_urls(client, cluster.nodes[:2])
    await cluster[2].start()
    await told_urls(client, cluster.nodes)


async def test_a_node_that_leaves_sends_its_clients_to_the_others(
    cluster: ServedCluster, at: At
) -> None:
    leaving, *others = cluster.nodes
    guest, elsewhere = await at(leaving), await at(others[0])
    await guest.flush()
    await told_urls(elsewhere, cluster.nodes)
    leaving.signal(signal.SIGUSR2)
    await until(lambda: bool(guest.info.get("ldm")), "the guest is told to go", NOTICED_S_MAX)
    assert sorted(map(str, guest.info["connect_urls"])) == sorted(one.address for one in others)
    await told_urls(elsewhere, others)
    assert "ldm" not in elsewhere.info
    async with asyncio.timeout(NOTICED_S_MAX):
        await guest.ended.wait()
    assert await leaving.wait() == 0

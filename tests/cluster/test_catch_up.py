"""A node that was away for longer than its peers' logs reach: it is brought the state, and takes
part again, while work goes on.
"""

import asyncio
import re
import time
from typing import Any

import nats

from tests.conftest import ServeCluster
from tests.support.careful import CarefulMq9
from tests.support.cluster import ClusterNode, ServedCluster, until
from tests.support.mq9 import Mq9, ids, payloads

LOG_KEPT = 40  # entries, so that a second's work is more than the log holds
ENVIRONMENT = {"MQ9_TEST_LOG_ENTRIES_KEPT": str(LOG_KEPT), "MQ9_TEST_STATE_HASHES": "1"}
SHARDS = 4
KEYS = 20  # of the load: only the newest of each stays
CAUGHT_UP_S_MAX = 90.0
MOMENTS_S = (1.0, 1.6, 2.2)  # after the start of a process: about when it is brought states


async def connect(*nodes: ClusterNode) -> Any:
    return await nats.connect([node.url for node in nodes], max_reconnect_attempts=-1)


def counted(node: ClusterNode, name: str) -> int:
    """A counter of /metrics."""
    text = node.get_now("/metrics").body.decode()
    found = re.search(rf"^mq9_snapshot_{name}_total (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return int(float(found[1]))


def hashes(node: ClusterNode) -> dict[str, list]:
    """Where the node's replicas stand, and what their states hash to."""
    found: dict[str, list] = node.get_now("/cluster?state_hashes=1").json()["state_hashes"]
    return found


def same_state(cluster: ServedCluster) -> bool:
    first, *others = [hashes(node) for node in cluster]
    return len(first) == SHARDS and all(other == first for other in others)


class Load:
    """Sends until it is told to stop; nothing acknowledged may be missing afterwards."""

    def __init__(self, mq9: Mq9, boxes: list[str]) -> None:
        self.mq9 = mq9
        self.mark = b"load-"
        self.acknowledged: dict[str, list[bytes]] = {box: [] for box in boxes}
        self.slowest_s = 0.0
        self._stopping = False
        self._tasks = [asyncio.ensure_future(self._send(box)) for box in boxes]

    async def _send(self, box: str) -> None:
        count = 0
        while not self._stopping:
            payload = b"%s%06d" % (self.mark, count)
            began_s = time.monotonic()
            await self.mq9.send(box, payload, key=f"key{count % KEYS}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            self.acknowledged[box].append(payload)
            count += 1

    async def until_sent(self, count: int) -> None:
        async with asyncio.timeout(CAUGHT_UP_S_MAX):
            goal = len(self) + count
            while len(self) < goal:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.05)

    def __len__(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def fill(mq9: Mq9, boxes: list[str], each: int) -> None:
    """Messages of all kinds, and groups that hold and confirm some."""
    for start in range(0, each, 50):
        await asyncio.gather(
            *(
                mq9.send(box, b"fill-%d" % n, **_headers(n))
                for box in boxes
                for n in range(start, min(start + 50, each))
            )
        )
    for box in boxes:
        held = await mq9.fetch(box, group="held", num_msgs=20)
        await mq9.ack(box, "held", ids(held)[9])
        await mq9.fetch(box, group="done", num_msgs=5)


async def fill_log(mq9: Mq9, boxes: list[str]) -> None:
    """More entries than a log keeps: one message each, at least of the busiest shard."""
    await asyncio.gather(*(mq9.send_all(box, [b"one"] * 2 * LOG_KEPT) for box in boxes))


def _headers(n: int) -> dict[str, str]:
    return {
        "priority": ("normal", "urgent", "critical")[n % 3],
        "tags": f"t{n % 7}",
        **({"delay": "3600"} if n % 11 == 0 else {}),
        **({"msg_id": f"id{n}"} if n % 5 == 0 else {}),
    }


async def newest(mq9: Mq9, load: Load, box: str) -> list[bytes]:
    """What the load left in a mailbox."""
    found = payloads(await mq9.query(box, limit=1000))
    return [payload for payload in found if payload.startswith(load.mark)]


async def test_a_node_that_was_away_too_long_is_brought_the_state_while_work_goes_on(
    serve_cluster: ServeCluster,
) -> None:
    cluster = await serve_cluster(shards=SHARDS, environment=ENVIRONMENT)
    *others, late = cluster
    connection = await connect(*others)
    mq9 = CarefulMq9(connection)
    boxes = [await mq9.box("late") for _ in range(12)]
    await late.kill()
    await fill(mq9, boxes, 150)
    load = Load(mq9, boxes)
    await load.until_sent(2_000)
    await late.start()
    await late.until_ready()
    await until(lambda: counted(late, "received") >= 1, "a state was taken", CAUGHT_UP_S_MAX)
    await load.until_sent(500)
    await load.stop()
    await until(lambda: same_state(cluster), "states are the same", CAUGHT_UP_S_MAX)
    assert counted(late, "bytes_received") > 10_000
    assert sum(counted(node, "sent") for node in others) >= counted(late, "received")

    def leads_again() -> bool:
        return late.name in cluster.leaders_now(seen_by=late).values()

    await until(leads_again, "the late node leads again", CAUGHT_UP_S_MAX)
    there = await connect(late)
    for box in boxes:
        assert await newest(CarefulMq9(there), load, box) == load.acknowledged[box][-KEYS:]
    await there.close()
    await connection.close()


async def test_a_node_that_is_killed_while_it_is_brought_the_state_takes_it_in_the_end(
    serve_cluster: ServeCluster,
) -> None:
    cluster = await serve_cluster(shards=SHARDS, environment=ENVIRONMENT)
    *others, late = cluster
    connection = await connect(*others)
    mq9 = CarefulMq9(connection)
    boxes = [await mq9.box("killed") for _ in range(4)]
    await late.kill()
    await fill(mq9, boxes, 300)
    await fill_log(mq9, boxes)
    for box in boxes:
        await asyncio.gather(*(mq9.send(box, b"x" * 200_000) for _ in range(10)))
    for moment_s in MOMENTS_S:
        starting = asyncio.ensure_future(late.start())
        await asyncio.sleep(moment_s)
        await late.kill()
        await asyncio.gather(starting, return_exceptions=True)
        await fill_log(mq9, boxes)
    await late.start()
    await until(lambda: same_state(cluster), "states are the same", CAUGHT_UP_S_MAX)
    assert sum(counted(node, "sent") for node in others) >= 1
    await late.restart()
    await until(lambda: same_state(cluster), "and after a restart", CAUGHT_UP_S_MAX)
    await connection.close()

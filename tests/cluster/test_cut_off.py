"""A node that lives, serves its clients, and reaches no other node any more.

What its clients hold goes to others once, only after it has closed those clients' connections; they
cannot use it afterwards; and what it is told meanwhile is refused, or unknown, and never half done.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.conftest import At
from tests.support.careful import CarefulMq9
from tests.support.cluster import ServedCluster, until
from tests.support.cut import Wires
from tests.support.load import Load
from tests.support.mq9 import Mq9, ids

MAILBOXES = 16
ACKED_AGAIN_S_MAX = 60.0
RELEASED_MS_MAX = 45_000  # a lease of 5 s, and elections before it, on a busy machine
BACK_S_MAX = 60.0
CALM_S = 1.0
ANSWER_S_MAX = 30.0

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def wires(tmp_path: Path) -> AsyncIterator[tuple[ServedCluster, Wires]]:
    """Three nodes, and what connects them."""
    cluster = ServedCluster(tmp_path)
    wires = Wires(cluster)
    await wires.start()
    try:
        await cluster.start()
        yield cluster, wires
    finally:
        await cluster.kill()
        await wires.stop()


async def held(client: Mq9, box: str) -> None:
    await client.send_all(box, [b"1", b"2", b"3"])
    assert ids(await client.fetch(box, "g")) == [1, 2, 3]


async def test_a_node_that_is_cut_off_gives_up_what_it_held_and_cannot_use_it(
    wires: tuple[ServedCluster, Wires], at: At
) -> None:
    cluster, network = wires
    victim = await cluster.leader_of(0)
    first, second = cluster.others(victim)
    holder, idle, named = [await at(victim) for _ in range(3)]
    there, idler, worker = CarefulMq9(holder), Mq9(idle), CarefulMq9(named)
    taker, watcher = CarefulMq9(await at(first)), CarefulMq9(await at(second))
    addresses = [await taker.box() for _ in range(MAILBOXES)]
    held_boxes = [await taker.box() for _ in range(8)]  # in several shards
    for box in held_boxes:
        await held(there, box)
    longer = await taker.box()  # bound to a time of its own, not to the connection or its node
    await taker.send(longer)
    assert ids(await worker.fetch(longer, "g", ack_wait_ms=600_000, consumer="w")) == [1]
    known = await idler.box()

    clients = [CarefulMq9(await at(node)) for node in (first, second)] * 4
    async with Load(clients, addresses, "c") as load:
        await asyncio.sleep(CALM_S)
        async with network.cut_off(victim.name):
            cut_s = time.monotonic()
            again_s = await load.until_acked_again(cut_s, ACKED_AGAIN_S_MAX)
            taken = await asyncio.gather(
                *(taker.fetch(box, "g", max_wait_ms=RELEASED_MS_MAX) for box in held_boxes)
            )
            # Nobody else could have them before whoever held them had lost its connection.
            assert holder.ended.is_set()
            strangers = [Mq9(await at(victim)) for _ in range(3)]
            sent, *late = await asyncio.gather(  # each is answered at the node's own deadline
                asyncio.wait_for(idler.try_send(known, b"cut", msg_id="cut"), ANSWER_S_MAX),
                *map(_refused, strangers, held_boxes),
            )
            assert not victim.is_ready_now()
    assert again_s < ACKED_AGAIN_S_MAX
    assert [ids(reply) for reply in taken] == [[1, 2, 3]] * 8
    assert set(late) <= {"unavailable", "timeout"}
    assert sent["code"] in ("unavailable", "timeout")

    await until(lambda: bool(victim.events("new run begun")), "it begins a new run", BACK_S_MAX)
    await victim.until_ready()
    back = CarefulMq9(await at(victim))
    for box in held_boxes:  # held by one, who can use it
        assert ids(await back.fetch(box, "g")) == []
        assert ids(await watcher.fetch(box, "g")) == []
        assert (await taker.ack(box, "g", 3))["error"] == ""
        assert ids(await back.fetch(box, "g")) == []
    assert ids(await watcher.fetch(longer, "g")) == []  # still held: its time is not over
    assert not idle.ended.is_set()  # held nothing
    again = await idler.try_send(known, b"cut", msg_id="cut")
    assert again["msg_id"] == 1  # stored once, whether the first try was or not
    assert len((await watcher.query(known))["messages"]) == 1
    await load.check(back)


async def _refused(client: Mq9, box: str) -> str:
    """What an ACK by the old holder's node is told while it is cut off."""
    reply = await asyncio.wait_for(client.ack(box, "g", 3), ANSWER_S_MAX)
    return str(reply.get("code", ""))

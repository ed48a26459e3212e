"""Three nodes of which some are killed, paused or restarted while clients work.

Nothing acknowledged is lost, nothing is stored twice, nothing that is held is handed out again, and
work goes on. Deadlines are generous, for the machine that runs this may be busy; what was measured
is printed (`pytest -s`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import nats
import pytest

from tests.cluster.conftest import At as RawAt
from tests.support.careful import CarefulMq9
from tests.support.cluster import ClusterNode, ServedCluster, until
from tests.support.load import Load
from tests.support.mq9 import Mq9, ids
from tests.support.raw_nats import RawNats
from tests.support.returning import close_for_good

MAILBOXES = 16  # so that every one of 8 shards has some
ACKED_AGAIN_S_MAX = 30.0  # 3 s where nothing else runs
RELEASED_MS_MAX = 45_000  # a lease of 5 s, and elections before it
CALM_S = 1.0  # of load before a fault
PAUSE_S = 7.0  # beyond the lease

pytestmark = pytest.mark.timeout(300)

At = Callable[[ClusterNode], Awaitable[Mq9]]


@pytest.fixture
def at(at: RawAt) -> At:
    """`await at(node)` is a client of one node that does not go elsewhere."""

    async def one_more(node: ClusterNode) -> Mq9:
        return CarefulMq9(await at(node))

    return one_more


async def boxes(client: Mq9) -> list[str]:
    return [await client.box() for _ in range(MAILBOXES)]


def connection(client: Mq9) -> RawNats:
    assert isinstance(client.connection, RawNats)
    return client.connection


def report(what: str, seconds: float, load: Load) -> None:
    """A figure for whoever looks (`pytest -s`)."""
    print(f"\n{what}: {seconds:.2f} s; {len(load.acked)} SENDs, {load.repeated} repeated")  # noqa: T201


async def held(client: Mq9, address: str, count: int) -> None:
    """Have `client` hold `count` messages of group g, all there are."""
    await client.send_all(address, [b"%d" % number for number in range(count)])
    assert ids(await client.fetch(address, "g")) == list(range(1, count + 1))


async def test_a_killed_node_costs_seconds_and_nothing_else(cluster: ServedCluster, at: At) -> None:
    victim = await cluster.leader_of(0)
    first, second = cluster.others(victim)
    clients = [await at(node) for node in (first, second)] * 8
    doomed, kept, other = await at(victim), await at(first), await at(second)
    addresses = await boxes(kept)
    told = [await kept.send(address, b"once", msg_id="once") for address in addresses]
    of_doomed, of_kept = [await kept.box() for _ in range(6)], [await kept.box() for _ in range(6)]
    for address in of_doomed:
        await held(doomed, address, 3)
    for address in of_kept:
        await held(kept, address, 3)

    async with Load(clients, addresses, "k") as load:
        await asyncio.sleep(CALM_S)
        await victim.kill()
        killed_s = time.monotonic()
        again_s = await load.until_acked_again(killed_s, ACKED_AGAIN_S_MAX * 2)
        released = await asyncio.gather(
            *(other.fetch(box, "g", max_wait_ms=RELEASED_MS_MAX) for box in of_doomed)
        )
        released_s = time.monotonic() - killed_s
    report("first SEND again in every mailbox after kill -9", again_s, load)
    report("hand-outs of the killed node released", released_s, load)
    assert again_s < ACKED_AGAIN_S_MAX

    assert [ids(reply) for reply in released] == [[1, 2, 3]] * 6
    for address in of_doomed:  # held again, by one
        assert ids(await kept.fetch(address, "g")) == []
    for address in of_kept:  # held all the time
        assert ids(await other.fetch(address, "g")) == []
        assert (await kept.ack(address, "g", 3))["error"] == ""
    for address, number in zip(addresses, told, strict=True):
        repeat = await other.try_send(address, b"once", msg_id="once")
        assert (repeat["msg_id"], repeat.get("duplicate")) == (number, True)
    await load.check(other)


async def test_all_nodes_killed_at_once_come_back_with_everything(
    cluster: ServedCluster, at: At
) -> None:
    clients = [await at(node) for node in cluster] * 4
    addresses = await boxes(clients[0])
    done, open_ = await clients[0].box(), await clients[0].box()
    await held(clients[1], done, 3)
    assert (await clients[1].ack(done, "g", 2))["error"] == ""
    await held(clients[2], open_, 3)
    async with Load(clients, addresses, "a") as load:
        await asyncio.sleep(CALM_S)
        await cluster.kill()
        load.give_up()
    began_s = time.monotonic()
    await cluster.start()
    report("three nodes killed and back", time.monotonic() - began_s, load)
    again = await at(cluster[1])
    await load.check(again)
    # Nobody holds anything, and what was acknowledged stays so.
    assert ids(await again.fetch(done, "g", max_wait_ms=RELEASED_MS_MAX)) == [3]
    assert ids(await again.fetch(open_, "g", max_wait_ms=RELEASED_MS_MAX)) == [1, 2, 3]
    assert await again.send(open_) == 4


async def test_a_node_paused_beyond_its_lease_gives_up_what_it_held(
    cluster: ServedCluster, at: At
) -> None:
    victim = await cluster.leader_of(1)
    first, second = cluster.others(victim)
    paused, idle, taker, watcher = (
        await at(victim),
        await at(victim),
        await at(first),
        await at(second),
    )
    addresses, box = await boxes(taker), await taker.box()
    await held(paused, box, 3)
    async with Load([await at(first), await at(second)] * 4, addresses, "p") as load:
        async with victim.paused():
            paused_s = time.monotonic()
            again_s = await load.until_acked_again(paused_s, ACKED_AGAIN_S_MAX * 2)
            taken = await taker.fetch(box, "g", max_wait_ms=RELEASED_MS_MAX)
            taken_s = time.monotonic() - paused_s
            # It has these bytes before it knows how long it was away.
            late = connection(paused).ask(
                f"$mq9.AI.MSG.ACK.{box}", b'{"group_name":"g","msg_id":3}'
            )
            await asyncio.sleep(max(0.0, paused_s + PAUSE_S - time.monotonic()))
        await asyncio.wait_for(connection(paused).ended.wait(), 60)
    report("first SEND again in every mailbox after SIGSTOP", again_s, load)
    report("hand-outs of the paused node released", taken_s, load)
    assert again_s < ACKED_AGAIN_S_MAX
    assert ids(taken) == [1, 2, 3]
    assert late.done()
    assert ids(await watcher.fetch(box, "g")) == []  # taken once, and not given up by the late ACK
    assert ids(await taker.fetch(box, "g")) == [1, 2, 3]  # nor confirmed by it
    assert (await taker.ack(box, "g", 3))["error"] == ""

    await until(lambda: bool(victim.events("new run begun")), "the paused node begins a new run")
    await victim.until_ready()
    assert not connection(idle).ended.is_set()  # held nothing: nothing to give up
    back = await at(victim)
    await held(back, await back.box(), 2)
    await load.check(back)


async def test_a_rolling_restart_fails_no_request_that_is_repeated(cluster: ServedCluster) -> None:
    connections = [
        await nats.connect(node.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        for node in cluster
    ]
    clients = [CarefulMq9(one) for one in connections]
    addresses = await boxes(clients[0])
    began_s = time.monotonic()
    async with Load(clients * 2, addresses, "r") as load:
        await asyncio.sleep(CALM_S)
        for node in cluster:
            assert await node.terminate() == 0
            await node.start()
            await node.until_ready()
    report("rolling restart of three nodes", time.monotonic() - began_s, load)
    await load.check(clients[2])
    for one in connections:
        await close_for_good(one)

"""Push subscriptions while nodes die and stand still: nothing that was acknowledged is missed, a
plain reader is given nothing twice, and of a group's members only who died may have been given what
another is given again.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from tests.cluster.conftest import At as RawAt
from tests.support.careful import CarefulMq9
from tests.support.cluster import ClusterNode, ServedCluster
from tests.support.mq9 import Mq9
from tests.support.raw_nats import Delivered, RawNats

MAILBOXES = 8  # so that most shards have some
SENT_BEFORE, SENT_AFTER = 100, 200
PAUSE_S = 7.0  # beyond the lease
GROUP = "workers"

pytestmark = pytest.mark.timeout(300)


class Reader:
    """A connection that subscribed to mailboxes, and what it was given of each."""

    def __init__(self, raw: RawNats) -> None:
        self.raw = raw
        self._queues: dict[str, asyncio.Queue[Delivered]] = {}
        self.given: dict[str, list[bytes]] = {}

    @classmethod
    async def of(cls, raw: RawNats, addresses: list[str], queue: str = "") -> "Reader":
        """The broker has heard of it when this returns."""
        reader = cls(raw)
        for address in addresses:
            subject = f"$mq9.AI.MAILBOX.MSG.{address}.*"
            reader._queues[address] = raw.subscribe(subject, queue)
            reader.given[address] = []
        await raw.flush()
        return reader

    def count(self) -> Counter[tuple[str, bytes]]:
        """What it was given by now, and how often."""
        for address, queue in self._queues.items():
            while not queue.empty():
                self.given[address].append(queue.get_nowait().payload)
        return Counter((a, payload) for a, given in self.given.items() for payload in given)


@pytest.fixture
def careful(at: RawAt) -> Callable[[ClusterNode], Awaitable[Mq9]]:
    """A client of one node that asks until it knows."""

    async def one_more(node: ClusterNode) -> Mq9:
        return CarefulMq9(await at(node))

    return one_more


async def until_all(readers: list[Reader], sent: set[tuple[str, bytes]]) -> None:
    """Wait until the readers together were given everything."""
    async with asyncio.timeout(120):
        while True:
            given: Counter[tuple[str, bytes]] = Counter()
            for reader in readers:
                given += reader.count()
            if sent <= given.keys():
                return
            await asyncio.sleep(0.1)


class Sending:
    """SENDs numbered messages in turn to each mailbox."""

    def __init__(self, client: Mq9, addresses: list[str], first: int = 0) -> None:
        self._client = client
        self._addresses = addresses
        self._first = first
        self.acknowledged: set[tuple[str, bytes]] = set()
        self.some_are = asyncio.Event()

    async def run(self, count: int) -> None:
        for number in range(self._first, self._first + count):
            address, payload = self._addresses[number % MAILBOXES], b"%d" % number
            await self._client.send(address, payload)
            self.acknowledged.add((address, payload))
            if len(self.acknowledged) == SENT_BEFORE:
                self.some_are.set()


async def test_a_killed_node_costs_readers_elsewhere_nothing(
    cluster: ServedCluster, at: RawAt, careful: Callable[[ClusterNode], Awaitable[Mq9]]
) -> None:
    victim = await cluster.leader_of(0)
    first, second = cluster.others(victim)
    client = await careful(first)
    boxes = [await client.box() for _ in range(MAILBOXES)]
    plain = [await Reader.of(await at(node), boxes) for node in (first, second)]
    members = [await Reader.of(await at(node), boxes, GROUP) for node in (first, second, victim)]
    sending = Sending(client, boxes)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(sending.run(SENT_BEFORE + SENT_AFTER))
        await sending.some_are.wait()
        await victim.kill()
        await task
    sent = sending.acknowledged
    for reader in plain:
        await until_all([reader], sent)
        assert reader.count() == Counter(sent)
        for given in reader.given.values():  # and each mailbox's in their order
            assert given == sorted(given, key=int)
    living, dead = members[:2], members[2].count()
    await until_all(members, sent)
    twice = living[0].count() + living[1].count()
    assert max(twice.values()) == 1
    assert all(dead[message] for message in sent - twice.keys())
    assert all(reader.count() for reader in living)


async def test_a_member_at_a_node_that_stood_still_is_one_again(
    cluster: ServedCluster, at: RawAt, careful: Callable[[ClusterNode], Awaitable[Mq9]]
) -> None:
    victim = await cluster.leader_of(0)
    first, _ = cluster.others(victim)
    client = await careful(first)
    boxes = [await client.box() for _ in range(MAILBOXES)]
    paused = await Reader.of(await at(victim), boxes, GROUP)
    plain = await Reader.of(await at(victim), boxes)
    before = Sending(client, boxes)
    await before.run(MAILBOXES)
    await until_all([paused], before.acknowledged)
    async with victim.paused():
        other = await Reader.of(await at(first), boxes, GROUP)
        during = Sending(client, boxes, 1_000)
        await during.run(SENT_BEFORE)
        await asyncio.sleep(PAUSE_S)
    await until_all([other, paused], during.acknowledged)
    await other.raw.close()
    after = Sending(client, boxes, 2_000)
    await after.run(MAILBOXES)
    await until_all([plain], during.acknowledged)
    await until_all([paused], after.acknowledged)

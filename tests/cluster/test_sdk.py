"""The SDK where nodes are killed: what was acknowledged is handled, and nothing is stored twice."""

import asyncio
from collections import Counter

import pytest

from mq9cluster.client import Message, Mq9Client
from tests.support.cluster import ServedCluster

MAILBOXES = 8  # so that most shards have some
SENT_BEFORE, SENT_AFTER = 100, 200
GROUP = "workers"

pytestmark = pytest.mark.timeout(300)


async def test_work_goes_on_when_the_node_that_a_client_asks_is_killed(
    cluster: ServedCluster,
) -> None:
    first, *others = list(cluster.nodes)
    async with (
        await Mq9Client.connect(first.url) as sender,  # learns of the others from it
        await Mq9Client.connect([node.url for node in others]) as watcher,
        await Mq9Client.connect(first.url) as worker,
    ):
        boxes = [await sender.mailbox_create() for _ in range(MAILBOXES)]
        handled: Counter[tuple[str, bytes]] = Counter()
        came = asyncio.Event()

        async def handle(message: Message) -> None:
            handled[message.address, message.payload] += 1
            came.set()

        for box in boxes:
            await worker.consume(box, handle, group_name=GROUP)
        sent: set[tuple[str, bytes]] = set()
        acknowledged = asyncio.Event()

        async def send_all() -> None:
            for number in range(SENT_BEFORE + SENT_AFTER):
                box, payload = boxes[number % MAILBOXES], b"%d" % number
                await sender.send(box, payload)
                sent.add((box, payload))
                if len(sent) == SENT_BEFORE:
                    acknowledged.set()

        async with sender.present({"name": "sender"}, ttl=60), asyncio.TaskGroup() as group:
            sending = group.create_task(send_all())
            await acknowledged.wait()
            await first.kill()
            await sending
            assert len(await watcher.agent_discover(filter={"name": "sender"})) == 1
        assert len(sent) == SENT_BEFORE + SENT_AFTER
        async with asyncio.timeout(120):
            while not sent <= handled.keys():
                came.clear()
                await came.wait()
        stored = [(box, one.payload) for box in boxes for one in await watcher.query(box)]
        assert Counter(stored) == Counter(sent)
        assert len(await watcher.agent_discover(filter={"name": "sender"})) == 0

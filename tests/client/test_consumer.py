"""Consumers of the SDK at real nodes: everything is handled, best first, until they are stopped."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from mq9cluster.client import Message, Mq9Client, Priority
from mq9cluster.client.consumer import CONCURRENCY_MAX
from mq9cluster.domain.errors import InvalidField, MailboxNotFound
from tests.support.mq9 import fresh

GROUP = "workers"


class Handled:
    """A handler: what came to it, in order."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self._came = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        self.payloads.append(message.payload)
        self._came.set()

    async def until(self, count: int) -> None:
        """So many have come."""
        while len(self.payloads) < count:
            self._came.clear()
            await self._came.wait()


class Held(Handled):
    """A handler that keeps each message until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self._may = asyncio.Semaphore(0)

    async def __call__(self, message: Message) -> None:
        await super().__call__(message)
        await self._may.acquire()

    def let_go(self, count: int = 1) -> None:
        for _ in range(count):
            self._may.release()


def failing(handled: Handled, fails: Callable[[Message], bool]) -> Callable[..., object]:
    async def handle(message: Message) -> None:
        await handled(message)
        if fails(message):
            raise RuntimeError(f"cannot do {message.payload!r}")

    return handle


async def left(mq9: Mq9Client, box: str) -> list[bytes]:
    """What the group has not done yet."""
    return [one.payload for one in await mq9.fetch(box, group_name=GROUP, max_wait_ms=0)]


async def test_what_was_sent_and_what_is_sent_is_handled_and_acknowledged(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    await mq9.send(box, b"before")
    handled = Handled()
    consumer = await mq9.consume(box, handled, group_name=GROUP)
    await handled.until(1)
    await mq9.send(box, b"after")
    await handled.until(2)
    await consumer.stop()
    await mq9.send(box, b"too late")
    assert handled.payloads == [b"before", b"after"]
    assert await left(mq9, box) == [b"too late"]


async def test_a_critical_message_comes_next_whatever_waits(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    for number in range(3):
        await mq9.send(box, b"%d" % number)
    handled = Held()
    await mq9.consume(box, handled, group_name=GROUP)
    await handled.until(1)
    await mq9.send(box, b"stop", priority=Priority.CRITICAL)
    handled.let_go(4)
    await handled.until(4)
    assert handled.payloads == [b"0", b"stop", b"1", b"2"]


async def test_so_many_are_handled_at_a_time(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    for number in range(4):
        await mq9.send(box, b"%d" % number)
    handled = Held()
    consumer = await mq9.consume(box, handled, group_name=GROUP, concurrency=3)
    await handled.until(3)
    # what is not handed out is there for another member: the fourth
    [message] = await mq9.fetch(box, group_name=GROUP, consumer="another", max_wait_ms=0)
    assert sorted([*handled.payloads, message.payload]) == [b"0", b"1", b"2", b"3"]
    await mq9.ack(box, GROUP, message.msg_id)
    handled.let_go(3)
    await consumer.stop()
    assert await left(mq9, box) == []


async def test_members_share_the_work_and_do_nothing_twice(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    handled = Handled()
    consumers = [await mq9.consume(box, handled, group_name=GROUP, concurrency=4) for _ in range(3)]
    await asyncio.gather(*(mq9.send(box, b"%d" % number) for number in range(60)))
    await handled.until(60)
    await asyncio.gather(*(consumer.stop() for consumer in consumers))
    assert Counter(handled.payloads) == Counter(b"%d" % number for number in range(60))
    assert await left(mq9, box) == []


async def test_what_a_handler_cannot_do_comes_back_and_the_rest_is_done(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    for payload in (b"good", b"bad", b"better"):
        await mq9.send(box, payload)
    handled = Handled()
    told: list[tuple[int, str]] = []
    consumer = await mq9.consume(
        box,
        failing(handled, lambda one: handled.payloads.count(one.payload) == 1 and one.msg_id == 2),
        group_name=GROUP,
        retry_delay=0,
        error_handler=lambda message, error: told.append((message.msg_id, str(error))),
    )
    await handled.until(4)
    await consumer.stop()
    assert Counter(handled.payloads) == {b"good": 1, b"bad": 2, b"better": 1}
    assert told == [(2, "cannot do b'bad'")]
    assert await left(mq9, box) == []


async def test_what_no_handler_can_do_ends_among_the_dead_letters(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create(fresh(), max_deliver=3)
    await mq9.mailbox_create(f"{box}.dlq")
    await mq9.send(box, b"poison")
    handled, buried = Handled(), Handled()
    await mq9.consume(box, failing(handled, lambda _: True), group_name=GROUP, retry_delay=0)
    await mq9.consume(f"{box}.dlq", buried, group_name=GROUP)
    await buried.until(1)
    assert handled.payloads == [b"poison"] * 3


async def test_a_handler_may_stop_its_own_consumer(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    for number in range(2):
        await mq9.send(box, b"%d" % number)

    async def handle(_: Message) -> None:
        await consumer.stop()

    consumer = await mq9.consume(box, handle, group_name=GROUP)
    await consumer.wait()
    assert await left(mq9, box) == [b"1"]


async def test_a_closing_client_lets_its_handlers_end(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    await mq9.send(box, b"under way")
    address = mq9.connection.connected_url
    assert address is not None
    worker = await Mq9Client.connect(address.geturl())
    handled = Held()
    busy = await worker.consume(box, handled, group_name=GROUP)
    idle = await worker.consume(await mq9.mailbox_create(), Handled(), group_name=GROUP)
    await handled.until(1)
    closing = asyncio.create_task(worker.close())
    await idle.wait()
    assert not closing.done()
    handled.let_go()
    await closing
    await busy.wait()
    assert await left(mq9, box) == []


async def test_a_consumer_of_a_mailbox_that_is_gone_ends(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create(ttl=1)
    consumer = await mq9.consume(box, Handled(), group_name=GROUP, concurrency=2)
    with pytest.raises(MailboxNotFound):
        await consumer.wait()


async def test_as_many_at_a_time_as_one_connection_may_wait_for(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    for concurrency in (0, CONCURRENCY_MAX + 1):
        with pytest.raises(InvalidField, match="invalid concurrency: must be from 1 to 256"):
            await mq9.consume(box, Handled(), group_name=GROUP, concurrency=concurrency)
    handled = Handled()
    await mq9.consume(box, handled, group_name=GROUP, concurrency=CONCURRENCY_MAX)
    await mq9.send(box, b"x")
    await handled.until(1)

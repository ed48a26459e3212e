"""Dialect 001 through its own published client (PyPI: robustmq), as its documents use it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from robustmq.mq9 import Client, Message, Priority
from robustmq.mq9.client import MessageMeta, Mq9Error

from tests.support.anywhere import Clients
from tests.support.mq9 import fresh

GIVEN_S_MAX = 60.0


class Inbox:
    """What a subscription's callback was given, in order."""

    def __init__(self) -> None:
        self._given: asyncio.Queue[Message] = asyncio.Queue()

    async def take(self, message: Message) -> None:
        self._given.put_nowait(message)

    async def some(self, count: int) -> list[tuple[bytes, Priority]]:
        taken = [await asyncio.wait_for(self._given.get(), GIVEN_S_MAX) for _ in range(count)]
        return [(message.payload, message.priority) for message in taken]


@pytest.fixture
async def old(clients: Clients) -> AsyncIterator[Client]:
    async with Client(clients.nodes[0].url) as client:
        yield client


@pytest.fixture
async def another(clients: Clients) -> AsyncIterator[Client]:
    async with Client(clients.nodes[-1].url) as client:
        yield client


async def listed(client: Client, mail_id: str, count: int) -> list[MessageMeta]:
    """Once so many messages are there: its publishing is not answered."""
    while True:
        found = await client.list(mail_id)
        if len(found) >= count:
            return found
        await asyncio.sleep(0.05)


async def test_send_to_who_is_not_there_yet(old: Client, another: Client):
    box = await old.create(ttl=3600)
    for text, priority in (("1", "low"), ("2", "normal"), ("3", "high")):
        await old.send(box.mail_id, text, priority=priority)
    await listed(old, box.mail_id, 3)
    inbox = Inbox()
    await another.subscribe(box.mail_id, inbox.take)
    assert await inbox.some(3) == [
        (b"3", Priority.HIGH),
        (b"2", Priority.NORMAL),
        (b"1", Priority.LOW),
    ]
    await old.send(box.mail_id, {"task": "more"})
    assert await inbox.some(1) == [(b'{"task": "more"}', Priority.NORMAL)]


async def test_list_and_delete(old: Client, another: Client):
    box = await old.create(ttl=3600)
    for priority in Priority:
        await old.send(box.mail_id, b"x", priority=priority)
    stored = await listed(another, box.mail_id, 3)
    assert [(meta.msg_id, meta.priority) for meta in stored] == [
        ("1", Priority.HIGH),
        ("2", Priority.NORMAL),
        ("3", Priority.LOW),
    ]
    assert all(meta.ts > 1_700_000_000 for meta in stored)
    await another.delete(box.mail_id, "2")
    assert [meta.msg_id for meta in await old.list(box.mail_id)] == ["1", "3"]
    with pytest.raises(Mq9Error, match="message not found"):
        await old.delete(box.mail_id, "2")


async def test_public_mailboxes_and_workers(old: Client, another: Client):
    name = fresh("task")
    box = await old.create(ttl=3600, public=True, name=name, desc="work")
    assert (await another.create(ttl=60, public=True, name=name)).mail_id == box.mail_id == name
    shared = Inbox()
    for client in (old, another):
        await client.subscribe(name, shared.take, queue_group="workers")
    for number in range(10):
        await old.send(name, str(number))
    taken = await shared.some(10)
    assert sorted(int(payload) for payload, _ in taken) == list(range(10))


async def test_its_best_word_covers_what_it_has_no_word_for(old: Client, another: Client):
    box = await old.create(ttl=3600)
    inbox = Inbox()
    await another.subscribe(box.mail_id, inbox.take, priority="high")
    connection = old._nc
    assert connection is not None
    for priority in ("critical", "low", "urgent"):
        await connection.request(f"$mq9.AI.MAILBOX.MSG.{box.mail_id}.{priority}", b"x", 60)
    assert await inbox.some(2) == [(b"x", Priority.HIGH)] * 2


async def test_an_error_is_one(old: Client):
    with pytest.raises(Mq9Error, match="mailbox not found"):
        await old.list("no.such")

"""The SDK's commands at real nodes, one and three: what is said arrives, what is answered comes
back.
"""

import base64
import time

import pytest

from mq9cluster.client import Mq9Client, Priority
from mq9cluster.domain.errors import (
    AgentNotFound,
    InvalidField,
    MailboxExists,
    MailboxFull,
    MailboxNotFound,
    MessageNotFound,
)
from tests.support.mq9 import fresh

GROUP = "workers"


async def test_a_mailbox_is_created_once(mq9: Mq9Client) -> None:
    name = fresh()
    assert await mq9.mailbox_create(name, ttl=60, desc="of a test") == name
    with pytest.raises(MailboxExists, match=f"mailbox {name} already exists"):
        await mq9.mailbox_create(name)
    assert await mq9.mailbox_create(name, exist_ok=True) == name


async def test_an_address_of_no_name_is_nobodys_to_guess(mq9: Mq9Client) -> None:
    first, second = await mq9.mailbox_create(ttl=60), await mq9.mailbox_create(ttl=60)
    assert first.startswith("mbx.")
    assert first != second


async def test_a_mailbox_has_the_limits_it_was_created_with(mq9: Mq9Client) -> None:
    of_one = await mq9.mailbox_create(max_msgs=1)
    assert await mq9.send(of_one, b"first") == 1
    with pytest.raises(MailboxFull):
        await mq9.send(of_one, b"second")
    of_bytes = await mq9.mailbox_create(max_bytes=4)
    with pytest.raises(MailboxFull):
        await mq9.send(of_bytes, b"12345")
    kept = await mq9.mailbox_create(retain="acked")
    msg_id = await mq9.send(kept, b"x")
    await mq9.fetch(kept, group_name=GROUP)
    await mq9.ack(kept, GROUP, msg_id)
    assert await mq9.query(kept) == []


async def test_a_message_arrives_with_all_it_was_sent_with(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create(fresh())
    sent_s = int(time.time())
    msg_id = await mq9.send(
        box,
        b'{"task":"\xc3\xbcber"}',
        priority=Priority.URGENT,
        key="state",
        ttl=600,
        tags=["billing", "eu"],
        headers={"reply-to": "box.me", "mq9-priority": "critical"},  # ours is the argument
    )
    [message] = await mq9.fetch(box)
    assert (message.address, message.msg_id, message.priority) == (box, msg_id, Priority.URGENT)
    assert message.json() == {"task": "über"}
    assert (message.key, message.tags) == ("state", ("billing", "eu"))
    assert message.headers == {"reply-to": "box.me"}
    assert (message.group_name, message.handout) == ("", "")
    assert message.create_time >= sent_s - 60  # the node's clock, of the machine that runs this


async def test_a_delayed_message_has_no_id_yet(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    assert await mq9.send(box, b"later", delay=3_600) == -1
    assert await mq9.query(box) == []


async def test_a_message_of_the_senders_own_id_is_stored_once(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    ids = [await mq9.send(box, b"x", msg_id="order-17") for _ in range(3)]
    assert ids == [1, 1, 1]
    assert len(await mq9.query(box)) == 1


async def test_a_group_gets_the_best_first_and_the_last_ack_confirms_all(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    for priority in (Priority.NORMAL, Priority.CRITICAL, Priority.URGENT):
        await mq9.send(box, priority.name.encode(), priority=priority)
    given = await mq9.fetch(box, group_name=GROUP, deliver="earliest")
    assert [one.payload for one in given] == [b"CRITICAL", b"URGENT", b"NORMAL"]
    assert {one.group_name for one in given} == {GROUP}
    await mq9.ack(box, GROUP, given[-1].msg_id, handout=given[-1].handout)
    assert await mq9.fetch(box, group_name=GROUP, max_wait_ms=0) == []


async def test_an_ack_of_a_message_alone_leaves_the_others(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    for number in range(3):
        await mq9.send(box, b"%d" % number)
    given = await mq9.fetch(box, group_name=GROUP, deliver="earliest", num_msgs=3)
    await mq9.ack(box, GROUP, given[-1].msg_id, scope="message")
    again = await mq9.fetch(box, group_name=GROUP, max_wait_ms=0)
    assert [one.payload for one in again] == [b"0", b"1"]


async def test_what_is_given_back_too_often_is_a_dead_letter(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create(fresh(), max_deliver=2)
    await mq9.send(box, b"poison")
    for _ in range(2):
        [message] = await mq9.fetch(box, group_name=GROUP, deliver="earliest")
        await mq9.nack(box, GROUP, message.msg_id)
    [dead] = await mq9.query(f"{box}.dlq")
    assert (dead.payload, dead.headers["mq9-dlq-reason"]) == (b"poison", "nack")


async def test_a_message_that_is_given_back_for_a_while_is_not_handed_out(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    await mq9.send(box, b"x")
    [message] = await mq9.fetch(box, group_name=GROUP, deliver="earliest")
    await mq9.nack(box, GROUP, message.msg_id, delay=3_600)
    assert await mq9.fetch(box, group_name=GROUP, max_wait_ms=0) == []


async def test_a_fetch_begins_where_it_is_told_to(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    for number in range(1, 5):
        await mq9.send(box, b"%d" % number, tags=["even"] if number % 2 == 0 else [])

    async def seen(**options: object) -> list[int]:
        return [one.msg_id for one in await mq9.fetch(box, max_wait_ms=0, **options)]  # type: ignore[arg-type]

    assert await seen() == [4]
    assert await seen(deliver="earliest", num_msgs=3) == [1, 2, 3]
    assert await seen(deliver="from_id", from_id=3) == [3, 4]
    assert await seen(deliver="from_time", from_time=1) == [1, 2, 3, 4]
    assert await seen(deliver="earliest", tags=["even"]) == [2, 4]
    with pytest.raises(InvalidField, match="invalid from_id: required"):
        await seen(deliver="from_id")


async def test_a_fetch_waits_for_a_message(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    # longer than a node ever takes to answer anything else
    fetched = mq9.fetch(box, group_name=GROUP, max_wait_ms=60_000)
    await mq9.send(box, b"here")
    assert [one.payload for one in await fetched] == [b"here"]


async def test_what_is_visible_is_told_and_can_be_deleted(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    await mq9.send(box, b"old", key="state")
    newest = await mq9.send(box, b"new", key="state")
    await mq9.send(box, b"other", tags=["billing"])
    assert [one.payload for one in await mq9.query(box)] == [b"new", b"other"]
    assert [one.payload for one in await mq9.query(box, key="state")] == [b"new"]
    assert [one.payload for one in await mq9.query(box, tags=["billing"])] == [b"other"]
    assert [one.payload for one in await mq9.query(box, limit=1)] == [b"other"]
    assert len(await mq9.query(box, since=1)) == 2
    await mq9.delete(box, newest)
    with pytest.raises(MessageNotFound):
        await mq9.delete(box, newest)
    assert [one.payload for one in await mq9.query(box)] == [b"other"]


async def test_a_mailbox_that_is_not_there_is_an_error_of_every_command(mq9: Mq9Client) -> None:
    nowhere = fresh()
    for command in (
        mq9.send(nowhere, b"x"),
        mq9.fetch(nowhere),
        mq9.ack(nowhere, GROUP, 1),
        mq9.nack(nowhere, GROUP, 1),
        mq9.query(nowhere),
        mq9.delete(nowhere, 1),
    ):
        with pytest.raises(MailboxNotFound, match=f"mailbox {nowhere} does not exist"):
            await command


async def test_an_agent_is_found_by_word_and_by_intent_until_it_leaves(mq9: Mq9Client) -> None:
    name = fresh("agent")
    assert await mq9.agent_register({"name": name, "mailbox": name, "payload": "EN/ZH"}) > 0
    card = {"name": name, "mailbox": name, "payload": f"translates {name} into Chinese"}
    assert await mq9.agent_register(card, ttl=0) == 0
    assert await mq9.agent_report(name, {"load": 0.5}) == 0

    [found] = await mq9.agent_discover(filter={"name": name})
    assert {**found, "_mq9": None} == {**card, "ttl": 0, "_mq9": None}
    assert found["_mq9"]["report_info"] == {"load": 0.5}
    by_word = await mq9.agent_discover(name)
    assert (by_word[0]["name"], by_word.partial) == (name, [])
    by_intent = await mq9.agent_discover(
        semantic="ins Chinesische übersetzen", filter={"name": name}
    )
    assert [one["name"] for one in by_intent[:1]] == [name]
    assert by_intent.total == len(by_intent) == 1
    assert by_intent.embedder is not None

    await mq9.agent_unregister(name)
    assert len(await mq9.agent_discover(filter={"name": name})) == 0
    for command in (mq9.agent_report(name), mq9.agent_unregister(name)):
        with pytest.raises(AgentNotFound):
            await command


async def test_any_bytes_are_a_payload(mq9: Mq9Client) -> None:
    box = await mq9.mailbox_create()
    payload = bytes(range(256))
    await mq9.send(box, payload)
    await mq9.send(box, b"")
    assert [one.payload for one in await mq9.fetch(box, deliver="earliest")] == [payload, b""]
    raw = await mq9.connection.request(f"$mq9.AI.MSG.QUERY.{box}", b"", timeout=60)
    assert base64.b64encode(payload) in raw.data  # as any other client sees it

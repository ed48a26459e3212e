"""PROTOCOL section 8: mailboxes that push, in both older dialects."""

import asyncio

import pytest

from tests.conformance.mq9.conftest import Connect
from tests.support.mq9 import Mq9, fresh, is_gone, payloads, until
from tests.support.pushed import GIVEN_S_MAX, Pushed, each_once
from tests.support.raw_nats import RawNats

MSG, INBOX = "MAILBOX.MSG", "INBOX"
COUNT = 40


async def store(mq9: Mq9, address: str, priority: str, payload: bytes) -> int:
    """Publish as dialect 001 does, and be told the msg_id."""
    reply = await mq9.ask(f"{MSG}.{address}.{priority}", payload)
    assert reply["error"] == "", reply
    return int(reply["msg_id"])


async def test_best_first_then_new_ones_as_they_come(mq9: Mq9, other: Mq9):
    box = await mq9.box()
    for priority in ("low", "normal", "high", "critical", "urgent", "normal"):
        await store(mq9, box, priority, priority.encode())
    pushed = await Pushed.to(other.connection, f"{MSG}.{box}.*")
    first = [b"critical", b"high", b"urgent", b"normal", b"normal", b"low"]
    assert await pushed.payloads(6) == first
    await store(mq9, box, "low", b"later")
    assert await pushed.payloads(1) == [b"later"]
    await store(mq9, box, "critical", b"latest")
    assert await pushed.payloads(1) == [b"latest"]
    await pushed.nothing_more()


async def test_a_pushed_message_is_what_was_sent_and_says_what_it_is(mq9: Mq9, other: Mq9):
    box = await mq9.box()
    headers = {"X-Trace": "abc", "mq9-key": "k", "mq9-tags": "a, b"}
    body = bytes(range(256))
    reply = await mq9.ask(f"{MSG}.{box}.high", body, headers)
    pushed = await Pushed.to(other.connection, f"{MSG}.{box}.*")
    given = await pushed.one()
    (stored,) = (await mq9.query(box))["messages"]
    assert given.payload == body
    assert given.subject == f"$mq9.AI.{MSG}.{box}.urgent"
    assert given.headers == {
        "mq9-msg-id": str(reply["msg_id"]),
        "mq9-priority": "urgent",
        "mq9-create-time": str(stored["create_time"]),
        "mq9-key": "k",
        "mq9-tags": "a,b",
        "X-Trace": "abc",
    }


async def test_every_subscription_is_given_everything(mq9: Mq9, connect: Connect):
    box = await mq9.box()
    await mq9.send_all(box, [b"1", b"2"])
    for _ in range(2):
        reader = await connect()
        pushed = await Pushed.to(reader.connection, f"{MSG}.{box}.*")
        again = await Pushed.to(reader.connection, f"{MSG}.{box}.*")
        assert await pushed.payloads(2) == await again.payloads(2) == [b"1", b"2"]
        await pushed.end()
    assert payloads(await mq9.fetch(box)) == [b"1", b"2"]  # and nothing is used up


async def test_one_priority_alone(mq9: Mq9, other: Mq9):
    box = await mq9.box()
    urgent = await Pushed.to(other.connection, f"{MSG}.{box}.urgent")
    high = await Pushed.to(other.connection, f"{MSG}.{box}.high")
    low = await Pushed.to(other.connection, f"{MSG}.{box}.low")
    for priority in ("critical", "urgent", "normal", "low", "high"):
        await store(mq9, box, priority, priority.encode())
    assert [(g.payload, g.subject[-6:]) for g in await urgent.some(2)] == [
        (b"urgent", "urgent"),
        (b"high", "urgent"),
    ]
    assert [(g.payload, g.subject[-4:]) for g in await high.some(2)] == [
        (b"urgent", "high"),
        (b"high", "high"),
    ]
    assert await low.payloads(1) == [b"low"]
    for pushed in (urgent, high, low):
        await pushed.nothing_more()


async def test_the_oldest_dialect_has_three_words(mq9: Mq9, other: Mq9):
    box = await mq9.box()
    pushed = await Pushed.to(other.connection, f"{INBOX}.{box}.*")
    best = await Pushed.to(other.connection, f"{INBOX}.{box}.urgent")
    for priority in ("critical", "urgent", "normal"):
        await mq9.send(box, priority.encode(), priority=priority)
        await pushed.one()
    for priority in ("urgent", "normal", "notify"):
        reply = await mq9.ask(f"{INBOX}.{box}.{priority}", priority.encode())
        assert reply["error"] == ""
        given = await pushed.one()
        assert (given.payload.decode(), given.priority) == (priority, priority)
        assert given.subject == f"$mq9.AI.{INBOX}.{box}.{priority}"
    # What it has no word for is its best: nobody who waits for that may miss it.
    assert await best.payloads(3) == [b"critical", b"urgent", b"urgent"]
    levels = [m["priority"] for m in (await mq9.query(box))["messages"]]
    assert levels == ["critical", "urgent", "normal", "urgent", "normal", "low"]


async def test_a_mailbox_that_is_created_later_and_again(mq9: Mq9, other: Mq9):
    box = fresh()
    pushed = await Pushed.to(other.connection, f"{MSG}.{box}.*")
    await mq9.create(box, ttl=1)
    await mq9.send_all(box, [b"1", b"2"])
    assert await pushed.payloads(2) == [b"1", b"2"]
    await until(lambda: mq9.query(box), is_gone)
    await mq9.create(box)
    await mq9.send(box, b"new")
    given = await pushed.one()
    assert (given.payload, given.msg_id) == (b"new", 1)
    await pushed.nothing_more()


async def test_what_is_delayed_comes_when_it_is_visible(mq9: Mq9, other: Mq9):
    box = await mq9.box()
    pushed = await Pushed.to(other.connection, f"{MSG}.{box}.*")
    await mq9.send(box, b"late", delay=1)
    await mq9.send(box, b"now")
    assert await pushed.payloads(2) == [b"now", b"late"]


async def test_more_than_a_page(mq9: Mq9, other: Mq9):
    box = await mq9.box()
    sent = [b"%d" % number for number in range(350)]
    await asyncio.gather(*(mq9.send(box, payload) for payload in sent))
    pushed = await Pushed.to(other.connection, f"{MSG}.{box}.*")
    assert sorted(await pushed.payloads(350), key=int) == sent
    await pushed.nothing_more()


async def test_unsubscribed_after_so_many(mq9: Mq9, raw: RawNats):
    box = await mq9.box()
    await mq9.send_all(box, [b"1", b"2", b"3"])
    queue = raw.subscribe(f"$mq9.AI.{MSG}.{box}.*", maximum=2)
    await raw.flush()
    assert [(await queue.get()).payload for _ in range(2)] == [b"1", b"2"]
    await mq9.send(box, b"4")
    await raw.flush()
    assert queue.empty()


@pytest.mark.parametrize(("mailboxes", "queue"), [(1, ""), (20, ""), (20, "workers")])
async def test_a_client_that_does_not_read_is_waited_for(
    mq9: Mq9, raw: RawNats, mailboxes: int, queue: str
):
    """It would be cut off for more than 64 MiB that it did not take; here 80 MB wait for it."""
    boxes = [await mq9.box() for _ in range(mailboxes)]
    for number in range(80):
        await mq9.send(boxes[number % mailboxes], b"%d " % number + bytes(1_000_000))
    queues = [raw.subscribe(f"$mq9.AI.{MSG}.{box}.*", queue) for box in boxes]
    await raw.flush()
    raw.stop_reading()
    await asyncio.sleep(1)  # so that everything would be on its way, if nobody waited
    raw.read_on()
    async with asyncio.timeout(GIVEN_S_MAX):
        for first, given in enumerate(queues):
            numbers = [
                int((await given.get()).payload.partition(b" ")[0]) for _ in range(80 // mailboxes)
            ]
            assert numbers == list(range(first, 80, mailboxes))
    await raw.flush()
    assert raw.errors == []


# --- queue groups --------------------------------------------------------------------------------


async def test_a_queue_group_is_given_each_message_once(mq9: Mq9, connect: Connect):
    box = await mq9.box()
    sent = [b"%d" % number for number in range(COUNT)]
    for payload in sent[: COUNT // 2]:
        await mq9.send(box, payload)
    readers = [await connect() for _ in range(3)]
    members = [await Pushed.to(r.connection, f"{MSG}.{box}.*", "workers") for r in readers]
    sending = asyncio.gather(*(mq9.send(box, payload) for payload in sent[COUNT // 2 :]))
    shares = await each_once(members, COUNT)
    await sending
    assert sorted((payload for share in shares for payload in share), key=int) == sent
    for member in members:
        await member.nothing_more()
    whole = await Pushed.to(mq9.connection, f"{MSG}.{box}.*", "auditors")
    assert len(await whole.payloads(COUNT)) == COUNT  # another group is another reader


async def test_what_a_group_was_given_stays_given(mq9: Mq9, connect: Connect):
    box = await mq9.box()
    await mq9.send_all(box, [b"1", b"2"])
    first = await connect()
    member = await Pushed.to(first.connection, f"{MSG}.{box}.*", "workers")
    assert await member.payloads(2) == [b"1", b"2"]
    await member.end()
    await mq9.send(box, b"3")
    second = await Pushed.to((await connect()).connection, f"{MSG}.{box}.*", "workers")
    assert await second.payloads(1) == [b"3"]
    await second.nothing_more()


async def test_a_queue_group_is_the_mailboxs_group(mq9: Mq9, connect: Connect):
    """So that workers of both kinds can share what there is."""
    box = await mq9.box()
    await mq9.send_all(box, [b"1", b"2", b"3"])
    held = await mq9.fetch(box, "workers", num_msgs=1)
    assert payloads(held) == [b"1"]
    member = await Pushed.to((await connect()).connection, f"{MSG}.{box}.*", "workers")
    assert await member.payloads(2) == [b"2", b"3"]
    await mq9.nack(box, "workers", 1)
    assert await member.payloads(1) == [b"1"]


async def test_members_with_different_priorities_are_one_group(mq9: Mq9, connect: Connect):
    box = await mq9.box()
    high = await Pushed.to((await connect()).connection, f"{MSG}.{box}.urgent", "workers")
    low = await Pushed.to((await connect()).connection, f"{MSG}.{box}.low", "workers")
    for priority in ("normal", "low", "urgent"):
        await store(mq9, box, priority, priority.encode())
    assert await high.payloads(1) == [b"urgent"]
    assert await low.payloads(1) == [b"low"]
    whole = await Pushed.to((await connect()).connection, f"{MSG}.{box}.*", "workers")
    assert await whole.payloads(1) == [b"normal"]
    for pushed in (high, low, whole):
        await pushed.nothing_more()


async def test_what_a_member_did_not_take_goes_to_another(mq9: Mq9, raw: RawNats, connect: Connect):
    """The rest of a hand-out of which it took two."""
    box = await mq9.box()
    await mq9.send_all(box, [b"1", b"2", b"3", b"4"])
    queue = raw.subscribe(f"$mq9.AI.{MSG}.{box}.*", "workers", maximum=2)
    await raw.flush()
    assert [(await queue.get()).payload for _ in range(2)] == [b"1", b"2"]
    member = await Pushed.to((await connect()).connection, f"{MSG}.{box}.*", "workers")
    assert await member.payloads(2) == [b"3", b"4"]
    await member.nothing_more()


async def test_a_queue_group_waits_for_a_mailbox(mq9: Mq9, connect: Connect):
    box = fresh()
    member = await Pushed.to((await connect()).connection, f"{MSG}.{box}.*", "workers")
    await mq9.create(box)
    await mq9.send(box, b"1")
    assert await member.payloads(1) == [b"1"]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject",
    [
        "MAILBOX.MSG.*.normal",
        "MAILBOX.MSG.>",
        "MAILBOX.MSG.a.*.normal",
        "MAILBOX.MSG.a.>",
        "MAILBOX.MSG.a.b",
        "MAILBOX.MSG.a.notify",
        "MAILBOX.MSG.A.normal",
        "MAILBOX.MSG.normal",
        "INBOX.a.low",
        "INBOX.a.critical",
        "INBOX.*.normal",
        "INBOX.a_b.normal",
        "INBOX.>",
    ],
)
async def test_a_subscription_that_names_no_mailbox_is_refused(raw: RawNats, subject: str):
    raw.subscribe(f"$mq9.AI.{subject}")
    await raw.flush()
    assert raw.errors == [f'Permissions Violation for Subscription to "$mq9.AI.{subject}"']


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("MAILBOX.MSG.a.b", "invalid priority: must be one of critical, urgent, high, normal, low"),
        ("INBOX.a.low", "invalid priority: must be one of urgent, normal, notify"),
        ("MAILBOX.MSG.A.low", "invalid mail_address: only a-z, 0-9 and . are allowed"),
        ("MAILBOX.MSG.low", "invalid mail_address: empty"),
        ("INBOX.normal", "invalid mail_address: empty"),
    ],
)
async def test_a_message_that_names_no_mailbox_is_refused(mq9: Mq9, subject: str, text: str):
    assert (await mq9.ask(subject, b"x"))["error"] == text


async def test_a_message_to_a_mailbox_that_is_not_there(mq9: Mq9):
    box = fresh()
    reply = await mq9.ask(f"{MSG}.{box}.normal", b"x")
    assert reply["error"] == f"mailbox not found: mailbox {box} does not exist"


async def test_nothing_of_it_is_published(mq9: Mq9, raw: RawNats):
    """Nobody sees a message or a push but who subscribed to its mailbox."""
    box = await mq9.box()
    spies = [raw.subscribe(subject) for subject in (">", "$mq9.>", "$mq9.AI.MAILBOX.>")]
    await raw.flush()
    pushed = await Pushed.to(mq9.connection, f"{MSG}.{box}.*")
    await store(mq9, box, "normal", b"secret")
    assert await pushed.payloads(1) == [b"secret"]
    await raw.flush()
    assert [spy for spy in spies if not spy.empty()] == []


async def test_no_reply_passes_for_a_push(mq9: Mq9, raw: RawNats):
    """A command's reply goes to who listens to its subject, but not to a mailbox's reader."""
    box = await mq9.box()
    queue = raw.subscribe(f"$mq9.AI.{MSG}.{box}.normal")
    await raw.flush()
    await mq9.connection.publish(
        "$mq9.AI.MAILBOX.CREATE", b"{}", reply=f"$mq9.AI.{MSG}.{box}.normal"
    )
    await mq9.ask("MAILBOX.CREATE")
    await store(mq9, box, "normal", b"real")
    assert (await queue.get()).payload == b"real"

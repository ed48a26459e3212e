"""PROTOCOL section 7: what a subscription may see, and that addresses show nowhere else."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from tests.support.anywhere import Clients
from tests.support.mq9 import Mq9, fresh, payloads
from tests.support.raw_nats import Delivered, RawNats, publication

ConnectRaw = Callable[[], Awaitable[RawNats]]

WIDE = (
    ">",
    "*.>",
    "*.*",
    "*.*.*",
    "*.*.*.*",
    "*.*.*.*.*",
    "$mq9.>",
    "$mq9.*.>",
    "$mq9.AI.>",
    "$mq9.AI.*.*",
    "$mq9.AI.MSG.>",
)
NARROW = (
    "$mq9.AI.MAILBOX.CREATE",
    "$mq9.AI.MAILBOX.*",
    "$mq9.AI.MSG.*.>",
    "_INBOX.>",
    "_INBOX.*",
    "_INBOX.*.*",
)


async def spy_on(raw: RawNats, *more: str) -> list[asyncio.Queue[Delivered]]:
    """Subscribe to everything a spy may think of, plainly and in queue groups."""
    queues = [raw.subscribe(subject) for subject in (*WIDE, *NARROW, *more)]
    queues += [raw.subscribe(subject, queue="spies") for subject in (*WIDE, *NARROW, *more)]
    await raw.flush()
    return queues


async def seen(raw: RawNats, queues: list[asyncio.Queue[Delivered]]) -> list[Delivered]:
    """Everything that was delivered to the spy by now."""
    await raw.flush()
    return [queue.get_nowait() for queue in queues for _ in range(queue.qsize())]


async def every_command(mq9: Mq9, address: str) -> None:
    """Each command once with success, and some refusals."""
    await mq9.send(
        address, b"secret payload", key="secret-key", tags="secret-tag", msg_id="secret-id"
    )
    await mq9.fetch(address)
    handout = (await mq9.fetch(address, "secret-group"))["handout"]
    await mq9.query(address)
    await mq9.nack(address, "secret-group", 1)
    await mq9.fetch(address, "secret-group")
    await mq9.ack(address, "secret-group", 1)
    await mq9.ack(address, "secret-group", 1, handout=handout)
    await mq9.delete(address, 1)
    await mq9.delete(address, 1)
    await mq9.ask("MAILBOX.CREATE", {"name": address})
    await mq9.ask(f"MSG.NONSENSE.{address}")
    await mq9.try_send(fresh("missing"))


async def test_a_spy_sees_no_command_no_reply_and_no_address(
    connect_raw: ConnectRaw, mq9: Mq9
) -> None:
    spy = await connect_raw()
    early = await spy_on(spy)
    address = await mq9.create()
    await every_command(mq9, address)
    # what is asked over the raw client comes with another form of inbox
    asker = Mq9(await connect_raw())
    await every_command(asker, await asker.create())
    assert await seen(spy, early) == []
    assert spy.errors == []


async def test_a_spy_that_knows_the_address_sees_no_command_either(
    connect_raw: ConnectRaw, mq9: Mq9
) -> None:
    spy = await connect_raw()
    address = await mq9.create()
    verbs = [
        f"$mq9.AI.MSG.{verb}.{address}"
        for verb in ("SEND", "FETCH", "ACK", "NACK", "QUERY", "DELETE")
    ]
    queues = await spy_on(spy, *verbs, f"$mq9.AI.MSG.DELETE.{address}.1")
    await every_command(mq9, address)
    assert await seen(spy, queues) == []


async def test_a_spy_does_see_ordinary_messages(connect_raw: ConnectRaw) -> None:
    spy, talker = await connect_raw(), await connect_raw()
    queues = [spy.subscribe(subject) for subject in (">", "*.*", "_INBOX.>", "$mq9.>")]
    await spy.flush()
    talker.post(
        publication("some.subject", b"1")
        + publication("_INBOX.abc", b"2")
        + publication("$mq9.x", b"3")
    )
    await talker.flush()
    assert sorted(message.payload for message in await seen(spy, queues)) == [
        b"1",
        b"1",
        b"2",
        b"2",
        b"2",
        b"3",
        b"3",
        b"3",
    ]


async def test_a_broadcast_is_seen_by_everybody_who_asks_for_it(connect_raw: ConnectRaw) -> None:
    listener, talker = await connect_raw(), await connect_raw()
    subjects = (
        "$mq9.AI.BROADCAST.sales.won",
        "$mq9.AI.BROADCAST.*.won",
        "$mq9.AI.BROADCAST.>",
        "$mq9.AI.>",
        ">",
    )
    queues = [listener.subscribe(subject) for subject in subjects]
    await listener.flush()
    talker.post(publication("$mq9.AI.BROADCAST.sales.won", b"news"))
    await talker.flush()
    assert [message.payload for message in await seen(listener, queues)] == [b"news"] * 5


async def test_the_reply_goes_to_the_asker_alone_even_if_another_listens_to_that_very_subject(
    connect_raw: ConnectRaw,
) -> None:
    asker, spy = await connect_raw(), await connect_raw()
    literal = [
        spy.subscribe("_INBOX.mine.1"),
        spy.subscribe("_INBOX.mine.1", queue="q"),
        spy.subscribe("_INBOX.mine.*"),
    ]
    await spy.flush()
    for subject in ("_INBOX.mine.1", "_INBOX.mine.*", "_INBOX.>"):
        own = asker.subscribe(subject)
        asker.post(publication("$mq9.AI.MAILBOX.CREATE", b"", "_INBOX.mine.1"))
        answer = await asyncio.wait_for(own.get(), 60)
        assert json.loads(answer.payload)["error"] == ""
        asker.post(b"UNSUB " + answer.sid.encode() + b"\r\n")
    await asker.flush()
    assert await seen(spy, literal) == []


async def test_a_reply_its_asker_does_not_listen_to_goes_to_literal_subscribers_and_no_wildcard(
    connect_raw: ConnectRaw,
) -> None:
    asker, other = await connect_raw(), await connect_raw()
    literal = other.subscribe("answers.here")
    wild = [
        other.subscribe(subject) for subject in ("answers.*", "answers.>", ">", "*.here", "*.*")
    ]
    await other.flush()
    asker.post(publication("$mq9.AI.MAILBOX.CREATE", b"", "answers.here"))
    answer = await asyncio.wait_for(literal.get(), 60)
    assert (answer.subject, json.loads(answer.payload)["error"]) == ("answers.here", "")
    assert await seen(other, wild) == []


async def test_where_nobody_listens_the_reply_is_dropped_and_the_command_carried_out(
    connect_raw: ConnectRaw, mq9: Mq9
) -> None:
    asker = await connect_raw()
    address = await mq9.box()
    asker.post(publication(f"$mq9.AI.MSG.SEND.{address}", b"done", "nobody.listens"))
    await asker.flush()
    assert payloads(await mq9.fetch(address, max_wait_ms=10_000)) == [b"done"]
    assert asker.errors == []


async def test_a_reply_subject_that_looks_like_a_wildcard_reaches_no_wildcard(
    connect_raw: ConnectRaw,
) -> None:
    asker, spy = await connect_raw(), await connect_raw()
    queues = await spy_on(spy)
    for reply in (">", "_INBOX.>", "_INBOX.*", "*.*"):
        asker.post(publication("$mq9.AI.MAILBOX.CREATE", b"", reply))
    await asker.request("$mq9.AI.MAILBOX.CREATE")
    leaked = [message for message in await seen(spy, queues) if b"mail_address" in message.payload]
    assert leaked == []


async def test_a_waiting_fetch_answers_only_the_connection_that_asked(
    connect_raw: ConnectRaw, mq9: Mq9
) -> None:
    spy = await connect_raw()
    queues = await spy_on(spy)
    address = await mq9.create()
    waiting = asyncio.create_task(mq9.fetch(address, "g", max_wait_ms=300_000))
    await asyncio.sleep(0.05)
    await Mq9(await connect_raw()).send(address, b"secret")
    assert payloads(await asyncio.wait_for(waiting, 60)) == [b"secret"]
    assert await seen(spy, queues) == []


WILD_MAILBOXES = (
    "$mq9.AI.MAILBOX.MSG.*.*",
    "$mq9.AI.MAILBOX.MSG.*.normal",
    "$mq9.AI.MAILBOX.MSG.>",
    "$mq9.AI.MAILBOX.MSG.some.*.normal",
    "$mq9.AI.MAILBOX.MSG.some.>",
    "$mq9.AI.INBOX.*.normal",
    "$mq9.AI.INBOX.*.*",
    "$mq9.AI.INBOX.>",
)


@pytest.mark.parametrize("subject", WILD_MAILBOXES)
async def test_a_wildcard_where_the_address_stands_is_a_permissions_violation(
    raw: RawNats, subject: str
) -> None:
    raw.subscribe(subject)
    await raw.flush()
    assert raw.errors == [f'Permissions Violation for Subscription to "{subject}"']
    # the connection stays open
    assert json.loads((await raw.request("$mq9.AI.MAILBOX.CREATE")).payload)["error"] == ""


@pytest.mark.parametrize(
    "page",
    ["/metrics", "/varz", "/connz?subs=1", "/subsz?subs=1", "/routez", "/cluster", "/healthz"],
)
async def test_no_page_of_the_node_shows_an_address(clients: Clients, mq9: Mq9, page: str) -> None:
    address = await mq9.create()
    await every_command(mq9, address)
    for node in clients.nodes:
        shown = await node.get(page)
        assert address.encode() not in shown.body
        assert b"secret" not in shown.body


async def test_the_log_shows_no_address(clients: Clients, mq9: Mq9) -> None:
    address = await mq9.create()
    await every_command(mq9, address)
    for node in clients.nodes:
        assert address not in node.log_text()
        assert "secret" not in node.log_text()


async def test_generated_addresses_tell_nothing_of_one_another(mq9: Mq9) -> None:
    first, second = await mq9.create(), await mq9.create()
    same = sum(a == b for a, b in zip(first[4:], second[4:], strict=True))
    # of 26 random digits with 32 values, 10 equal ones happen once in 10^9 runs
    assert same < 10

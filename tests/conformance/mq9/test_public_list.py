"""PROTOCOL section 8: the list of public mailboxes, which is subscribed to."""

import json

from tests.conformance.mq9.conftest import Connect
from tests.support.mq9 import Mq9, fresh
from tests.support.pushed import Pushed, each_once
from tests.support.raw_nats import RawNats

LIST = "PUBLIC.LIST"


async def public(mq9: Mq9, **fields: object) -> str:
    return await mq9.box("list", public=True, **fields)


async def events_of(pushed: Pushed, *names: str) -> list[dict]:
    """The next events of these mailboxes: other tests have theirs."""
    found: list[dict] = []
    while len(found) < len(names):
        event = await pushed.event()
        if event["mail_id"] in names:
            found.append(event)
    return found


async def test_all_there_are_then_what_comes_and_goes(mq9: Mq9, other: Mq9):
    before = [await public(mq9, desc="d\u00e9j\u00e0"), await public(mq9, ttl=3600)]
    await mq9.box("private")
    pushed = await Pushed.to(other.connection, LIST)
    first = await events_of(pushed, *before)
    by_name = {event["mail_id"]: event for event in first}
    created = by_name[before[0]].pop("create_time")
    assert abs(created - by_name[before[1]].pop("create_time")) < 600
    assert by_name == {
        before[0]: {"event": "added", "mail_id": before[0], "desc": "d\u00e9j\u00e0", "ttl": 0},
        before[1]: {"event": "added", "mail_id": before[1], "desc": "", "ttl": 3600},
    }
    name = await public(mq9, ttl=1)
    added, removed = await events_of(pushed, name, name)
    assert (added["event"], added["ttl"]) == ("added", 1)
    assert removed == {"event": "removed", "mail_id": name}


async def test_one_that_is_gone_is_not_told_to_who_never_saw_it(mq9: Mq9, connect: Connect):
    name = await public(mq9, ttl=1)
    watching = await Pushed.to((await connect()).connection, LIST)
    added, removed = await events_of(watching, name, name)
    assert (added["event"], removed["event"]) == ("added", "removed")
    late = await Pushed.to((await connect()).connection, LIST)
    marker = await public(mq9)
    seen = []
    while marker not in seen:
        seen.append((await late.event())["mail_id"])
    assert name not in seen
    await mq9.create(name, public=True, desc="again")
    (again,) = await events_of(late, name)
    assert (again["event"], again["desc"]) == ("added", "again")


async def test_creating_it_again_is_no_event(mq9: Mq9, other: Mq9):
    name = await public(mq9)
    pushed = await Pushed.to(other.connection, LIST)
    await events_of(pushed, name)
    await mq9.create(name, public=True, desc="another")
    marker = await public(mq9)
    while (event := await pushed.event())["mail_id"] != marker:
        assert event["mail_id"] != name


async def test_members_of_a_queue_group_share_the_events(mq9: Mq9, connect: Connect):
    group = fresh("group")
    members = [await Pushed.to((await connect()).connection, LIST, group) for _ in range(2)]
    for member in members:  # what other tests left: it is read, and does not count
        await drained(member)
    names = {await public(mq9) for _ in range(6)}
    told = [
        json.loads(payload)["mail_id"]
        for share in await each_once(members, len(names))
        for payload in share
    ]
    assert sorted(told) == sorted(names)


async def drained(pushed: Pushed) -> None:
    while True:
        try:
            await pushed.subscription.next_msg(0.5)
        except TimeoutError:
            return


async def test_nobody_may_publish_there(mq9: Mq9, other: Mq9):
    pushed = await Pushed.to(other.connection, LIST)
    event = {"event": "added", "mail_id": "forged"}
    reply = await mq9.ask(LIST, event)
    assert (
        reply["error"] == "permission denied: the broker alone writes the list of public mailboxes"
    )
    await mq9.connection.publish(f"$mq9.AI.{LIST}", json.dumps(event).encode())
    await mq9.connection.publish(
        "$mq9.AI.MAILBOX.CREATE", b'{"name":"forged"}', reply=f"$mq9.AI.{LIST}"
    )
    marker = await public(mq9)
    seen = []
    while marker not in seen:
        event = await pushed.event()
        assert event.get("event") in ("added", "removed")
        seen.append(event["mail_id"])
    assert "forged" not in seen


async def test_the_directory_is_no_mailbox_for_clients(mq9: Mq9):
    await public(mq9)
    for command in (
        "MSG.QUERY.$public",
        "MSG.FETCH.$public",
        "MSG.SEND.$public",
        "INBOX.$public.normal",
    ):
        reply = await mq9.ask(command)
        assert reply["code"] == "invalid_mail_address"


async def test_a_reader_at_each_node_is_told_the_same(mq9: Mq9, connect: Connect):
    readers = [await Pushed.to((await connect()).connection, LIST) for _ in range(4)]
    names = [await public(mq9) for _ in range(3)]
    for reader in readers:
        told = await events_of(reader, *names)
        assert sorted(event["mail_id"] for event in told) == sorted(names)


async def test_wildcards_do_not_reach_it(mq9: Mq9, raw: RawNats):
    spies = [raw.subscribe(subject) for subject in ("$mq9.AI.PUBLIC.*", "$mq9.AI.PUBLIC.>", ">")]
    await raw.flush()
    await public(mq9)
    await raw.flush()
    assert [spy for spy in spies if not spy.empty()] == []

"""PROTOCOL sections 2 and 3 where time has to pass: ttl, delay, ack_wait, NACK delays.

The protocol counts in whole seconds, so each rule takes one to three. All rules run at once, in one
event loop over connections of their own, and each is reported as a test of its own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from chaos.cluster.process import ServedNode
from tests.conftest import ONE_OR_THREE, chosen_nodes
from tests.support.anywhere import Clients, slowest_s
from tests.support.mq9 import Mq9, Reply, fresh, ids, payloads

Rule = Callable[[Mq9, Mq9], Awaitable[None]]

LATE_S_MAX = 15.0  # how late a busy machine may be; a rule that is never carried out still fails
EARLY_S_MAX = 0.05  # the broker's clock is slewed; its reading is in whole milliseconds

RULES: list[Rule] = []


def rule(check: Rule) -> Rule:
    """Enter a rule into the table."""
    RULES.append(check)
    return check


async def until(
    ask: Callable[[], Awaitable[Reply]], holds: Callable[[Reply], bool], after_s: float
) -> Reply:
    """Ask until `holds`; that must not be before `after_s` from now, nor much later."""
    started = time.monotonic()
    while True:
        reply = await ask()
        waited = time.monotonic() - started
        if holds(reply):
            earliest = after_s - EARLY_S_MAX - slowest_s.get()
            assert waited >= earliest, f"{waited:.3f} s is before {after_s} s: {reply}"
            return reply
        assert waited < after_s + LATE_S_MAX, f"still {reply} after {waited:.3f} s"
        await asyncio.sleep(0.02)


def assert_a_second_passed_since(started: float) -> None:
    waited = time.monotonic() - started
    assert 1 - 2 * EARLY_S_MAX - slowest_s.get() <= waited < 1 + LATE_S_MAX


def missing(reply: Reply) -> bool:
    return reply.get("code") == "mailbox_not_found"


def shows(*expected: int) -> Callable[[Reply], bool]:
    return lambda reply: reply["error"] == "" and ids(reply) == list(expected)


@rule
async def a_mailbox_expires_with_all_that_is_in_it_and_its_name_is_free(
    mq9: Mq9, other: Mq9
) -> None:
    name = fresh("short")
    asked = time.monotonic()
    await mq9.create(name, ttl=1)
    await mq9.send_all(name, [b"1", b"2"])
    await mq9.send(name, b"later", delay=2)
    await mq9.send(name, b"known", msg_id="m-1")
    assert ids(await mq9.fetch(name, "g")) == [1, 2, 3]
    await until(lambda: other.query(name), missing, 1 - (time.monotonic() - asked))
    codes = [
        reply["code"]
        for reply in (
            await mq9.try_send(name),
            await mq9.fetch(name),
            await mq9.fetch(name, "g"),
            await mq9.ack(name, "g", 1),
            await mq9.nack(name, "g", 1),
            await mq9.delete(name, 1),
        )
    ]
    assert codes == ["mailbox_not_found"] * 6
    await mq9.create(name)
    assert await mq9.try_send(name, b"anew", msg_id="m-1") == {"error": "", "msg_id": 1}
    assert payloads(await mq9.fetch(name, "g")) == [b"anew"]
    await asyncio.sleep(1.5)  # past the delayed message's time
    assert payloads(await mq9.query(name)) == [b"anew"]


@rule
async def create_of_an_expiring_name_is_refused_until_it_expired(mq9: Mq9, other: Mq9) -> None:
    name = await mq9.create(fresh("short"), ttl=1)
    reply = await until(
        lambda: other.ask("MAILBOX.CREATE", {"name": name}),
        lambda reply: reply["error"] == "",
        after_s=0.9,
    )
    assert reply["mail_address"] == name


@rule
async def a_message_expires_by_its_own_ttl(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box(ttl=3600)
    await mq9.send(address, b"stays")
    await mq9.send(address, b"goes", ttl=1)
    assert ids(await mq9.query(address)) == [1, 2]
    await until(lambda: mq9.query(address), shows(1), after_s=0.9)
    assert ids(await other.fetch(address)) == [1]
    assert ids(await other.fetch(address, "g")) == [1]
    assert (await mq9.delete(address, 2))["code"] == "message_not_found"
    assert ids(await other.fetch(address, deliver="latest")) == [1]
    assert await mq9.send(address) == 3


@rule
async def a_held_message_that_expires_leaves_a_hole_that_acks_pass(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address)
    await mq9.send(address, ttl=1)
    assert ids(await mq9.fetch(address, "g")) == [1, 2]
    await until(lambda: mq9.query(address), shows(1), after_s=0.9)
    assert await mq9.ack(address, "g", 2) == {"error": ""}
    assert ids(await other.fetch(address, "g")) == []
    await mq9.connection.close()
    await asyncio.sleep(0.2)
    assert ids(await other.fetch(address, "g")) == []


@rule
async def expired_messages_make_room(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box(max_msgs=1, max_bytes=4)
    await mq9.send(address, b"gone", ttl=1)
    await until(
        lambda: other.try_send(address, b"next"), lambda reply: reply["error"] == "", after_s=0.9
    )
    assert payloads(await mq9.query(address)) == [b"next"]


@rule
async def the_key_of_an_expired_message_is_free(mq9: Mq9, _: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address, b"old", key="k", ttl=1)
    await until(lambda: mq9.query(address, key="k"), shows(), after_s=0.9)
    await mq9.send(address, b"new", key="k")
    assert payloads(await mq9.query(address, key="k")) == [b"new"]


@rule
async def a_delayed_message_is_invisible_until_its_time(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    sent_s = time.time()
    assert await mq9.send(address, b"later", delay=1) == -1
    assert ids(await other.query(address)) == []
    assert ids(await other.fetch(address)) == []
    assert ids(await other.fetch(address, "g")) == []
    seen = await until(lambda: mq9.query(address), shows(1), after_s=0.9)
    # created when it became visible, not when it was sent
    assert seen["messages"][0]["create_time"] >= int(sent_s + 1 - EARLY_S_MAX)
    assert ids(await other.fetch(address, "g")) == [1]


@rule
async def delayed_messages_get_their_ids_in_the_order_they_become_visible(mq9: Mq9, _: Mq9) -> None:
    address = await mq9.box()
    for payload, delay in ((b"third", 2), (b"second", 1), (b"first", 0)):
        await mq9.send(address, payload, delay=delay)
    seen = await until(lambda: mq9.query(address), shows(1, 2, 3), after_s=1.8)
    assert payloads(seen) == [b"first", b"second", b"third"]


@rule
async def a_waiting_fetch_is_answered_when_a_delayed_message_becomes_visible(
    mq9: Mq9, other: Mq9
) -> None:
    address = await mq9.box()
    await mq9.send(address, b"later", delay=1)
    started = time.monotonic()
    answers = await asyncio.gather(
        mq9.fetch(address, max_wait_ms=20_000),
        other.fetch(address, "g", max_wait_ms=20_000, deliver="latest"),
    )
    assert [payloads(answer) for answer in answers] == [[b"later"], [b"later"]]
    assert_a_second_passed_since(started)


@rule
async def a_delayed_message_keeps_its_priority_headers_and_tags(mq9: Mq9, _: Mq9) -> None:
    address = await mq9.box()
    headers = {
        "mq9-delay": "1",
        "mq9-priority": "critical",
        "mq9-tags": "a",
        "mq9-key": "k",
        "X-Trace": "7",
    }
    await mq9.send(address)
    await mq9.ask(f"MSG.SEND.{address}", b"later", headers)
    await until(lambda: mq9.query(address), shows(1, 2), after_s=0.9)
    first = (await mq9.fetch(address))["messages"][0]
    shown = (first["priority"], first["tags"], first["key"], first["header"])
    assert shown == ("critical", ["a"], "k", {"X-Trace": "7"})


@rule
async def a_delayed_message_replaces_its_key_when_it_becomes_visible(mq9: Mq9, _: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address, b"old", key="k")
    await mq9.send(address, b"delayed", key="k", delay=1)
    assert payloads(await mq9.query(address)) == [b"old"]
    await mq9.send(address, b"newer, but visible before", key="k")
    assert payloads(await mq9.query(address)) == [b"newer, but visible before"]
    seen = await until(lambda: mq9.query(address), shows(3), after_s=0.8)
    assert payloads(seen) == [b"delayed"]


@rule
async def a_message_that_expires_before_it_becomes_visible_never_appears_and_uses_no_id(
    mq9: Mq9, _: Mq9
) -> None:
    address = await mq9.box()
    assert await mq9.send(address, b"stillborn", delay=2, ttl=1) == -1
    assert await mq9.send(address, b"born", delay=2) == -1
    seen = await until(lambda: mq9.query(address), shows(1), after_s=1.8)
    assert payloads(seen) == [b"born"]


@rule
async def a_message_ttl_counts_from_sending_also_when_delayed(mq9: Mq9, _: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address, b"brief", delay=1, ttl=2)
    await until(lambda: mq9.query(address), shows(1), after_s=0.9)
    await until(lambda: mq9.query(address), shows(), after_s=0.0)


@rule
async def a_repeat_of_a_delayed_message_is_minus_one_even_when_the_first_is_visible(
    mq9: Mq9, _: Mq9
) -> None:
    address = await mq9.box()
    await mq9.send(address, b"later", delay=1, msg_id="m-1")
    await until(lambda: mq9.query(address), shows(1), after_s=0.9)
    assert await mq9.try_send(address, msg_id="m-1") == {
        "error": "",
        "msg_id": -1,
        "duplicate": True,
    }


@rule
async def from_time_and_since_divide_at_a_second(mq9: Mq9, _: Mq9) -> None:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await asyncio.sleep(1.1)
    await mq9.send(address, b"3")
    created = [message["create_time"] for message in (await mq9.query(address))["messages"]]
    assert created[2] > created[0]
    assert ids(await mq9.query(address, since=created[2])) == [3]
    assert ids(await mq9.query(address, since=created[0])) == [1, 2, 3]
    assert ids(await mq9.fetch(address, deliver="from_time", from_time=created[2])) == [3]
    assert ids(await mq9.fetch(address, "g", deliver="from_time", from_time=created[2])) == [3]
    assert ids(await mq9.fetch(address, "h", deliver="from_time", from_time=created[0])) == [
        1,
        2,
        3,
    ]


@rule
async def an_unacknowledged_hand_out_is_open_again_after_ack_wait(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    assert ids(await mq9.fetch(address, "g", ack_wait_ms=1000)) == [1, 2]
    await until(lambda: other.fetch(address, "g"), shows(1, 2), after_s=0.9)
    # its late first holder must not speak for the present one
    for late in (mq9.ack, mq9.nack):
        assert (await late(address, "g", 2))["code"] == "message_not_found"
    assert ids(await other.fetch(address, "g")) == [1, 2]


@rule
async def a_waiting_member_is_answered_when_ack_wait_ends(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address)
    await mq9.fetch(address, "g", ack_wait_ms=1000)
    started = time.monotonic()
    assert ids(await other.fetch(address, "g", max_wait_ms=20_000)) == [1]
    assert_a_second_passed_since(started)


@rule
async def an_ack_after_ack_wait_counts_while_nobody_else_holds_the_message(
    mq9: Mq9, other: Mq9
) -> None:
    address = await mq9.box()
    await mq9.send(address)
    await mq9.fetch(address, "g", ack_wait_ms=1000)
    await asyncio.sleep(1.3)
    assert await mq9.ack(address, "g", 1) == {"error": ""}
    assert ids(await other.fetch(address, "g")) == []


@rule
async def ack_wait_may_be_longer_than_others_wait(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address)
    await mq9.fetch(address, "g", ack_wait_ms=60_000)
    assert ids(await other.fetch(address, "g", max_wait_ms=1500)) == []


@rule
async def progress_renews_ack_wait(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.fetch(address, "g", ack_wait_ms=1500)
    for _ in range(3):
        await asyncio.sleep(0.7)
        assert await mq9.ack(address, "g", 1, scope="progress") == {"error": ""}
    # 2.1 s after the FETCH; the whole hand-out was renewed, not only the message named
    assert ids(await other.fetch(address, "g")) == []
    await until(lambda: other.fetch(address, "g"), shows(1, 2), after_s=1.2)


@rule
async def a_nacked_message_with_a_delay_comes_back_after_it(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 1, delay=1)
    started = time.monotonic()
    assert ids(await other.fetch(address, "g", max_wait_ms=20_000)) == [1]
    assert_a_second_passed_since(started)


@rule
async def an_ack_wait_that_ends_counts_as_a_return(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box(max_deliver=2)
    await mq9.send(address, b"slow")
    await mq9.fetch(address, "g", ack_wait_ms=1000)
    assert ids(await other.fetch(address, "g", max_wait_ms=20_000, ack_wait_ms=1000)) == [1]
    dead = await until(
        lambda: mq9.query(f"{address}.dlq"), lambda reply: reply["error"] == "", after_s=0.9
    )
    headers = dead["messages"][0]["header"]
    assert (headers["mq9-dlq-reason"], headers["mq9-dlq-count"]) == ("ack_wait", "2")


@rule
async def a_dead_letter_mailbox_has_the_ttl_of_its_source(mq9: Mq9, _: Mq9) -> None:
    address = await mq9.box(max_deliver=1, ttl=2)
    await mq9.send(address, b"poison")
    await asyncio.sleep(1)
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 1)
    assert payloads(await mq9.query(f"{address}.dlq")) == [b"poison"]
    await until(lambda: mq9.query(f"{address}.dlq"), missing, after_s=1.8)


@rule
async def a_dead_letter_expires_when_its_message_would_have(mq9: Mq9, _: Mq9) -> None:
    address = await mq9.box(max_deliver=1)
    await mq9.send(address, b"poison", ttl=2)
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 1)
    assert payloads(await mq9.query(f"{address}.dlq")) == [b"poison"]
    await until(lambda: mq9.query(f"{address}.dlq"), shows(), after_s=1.7)


@rule
async def retain_acked_does_not_wait_for_what_expired(mq9: Mq9, _: Mq9) -> None:
    address = await mq9.box(retain="acked", max_msgs=2)
    await mq9.send(address, ttl=1)
    await mq9.send(address)
    await mq9.fetch(address, "g")
    await until(lambda: mq9.query(address), shows(2), after_s=0.9)
    await mq9.ack(address, "g", 2)
    assert ids(await mq9.query(address)) == []


async def _check_all(nodes: list[ServedNode]) -> dict[str, BaseException | None]:
    async def check(one: Rule) -> None:
        async with Clients(nodes) as clients:
            await one(await clients.connect(), await clients.connect())

    failures = await asyncio.gather(*(check(one) for one in RULES), return_exceptions=True)
    found = {one.__name__: failed for one, failed in zip(RULES, failures, strict=True)}
    # What takes a second on its own may take longer beside all the others on a slow machine: a
    # message may be gone before it was looked at. Alone, it is given no such excuse.
    for one in RULES:
        if found[one.__name__] is not None:
            (found[one.__name__],) = await asyncio.gather(check(one), return_exceptions=True)
    return found


@pytest.fixture(scope="module", params=ONE_OR_THREE)
def failures(request: pytest.FixtureRequest) -> dict[str, BaseException | None]:
    """What went wrong with each rule, all rules having run at once."""
    return asyncio.run(_check_all(chosen_nodes(request)))


@pytest.mark.parametrize("name", [one.__name__ for one in RULES])
def test_with_time(name: str, failures: dict[str, BaseException | None]) -> None:
    failed = failures[name]
    if failed is not None:
        raise failed

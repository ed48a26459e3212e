"""PROTOCOL section 3, NACK and dead letters: what is given back, and what came back too often.

`mq9` and `other` are two connections; waits are in test_time.py.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.groups import boxed, prioritised
from tests.support.mq9 import Mq9, fresh, ids, payloads

Connect = Callable[[], Awaitable[Mq9]]


async def test_nack_gives_one_message_back(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 3)
    await mq9.fetch(address, "g")
    assert await mq9.nack(address, "g", 2) == {"error": ""}
    assert ids(await other.fetch(address, "g")) == [2]
    assert ids(await mq9.fetch(address, "g")) == [1, 3]


async def test_a_message_given_back_is_in_its_old_place(mq9: Mq9) -> None:
    address = await prioritised(mq9)
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 4)
    assert ids(await mq9.fetch(address, "g")) == [2, 4, 1, 3]


@pytest.mark.parametrize("named", [True, False])
async def test_an_ack_of_its_neighbours_does_not_confirm_a_message_given_back(
    mq9: Mq9, other: Mq9, *, named: bool
) -> None:
    address = await boxed(mq9, 3)
    handout = (await mq9.fetch(address, "g"))["handout"]
    await mq9.nack(address, "g", 2)
    naming = {"handout": handout} if named else {}
    assert await mq9.ack(address, "g", 3, **naming) == {"error": ""}
    assert ids(await other.fetch(address, "g")) == [2]


async def test_nack_wakes_a_waiting_member(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 1)
    await mq9.fetch(address, "g")
    waiting = asyncio.create_task(other.fetch(address, "g", max_wait_ms=300_000))
    await asyncio.sleep(0.05)
    await mq9.nack(address, "g", 1)
    assert ids(await asyncio.wait_for(waiting, 60)) == [1]


async def test_nack_with_a_delay_keeps_the_message_away(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 2)
    await mq9.fetch(address, "g")
    assert await mq9.nack(address, "g", 1, delay=3600) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [2]
    assert ids(await other.fetch(address, "g")) == []
    # for another group, and for QUERY, nothing changed
    assert ids(await other.fetch(address, "h")) == [1, 2]
    assert ids(await other.query(address)) == [1, 2]


async def test_nack_of_what_is_not_held_is_message_not_found(mq9: Mq9) -> None:
    address = await boxed(mq9, 3)
    await mq9.fetch(address, "g", num_msgs=2)
    await mq9.ack(address, "g", 1)
    answers = [(await mq9.nack(address, "g", msg_id))["code"] for msg_id in (1, 3, 4, 0)]
    assert answers == ["message_not_found"] * 4


async def test_nack_of_a_held_message_that_was_deleted_succeeds(mq9: Mq9) -> None:
    address = await boxed(mq9, 2)
    await mq9.fetch(address, "g")
    await mq9.delete(address, 1)
    assert await mq9.nack(address, "g", 1) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [2]


async def test_without_max_deliver_a_message_may_come_back_for_ever(mq9: Mq9) -> None:
    address = await boxed(mq9, 1)
    for _ in range(20):
        assert ids(await mq9.fetch(address, "g")) == [1]
        assert await mq9.nack(address, "g", 1) == {"error": ""}
    assert (await mq9.query(f"{address}.dlq"))["code"] == "mailbox_not_found"


async def test_the_message_that_came_back_max_deliver_times_is_dead(mq9: Mq9) -> None:
    address = await mq9.box(max_deliver=3)
    await mq9.send(address, b"poison", priority="urgent", tags="a,b", key="k")
    await mq9.send(address, b"fine")
    for _ in range(2):
        assert ids(await mq9.fetch(address, "g")) == [1, 2]
        await mq9.nack(address, "g", 1)
        assert (await mq9.query(f"{address}.dlq"))["code"] == "mailbox_not_found"
    await mq9.fetch(address, "g")
    assert await mq9.nack(address, "g", 1) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [2]
    (dead,) = (await mq9.query(f"{address}.dlq", encoding="text"))["messages"]
    del dead["create_time"]
    assert dead == {
        "msg_id": 1,
        "payload": "poison",
        "encoding": "text",
        "priority": "urgent",
        "tags": ["a", "b"],
        "header": {
            "mq9-dlq-from": address,
            "mq9-dlq-group": "g",
            "mq9-dlq-count": "3",
            "mq9-dlq-reason": "nack",
        },
    }


async def test_a_dead_message_stays_for_query_and_for_other_groups(mq9: Mq9) -> None:
    address = await boxed(mq9, 1, max_deliver=1)
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 1)
    assert ids(await mq9.query(address)) == [1]
    assert ids(await mq9.fetch(address, "g")) == []
    assert ids(await mq9.fetch(address, "h")) == [1]
    await mq9.nack(address, "h", 1)
    dead = (await mq9.query(f"{address}.dlq"))["messages"]
    assert [message["header"]["mq9-dlq-group"] for message in dead] == ["g", "h"]


async def test_a_dead_message_keeps_its_own_headers(mq9: Mq9) -> None:
    address = await mq9.box(max_deliver=1)
    await mq9.ask(f"MSG.SEND.{address}", b"x", {"X-Trace": "7"})
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 1)
    (dead,) = (await mq9.query(f"{address}.dlq"))["messages"]
    assert dead["header"]["X-Trace"] == "7"
    assert dead["header"]["mq9-dlq-count"] == "1"


async def test_the_end_of_a_connection_counts_as_a_return(connect: Connect) -> None:
    stayer = await connect()
    address = await boxed(stayer, 1, max_deliver=2)
    for _ in range(2):
        leaver = await connect()
        assert ids(await leaver.fetch(address, "g", max_wait_ms=10_000)) == [1]
        await leaver.connection.close()
    for _ in range(100):
        seen = await stayer.query(f"{address}.dlq")
        if seen["error"] == "":
            break
        await asyncio.sleep(0.05)
    assert [message["header"]["mq9-dlq-reason"] for message in seen["messages"]] == ["connection"]
    assert [message["header"]["mq9-dlq-count"] for message in seen["messages"]] == ["2"]
    assert ids(await stayer.fetch(address, "g")) == []


async def test_a_consumers_own_new_fetch_never_counts_as_a_return(mq9: Mq9) -> None:
    address = await boxed(mq9, 1, max_deliver=2)
    for _ in range(10):
        assert ids(await mq9.fetch(address, "g")) == [1]


async def test_returns_are_counted_per_group(mq9: Mq9) -> None:
    address = await boxed(mq9, 1, max_deliver=2)
    for group in ("g", "h"):
        await mq9.fetch(address, group)
        await mq9.nack(address, group, 1)
    assert (await mq9.query(f"{address}.dlq"))["code"] == "mailbox_not_found"
    assert ids(await mq9.fetch(address, "g")) == [1]


async def test_a_dead_letter_is_stored_although_its_mailbox_is_full(mq9: Mq9) -> None:
    name = fresh()
    await mq9.create(f"{name}.dlq", max_msgs=1)
    await mq9.create(name, max_deliver=1)
    await mq9.send(f"{name}.dlq", b"in the way")
    await mq9.send(name, b"poison")
    await mq9.fetch(name, "g")
    await mq9.nack(name, "g", 1)
    assert payloads(await mq9.query(f"{name}.dlq")) == [b"in the way", b"poison"]


async def test_a_dead_letter_mailbox_is_a_mailbox(mq9: Mq9) -> None:
    address = await boxed(mq9, 1, max_deliver=1)
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 1)
    assert ids(await mq9.fetch(f"{address}.dlq", "undertaker")) == [1]
    assert await mq9.ack(f"{address}.dlq", "undertaker", 1) == {"error": ""}
    assert await mq9.send(f"{address}.dlq") == 2
    assert (await mq9.ask("MAILBOX.CREATE", {"name": f"{address}.dlq"}))["code"] == "mailbox_exists"

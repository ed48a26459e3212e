"""PROTOCOL section 3, groups: what is handed out, to whom, released when, acknowledged how.

`mq9` and `other` are two connections; ack_wait, NACK delays and other waits are in test_time.py.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.mq9 import Mq9, failure, fresh, ids, payloads

Connect = Callable[[], Awaitable[Mq9]]


async def boxed(mq9: Mq9, count: int, **fields: object) -> str:
    """A new mailbox with `count` normal messages."""
    address = await mq9.box(**fields)
    await mq9.send_all(address, [b"%d" % n for n in range(1, count + 1)])
    return address


async def prioritised(mq9: Mq9) -> str:
    """A new mailbox whose delivery order is 2, 4, 1, 3."""
    address = await mq9.box()
    for priority in ("normal", "critical", "normal", "critical"):
        await mq9.send(address, priority=priority)
    return address


# --- where a group starts


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ({"deliver": "earliest"}, [1, 2, 3]),
        ({"deliver": "latest"}, [3]),
        ({"deliver": "from_id", "from_id": 2}, [2, 3]),
    ],
)
async def test_a_new_group_starts_where_its_first_fetch_says(
    mq9: Mq9, start: dict[str, object], expected: list[int]
) -> None:
    address = await boxed(mq9, 3)
    assert ids(await mq9.fetch(address, "g", **start)) == expected


async def test_the_default_start_of_a_group_is_the_newest(mq9: Mq9) -> None:
    address = await boxed(mq9, 3)
    assert ids(await mq9.ask(f"MSG.FETCH.{address}", {"group_name": "g"})) == [3]
    await mq9.send(address)
    assert ids(await mq9.fetch(address, "g")) == [3, 4]


async def test_a_group_made_on_an_empty_mailbox_gets_all_that_follows(mq9: Mq9) -> None:
    address = await mq9.box()
    assert ids(await mq9.fetch(address, "g", deliver="latest")) == []
    await mq9.send_all(address, [b"1", b"2"])
    assert ids(await mq9.fetch(address, "g", deliver="latest")) == [1, 2]


async def test_the_start_counts_only_for_a_new_group(mq9: Mq9) -> None:
    address = await boxed(mq9, 3)
    await mq9.fetch(address, "g", deliver="latest")
    assert ids(await mq9.fetch(address, "g", deliver="earliest")) == [3]
    assert ids(await mq9.fetch(address, "g", deliver="from_id", from_id=1)) == [3]


async def test_force_deliver_starts_a_group_anew(mq9: Mq9) -> None:
    address = await boxed(mq9, 3)
    await mq9.fetch(address, "g")
    await mq9.ack(address, "g", 3)
    assert ids(await mq9.fetch(address, "g")) == []
    assert ids(await mq9.fetch(address, "g", force_deliver=True)) == [1, 2, 3]
    assert ids(await mq9.fetch(address, "g", force_deliver=True, deliver="from_id", from_id=3)) == [
        3
    ]
    assert ids(await mq9.fetch(address, "g")) == [3]


async def test_force_deliver_ends_all_hand_outs_of_the_group(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 3)
    handout = (await other.fetch(address, "g", num_msgs=2))["handout"]
    assert ids(await mq9.fetch(address, "g", force_deliver=True)) == [1, 2, 3]
    assert (await other.ack(address, "g", 2, handout=handout))["code"] == "message_not_found"
    assert ids(await other.fetch(address, "g")) == []


async def test_groups_do_not_know_of_each_other(mq9: Mq9) -> None:
    address = await boxed(mq9, 2)
    await mq9.fetch(address, "a")
    await mq9.ack(address, "a", 2)
    assert ids(await mq9.fetch(address, "b")) == [1, 2]
    await mq9.fetch(address)
    assert ids(await mq9.fetch(address, "a")) == []


async def test_groups_of_equal_names_in_two_mailboxes_are_two(mq9: Mq9) -> None:
    first, second = await boxed(mq9, 1), await boxed(mq9, 1)
    await mq9.fetch(first, "g")
    await mq9.ack(first, "g", 1)
    assert ids(await mq9.fetch(second, "g")) == [1]


# --- hand-outs


async def test_what_is_handed_out_to_one_member_goes_to_no_other(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 5)
    assert ids(await mq9.fetch(address, "g", num_msgs=2)) == [1, 2]
    assert ids(await other.fetch(address, "g", num_msgs=2)) == [3, 4]
    assert ids(await mq9.fetch(address, "g", num_msgs=2)) == [1, 2]
    assert ids(await other.fetch(address, "g", num_msgs=10)) == [3, 4, 5]


async def test_open_messages_are_handed_out_best_first(mq9: Mq9, other: Mq9) -> None:
    address = await prioritised(mq9)
    assert ids(await mq9.fetch(address, "g", num_msgs=3)) == [2, 4, 1]
    assert ids(await other.fetch(address, "g")) == [3]


async def test_a_fetch_again_gives_the_own_messages_in_their_place_among_the_open_ones(
    mq9: Mq9,
) -> None:
    address = await prioritised(mq9)
    assert ids(await mq9.fetch(address, "g", num_msgs=3)) == [2, 4, 1]
    await mq9.send(address, priority="critical")
    assert ids(await mq9.fetch(address, "g")) == [2, 4, 5, 1, 3]


async def test_own_messages_that_do_not_fit_become_open(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 4)
    assert ids(await mq9.fetch(address, "g")) == [1, 2, 3, 4]
    assert ids(await mq9.fetch(address, "g", num_msgs=1)) == [1]
    assert ids(await other.fetch(address, "g")) == [2, 3, 4]


async def test_own_messages_that_do_not_match_the_tags_become_open(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    for tag in ("a", "b", "a"):
        await mq9.send(address, tags=tag)
    assert ids(await mq9.fetch(address, "g")) == [1, 2, 3]
    assert ids(await mq9.fetch(address, "g", tags=["b"])) == [2]
    assert ids(await other.fetch(address, "g")) == [1, 3]


async def test_messages_passed_over_by_a_tag_filter_stay_open_for_others(mq9: Mq9) -> None:
    address = await mq9.box()
    for tag in ("a", "b", "a"):
        await mq9.send(address, tags=tag)
    assert ids(await mq9.fetch(address, "g", tags=["b"])) == [2]
    await mq9.ack(address, "g", 2)
    assert ids(await mq9.fetch(address, "g")) == [1, 3]


async def test_a_fetch_with_a_group_names_its_hand_out_and_each_is_a_new_one(mq9: Mq9) -> None:
    address = await boxed(mq9, 2)
    names = [(await mq9.fetch(address, "g"))["handout"] for _ in range(3)]
    assert all(isinstance(name, str) and name for name in names)
    assert len(set(names)) == 3


async def test_named_consumers_on_one_connection_are_two_members(mq9: Mq9) -> None:
    address = await boxed(mq9, 4)
    assert ids(await mq9.fetch(address, "g", consumer="a", num_msgs=2)) == [1, 2]
    assert ids(await mq9.fetch(address, "g", consumer="b", num_msgs=2)) == [3, 4]
    assert ids(await mq9.fetch(address, "g", consumer="a")) == [1, 2]
    assert ids(await mq9.fetch(address, "g")) == []


async def test_a_named_consumer_is_the_same_over_two_connections(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 3)
    assert ids(await mq9.fetch(address, "g", consumer="a", num_msgs=2)) == [1, 2]
    assert ids(await other.fetch(address, "g", consumer="a")) == [1, 2, 3]


async def test_a_named_consumers_hand_out_belongs_to_the_connection_that_fetched_last(
    connect: Connect,
) -> None:
    first, second, third = await connect(), await connect(), await connect()
    address = await boxed(first, 2)
    await first.fetch(address, "g", consumer="a")
    await second.fetch(address, "g", consumer="a")
    await first.connection.close()
    await asyncio.sleep(0.1)
    assert ids(await third.fetch(address, "g")) == []
    await second.connection.close()
    assert ids(await third.fetch(address, "g", max_wait_ms=10_000)) == [1, 2]


async def test_a_new_message_joins_the_open_ones_of_every_group(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 1)
    await mq9.fetch(address, "g")
    await mq9.send(address)
    assert ids(await other.fetch(address, "g")) == [2]


async def test_messages_are_shared_out_among_workers_without_overlap(connect: Connect) -> None:
    workers = [await connect() for _ in range(5)]
    address = await boxed(workers[0], 100)

    async def work(worker: Mq9) -> list[int]:
        done: list[int] = []
        while got := ids(await worker.fetch(address, "g", num_msgs=3)):
            done += got
            assert await worker.ack(address, "g", got[-1]) == {"error": ""}
        return done

    shares = await asyncio.gather(*(work(worker) for worker in workers))
    assert sorted(msg_id for share in shares for msg_id in share) == list(range(1, 101))


# --- the end of a connection


async def test_when_a_connection_ends_what_it_held_is_open_again_in_its_old_place(
    connect: Connect,
) -> None:
    leaver, stayer = await connect(), await connect()
    address = await prioritised(stayer)
    assert ids(await leaver.fetch(address, "g", num_msgs=3)) == [2, 4, 1]
    assert ids(await stayer.fetch(address, "g")) == [3]
    await leaver.connection.close()
    await stayer.send(address, priority="critical")
    for _ in range(100):
        if ids(seen := await stayer.fetch(address, "g")) == [2, 4, 5, 1, 3]:
            break
        await asyncio.sleep(0.05)
    assert ids(seen) == [2, 4, 5, 1, 3]


async def test_a_waiting_member_is_answered_when_another_leaves(connect: Connect) -> None:
    leaver, stayer = await connect(), await connect()
    address = await boxed(stayer, 2)
    await leaver.fetch(address, "g")
    waiting = asyncio.create_task(stayer.fetch(address, "g", max_wait_ms=300_000))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await leaver.connection.close()
    assert ids(await asyncio.wait_for(waiting, 60)) == [1, 2]


async def test_with_ack_wait_a_hand_out_outlives_its_connection(connect: Connect) -> None:
    leaver, stayer = await connect(), await connect()
    address = await boxed(stayer, 2)
    assert ids(await leaver.fetch(address, "g", ack_wait_ms=60_000)) == [1, 2]
    await leaver.connection.close()
    await asyncio.sleep(0.1)
    assert ids(await stayer.fetch(address, "g")) == []
    # and it may be acknowledged over another connection
    assert await stayer.ack(address, "g", 2) == {"error": ""}


async def test_a_fetch_left_waiting_by_a_connection_that_ended_takes_nothing_with_it(
    connect: Connect,
) -> None:
    leaver, stayer = await connect(), await connect()
    address = await stayer.box()
    waiting = asyncio.create_task(leaver.fetch(address, "g", max_wait_ms=300_000))
    await asyncio.sleep(0.05)
    await leaver.connection.close()
    waiting.cancel()
    await stayer.send(address, b"not lost")
    assert payloads(await stayer.fetch(address, "g", max_wait_ms=10_000)) == [b"not lost"]


# --- ACK


async def test_acknowledging_the_last_confirms_the_batch(mq9: Mq9) -> None:
    address = await boxed(mq9, 4)
    await mq9.fetch(address, "g", num_msgs=3)
    assert await mq9.ack(address, "g", 3) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [4]


async def test_acknowledging_the_middle_confirms_up_to_it_in_delivery_order(mq9: Mq9) -> None:
    address = await prioritised(mq9)
    assert ids(await mq9.fetch(address, "g")) == [2, 4, 1, 3]
    await mq9.ack(address, "g", 1)
    assert ids(await mq9.fetch(address, "g")) == [3]


async def test_acknowledging_a_critical_message_never_skips_a_normal_one_before_it(
    mq9: Mq9,
) -> None:
    address = await prioritised(mq9)
    await mq9.fetch(address, "g")
    await mq9.ack(address, "g", 4)
    assert ids(await mq9.fetch(address, "g")) == [1, 3]


async def test_an_ack_never_confirms_what_another_member_holds(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 4)
    await mq9.fetch(address, "g", num_msgs=2)
    await other.fetch(address, "g", num_msgs=2)
    assert await other.ack(address, "g", 4) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [1, 2]


async def test_an_ack_may_come_over_another_connection(mq9: Mq9, other: Mq9) -> None:
    address = await boxed(mq9, 3)
    await mq9.fetch(address, "g", num_msgs=2)
    assert await other.ack(address, "g", 2) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [3]


async def test_an_ack_may_come_after_the_connection_ended(connect: Connect) -> None:
    leaver, stayer = await connect(), await connect()
    address = await boxed(stayer, 3)
    await leaver.fetch(address, "g", num_msgs=2)
    await leaver.connection.close()
    await asyncio.sleep(0.1)
    assert await stayer.ack(address, "g", 2) == {"error": ""}
    assert ids(await stayer.fetch(address, "g")) == [3]


async def test_an_ack_too_late_finds_the_message_with_another_member(connect: Connect) -> None:
    leaver, stayer, late = await connect(), await connect(), await connect()
    address = await boxed(stayer, 2)
    handout = (await leaver.fetch(address, "g"))["handout"]
    await leaver.connection.close()
    assert ids(await stayer.fetch(address, "g", max_wait_ms=10_000)) == [1, 2]
    assert (await late.ack(address, "g", 2, handout=handout))["code"] == "message_not_found"
    assert ids(await stayer.fetch(address, "g")) == [1, 2]


async def test_repeating_an_ack_is_harmless(mq9: Mq9) -> None:
    address = await boxed(mq9, 3)
    await mq9.fetch(address, "g", num_msgs=2)
    assert [await mq9.ack(address, "g", 2) for _ in range(3)] == [{"error": ""}] * 3
    assert ids(await mq9.fetch(address, "g")) == [3]
    # the message held since is none of the repeated ACK's
    assert await mq9.ack(address, "g", 2) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [3]


async def test_an_ack_of_a_deleted_message_confirms_those_before_it(mq9: Mq9) -> None:
    address = await boxed(mq9, 4)
    await mq9.fetch(address, "g", num_msgs=3)
    await mq9.delete(address, 3)
    assert await mq9.ack(address, "g", 3) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [4]


async def test_an_ack_of_a_replaced_message_confirms_those_before_it(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address, b"first")
    await mq9.send(address, b"old", key="k")
    await mq9.fetch(address, "g")
    await mq9.send(address, b"new", key="k")
    assert await mq9.ack(address, "g", 2) == {"error": ""}
    assert payloads(await mq9.fetch(address, "g")) == [b"new"]


async def test_a_deleted_message_leaves_a_hole_that_acks_pass(mq9: Mq9) -> None:
    address = await boxed(mq9, 3)
    await mq9.fetch(address, "g")
    await mq9.delete(address, 2)
    assert ids(await mq9.fetch(address, "g")) == [1, 3]
    assert await mq9.ack(address, "g", 3) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == []


async def test_an_ack_of_a_message_long_gone_is_harmless(mq9: Mq9) -> None:
    address = await boxed(mq9, 2)
    await mq9.delete(address, 1)
    assert ids(await mq9.fetch(address, "g")) == [2]
    assert await mq9.ack(address, "g", 1) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [2]


async def test_an_ack_of_what_was_never_handed_out_is_message_not_found(mq9: Mq9) -> None:
    address = await boxed(mq9, 3)
    await mq9.fetch(address, "g", num_msgs=1)
    answers = [(await mq9.ack(address, "g", msg_id))["code"] for msg_id in (2, 3, 4, 0, 2**53)]
    assert answers == ["message_not_found"] * 5
    assert ids(await mq9.fetch(address, "g")) == [1, 2, 3]


async def test_an_ack_or_nack_for_a_group_that_is_not_there_is_message_not_found(mq9: Mq9) -> None:
    address = await boxed(mq9, 1)
    assert failure(await mq9.ack(address, "none", 1))[1] == "message_not_found"
    assert failure(await mq9.nack(address, "none", 1))[1] == "message_not_found"


async def test_an_ack_with_its_hand_out_confirms_only_messages_of_that_reply(
    mq9: Mq9, other: Mq9
) -> None:
    address = await boxed(mq9, 6)
    first = (await mq9.fetch(address, "g", num_msgs=2))["handout"]
    second = (await other.fetch(address, "g", num_msgs=2))["handout"]
    assert (await mq9.ack(address, "g", 4, handout=first))["code"] == "message_not_found"
    assert await mq9.ack(address, "g", 2, handout=first) == {"error": ""}
    assert await mq9.ack(address, "g", 4, handout=second) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [5, 6]


async def test_an_ack_with_an_older_hand_out_confirms_what_nobody_else_holds(mq9: Mq9) -> None:
    address = await boxed(mq9, 3)
    older = (await mq9.fetch(address, "g", num_msgs=2))["handout"]
    assert ids(await mq9.fetch(address, "g")) == [1, 2, 3]
    assert await mq9.ack(address, "g", 2, handout=older) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [3]


async def test_an_unknown_hand_out_is_message_not_found(mq9: Mq9) -> None:
    address = await boxed(mq9, 1)
    await mq9.fetch(address, "g")
    for handout in ("none such", "", "1-1-1", "-", "x" * 1000):
        reply = await mq9.ack(address, "g", 1, handout=handout)
        assert reply["code"] in {"message_not_found", "invalid_field"}, (handout, reply)
    assert ids(await mq9.fetch(address, "g")) == [1]


async def test_the_last_256_hand_outs_that_ended_are_remembered(mq9: Mq9) -> None:
    address = await boxed(mq9, 1)
    made = [(await mq9.fetch(address, "g"))["handout"] for _ in range(256 + 2)]
    assert (await mq9.ack(address, "g", 1, handout=made[0]))["code"] == "message_not_found"
    assert ids(await mq9.fetch(address, "g", consumer="another")) == []
    assert await mq9.ack(address, "g", 1, handout=made[1]) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == []


async def test_scope_message_confirms_that_one_alone(mq9: Mq9) -> None:
    address = await boxed(mq9, 4)
    await mq9.fetch(address, "g")
    assert await mq9.ack(address, "g", 3, scope="message") == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [1, 2, 4]


async def test_scope_progress_confirms_nothing(mq9: Mq9) -> None:
    address = await boxed(mq9, 2)
    await mq9.fetch(address, "g")
    assert await mq9.ack(address, "g", 2, scope="progress") == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [1, 2]


async def test_scope_progress_of_what_is_not_held_is_message_not_found(mq9: Mq9) -> None:
    address = await boxed(mq9, 2)
    await mq9.fetch(address, "g", num_msgs=1)
    await mq9.ack(address, "g", 1)
    for msg_id in (1, 2, 3):
        assert (await mq9.ack(address, "g", msg_id, scope="progress"))[
            "code"
        ] == "message_not_found"


# --- NACK and dead letters


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

"""PROTOCOL section 3, ACK: which messages of a hand-out it confirms, and which never.

`mq9` and `other` are two connections; waits are in test_time.py.
"""

import asyncio
from collections.abc import Awaitable, Callable

from tests.support.groups import boxed, prioritised
from tests.support.mq9 import Mq9, failure, ids, payloads

Connect = Callable[[], Awaitable[Mq9]]


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


async def test_who_connected_anew_confirms_nothing_that_only_the_next_holder_was_given(
    connect: Connect,
) -> None:
    leaver, holder, anew, other = [await connect() for _ in range(4)]
    address = await boxed(holder, 2)
    await leaver.fetch(address, "g")
    await leaver.connection.close()
    assert ids(await holder.fetch(address, "g", max_wait_ms=10_000)) == [1, 2]
    await holder.send(address, priority="critical")
    assert ids(await holder.fetch(address, "g")) == [3, 1, 2]
    assert await anew.ack(address, "g", 2) == {"error": ""}
    await holder.connection.close()
    assert ids(await other.fetch(address, "g", max_wait_ms=10_000)) == [3]


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


async def test_the_last_512_hand_outs_that_ended_unfinished_are_remembered(mq9: Mq9) -> None:
    address = await boxed(mq9, 1)
    made = [(await mq9.fetch(address, "g"))["handout"] for _ in range(256 + 256 + 2)]
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

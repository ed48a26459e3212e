"""PROTOCOL section 3, groups: where they start, what is handed out and to whom, and for how long.

`mq9` and `other` are two connections; waits are in test_time.py.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.groups import boxed, prioritised
from tests.support.mq9 import Mq9, ids, payloads

Connect = Callable[[], Awaitable[Mq9]]


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

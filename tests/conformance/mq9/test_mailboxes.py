"""PROTOCOL section 2: CREATE, limits of a mailbox, retention. What takes time: test_time.py."""

import asyncio

from mq9cluster.domain.limits import GROUPS_PER_MAILBOX_MAX
from tests.support.mq9 import Mq9, failure, fresh, ids, payloads


async def test_create_answers_with_the_address(mq9: Mq9) -> None:
    name = fresh()
    reply = await mq9.ask("MAILBOX.CREATE", {"name": name, "ttl": 60, "desc": "a box"})
    assert (reply["error"], reply["mail_address"]) == ("", name)


async def test_a_taken_name_is_told_and_the_first_mailbox_stays(mq9: Mq9) -> None:
    name = await mq9.create(fresh(), max_msgs=1)
    await mq9.send(name, b"kept")
    reply = await mq9.ask("MAILBOX.CREATE", {"name": name, "max_msgs": 5})
    assert reply == {"error": f"mailbox {name} already exists", "code": "mailbox_exists"}
    assert payloads(await mq9.query(name)) == [b"kept"]
    assert (await mq9.try_send(name))["code"] == "mailbox_full"


async def test_of_many_who_create_the_same_name_at_once_one_succeeds(mq9: Mq9, other: Mq9) -> None:
    name = fresh()
    creations = [client.ask("MAILBOX.CREATE", {"name": name}) for client in (mq9, other) * 20]
    codes = [reply.get("code", "") for reply in await asyncio.gather(*creations)]
    assert sorted(codes) == [""] + ["mailbox_exists"] * 39


async def test_a_prefix_of_a_name_is_another_mailbox(mq9: Mq9) -> None:
    name = await mq9.box()
    await mq9.create(f"{name}.sub")
    await mq9.send(name, b"outer")
    await mq9.send(f"{name}.sub", b"inner")
    assert payloads(await mq9.query(name)) == [b"outer"]
    assert payloads(await mq9.query(f"{name}.sub")) == [b"inner"]


async def test_any_connection_may_use_a_mailbox_whose_address_it_knows(
    mq9: Mq9, other: Mq9
) -> None:
    address = await mq9.create()
    await other.send(address, b"hello")
    assert payloads(await mq9.fetch(address)) == [b"hello"]


async def test_max_msgs_refuses_the_message_after_the_last_and_takes_more_when_one_is_gone(
    mq9: Mq9,
) -> None:
    address = await mq9.box(max_msgs=2)
    await mq9.send_all(address, [b"1", b"2"])
    assert failure(await mq9.try_send(address, b"3")) == (
        "mailbox full: max_msgs 2 reached",
        "mailbox_full",
    )
    await mq9.delete(address, 1)
    assert await mq9.send(address, b"3") == 3
    assert (await mq9.try_send(address, b"4"))["code"] == "mailbox_full"


async def test_max_bytes_counts_payload_and_fits_exactly(mq9: Mq9) -> None:
    address = await mq9.box(max_bytes=10)
    # headers, key and tags are not payload
    assert await mq9.send(address, b"123456", key="k" * 100, tags="t" * 100) == 1
    assert failure(await mq9.try_send(address, b"12345")) == (
        "mailbox full: max_bytes 10 reached",
        "mailbox_full",
    )
    assert await mq9.send(address, b"1234") == 2
    assert await mq9.send(address, b"") == 3
    assert (await mq9.try_send(address, b"1"))["code"] == "mailbox_full"
    await mq9.delete(address, 2)
    assert await mq9.send(address, b"abcd") == 4


async def test_limits_of_zero_are_no_limits(mq9: Mq9) -> None:
    address = await mq9.box(max_msgs=0, max_bytes=0)
    assert await mq9.send_all(address, [b"x" * 1000] * 20) == list(range(1, 21))


async def test_a_keyed_replacement_is_allowed_in_a_full_mailbox(mq9: Mq9) -> None:
    address = await mq9.box(max_msgs=2, max_bytes=10)
    await mq9.send(address, b"old", key="state")
    await mq9.send(address, b"other")
    assert await mq9.send(address, b"new", key="state") == 3
    assert (await mq9.try_send(address, b"x", key="another"))["code"] == "mailbox_full"
    assert payloads(await mq9.query(address)) == [b"other", b"new"]


async def test_a_keyed_replacement_may_grow_up_to_max_bytes_and_no_further(mq9: Mq9) -> None:
    address = await mq9.box(max_bytes=10)
    await mq9.send(address, b"12345", key="state")
    await mq9.send(address, b"123", key="other")
    assert await mq9.send(address, b"1234567", key="state") == 3
    assert (await mq9.try_send(address, b"12345678", key="state"))["code"] == "mailbox_full"
    assert payloads(await mq9.query(address, key="state")) == [b"1234567"]


async def test_delayed_messages_count_against_the_limits(mq9: Mq9) -> None:
    counted = await mq9.box(max_msgs=1)
    assert await mq9.send(counted, b"later", delay=3600) == -1
    assert failure(await mq9.try_send(counted)) == (
        "mailbox full: max_msgs 1 reached",
        "mailbox_full",
    )
    weighed = await mq9.box(max_bytes=5)
    assert await mq9.send(weighed, b"later", delay=3600) == -1
    assert failure(await mq9.try_send(weighed)) == (
        "mailbox full: max_bytes 5 reached",
        "mailbox_full",
    )


async def test_a_send_refused_as_full_does_not_count_as_the_first_of_its_msg_id(mq9: Mq9) -> None:
    address = await mq9.box(max_msgs=1)
    await mq9.send(address, b"first")
    assert (await mq9.try_send(address, b"mine", msg_id="m-1"))["code"] == "mailbox_full"
    await mq9.delete(address, 1)
    assert await mq9.try_send(address, b"mine", msg_id="m-1") == {"error": "", "msg_id": 2}


async def test_a_duplicate_is_answered_as_such_even_when_the_mailbox_is_full(mq9: Mq9) -> None:
    address = await mq9.box(max_msgs=1)
    await mq9.send(address, b"first", msg_id="m-1")
    assert await mq9.try_send(address, b"first", msg_id="m-1") == {
        "error": "",
        "msg_id": 1,
        "duplicate": True,
    }


async def test_retain_acked_removes_what_every_group_has_acknowledged(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box(retain="acked")
    await mq9.send_all(address, [b"1", b"2", b"3"])
    await mq9.fetch(address, "first")
    await other.fetch(address, "second")
    await mq9.ack(address, "first", 2)
    assert ids(await mq9.query(address)) == [1, 2, 3]
    await other.ack(address, "second", 1)
    assert ids(await mq9.query(address)) == [2, 3]
    await other.ack(address, "second", 3)
    assert ids(await mq9.query(address)) == [3]
    await mq9.ack(address, "first", 3)
    assert ids(await mq9.query(address)) == []


async def test_retain_acked_keeps_everything_while_there_is_no_group(mq9: Mq9) -> None:
    address = await mq9.box(retain="acked")
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.fetch(address)
    assert ids(await mq9.query(address)) == [1, 2]


async def test_retain_acked_counts_messages_before_a_groups_start_as_acknowledged_by_it(
    mq9: Mq9,
) -> None:
    address = await mq9.box(retain="acked")
    await mq9.send_all(address, [b"1", b"2", b"3"])
    await mq9.fetch(address, "all", num_msgs=2)
    await mq9.fetch(address, "newest", deliver="latest")
    await mq9.ack(address, "all", 2)
    # `newest` starts at 3: 1 and 2 were never its concern
    assert ids(await mq9.query(address)) == [3]


async def test_retain_acked_frees_room_under_max_msgs(mq9: Mq9) -> None:
    address = await mq9.box(retain="acked", max_msgs=2)
    await mq9.send_all(address, [b"1", b"2"])
    assert (await mq9.try_send(address, b"3"))["code"] == "mailbox_full"
    await mq9.fetch(address, "g")
    await mq9.ack(address, "g", 2)
    assert await mq9.send(address, b"3") == 3


async def test_retain_ttl_keeps_what_was_acknowledged(mq9: Mq9) -> None:
    address = await mq9.box(retain="ttl")
    await mq9.send(address, b"1")
    await mq9.fetch(address, "g")
    await mq9.ack(address, "g", 1)
    assert ids(await mq9.query(address)) == [1]


async def test_a_mailbox_has_at_most_a_thousand_groups(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address)
    fetches = [mq9.fetch(address, f"group {n}", num_msgs=1) for n in range(GROUPS_PER_MAILBOX_MAX)]
    assert {reply["error"] for reply in await asyncio.gather(*fetches)} == {""}
    refused = await mq9.fetch(address, "one too many")
    assert refused["error"].startswith("invalid group_name: ")
    # the groups there are go on
    assert ids(await mq9.fetch(address, "group 999")) == [1]

"""PROTOCOL section 3, FETCH without a group, QUERY, DELETE: order, start, waiting, replies."""

import asyncio
import base64
import time

import pytest

from mq9cluster.domain.limits import REPLY_JSON_BYTES_MAX
from tests.conformance.mq9.conftest import Connect
from tests.support.mq9 import Mq9, encoded, ids, payloads
from tests.support.raw_nats import RawNats

MIXED = ("normal", "urgent", "critical", "normal", "critical", "urgent", "normal")
MIXED_IN_ORDER = [3, 5, 2, 6, 1, 4, 7]
DEFAULT_WAIT_S = 0.5


async def mixed(mq9: Mq9) -> str:
    """A mailbox with seven messages of mixed priorities."""
    address = await mq9.box()
    for n, priority in enumerate(MIXED, 1):
        await mq9.send(address, b"%d" % n, priority=priority)
    return address


async def test_order_is_by_priority_and_first_in_first_out_within_each(mq9: Mq9) -> None:
    address = await mixed(mq9)
    assert ids(await mq9.fetch(address)) == MIXED_IN_ORDER
    assert ids(await mq9.fetch(address, num_msgs=4)) == MIXED_IN_ORDER[:4]


async def test_without_a_group_nothing_is_recorded(mq9: Mq9) -> None:
    address = await mixed(mq9)
    first = await mq9.fetch(address)
    assert first == await mq9.fetch(address)
    assert "handout" not in first


async def test_the_default_start_is_the_newest_message_and_all_after_it(mq9: Mq9) -> None:
    address = await mixed(mq9)
    nowait = {"config": {"max_wait_ms": 0}}
    assert ids(await mq9.ask(f"MSG.FETCH.{address}", nowait)) == [7]
    assert ids(await mq9.ask(f"MSG.FETCH.{address}", {**nowait, "deliver": "latest"})) == [7]


async def test_an_empty_body_reads_the_newest(mq9: Mq9) -> None:
    assert ids(await mq9.ask(f"MSG.FETCH.{await mixed(mq9)}")) == [7]


async def test_the_newest_is_the_one_with_the_highest_id_whatever_its_priority(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address, priority="normal")
    await mq9.send(address, priority="critical")
    assert ids(await mq9.fetch(address, deliver="latest")) == [2]
    await mq9.delete(address, 2)
    assert ids(await mq9.fetch(address, deliver="latest")) == [1]


@pytest.mark.parametrize(
    ("start", "expected"), [(0, MIXED_IN_ORDER), (1, MIXED_IN_ORDER), (4, [5, 6, 4, 7]), (8, [])]
)
async def test_from_id_starts_at_this_id_in_every_priority(
    mq9: Mq9, start: int, expected: list[int]
) -> None:
    address = await mixed(mq9)
    assert ids(await mq9.fetch(address, deliver="from_id", from_id=start)) == expected


async def test_from_id_need_not_be_there(mq9: Mq9) -> None:
    address = await mixed(mq9)
    await mq9.delete(address, 4)
    assert ids(await mq9.fetch(address, deliver="from_id", from_id=4)) == [5, 6, 7]


async def test_from_time_starts_at_messages_created_then(mq9: Mq9) -> None:
    address = await mixed(mq9)
    created = (await mq9.query(address))["messages"][0]["create_time"]
    assert ids(await mq9.fetch(address, deliver="from_time", from_time=created)) == MIXED_IN_ORDER
    assert ids(await mq9.fetch(address, deliver="from_time", from_time=0)) == MIXED_IN_ORDER
    assert ids(await mq9.fetch(address, deliver="from_time", from_time=created + 3600)) == []


async def test_num_msgs_defaults_to_a_hundred(mq9: Mq9) -> None:
    address = await mq9.box()
    await asyncio.gather(*(mq9.send(address) for _ in range(130)))
    assert ids(await mq9.fetch(address)) == list(range(1, 101))
    assert ids(await mq9.fetch(address, num_msgs=1000)) == list(range(1, 131))


async def test_tags_give_messages_that_carry_any_of_them(mq9: Mq9) -> None:
    address = await mq9.box()
    for tags in ("a", "b", "a,b", "c", ""):
        await mq9.send(address, tags=tags) if tags else await mq9.send(address)
    assert ids(await mq9.fetch(address, tags=["a"])) == [1, 3]
    assert ids(await mq9.fetch(address, tags=["a", "c"])) == [1, 3, 4]
    assert ids(await mq9.fetch(address, tags=["A"])) == []


async def test_a_wait_of_zero_answers_an_empty_mailbox_at_once(mq9: Mq9) -> None:
    address = await mq9.box()
    started = time.monotonic()
    for _ in range(80):
        assert await mq9.fetch(address) == {"error": "", "messages": []}
    assert time.monotonic() - started < 80 * DEFAULT_WAIT_S


async def test_a_fetch_with_nothing_to_give_waits_and_then_answers_empty(mq9: Mq9) -> None:
    address = await mq9.box()
    started = time.monotonic()
    waits = (
        mq9.ask(f"MSG.FETCH.{address}", {}),
        mq9.ask(f"MSG.FETCH.{address}", {"group_name": "g"}),
        mq9.fetch(address, max_wait_ms=400),
    )
    answers = await asyncio.gather(*waits)
    waited = time.monotonic() - started
    assert [ids(answer) for answer in answers] == [[], [], []]
    assert DEFAULT_WAIT_S <= waited < 30


@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("deliver", ["latest", "earliest"])
async def test_a_waiting_fetch_is_answered_when_a_message_comes(
    mq9: Mq9, other: Mq9, group: str | None, deliver: str
) -> None:
    address = await mq9.box()
    waiting = asyncio.create_task(mq9.fetch(address, group, deliver=deliver, max_wait_ms=300_000))
    await asyncio.sleep(0.05)  # let it wait: nothing tells from outside that it does
    assert not waiting.done()
    await other.send(address, b"news")
    assert payloads(await asyncio.wait_for(waiting, 60)) == [b"news"]


async def test_a_waiting_fetch_is_not_woken_by_what_it_did_not_ask_for(
    mq9: Mq9, other: Mq9
) -> None:
    address, elsewhere = await mq9.box(), await mq9.box()
    waiting = asyncio.create_task(mq9.fetch(address, "g", tags=["mine"], max_wait_ms=300_000))
    await asyncio.sleep(0.05)
    await other.send(elsewhere, b"another mailbox", tags="mine")
    await other.send(address, b"another tag", tags="yours")
    await other.send(address, b"mine", tags="mine")
    assert payloads(await asyncio.wait_for(waiting, 60)) == [b"mine"]


async def test_of_many_waiting_members_one_gets_the_message_and_the_others_go_on_waiting(
    connect,
) -> None:  # type: ignore[no-untyped-def]
    members = [await connect() for _ in range(4)]
    address = await members[0].box()
    waiting = [
        asyncio.create_task(member.fetch(address, "g", max_wait_ms=300_000)) for member in members
    ]
    await asyncio.sleep(0.05)
    for n in range(1, 5):
        await members[0].send(address, b"%d" % n)
        done, pending = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert [ids(task.result()) for task in done] == [[n]]
        assert len(pending) == 4 - n
        waiting = list(pending)


async def test_a_client_may_wait_in_many_fetches_and_still_be_answered(mq9: Mq9) -> None:
    addresses = [await mq9.box() for _ in range(50)]
    waiting = [
        asyncio.create_task(mq9.fetch(address, max_wait_ms=300_000)) for address in addresses
    ]
    for address in reversed(addresses):
        await mq9.send(address, address.encode())
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 60)
    assert [payloads(answer) for answer in answers] == [[address.encode()] for address in addresses]


async def test_text_encoding_gives_text_where_the_bytes_are_utf8(mq9: Mq9) -> None:
    address = await mq9.box()
    for payload in (b'{"a": "\xc3\xbc"}', b"\xff\xfe", b""):
        await mq9.send(address, payload)
    for reply in (
        await mq9.fetch(address, encoding="text"),
        await mq9.query(address, encoding="text"),
    ):
        shown = [(message["payload"], message.get("encoding")) for message in reply["messages"]]
        assert shown == [
            ('{"a": "ü"}', "text"),
            (base64.b64encode(b"\xff\xfe").decode(), None),
            ("", "text"),
        ]


async def test_a_reply_may_exceed_max_payload_and_stops_before_eight_mib(raw: RawNats) -> None:
    mq9 = Mq9(raw)
    address = await mq9.box()
    for n in range(8):
        await mq9.send(address, b"%d" % n * 1_000_000)
    body = encoded({"group_name": "g", "deliver": "earliest", "config": {"max_wait_ms": 0}})
    answer = await raw.request(f"$mq9.AI.MSG.FETCH.{address}", body)
    one_message = len(base64.b64encode(b"0" * 1_000_000))
    assert REPLY_JSON_BYTES_MAX - one_message - 1000 < len(answer.payload) <= REPLY_JSON_BYTES_MAX
    # what did not fit is open: another member gets it
    assert ids(await mq9.fetch(address, "g", consumer="another")) == [7, 8]


async def test_query_shows_what_is_visible_by_msg_id(mq9: Mq9) -> None:
    address = await mixed(mq9)
    await mq9.send(address, b"later", delay=3600)
    assert ids(await mq9.query(address)) == [1, 2, 3, 4, 5, 6, 7]


async def test_query_of_more_than_limit_gives_the_most_recent(mq9: Mq9) -> None:
    address = await mq9.box()
    await asyncio.gather(*(mq9.send(address) for _ in range(130)))
    assert ids(await mq9.query(address)) == list(range(31, 131))
    assert ids(await mq9.query(address, limit=3)) == [128, 129, 130]
    assert ids(await mq9.query(address, limit=1000)) == list(range(1, 131))


async def test_query_filters_combine_with_and(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address, key="k", tags="a")
    await mq9.send(address, tags="a,b")
    await mq9.send(address, key="other", tags="b")
    await mq9.send(address)
    created = (await mq9.query(address))["messages"][0]["create_time"]
    assert ids(await mq9.query(address, key="k")) == [1]
    assert ids(await mq9.query(address, tags=["a"])) == [1, 2]
    assert ids(await mq9.query(address, tags=["a", "b"])) == [1, 2, 3]
    assert ids(await mq9.query(address, key="k", tags=["a"])) == [1]
    assert ids(await mq9.query(address, key="k", tags=["b"])) == []
    assert ids(await mq9.query(address, tags=["a", "b"], limit=2)) == [2, 3]
    assert ids(await mq9.query(address, since=created)) == [1, 2, 3, 4]
    assert ids(await mq9.query(address, since=created + 3600)) == []
    assert ids(await mq9.query(address, key="k", since=created)) == [1]


async def test_query_changes_nothing(mq9: Mq9) -> None:
    address = await mq9.box(retain="acked")
    await mq9.send_all(address, [b"1", b"2"])
    before = await mq9.query(address)
    assert ids(await mq9.fetch(address, "g", num_msgs=1)) == [1]
    assert await mq9.query(address) == before
    assert ids(await mq9.fetch(address, "g", consumer="another")) == [2]


async def test_query_of_an_empty_mailbox_tells_that_it_exists(mq9: Mq9) -> None:
    assert await mq9.query(await mq9.box()) == {"error": "", "messages": []}
    assert (await mq9.ask(f"MSG.QUERY.{await mq9.box()}"))["messages"] == []


async def test_delete_removes_one_message_for_everybody(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2", b"3"])
    assert await mq9.delete(address, 2) == {"error": "", "deleted": True}
    assert ids(await mq9.query(address)) == [1, 3]
    assert ids(await mq9.fetch(address)) == [1, 3]
    assert ids(await mq9.fetch(address, "g")) == [1, 3]


async def test_delete_of_what_is_not_there_is_message_not_found(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address)
    await mq9.send(address, delay=3600)
    await mq9.delete(address, 1)
    for msg_id in (1, 2, 99, 2**53, 2**63 - 1):
        reply = await mq9.delete(address, msg_id)
        assert reply["code"] == "message_not_found", (msg_id, reply)


async def test_a_member_waiting_for_one_tag_does_not_stand_before_one_waiting_for_another(
    connect: Connect,
) -> None:
    first, second, sender = await connect(), await connect(), await connect()
    address = await sender.box()
    wants_a = asyncio.create_task(first.fetch(address, "g", tags=["a"], max_wait_ms=300_000))
    await asyncio.sleep(0.05)
    wants_b = asyncio.create_task(second.fetch(address, "g", tags=["b"], max_wait_ms=300_000))
    await asyncio.sleep(0.05)
    await sender.send(address, b"for b", tags="b")
    assert payloads(await asyncio.wait_for(wants_b, 60)) == [b"for b"]
    await sender.send(address, b"for a", tags="a")
    assert payloads(await asyncio.wait_for(wants_a, 60)) == [b"for a"]


async def test_a_burst_is_shared_among_all_who_wait(connect: Connect) -> None:
    members = [await connect() for _ in range(8)]
    address = await members[0].box()
    waiting = [
        asyncio.create_task(member.fetch(address, "g", num_msgs=1, max_wait_ms=300_000))
        for member in members
    ]
    await asyncio.sleep(0.05)
    await asyncio.gather(*(members[0].send(address) for _ in range(8)))
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 60)
    assert sorted(msg_id for answer in answers for msg_id in ids(answer)) == list(range(1, 9))


async def test_a_message_that_comes_while_a_long_search_looks_is_not_missed(
    raw: RawNats, mq9: Mq9
) -> None:
    address = await mq9.box()
    for _ in range(6):
        await asyncio.gather(*(raw.ask(f"$mq9.AI.MSG.SEND.{address}") for _ in range(1000)))
    for number in range(1, 11):
        tags = [f"t{number}"]
        waiting = asyncio.create_task(mq9.fetch(address, tags=tags, max_wait_ms=300_000))
        # the search takes a moment; somewhere in it the message comes
        await asyncio.sleep(number / 500)
        await Mq9(raw).send(address, b"%d" % number, tags=tags[0])
        assert payloads(await asyncio.wait_for(waiting, 60)) == [b"%d" % number]

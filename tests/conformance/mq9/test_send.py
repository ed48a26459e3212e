"""PROTOCOL section 3, SEND: ids, headers, keys, duplicates, payload bytes."""

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from tests.support.mq9 import Mq9, fresh, ids, payloads
from tests.support.raw_nats import ConnectionEnded, RawNats, header_block

PAYLOAD_BYTES_MAX = 1_048_576
HEADER_BYTES_MAX = 4096
HEADER_BLOCK_BYTES_MAX = 65_536
TEN_YEARS_S = 315_360_000


async def stored(mq9: Mq9, headers: Any, payload: bytes = b"x") -> dict[str, Any]:
    """SEND with these headers to a new mailbox; the message as QUERY shows it."""
    address = await mq9.box()
    reply = await mq9.ask(f"MSG.SEND.{address}", payload, headers)
    assert reply == {"error": "", "msg_id": 1}
    (message,) = (await mq9.query(address))["messages"]
    return message


async def test_msg_ids_count_up_from_one_in_each_mailbox(mq9: Mq9) -> None:
    first, second = await mq9.box(), await mq9.box()
    assert [await mq9.send(address) for address in (first, first, second, first, second)] == [
        1,
        2,
        1,
        3,
        2,
    ]


async def test_msg_ids_are_never_used_again(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.delete(address, 2)
    assert await mq9.send(address) == 3


async def test_a_plain_message_is_returned_with_its_required_fields_alone(mq9: Mq9) -> None:
    before = int(time.time())
    message = await stored(mq9, None, b"hello")
    created = message.pop("create_time")
    assert message == {
        "msg_id": 1,
        "payload": base64.b64encode(b"hello").decode(),
        "priority": "normal",
    }
    assert isinstance(created, int)
    # one second of slack: the broker's clock is slewed, not stepped
    assert before - 1 <= created <= time.time() + 1


async def test_a_full_message_is_returned_with_everything(mq9: Mq9) -> None:
    headers = {"mq9-priority": "urgent", "mq9-key": "k", "mq9-tags": "a,b", "X-Trace": "7"}
    message = await stored(mq9, headers, b"hello")
    del message["create_time"]
    assert message == {
        "msg_id": 1,
        "payload": "aGVsbG8=",
        "priority": "urgent",
        "header": {"X-Trace": "7"},
        "tags": ["a", "b"],
        "key": "k",
    }


@pytest.mark.parametrize(
    "payload", [b"", b"\x00\r\n\xff", bytes(range(256)), b"PUB x 1\r\n", "漢字".encode()]
)
async def test_payloads_are_any_bytes(mq9: Mq9, payload: bytes) -> None:
    address = await mq9.box()
    await mq9.send(address, payload)
    assert payloads(await mq9.fetch(address)) == [payload]
    assert payloads(await mq9.query(address)) == [payload]


async def test_a_payload_of_max_payload_is_stored(mq9: Mq9) -> None:
    address = await mq9.box()
    payload = bytes(range(256)) * (PAYLOAD_BYTES_MAX // 256)
    await mq9.send(address, payload)
    assert payloads(await mq9.fetch(address)) == [payload]


async def test_one_byte_more_than_max_payload_ends_the_connection(raw: RawNats, mq9: Mq9) -> None:
    address = await mq9.box()
    with pytest.raises(ConnectionEnded):
        await raw.request(f"$mq9.AI.MSG.SEND.{address}", b"x" * (PAYLOAD_BYTES_MAX + 1))
    assert raw.errors == ["Maximum Payload Violation"]
    assert ids(await mq9.query(address)) == []


@pytest.mark.parametrize("priority", ["critical", "urgent", "normal"])
async def test_the_three_priorities_are_taken(mq9: Mq9, priority: str) -> None:
    assert (await stored(mq9, {"mq9-priority": priority}))["priority"] == priority


LONG_NAME = "k" * 256
REFUSED_HEADERS = (
    ("mq9-priority", ("high", "low", "notify", "Critical", "", "0", "critical,urgent"), "priority"),
    ("mq9-key", (LONG_NAME + "k", "", "a\x01b", "ü" * 128 + "k"), "key"),
    (
        "mq9-delay",
        ("-1", str(TEN_YEARS_S + 1), "1.5", "1e3", "x", "", "1_000", "٣", "0x10", "true"),
        "delay",
    ),
    (
        "mq9-ttl",
        ("-1", str(TEN_YEARS_S + 1), "1.5", "1e3", "x", "", "1_000", "٣", "0x10", "true"),
        "ttl",
    ),
    ("mq9-tags", (",".join(f"t{n}" for n in range(33)), LONG_NAME + "t", "a\x01b"), "tags"),
    ("Nats-Msg-Id", (LONG_NAME + "k", "", "a\x01b"), "Nats-Msg-Id"),
)


@pytest.mark.parametrize(("header", "values", "field"), REFUSED_HEADERS)
async def test_a_malformed_header_is_named_without_mq9(
    raw: RawNats, header: str, values: tuple[str, ...], field: str
) -> None:
    mq9 = Mq9(raw)
    address = await mq9.box()
    prefix = f"invalid {field}: "
    answers = {}
    for value in values:
        reply = await mq9.ask(f"MSG.SEND.{address}", b"x", ((header, value),))
        answers[value] = (reply["error"][: len(prefix)], reply.get("code"))
    assert answers == dict.fromkeys(values, (prefix, "invalid_field"))
    assert ids(await mq9.query(address)) == []


@pytest.mark.parametrize("header", ["mq9-key", "mq9-tags", "Nats-Msg-Id"])
async def test_a_header_that_is_no_utf8_is_refused(raw: RawNats, header: str) -> None:
    mq9 = Mq9(raw)
    reply = await mq9.ask(f"MSG.SEND.{await mq9.box()}", b"x", ((header, b"\xff\xfe"),))
    assert reply["error"].startswith(f"invalid {header.removeprefix('mq9-')}: ")


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("mq9-key", ("k", LONG_NAME, "ü" * 128, "工作 1")),
        ("mq9-ttl", ("0", "3600", str(TEN_YEARS_S))),
        ("Nats-Msg-Id", ("m", LONG_NAME, "ü" * 128)),
    ],
)
async def test_a_header_takes_every_value_inside_its_limits(
    mq9: Mq9, header: str, values: tuple[str, ...]
) -> None:
    for value in values:
        message = await stored(mq9, {header: value})
        assert message.get("key") == (value if header == "mq9-key" else None)


async def test_a_delay_takes_zero_as_none_and_up_to_ten_years(mq9: Mq9) -> None:
    address = await mq9.box()
    assert [await mq9.send(address, delay=delay) for delay in (0, 1, TEN_YEARS_S)] == [1, -1, -1]


async def test_tags_are_trimmed_empties_dropped_and_up_to_thirty_two_kept(mq9: Mq9) -> None:
    assert (await stored(mq9, {"mq9-tags": " a , ,b b,,\u00e9"}))["tags"] == ["a", "b b", "é"]
    many = [f"t{n}" for n in range(32)]
    assert (await stored(mq9, {"mq9-tags": ",".join(many)}))["tags"] == many
    assert (await stored(mq9, {"mq9-tags": LONG_NAME}))["tags"] == [LONG_NAME]
    assert "tags" not in await stored(mq9, {"mq9-tags": " , ,"})


async def test_header_names_of_mq9_are_case_insensitive(mq9: Mq9) -> None:
    message = await stored(mq9, {"MQ9-Priority": "urgent", "Mq9-KEY": "k", "mq9-Tags": "a"})
    assert (message["priority"], message["key"], message["tags"]) == ("urgent", "k", ["a"])
    assert "header" not in message
    address = await mq9.box()
    answers = [
        await mq9.ask(f"MSG.SEND.{address}", b"x", {name: "m"})
        for name in ("NATS-MSG-ID", "nats-msg-id")
    ]
    assert answers == [{"error": "", "msg_id": 1}, {"error": "", "msg_id": 1, "duplicate": True}]


async def test_of_a_repeated_mq9_header_the_first_counts(raw: RawNats) -> None:
    message = await stored(
        Mq9(raw), (("mq9-priority", "critical"), ("mq9-priority", "nonsense"), ("mq9-key", "a"))
    )
    assert (message["priority"], message["key"]) == ("critical", "a")


async def test_other_headers_are_given_back_and_repeated_ones_joined(raw: RawNats) -> None:
    sent = (
        ("X-Trace", "7"),
        ("Accept", "a"),
        ("mq9-unknown", "dropped"),
        ("Accept", "b"),
        ("ünï", "çö"),
    )
    message = await stored(Mq9(raw), sent)
    assert message["header"] == {"X-Trace": "7", "Accept": "a, b", "ünï": "çö"}


async def test_nats_msg_id_is_not_given_back(mq9: Mq9) -> None:
    assert "header" not in await stored(mq9, {"Nats-Msg-Id": "m-1"})


async def test_headers_of_exactly_four_kib_are_stored_and_one_byte_more_refused(mq9: Mq9) -> None:
    room = HEADER_BYTES_MAX - len("X-Big") - len("Y")
    fits = {"X-Big": "v" * (room - 1), "Y": "1"}
    assert (await stored(mq9, {**fits, "mq9-key": "k" * 200, "Nats-Msg-Id": "m"}))["header"] == fits
    reply = await mq9.ask(f"MSG.SEND.{await mq9.box()}", b"x", {"X-Big": "v" * room, "Y": "1"})
    assert reply["error"].startswith("invalid header: ")
    assert reply["code"] == "invalid_field"


async def test_headers_as_sent_have_room_for_64_kib_and_not_a_byte_more(raw: RawNats) -> None:
    mq9 = Mq9(raw)
    address = await mq9.box()
    around = len(header_block([("mq9-unknown", "")]))
    fits = "v" * (HEADER_BLOCK_BYTES_MAX - around)
    reply = await mq9.ask(f"MSG.SEND.{address}", b"x", (("mq9-unknown", fits),))
    assert reply == {"error": "", "msg_id": 1}
    reply = await mq9.ask(f"MSG.SEND.{address}", b"x", (("mq9-unknown", fits + "v"),))
    assert reply["error"].startswith("invalid header: ")


async def test_of_messages_with_one_key_only_the_newest_stays(mq9: Mq9) -> None:
    address = await mq9.box()
    for payload, key in ((b"a1", "a"), (b"b1", "b"), (b"none", None), (b"a2", "a"), (b"a3", "a")):
        await (mq9.send(address, payload, key=key) if key else mq9.send(address, payload))
    assert payloads(await mq9.query(address)) == [b"b1", b"none", b"a3"]
    assert ids(await mq9.fetch(address)) == [2, 3, 5]


async def test_a_key_replaces_across_priorities(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address, b"old", key="k", priority="critical")
    await mq9.send(address, b"new", key="k", priority="normal")
    assert payloads(await mq9.fetch(address)) == [b"new"]


async def test_keys_are_compared_exactly(mq9: Mq9) -> None:
    address = await mq9.box()
    for key in ("k", "K", "kk", "\uff4b"):
        await mq9.send(address, key.encode(), key=key)
    assert len(ids(await mq9.query(address))) == 4


async def test_a_replaced_message_is_gone_for_every_group(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address, b"old", key="k")
    await mq9.fetch(address, "holds it")
    await mq9.send(address, b"new", key="k")
    assert payloads(await mq9.fetch(address, "holds it")) == [b"new"]
    assert payloads(await other.fetch(address, "fresh")) == [b"new"]


async def test_the_key_of_a_deleted_message_is_free(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address, b"old", key="k")
    await mq9.delete(address, 1)
    await mq9.send(address, b"new", key="k")
    assert payloads(await mq9.query(address, key="k")) == [b"new"]


async def test_a_repeated_msg_id_stores_nothing_and_answers_with_the_first(
    mq9: Mq9, other: Mq9
) -> None:
    address = await mq9.box()
    assert await mq9.try_send(address, b"one", msg_id="m-1") == {"error": "", "msg_id": 1}
    assert await mq9.send(address, b"two") == 2
    # another connection, other bytes, another priority: the id alone decides
    again = await other.try_send(address, b"ONE", msg_id="m-1", priority="critical")
    assert again == {"error": "", "msg_id": 1, "duplicate": True}
    assert payloads(await mq9.query(address)) == [b"one", b"two"]


async def test_a_msg_id_is_the_senders_for_one_mailbox_alone(mq9: Mq9) -> None:
    first, second = await mq9.box(), await mq9.box()
    answers = [await mq9.try_send(address, msg_id="m-1") for address in (first, second)]
    assert answers == [{"error": "", "msg_id": 1}] * 2


async def test_a_repeat_of_a_deleted_or_acknowledged_message_is_still_a_duplicate(mq9: Mq9) -> None:
    address = await mq9.box(retain="acked")
    await mq9.send(address, b"deleted", msg_id="m-1")
    await mq9.send(address, b"acknowledged", msg_id="m-2")
    await mq9.delete(address, 1)
    await mq9.fetch(address, "g")
    await mq9.ack(address, "g", 2)
    assert await mq9.try_send(address, msg_id="m-1") == {
        "error": "",
        "msg_id": 1,
        "duplicate": True,
    }
    assert await mq9.try_send(address, msg_id="m-2") == {
        "error": "",
        "msg_id": 2,
        "duplicate": True,
    }
    assert ids(await mq9.query(address)) == []


async def test_a_repeat_of_a_delayed_message_answers_minus_one_as_the_first_did(mq9: Mq9) -> None:
    address = await mq9.box()
    assert await mq9.try_send(address, delay=3600, msg_id="m-1") == {"error": "", "msg_id": -1}
    assert await mq9.try_send(address, msg_id="m-1") == {
        "error": "",
        "msg_id": -1,
        "duplicate": True,
    }
    assert ids(await mq9.query(address)) == []


async def test_of_equal_msg_ids_sent_at_once_one_is_stored(mq9: Mq9, other: Mq9) -> None:
    address = await mq9.box()
    sends = [
        client.try_send(address, b"%d" % n, msg_id="m-1")
        for n in range(20)
        for client in (mq9, other)
    ]
    answers = await asyncio.gather(*sends)
    assert {answer["msg_id"] for answer in answers} == {1}
    assert sum("duplicate" in answer for answer in answers) == 39
    assert ids(await mq9.query(address)) == [1]


async def test_a_send_refused_for_want_of_the_mailbox_does_not_count_as_the_first(mq9: Mq9) -> None:
    name = fresh()
    assert (await mq9.try_send(name, msg_id="m-1"))["code"] == "mailbox_not_found"
    await mq9.create(name)
    assert await mq9.try_send(name, msg_id="m-1") == {"error": "", "msg_id": 1}


async def test_a_nats_status_line_in_the_headers_does_not_matter(raw: RawNats) -> None:
    mq9 = Mq9(raw)
    address = await mq9.box()
    block = b"NATS/1.0 200 OK\r\nmq9-priority: urgent\r\n\r\n"
    inbox = raw.subscribe("_INBOX.status")
    raw.post(
        b"HPUB $mq9.AI.MSG.SEND.%b _INBOX.status %d %d\r\n%bx\r\n"
        % (address.encode(), len(block), len(block) + 1, block)
    )
    assert json.loads((await asyncio.wait_for(inbox.get(), 60)).payload)["msg_id"] == 1
    assert (await mq9.query(address))["messages"][0]["priority"] == "urgent"

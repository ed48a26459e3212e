"""PROTOCOL sections 1 and 5: what is a command, the order of checks, refusals change nothing."""

import asyncio

import pytest

from tests.support.mq9 import Mq9, failure, fresh, ids, payloads
from tests.support.raw_nats import RawNats, publication

UNKNOWN = (
    "$mq9.AI.FOO",
    "$mq9.AI.MAILBOX",
    "$mq9.AI.MAILBOX.CREATE.x",
    "$mq9.AI.MAILBOX.CREATE.x.y",
    "$mq9.AI.MAILBOX.DESTROY",
    "$mq9.AI.MSG",
    "$mq9.AI.MSG.PEEK.some.box",
    "$mq9.AI.MSG.send.some.box",
    "$mq9.AI.msg.SEND.some.box",
    "$mq9.AI.MSGS.SEND.some.box",
)


@pytest.mark.parametrize("subject", UNKNOWN)
async def test_an_unknown_command_is_named(mq9: Mq9, subject: str) -> None:
    assert await mq9.request(subject) == {
        "error": f"unknown command: {subject}",
        "code": "unknown_command",
    }


async def test_a_command_without_its_address_is_refused(mq9: Mq9, raw: RawNats) -> None:
    for verb in ("SEND", "FETCH", "ACK", "NACK", "QUERY", "DELETE"):
        for subject in (f"$mq9.AI.MSG.{verb}", f"$mq9.AI.MSG.{verb}."):
            reply = await Mq9(raw).request(subject)
            assert reply["code"] in {"unknown_command", "invalid_mail_address", "invalid_field"}, (
                subject,
                reply,
            )


async def test_subjects_beside_the_prefix_are_core_nats(raw: RawNats) -> None:
    for subject in (
        "$mq9.AI",
        "$mq9.ai.MAILBOX.CREATE",
        "$mq9.MAILBOX.CREATE",
        "x.$mq9.AI.MAILBOX.CREATE",
    ):
        answer = await raw.request(subject)
        assert answer.headers.startswith(b"NATS/1.0 503"), subject


async def test_a_command_without_a_reply_subject_is_carried_out(mq9: Mq9, raw: RawNats) -> None:
    name = fresh("quiet")
    raw.post(publication("$mq9.AI.MAILBOX.CREATE", b'{"name":"%b"}' % name.encode()))
    raw.post(publication(f"$mq9.AI.MSG.SEND.{name}", b"unasked"))
    seen = await mq9.fetch(name, max_wait_ms=5000) if await exists(mq9, name) else {}
    assert payloads(seen) == [b"unasked"]
    raw.post(publication(f"$mq9.AI.MSG.DELETE.{name}.1"))
    await raw.flush()
    for _ in range(200):
        if ids(await mq9.query(name)) == []:
            break
        await asyncio.sleep(0.01)
    assert ids(await mq9.query(name)) == []
    assert raw.errors == []


async def exists(mq9: Mq9, name: str) -> bool:
    """Whether the mailbox appears within two seconds: without a reply nothing tells."""
    for _ in range(200):
        if (await mq9.query(name))["error"] == "":
            return True
        await asyncio.sleep(0.01)
    return False


async def test_commands_of_one_connection_are_answered_though_many_are_under_way(
    raw: RawNats, mq9: Mq9
) -> None:
    address = await mq9.box()
    answers = [raw.ask(f"$mq9.AI.MSG.SEND.{address}", b"%d" % n) for n in range(500)]
    stored = [
        int(b"".join((await answer).payload.split(b'"msg_id":')[1:]).rstrip(b"} "))
        for answer in answers
    ]
    assert sorted(stored) == list(range(1, 501))
    # one connection's commands keep their order
    assert stored == sorted(stored)


async def test_the_address_is_judged_before_the_body(mq9: Mq9) -> None:
    reply = await mq9.ask("MSG.FETCH.Bad-Address", b"no json")
    assert reply["code"] == "invalid_mail_address"


async def test_the_body_is_judged_before_the_mailbox(mq9: Mq9) -> None:
    missing = fresh("missing")
    assert (await mq9.ask(f"MSG.FETCH.{missing}", b"no json"))["code"] == "invalid_request"
    assert (await mq9.ask(f"MSG.ACK.{missing}", {}))["error"] == "invalid group_name: required"
    assert (await mq9.try_send(missing, priority="loud"))["code"] == "invalid_field"


async def test_create_judges_its_fields_before_it_looks_whether_the_name_is_taken(mq9: Mq9) -> None:
    taken = await mq9.box()
    assert (await mq9.ask("MAILBOX.CREATE", {"name": taken, "ttl": -1}))["code"] == "invalid_field"
    assert failure(await mq9.ask("MAILBOX.CREATE", {"name": taken, "ttl": 5})) == (
        f"mailbox {taken} already exists",
        "mailbox_exists",
    )


async def test_a_refused_create_makes_no_mailbox(mq9: Mq9) -> None:
    name = fresh("refused")
    for fields in ({"ttl": -1}, {"retain": "x"}, {"max_deliver": 0}, {"desc": 7}):
        assert (await mq9.ask("MAILBOX.CREATE", {"name": name, **fields}))["error"] != ""
    assert (await mq9.query(name))["code"] == "mailbox_not_found"


async def test_a_refused_send_stores_nothing_and_uses_no_msg_id(mq9: Mq9) -> None:
    address = await mq9.box()
    for headers in ({"priority": "loud"}, {"delay": "-1"}, {"ttl": "x"}, {"key": "k" * 257}):
        assert (await mq9.try_send(address, **headers))["error"] != ""
    assert await mq9.send(address, b"first") == 1


async def test_a_refused_fetch_makes_no_group(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    refused = await mq9.ask(
        f"MSG.FETCH.{address}", {"group_name": "g", "deliver": "latest", "encoding": "x"}
    )
    assert refused["code"] == "invalid_field"
    # had the group been made at `latest`, `earliest` would no longer count
    assert ids(await mq9.fetch(address, "g")) == [1, 2]


async def test_a_refused_ack_confirms_nothing(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.fetch(address, "g")
    for fields in ({"scope": "x"}, {"mail_address": fresh()}, {"handout": "none such"}):
        assert (await mq9.ack(address, "g", 2, **fields))["error"] != ""
    assert ids(await mq9.fetch(address, "g")) == [1, 2]


async def test_a_reply_subject_is_never_taken_for_a_command(raw: RawNats, mq9: Mq9) -> None:
    target = await mq9.box()
    await mq9.send(target, b"honest")
    raw.post(publication("$mq9.AI.MAILBOX.CREATE", b"", f"$mq9.AI.MSG.SEND.{target}"))
    raw.post(publication("$mq9.AI.MAILBOX.CREATE", b"", "$mq9.AI.MAILBOX.CREATE"))
    await raw.request("$mq9.AI.MAILBOX.CREATE")
    assert payloads(await mq9.query(target)) == [b"honest"]


async def test_replies_are_one_json_object_each_without_a_line_break(raw: RawNats) -> None:
    answer = await raw.request("$mq9.AI.MAILBOX.CREATE")
    assert answer.payload.startswith(b"{")
    assert answer.payload.endswith(b"}")
    assert b"\n" not in answer.payload

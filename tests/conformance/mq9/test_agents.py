"""PROTOCOL section 4 without DISCOVER: REGISTER, UNREGISTER, REPORT, by name and by mailbox.

What DISCOVER shows of an agent is asserted in test_discover*.py; here REPORT tells whether it is
there.
"""

import asyncio
import json
import time
from typing import Any

import pytest

from mq9cluster.domain.agent import CARD_BYTES_MAX, CARD_DEPTH_MAX
from mq9cluster.domain.limits import REPORT_INFO_BYTES_MAX, REQUEST_BYTES_MAX
from tests.support.mq9 import Mq9, Reply, failure, fresh
from tests.support.raw_nats import RawNats, publication

A2A_CARD: dict[str, Any] = {
    "name": "Invoice Agent",
    "description": "Reads invoices and books them.",
    "url": "mq9://broker.example/invoices",
    "version": "1.2.0",
    "provider": {"organization": "Example Books", "url": "https://books.example"},
    "capabilities": {"streaming": False},
    "defaultInputModes": ["text/plain", "application/pdf"],
    "defaultOutputModes": ["application/json"],
    "skills": [
        {
            "id": "book",
            "name": "Book an invoice",
            "description": "Finds the accounts and books it.",
            "tags": ["finance", "invoices"],
            "examples": ["Book this invoice of March", "请入账这张发票"],
        }
    ],
}


async def register(mq9: Mq9, name: str, **fields: Any) -> Reply:
    reply = await mq9.ask("AGENT.REGISTER", {"name": name, **fields})
    assert reply["error"] == "", reply
    return reply


async def report(mq9: Mq9, name: str, **fields: Any) -> Reply:
    return await mq9.ask("AGENT.REPORT", {"name": name, **fields})


async def is_there(mq9: Mq9, name: str) -> bool:
    reply = await report(mq9, name)
    assert reply["error"] == "" or reply["code"] == "agent_not_found", reply
    return reply["error"] == ""


def not_found(name: str) -> Reply:
    return {"error": f"agent not found: {name}", "code": "agent_not_found"}


# --- REGISTER ------------------------------------------------------------------------------------


async def test_register_answers_with_name_and_time_of_expiry(mq9: Mq9) -> None:
    name = fresh("agent")
    before_s = time.time()
    reply = await mq9.ask("AGENT.REGISTER", {"name": name, "mailbox": "m", "payload": "x"})
    after_s = time.time()
    assert reply.keys() == {"error", "name", "expires_at"}
    assert (reply["error"], reply["name"]) == ("", name)
    assert before_s + 300 - 2 <= reply["expires_at"] <= after_s + 300 + 2


@pytest.mark.parametrize("ttl", [1, 60, 315_360_000])
async def test_the_ttl_in_the_card_counts(mq9: Mq9, ttl: int) -> None:
    before_s = time.time()
    reply = await register(mq9, fresh("agent"), ttl=ttl)
    assert before_s + ttl - 2 <= reply["expires_at"] <= time.time() + ttl + 2


async def test_ttl_0_is_never(mq9: Mq9) -> None:
    name = fresh("agent")
    assert (await register(mq9, name, ttl=0))["expires_at"] == 0
    assert await report(mq9, name) == {"error": "", "expires_at": 0}


async def test_what_one_node_registered_the_others_know_at_once(mq9: Mq9, other: Mq9) -> None:
    async def known() -> bool:
        name = fresh("agent")
        await register(mq9, name)
        return await is_there(other, name)

    assert await asyncio.gather(*(known() for _ in range(8))) == [True] * 8


async def test_an_a2a_agent_card_is_a_card(mq9: Mq9) -> None:
    mailbox = fresh("mail")
    card = {**A2A_CARD, "name": fresh("Invoice Agent"), "url": f"mq9://b/{mailbox}"}
    reply = await mq9.ask("AGENT.REGISTER", card)
    assert (reply["error"], reply["name"]) == ("", card["name"])
    # its url of the mq9 scheme is its mailbox
    assert (await mq9.ask("AGENT.REPORT", {"mailbox": mailbox}))["error"] == ""


async def test_a_url_of_another_scheme_is_no_mailbox(mq9: Mq9) -> None:
    await register(mq9, fresh("agent"), url="https://agents.example/a2a")


async def test_registering_again_replaces(mq9: Mq9) -> None:
    name, first, second = fresh("agent"), fresh("mail"), fresh("mail")
    await register(mq9, name, mailbox=first, ttl=0)
    reply = await register(mq9, name, mailbox=second, ttl=60)
    assert reply["expires_at"] > time.time()
    assert (await mq9.ask("AGENT.REPORT", {"mailbox": first}))["code"] == "agent_not_found"
    assert (await mq9.ask("AGENT.REPORT", {"mailbox": second}))["error"] == ""


async def test_names_are_what_they_are(mq9: Mq9) -> None:
    """Blanks, dots, case and scripts tell names apart; nothing is trimmed or folded."""
    word = fresh("Agent")
    names = [word, word.lower(), f"{word} ", f" {word}", f"{word}.dlq", f"{word}代理", f"{word}*>"]
    for name in names:
        await register(mq9, name)
    await mq9.ask("AGENT.UNREGISTER", {"name": word})
    there = await asyncio.gather(*(is_there(mq9, name) for name in names))
    assert there == [False] + [True] * 6


async def test_a_refused_register_leaves_the_agent_that_was(mq9: Mq9) -> None:
    name, mailbox = fresh("agent"), fresh("mail")
    await register(mq9, name, mailbox=mailbox, ttl=0)
    for fields in ({"ttl": -1}, {"mailbox": "No"}, {"tags": [7]}, {"skills": "x"}):
        assert (await mq9.ask("AGENT.REGISTER", {"name": name, **fields}))["error"] != ""
    assert await mq9.ask("AGENT.REPORT", {"mailbox": mailbox}) == {"error": "", "expires_at": 0}


# --- UNREGISTER ----------------------------------------------------------------------------------


async def test_unregister_by_name(mq9: Mq9, other: Mq9) -> None:
    name = fresh("agent")
    await register(mq9, name)
    assert await mq9.ask("AGENT.UNREGISTER", {"name": name}) == {"error": ""}
    assert await report(other, name) == not_found(name)
    assert await other.ask("AGENT.UNREGISTER", {"name": name}) == not_found(name)


async def test_an_unknown_agent_is_told(mq9: Mq9) -> None:
    name = fresh("agent")
    assert await mq9.ask("AGENT.UNREGISTER", {"name": name}) == not_found(name)
    assert await report(mq9, name, report_info=1) == not_found(name)


async def test_an_unregistered_agent_may_come_back(mq9: Mq9) -> None:
    name = fresh("agent")
    await register(mq9, name)
    await mq9.ask("AGENT.UNREGISTER", {"name": name})
    await register(mq9, name)
    assert await is_there(mq9, name)


# --- REPORT and ttl ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "info", [None, "running", 7, 1.5, True, [], {}, {"load": 0.5, "队列": [1, {"a": None}]}, ""]
)
async def test_report_info_is_any_json(mq9: Mq9, info: object) -> None:
    name = fresh("agent")
    await register(mq9, name)
    before_s = time.time()
    reply = await report(mq9, name, report_info=info)
    assert reply["error"] == ""
    assert before_s + 300 - 2 <= reply["expires_at"] <= time.time() + 300 + 2


async def test_an_agent_that_does_not_report_is_gone_and_may_register_again(mq9: Mq9) -> None:
    name, mailbox = fresh("agent"), fresh("mail")
    await register(mq9, name, mailbox=mailbox, ttl=1)
    await asyncio.sleep(1.2)
    assert await report(mq9, name) == not_found(name)
    assert await mq9.ask("AGENT.UNREGISTER", {"name": name}) == not_found(name)
    for command in ("REPORT", "UNREGISTER"):
        assert (await mq9.ask(f"AGENT.{command}", {"mailbox": mailbox}))["code"] == (
            "agent_not_found"
        )
    await register(mq9, name, ttl=60)
    assert await is_there(mq9, name)


async def test_a_report_moves_the_expiry(mq9: Mq9) -> None:
    name = fresh("agent")
    first = await register(mq9, name, ttl=30)
    expires_at = first["expires_at"]
    while expires_at < first["expires_at"] + 2:
        reply = await report(mq9, name)
        assert reply["error"] == ""
        assert reply["expires_at"] >= expires_at
        expires_at = reply["expires_at"]


async def test_a_report_may_carry_the_whole_card(mq9: Mq9) -> None:
    card = {**A2A_CARD, "name": fresh("agent")}
    await mq9.ask("AGENT.REGISTER", card)
    assert (await mq9.ask("AGENT.REPORT", {**card, "report_info": "running"}))["error"] == ""
    assert await mq9.ask("AGENT.UNREGISTER", card) == {"error": ""}


# --- by mailbox ----------------------------------------------------------------------------------


async def test_a_command_by_mailbox_means_every_agent_with_it(mq9: Mq9, other: Mq9) -> None:
    """Twenty agents are in many shards."""
    mailbox, names = fresh("mail"), [fresh("agent") for _ in range(20)]
    await asyncio.gather(*(register(mq9, name, mailbox=mailbox) for name in names))
    beside = fresh("agent")
    await register(mq9, beside, mailbox=f"{mailbox}.x")
    reply = await other.ask("AGENT.REPORT", {"mailbox": mailbox, "report_info": 1})
    assert reply["error"] == ""
    assert reply["expires_at"] > time.time()
    assert await other.ask("AGENT.UNREGISTER", {"mailbox": mailbox}) == {"error": ""}
    assert not any(await asyncio.gather(*(is_there(mq9, name) for name in names)))
    assert await is_there(mq9, beside)


async def test_of_many_the_first_expiry_is_told(mq9: Mq9) -> None:
    mailbox = fresh("mail")
    for ttl in (0, 5_000, 1_000):
        await register(mq9, fresh("agent"), mailbox=mailbox, ttl=ttl)
    reply = await mq9.ask("AGENT.REPORT", {"mailbox": mailbox})
    assert 0 < reply["expires_at"] - time.time() < 1_100


async def test_both_forms_of_a_mailbox_are_the_same(mq9: Mq9) -> None:
    mailbox = fresh("mail")
    for registered in (mailbox, f"mq9://some.broker:4222/{mailbox}"):
        for asked in (mailbox, f"mq9://another/{mailbox}"):
            name = fresh("agent")
            await register(mq9, name, mailbox=registered)
            assert (await mq9.ask("AGENT.REPORT", {"mailbox": asked}))["error"] == ""
            assert await mq9.ask("AGENT.UNREGISTER", {"mailbox": asked}) == {"error": ""}
            assert not await is_there(mq9, name)


async def test_a_mailbox_of_no_agent_is_told(mq9: Mq9) -> None:
    mailbox = fresh("mail")
    for command in ("REPORT", "UNREGISTER"):
        assert failure(await mq9.ask(f"AGENT.{command}", {"mailbox": mailbox})) == (
            f"agent not found: none has the mailbox {mailbox}",
            "agent_not_found",
        )


async def test_a_name_beside_a_mailbox_decides(mq9: Mq9) -> None:
    mailbox, one, two = fresh("mail"), fresh("agent"), fresh("agent")
    for name in (one, two):
        await register(mq9, name, mailbox=mailbox)
    await mq9.ask("AGENT.UNREGISTER", {"name": one, "mailbox": mailbox})
    assert [await is_there(mq9, name) for name in (one, two)] == [False, True]


# --- order, and requests that are none -----------------------------------------------------------


async def test_commands_of_one_connection_keep_their_order(raw: RawNats) -> None:
    """Also where a REPORT waits for others to share an entry with, or a REGISTER is embedded."""
    name = fresh("agent")
    body = json.dumps({"name": name}).encode()
    commands = ["REGISTER", "REPORT", "UNREGISTER", "REPORT", "REGISTER", "REPORT", "REPORT"]
    answers = [raw.ask(f"$mq9.AI.AGENT.{command}", body) for command in commands]
    errors = [json.loads((await answer).payload)["error"] for answer in answers]
    assert errors == ["", "", "", f"agent not found: {name}", "", "", ""]


async def test_a_command_by_mailbox_comes_behind_the_registers_before_it(raw: RawNats) -> None:
    mailbox, names = fresh("mail"), [fresh("agent") for _ in range(5)]
    asked = [("REGISTER", {"name": name, "mailbox": mailbox}) for name in names]
    asked += [("REPORT", {"mailbox": mailbox}), ("UNREGISTER", {"mailbox": mailbox})]
    asked += [("UNREGISTER", {"mailbox": mailbox})]
    answers = [raw.ask(f"$mq9.AI.AGENT.{verb}", json.dumps(body).encode()) for verb, body in asked]
    codes = [json.loads((await answer).payload).get("code", "") for answer in answers]
    assert codes == [""] * 7 + ["agent_not_found"]


async def test_a_thousand_reports_at_once_are_all_answered(mq9: Mq9, raw: RawNats) -> None:
    names = [fresh("agent") for _ in range(20)]
    await asyncio.gather(*(register(mq9, name) for name in names))
    bodies = [json.dumps({"name": names[n % 20], "report_info": n}).encode() for n in range(1_000)]
    answers = [raw.ask("$mq9.AI.AGENT.REPORT", body) for body in bodies]
    assert {json.loads((await answer).payload)["error"] for answer in answers} == {""}


async def test_agents_commands_are_carried_out_without_a_reply_subject(
    mq9: Mq9, raw: RawNats
) -> None:
    name = fresh("agent")
    raw.post(publication("$mq9.AI.AGENT.REGISTER", json.dumps({"name": name}).encode()))
    await raw.flush()
    async with asyncio.timeout(30):
        while not await is_there(mq9, name):
            pass


@pytest.mark.parametrize(
    "verb", ["REGISTER.x", "REPORT.x", "UNREGISTER.x", "REGISTERS", "register"]
)
async def test_what_is_beside_an_agents_command_is_none(mq9: Mq9, verb: str) -> None:
    subject = f"$mq9.AI.AGENT.{verb}"
    assert failure(await mq9.request(subject, {"name": fresh()})) == (
        f"unknown command: {subject}",
        "unknown_command",
    )


@pytest.mark.parametrize("command", ["REGISTER", "REPORT", "UNREGISTER"])
@pytest.mark.parametrize("body", [None, {}, {"name": None}, {"payload": "x", "mailbox": None}])
async def test_a_name_is_required(mq9: Mq9, command: str, body: dict[str, Any] | None) -> None:
    reply = await mq9.ask(f"AGENT.{command}", body)
    assert failure(reply) == ("invalid name: required", "invalid_field")


async def test_a_card_needs_a_name_even_where_it_has_a_mailbox(mq9: Mq9) -> None:
    reply = await mq9.ask("AGENT.REGISTER", {"mailbox": fresh("mail")})
    assert failure(reply) == ("invalid name: required", "invalid_field")


MALFORMED = ("", "A", "a..b", ".a", "a_b", "a" * 129, "mq9://", "mq9://b", "mq9://b/", "mq9://b/A")


@pytest.mark.parametrize("command", ["REGISTER", "REPORT", "UNREGISTER"])
async def test_a_malformed_mailbox_is_told(mq9: Mq9, command: str) -> None:
    name = {"name": fresh("agent")} if command == "REGISTER" else {}
    for mailbox in MALFORMED:
        reply = await mq9.ask(f"AGENT.{command}", {**name, "mailbox": mailbox})
        assert reply["error"].startswith("invalid mail_address: "), (mailbox, reply)


# --- limits, both sides --------------------------------------------------------------------------


def padded(name: str, size: int) -> bytes:
    """A card of exactly that many bytes of JSON."""
    empty = json.dumps({"name": name, "payload": ""}, separators=(",", ":"))
    return empty.replace('""', '"' + "x" * (size - len(empty)) + '"').encode()


async def test_a_card_has_room_for_128_kib_and_not_a_byte_more(mq9: Mq9) -> None:
    name = fresh("agent")
    assert CARD_BYTES_MAX == REQUEST_BYTES_MAX == 131_072
    assert (await mq9.ask("AGENT.REGISTER", padded(name, CARD_BYTES_MAX)))["error"] == ""
    assert failure(await mq9.ask("AGENT.REGISTER", padded(name, CARD_BYTES_MAX + 1))) == (
        "invalid request: larger than 131072 bytes",
        "invalid_request",
    )
    assert await is_there(mq9, name)


async def test_a_card_that_grows_when_it_is_kept_is_refused(mq9: Mq9) -> None:
    """Numbers may be written shorter than they are kept: what is kept is bounded too."""
    body = b'{"name":"%b","payload":[%b]}' % (
        fresh("agent").encode(),
        b",".join([b"1e15"] * 10_000),
    )
    reply = await mq9.ask("AGENT.REGISTER", body)
    assert reply["error"].startswith("invalid request: a card may have 131072 bytes, this has ")


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(("command", "field"), [("REGISTER", "x"), ("REPORT", "report_info")])
async def test_json_may_be_nested_so_deep_and_no_deeper(mq9: Mq9, command: str, field: str) -> None:
    name = fresh("agent")
    await register(mq9, name)
    most = CARD_DEPTH_MAX - (command == "REGISTER")  # the card itself is the first level
    for depth, accepted in ((most, True), (most + 1, False), (1_000, False), (50_000, False)):
        body = b'{"name":"%b","%b":%b}' % (name.encode(), field.encode(), nested(depth))
        reply = await mq9.ask(f"AGENT.{command}", body)
        assert (reply["error"] == "") == accepted, (depth, reply)
        assert accepted or reply["code"] == "invalid_request"
    assert await is_there(mq9, name)


async def test_report_info_has_room_for_16_kib_and_not_a_byte_more(mq9: Mq9) -> None:
    name = fresh("agent")
    await register(mq9, name)
    fits = "x" * (REPORT_INFO_BYTES_MAX - 2)
    assert (await report(mq9, name, report_info=fits))["error"] == ""
    assert failure(await report(mq9, name, report_info=fits + "x")) == (
        "invalid report_info: more than 16384 bytes of JSON",
        "invalid_field",
    )


RUBBISH = (
    b"\xff\xfe",
    b'{"name":"\xff"}',
    b'{"name":"\\ud800"}',
    b'{"name":"a","x":NaN}',
    b'{"name":"a","x":Infinity}',
    b'{"name":"a","x":1e999}',
    b'{"name":"a",}',
    b"{'name':'a'}",
    b"[]",
    b'"a"',
    b"null",
    b"{" * 60_000,
)


@pytest.mark.parametrize("command", ["REGISTER", "REPORT", "UNREGISTER"])
async def test_rubbish_is_an_invalid_request(mq9: Mq9, command: str) -> None:
    for body in RUBBISH:
        reply = await mq9.ask(f"AGENT.{command}", body)
        assert (reply["error"][:17], reply["code"]) == ("invalid request: ", "invalid_request"), (
            body[:40]
        )

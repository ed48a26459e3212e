"""PROTOCOL section 8: what the older dialects ask beside pushes, on the same mailboxes."""

import json

import pytest

from tests.conformance.mq9.conftest import ConnectRaw
from tests.support.mq9 import Mq9, fresh, ids, is_gone, payloads, until

OLD = "robustmq-mq9-python"


async def listed(mq9: Mq9, address: str, **fields: int) -> list[dict]:
    reply = await mq9.ask(f"MAILBOX.LIST.{address}", fields)
    assert reply["error"] == "", reply
    return list(reply["messages"])


# --- CREATE --------------------------------------------------------------------------------------


async def test_a_public_mailbox_may_be_created_again_and_keeps_its_first_ttl(mq9: Mq9):
    name = fresh("task")
    first = await mq9.ask("MAILBOX.CREATE", {"public": True, "name": name, "ttl": 1, "desc": "x"})
    again = await mq9.ask("MAILBOX.CREATE", {"public": True, "name": name, "ttl": 3600})
    assert first == again == {"error": "", "mail_address": name, "mail_id": name}
    await mq9.send(name, b"kept")
    assert payloads(await mq9.query(name)) == [b"kept"]
    await until(lambda: mq9.query(name), is_gone)


async def test_a_public_mailbox_needs_a_name(mq9: Mq9):
    reply = await mq9.ask("MAILBOX.CREATE", {"public": True})
    assert reply["error"] == "invalid name: required of a public mailbox"
    reply = await mq9.ask("MAILBOX.CREATE", {"public": "yes", "name": fresh()})
    assert reply["error"] == "invalid public: must be true or false"


@pytest.mark.parametrize("first", [True, False])
async def test_a_private_mailbox_is_not_made_public_nor_the_other_way(mq9: Mq9, first: bool):
    name = await mq9.box(public=first)
    reply = await mq9.ask("MAILBOX.CREATE", {"public": not first, "name": name})
    assert reply["error"] == f"mailbox {name} already exists"


async def test_the_oldest_dialects_create(mq9: Mq9):
    reply = await mq9.ask("MAILBOX.CREATE", {"type": "standard", "ttl": 60})
    assert sorted(reply) == ["error", "mail_address", "mail_id", "token"]
    assert reply["mail_id"] == reply["mail_address"]
    assert reply["token"].startswith("tok-")
    assert len(reply["token"]) > 16
    reply = await mq9.ask("MAILBOX.CREATE", {"type": "newest"})
    assert reply["error"] == "invalid type: must be one of standard, latest"
    assert "token" not in await mq9.ask("MAILBOX.CREATE")


async def test_a_latest_mailbox_keeps_only_its_newest_message(mq9: Mq9):
    box = await mq9.box(type="latest", max_msgs=1)
    sent = [b"1", b"2", b"3"]
    for payload, priority in zip(sent, ("critical", "normal", "urgent"), strict=True):
        await mq9.send(box, payload, priority=priority)
        assert payloads(await mq9.query(box)) == [payload]
    await mq9.send(box, b"keyed", key="k")
    await mq9.send(box, b"plain")
    reply = await mq9.query(box)
    assert (payloads(reply), ids(reply)) == ([b"plain"], [5])


async def test_a_delayed_message_of_a_latest_mailbox_replaces_when_it_is_visible(mq9: Mq9):
    box = await mq9.box(type="latest")
    await mq9.send(box, b"later", delay=1)
    await mq9.send(box, b"now")
    assert payloads(await mq9.query(box)) == [b"now"]
    await until(lambda: mq9.query(box), lambda reply: payloads(reply) == [b"later"])


async def test_a_latest_mailbox_that_is_full_takes_what_replaces(mq9: Mq9):
    box = await mq9.box(type="latest", max_bytes=10)
    await mq9.send(box, b"0123456789")
    await mq9.send(box, b"9876543210")
    reply = await mq9.try_send(box, b"01234567890")
    assert reply["error"] == "mailbox full: max_bytes 10 reached"
    assert payloads(await mq9.query(box)) == [b"9876543210"]


async def test_a_group_of_a_latest_mailbox_is_handed_the_newest(mq9: Mq9):
    box = await mq9.box(type="latest")
    await mq9.send_all(box, [b"1", b"2"])
    held = await mq9.fetch(box, "g")
    assert payloads(held) == [b"2"]
    await mq9.send(box, b"3")
    assert (await mq9.ack(box, "g", 2))["error"] == ""
    assert payloads(await mq9.fetch(box, "g")) == [b"3"]


# --- messages ------------------------------------------------------------------------------------


async def test_a_subjects_priority_counts(mq9: Mq9):
    box = await mq9.box()
    await mq9.ask(f"MAILBOX.MSG.{box}.low", b"1", {"mq9-priority": "critical"})
    await mq9.ask(f"MAILBOX.MSG.{box}.critical", b"2", {"mq9-priority": "rubbish"})
    await mq9.ask(f"MAILBOX.MSG.{box}.high", b"3")
    levels = [message["priority"] for message in (await mq9.query(box))["messages"]]
    assert levels == ["low", "critical", "urgent"]


async def test_headers_mean_what_they_mean_in_a_send(mq9: Mq9):
    box = await mq9.box()
    once = {"Nats-Msg-Id": "once", "mq9-key": "k"}
    first = await mq9.ask(f"MAILBOX.MSG.{box}.low", b"1", once)
    again = await mq9.ask(f"MAILBOX.MSG.{box}.low", b"1", once)
    assert again == {**first, "duplicate": True}
    await mq9.ask(f"INBOX.{box}.normal", b"2", {"mq9-key": "k"})
    assert payloads(await mq9.query(box)) == [b"2"]
    delayed = await mq9.ask(f"MAILBOX.MSG.{box}.low", b"3", {"mq9-delay": "60"})
    assert delayed["msg_id"] == -1
    refused = await mq9.ask(f"MAILBOX.MSG.{box}.low", b"3", {"mq9-ttl": "-1"})
    assert refused["error"].startswith("invalid ttl: ")


async def test_a_notification_has_a_ttl_unless_it_says_another(mq9: Mq9):
    box = await mq9.box()
    await mq9.ask(f"INBOX.{box}.notify", b"short", {"mq9-ttl": "1"})
    await mq9.ask(f"INBOX.{box}.notify", b"hour")
    await mq9.ask(f"MAILBOX.MSG.{box}.low", b"kept")
    await until(lambda: mq9.query(box), lambda reply: payloads(reply) == [b"hour", b"kept"])


async def test_a_listing_tells_everything_but_payloads(mq9: Mq9):
    box = await mq9.box()
    for priority in ("low", "high", "critical", "normal"):
        await mq9.ask(f"MAILBOX.MSG.{box}.{priority}", b"x" * 100)
    await mq9.delete(box, 4)
    stored = (await mq9.query(box))["messages"]
    assert await listed(mq9, box) == [
        {"msg_id": str(at), "priority": word, "ts": message["create_time"]}
        for at, word, message in zip((1, 2, 3), ("low", "urgent", "critical"), stored, strict=True)
    ]
    assert [message["msg_id"] for message in await listed(mq9, box, limit=2)] == ["2", "3"]
    assert len(await listed(mq9, box, limit=10_000)) == 3
    reply = await mq9.ask(f"MAILBOX.LIST.{box}", {"limit": 10_001})
    assert reply["error"] == "invalid limit: must be at most 10000"


async def test_a_listing_is_not_bound_by_the_size_of_what_it_lists(mq9: Mq9):
    """Twenty megabytes and more: a QUERY stops at eight."""
    box = await mq9.box()
    for _ in range(24):
        await mq9.send(box, bytes(1_000_000))
    assert len(await listed(mq9, box)) == 24
    assert len(ids(await mq9.query(box))) < 12


async def test_older_names_of_query_and_delete(mq9: Mq9):
    box = await mq9.box()
    await mq9.send_all(box, [b"1", b"2"])
    deleted = await mq9.ask(f"MAILBOX.DELETE.{box}.1")
    assert deleted == {"error": "", "deleted": True}
    assert (await mq9.ask(f"MAILBOX.DELETE.{box}.1"))["error"].startswith("message not found")
    assert payloads(await mq9.ask(f"MAILBOX.QUERY.{box}", {"limit": 5})) == [b"2"]


@pytest.mark.parametrize(
    "command", ["MAILBOX.LIST.no.such", "MAILBOX.QUERY.no.such", "MAILBOX.DELETE.no.such.1"]
)
async def test_of_a_mailbox_that_is_not_there(mq9: Mq9, command: str):
    reply = await mq9.ask(command)
    assert reply["error"] == "mailbox not found: mailbox no.such does not exist"


@pytest.mark.parametrize("command", ["MAILBOX", "MAILBOX.LIST", "MAILBOX.NONE", "INBOX", "PUBLIC"])
async def test_what_is_no_command_stays_unknown(mq9: Mq9, command: str):
    reply = await mq9.ask(command)
    assert reply["error"] == f"unknown command: $mq9.AI.{command}"


# --- the published client's ways -----------------------------------------------------------------


async def test_a_client_that_takes_any_error_for_one_is_told_none(connect_raw: ConnectRaw):
    raw = await connect_raw()
    raw.post(
        b'CONNECT {"verbose":false,"protocol":1,"headers":true,"name":"%b"}\r\n' % OLD.encode()
    )

    async def ask(command: str, body: bytes = b"{}") -> dict:
        return json.loads((await raw.request(f"$mq9.AI.{command}", body)).payload)

    created = await ask("MAILBOX.CREATE")
    box = created["mail_id"]
    assert created == {"mail_address": box, "mail_id": box}
    assert await ask(f"MSG.SEND.{box}", b"x") == {"msg_id": 1}
    await ask(f"MAILBOX.MSG.{box}.critical", b"x")
    listed = await ask(f"MAILBOX.LIST.{box}")
    assert [message["priority"] for message in listed["messages"]] == ["normal", "high"]
    group = b'{"group_name":"g","msg_id":1}'
    await ask(f"MSG.FETCH.{box}", b'{"group_name":"g","deliver":"earliest"}')
    assert await ask(f"MSG.ACK.{box}", group) == {}
    assert await ask(f"MAILBOX.DELETE.{box}.1") == {"deleted": True}
    refused = await ask(f"MAILBOX.DELETE.{box}.1")
    assert refused["code"] == "message_not_found"
    assert refused["error"].startswith("message not found")

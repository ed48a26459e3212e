"""What the SDK makes of refusals, of silence and of outcomes that are not known."""

import asyncio
from typing import Any

import pytest

from mq9cluster.client import Mq9Client, Mq9Error, asking
from mq9cluster.client.asking import PATIENCE_S_MAX
from mq9cluster.domain.errors import (
    AgentNotFound,
    InvalidField,
    InvalidMailAddress,
    MailboxExists,
    MailboxFull,
    MessageNotFound,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)
from tests.client.conftest import Ask
from tests.support.core_servers import CoreConfig, NatsServer
from tests.support.scripted import SILENCE, ScriptedBroker

ADDRESS = "box.1"


def says(code: str, text: str = "") -> dict[str, Any]:
    return {"error": text or f"{code}: said the broker", "code": code}


UNAVAILABLE = says("unavailable")
OVERLOADED = says("overloaded")
TIMEOUT = says("timeout")
GONE = says("message_not_found", "message not found: 7")
STORED = {"error": "", "msg_id": 7}
DONE = {"error": ""}


async def test_a_send_that_was_not_done_is_asked_again(broker: ScriptedBroker, ask: Ask) -> None:
    broker.says = [UNAVAILABLE, OVERLOADED, UNAVAILABLE, STORED]
    client = await ask()
    assert await client.send(ADDRESS, b"x") == 7
    assert len(broker.asked) == 4


async def test_a_send_of_unknown_outcome_is_asked_again_under_its_own_id(
    broker: ScriptedBroker, ask: Ask
) -> None:
    broker.says = [TIMEOUT, {**STORED, "duplicate": True}]
    client = await ask()
    assert await client.send(ADDRESS, b"x") == 7
    first, second = broker.asked
    assert first == second
    assert len(first.headers["Nats-Msg-Id"]) == 16


async def test_two_sends_have_two_ids(broker: ScriptedBroker, ask: Ask) -> None:
    broker.says = [STORED]
    client = await ask()
    await asyncio.gather(client.send(ADDRESS, b"x"), client.send(ADDRESS, b"x"))
    assert len({one.headers["Nats-Msg-Id"] for one in broker.asked}) == 2


async def test_silence_is_an_unknown_outcome(
    broker: ScriptedBroker, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.says = [SILENCE, STORED]
    client = await ask()
    monkeypatch.setattr(asking, "ANSWER_S", 0.2)
    assert await client.send(ADDRESS, b"x") == 7


async def test_nobody_waits_for_answers_of_a_connection_that_broke() -> None:
    server = NatsServer(CoreConfig())
    server.start()
    url = f"nats://127.0.0.1:{server.port}"
    broker = await ScriptedBroker.start(url)
    broker.says = [SILENCE]
    client = await Mq9Client.connect(url, patience_s=0)
    sent = asyncio.create_task(client.send(ADDRESS, b"x"))
    await broker.until_asked(1)
    server.end()
    with pytest.raises(OutcomeUnknown, match="timeout: the connection was lost"):
        await sent
    await client.close()
    await broker.close()


@pytest.mark.parametrize("error", [MailboxFull("50 messages"), PermissionDenied("no")])
async def test_a_refusal_is_not_asked_again(
    broker: ScriptedBroker, ask: Ask, error: Mq9Error
) -> None:
    broker.says = [says(error.code, str(error))]
    client = await ask()
    with pytest.raises(type(error)) as told:
        await client.send(ADDRESS, b"x")
    assert told.value == error
    assert len(broker.asked) == 1


@pytest.mark.parametrize("kind", Mq9Error.__subclasses__())
def test_each_code_has_its_error(kind: type[Mq9Error]) -> None:
    error = asking.error_of(says(kind.code, "what the broker said"))
    assert (type(error), str(error)) == (kind, "what the broker said")


def test_the_code_of_a_newer_broker_is_an_error_all_the_same() -> None:
    error = asking.error_of(says("too_new", "too new: for us"))
    assert (type(error), str(error), error.code) == (Mq9Error, "too new: for us", "too_new")


async def test_patience_ends(broker: ScriptedBroker, ask: Ask) -> None:
    broker.says = [UNAVAILABLE]
    client = await ask(patience_s=0.3)
    with pytest.raises(Unavailable, match="unavailable: said the broker"):
        await client.send(ADDRESS, b"x")
    assert len(broker.asked) > 1


async def test_what_may_have_been_done_is_unknown_when_patience_ends(
    broker: ScriptedBroker, ask: Ask
) -> None:
    broker.says = [TIMEOUT, UNAVAILABLE]
    client = await ask(patience_s=0.3)
    with pytest.raises(OutcomeUnknown, match="timeout: asked again, and told unavailable"):
        await client.send(ADDRESS, b"x")


async def test_a_message_that_is_gone_when_delete_is_asked_again_was_deleted(
    broker: ScriptedBroker, ask: Ask
) -> None:
    client = await ask()
    broker.says = [TIMEOUT, GONE]
    await client.delete(ADDRESS, 7)
    broker.says = [UNAVAILABLE, GONE]
    with pytest.raises(MessageNotFound):
        await client.delete(ADDRESS, 7)


async def test_an_agent_that_is_gone_when_unregister_is_asked_again_was_unregistered(
    broker: ScriptedBroker, ask: Ask
) -> None:
    client = await ask()
    gone = says("agent_not_found", "agent not found: a")
    broker.says = [TIMEOUT, gone]
    await client.agent_unregister("a")
    broker.says = [gone]
    with pytest.raises(AgentNotFound):
        await client.agent_unregister("a")


async def test_who_made_a_mailbox_that_exists_when_create_is_asked_again_is_unknown(
    broker: ScriptedBroker, ask: Ask
) -> None:
    client = await ask()
    exists = says("mailbox_exists", "mailbox box.1 already exists")
    broker.says = [TIMEOUT, exists]
    with pytest.raises(OutcomeUnknown):
        await client.mailbox_create(ADDRESS)
    broker.says = [exists]
    with pytest.raises(MailboxExists):
        await client.mailbox_create(ADDRESS)
    assert await client.mailbox_create(ADDRESS, exist_ok=True) == ADDRESS


async def test_a_server_without_mq9_is_told_at_once(nats_server: str) -> None:
    async with await Mq9Client.connect(nats_server) as client:
        with pytest.raises(Unavailable, match="serves NATS, but no mq9"):
            await client.mailbox_create()


async def test_nothing_is_asked_that_would_be_more_than_a_command(
    broker: ScriptedBroker, ask: Ask
) -> None:
    client = await ask()
    broker.says = [STORED]
    for address in ("box.1 reply", "box\r\nPUB x 0", "*", ">", "", "Box"):
        with pytest.raises(InvalidMailAddress):
            await client.send(address, b"x")
        with pytest.raises(InvalidMailAddress):
            await client.delete(address, 1)
    for headers in ({"a": "b\r\nc: d"}, {"a\n": "b"}, {"a": "b\r"}):
        with pytest.raises(InvalidField, match=r"invalid header: .* is more than a line"):
            await client.send(ADDRESS, b"x", headers=headers)
    with pytest.raises(InvalidField, match="invalid header: 'mq9-key' is more than a line"):
        await client.send(ADDRESS, b"x", key="k\n")
    with pytest.raises(InvalidField, match="invalid header: 'a' is not text"):
        await client.send(ADDRESS, b"x", headers={"a": "\ud800"})
    with pytest.raises(InvalidField, match="invalid tags: a comma parts two tags"):
        await client.send(ADDRESS, b"x", tags=["a,b"])
    assert broker.asked == []


async def test_no_payload_is_sent_that_would_end_the_connection(
    broker: ScriptedBroker, ask: Ask
) -> None:
    client = await ask()
    broker.says = [STORED]
    limit = client.connection.max_payload
    headers = {"Nats-Msg-Id": "7", "mq9-key": "schlüssel"}
    largest = bytes(
        limit - len("NATS/1.0\r\nNats-Msg-Id: 7\r\nmq9-key: schlüssel\r\n\r\n".encode())
    )
    assert await client.send(ADDRESS, largest, msg_id="7", key="schlüssel") == 7
    assert broker.asked == [(f"MSG.SEND.{ADDRESS}", largest, headers)]
    with pytest.raises(InvalidField, match=f"invalid payload: {limit + 1} bytes with its headers"):
        await client.send(ADDRESS, largest + b"x", msg_id="7", key="schlüssel")
    assert len(broker.asked) == 1


async def test_patience_is_bounded_by_how_long_a_broker_remembers_a_send(nats_server: str) -> None:
    async with await Mq9Client.connect(nats_server, patience_s=PATIENCE_S_MAX):
        pass
    for patience_s in (PATIENCE_S_MAX + 1, -1):
        with pytest.raises(ValueError, match="patience_s"):
            await Mq9Client.connect(nats_server, patience_s=patience_s)


async def test_where_no_server_is_the_error_says_so() -> None:
    with pytest.raises(Unavailable, match=r"unavailable: no server at nats://127.0.0.1:1: "):
        await Mq9Client.connect("nats://127.0.0.1:1", patience_s=0)


async def test_who_is_not_let_in_is_told_at_once() -> None:
    server = NatsServer(CoreConfig(user="ann", password="right"))
    server.start()
    with pytest.raises(PermissionDenied):
        await Mq9Client.connect(f"nats://ann:wrong@127.0.0.1:{server.port}")
    async with await Mq9Client.connect(f"nats://ann:right@127.0.0.1:{server.port}"):
        pass
    server.end()


async def test_a_closed_client_says_so(ask: Ask) -> None:
    client = await ask()
    await client.close()
    with pytest.raises(Unavailable, match="the connection is closed"):
        await client.send(ADDRESS, b"x")

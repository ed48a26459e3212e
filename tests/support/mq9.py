"""mq9 over a NATS connection, as tests speak it: a command and its JSON in, the reply's dict out.

Every reply any test sees passes `checked`, so that the shape of section 5 (always `error`, on
failure always the `code` that belongs to the text) is asserted thousands of times. Two ways to the
node behind one face: nats-py, a real client, and `RawNats`, for what nats-py refuses to send. It
calls nothing of the project.
"""

import asyncio
import base64
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nats.aio.client import Client

from tests.support.raw_nats import Headers, RawNats

ANSWER_S_MAX = 60.0  # generous: the machine that runs this may be busy

# PROTOCOL section 5, the most specific text first.
CODE_BY_TEXT = (
    ("mailbox not found: mailbox ", "mailbox_not_found"),
    ("mailbox full", "mailbox_full"),
    ("mailbox ", "mailbox_exists"),
    ("message not found", "message_not_found"),
    ("invalid mail_address: ", "invalid_mail_address"),
    ("invalid request: ", "invalid_request"),
    ("invalid ", "invalid_field"),
    ("unknown command: ", "unknown_command"),
    ("agent not found", "agent_not_found"),
    ("embedder mismatch", "embedder_mismatch"),
    ("permission denied", "permission_denied"),
    ("unavailable", "unavailable"),
    ("timeout", "timeout"),
    ("overloaded", "overloaded"),
)

Reply = dict[str, Any]
Body = Mapping[str, Any] | bytes | None

_numbers = itertools.count(1)
_run = secrets.token_hex(4)


def fresh(word: str = "box") -> str:
    """A mailbox name no other test of any run uses."""
    return f"{word}.{_run}.{next(_numbers)}"


def encoded(body: Body) -> bytes:
    """The bytes of a request body."""
    if body is None:
        return b""
    return body if isinstance(body, bytes) else json.dumps(dict(body)).encode()


def checked(raw: bytes) -> Reply:
    """The reply as a dict, its shape asserted: `error` always, `code` when something is wrong."""
    reply = json.loads(raw)
    assert isinstance(reply, dict), raw
    assert isinstance(reply.get("error"), str), raw
    if reply["error"] == "":
        assert reply.get("code", "") == "", raw
        return reply
    expected = next(
        (code for text, code in CODE_BY_TEXT if reply["error"].startswith(text)), "a stable phrase"
    )
    assert reply.get("code") == expected, raw
    return reply


async def until(ask: Callable[[], Awaitable[Reply]], holds: Callable[[Reply], bool]) -> None:
    """Ask until `holds`: what time does, a client can only ask for."""
    while True:
        if holds(await ask()):
            return
        await asyncio.sleep(0.05)


def is_gone(reply: Reply) -> bool:
    """Whether the mailbox is not there, or no more."""
    return reply.get("code") == "mailbox_not_found"


def payloads(reply: Reply) -> list[bytes]:
    """The payloads of a FETCH or QUERY reply, decoded, in its order."""
    assert reply["error"] == "", reply
    return [base64.b64decode(message["payload"], validate=True) for message in reply["messages"]]


def ids(reply: Reply) -> list[int]:
    """The msg_ids of a FETCH or QUERY reply, in its order."""
    assert reply["error"] == "", reply
    return [message["msg_id"] for message in reply["messages"]]


def failure(reply: Reply) -> tuple[str, str]:
    """(text, code) of a reply, to compare in one go."""
    return reply["error"], reply.get("code", "")


class Mq9:
    """The commands of sections 2 and 3 over one connection."""

    def __init__(self, connection: Client | RawNats) -> None:
        self.connection = connection

    async def request(
        self, subject: str, body: Body = None, headers: Mapping[str, str] | Headers | None = None
    ) -> Reply:
        """Ask `subject` (the whole of it), and check the shape of the reply."""
        if isinstance(self.connection, RawNats):
            pairs: Headers = (
                tuple(headers.items()) if isinstance(headers, Mapping) else (headers or ())
            )
            answer = await self.connection.request(subject, encoded(body), pairs, ANSWER_S_MAX)
            return checked(answer.payload)
        named = {str(name): str(value) for name, value in dict(headers or {}).items()}
        message = await self.connection.request(
            subject, encoded(body), ANSWER_S_MAX, headers=named or None
        )
        return checked(message.data)

    async def ask(
        self, command: str, body: Body = None, headers: Mapping[str, str] | Headers | None = None
    ) -> Reply:
        """Ask `$mq9.AI.{command}`."""
        return await self.request(f"$mq9.AI.{command}", body, headers)

    async def create(self, name: str | None = None, **fields: Any) -> str:
        """Create a mailbox, which must succeed; its address."""
        named = {} if name is None else {"name": name}
        reply = await self.ask("MAILBOX.CREATE", {**named, **fields})
        assert reply["error"] == "", reply
        return str(reply["mail_address"])

    async def box(self, word: str = "box", **fields: Any) -> str:
        """Create a mailbox under a fresh name; its address."""
        return await self.create(fresh(word), **fields)

    async def try_send(self, address: str, payload: bytes = b"x", **headers: str | int) -> Reply:
        """SEND; `priority`, `key`, `delay`, `ttl`, `tags` are mq9 headers, `msg_id` Nats-Msg-Id."""
        return await self.ask(f"MSG.SEND.{address}", payload, send_headers(headers))

    async def send(self, address: str, payload: bytes = b"x", **headers: str | int) -> int:
        """SEND, which must succeed; the msg_id."""
        reply = await self.try_send(address, payload, **headers)
        assert reply["error"] == "", reply
        return int(reply["msg_id"])

    async def send_all(self, address: str, sent: Sequence[bytes]) -> list[int]:
        """SEND each, in order; the msg_ids."""
        return [await self.send(address, payload) for payload in sent]

    async def fetch(self, address: str, group: str | None = None, **fields: Any) -> Reply:
        """FETCH from the earliest message without waiting, unless `fields` say otherwise.

        `num_msgs`, `max_wait_ms` and `ack_wait_ms` go into `config`.
        """
        config = {"max_wait_ms": 0}
        for name in ("num_msgs", "max_wait_ms", "ack_wait_ms"):
            if name in fields:
                config[name] = fields.pop(name)
        grouped = {} if group is None else {"group_name": group}
        return await self.ask(
            f"MSG.FETCH.{address}", {"deliver": "earliest", "config": config, **grouped, **fields}
        )

    async def ack(self, address: str, group: str, msg_id: int, **fields: Any) -> Reply:
        """ACK."""
        return await self.ask(
            f"MSG.ACK.{address}", {"group_name": group, "msg_id": msg_id, **fields}
        )

    async def nack(self, address: str, group: str, msg_id: int, **fields: Any) -> Reply:
        """NACK."""
        return await self.ask(
            f"MSG.NACK.{address}", {"group_name": group, "msg_id": msg_id, **fields}
        )

    async def query(self, address: str, **fields: Any) -> Reply:
        """QUERY."""
        return await self.ask(f"MSG.QUERY.{address}", fields)

    async def delete(self, address: str, msg_id: int | str) -> Reply:
        """DELETE."""
        return await self.ask(f"MSG.DELETE.{address}.{msg_id}")


def send_headers(named: Mapping[str, str | int]) -> dict[str, str]:
    """Keyword arguments as the headers of a SEND."""
    return {
        "Nats-Msg-Id" if name == "msg_id" else f"mq9-{name}": str(value)
        for name, value in named.items()
    }

"""From outcome to reply: the JSON a client gets. Source: docs/protocol.md, sections 2 to 5."""

from binascii import b2a_base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from mq9cluster.domain.address import address_of
from mq9cluster.domain.errors import Mq9Error
from mq9cluster.domain.message import Message
from mq9cluster.domain.outcome import AgentRegistered, MailboxCreated, MessageStored
from mq9cluster.domain.read import MessagesRead

DONE = b'{"error":""}'
_SUCCESS = b'{"error":"",'
DELETED = b'{"error":"","deleted":true}'
PRIORITY_NAMES = ("critical", "urgent", "normal", "low")


def refused(error: Mq9Error) -> bytes:
    """What a refused command answers."""
    return orjson.dumps({"error": str(error), "code": error.code})


def created(outcome: MailboxCreated, token: str = "") -> bytes:
    """What CREATE answers; `mail_id` is the older documents' name of the address."""
    address = address_of(outcome.mailbox)
    reply = {"error": "", "mail_address": address, "mail_id": address}
    return orjson.dumps({**reply, "token": token} if token else reply)


def stored(outcome: MessageStored) -> bytes:
    """What SEND answers."""
    if outcome.duplicate:
        return b'{"error":"","msg_id":%d,"duplicate":true}' % outcome.msg_id
    return b'{"error":"","msg_id":%d}' % outcome.msg_id


def registered(outcome: AgentRegistered) -> bytes:
    """What REGISTER answers."""
    return orjson.dumps({"error": "", "name": outcome.name, "expires_at": outcome.expires_at_s})


@lru_cache(maxsize=16)
def reported(expires_at_s: int) -> bytes:
    """What REPORT answers: the same to all agents of an entry that have the same ttl."""
    return b'{"error":"","expires_at":%d}' % expires_at_s


def messages(found: MessagesRead, *, as_text: bool) -> bytes:
    """What FETCH and QUERY answer."""
    reply: dict[str, Any] = {
        "error": "",
        "messages": [_message(message, as_text=as_text) for message in found.messages],
    }
    if found.handout:
        reply["handout"] = found.handout
    return orjson.dumps(reply)


def listed(found: MessagesRead, words: Sequence[str]) -> bytes:
    """What MAILBOX.LIST answers; `words` name the priorities."""
    messages = [
        {
            "msg_id": str(message.msg_id),
            "priority": words[message.priority],
            "ts": message.created_ms // 1000,
        }
        for message in found.messages
    ]
    return orjson.dumps({"error": "", "messages": messages})


def without_error(reply: bytes) -> bytes:
    """A reply for a client that takes any `error` for one, also the empty one of success."""
    if reply == DONE:
        return b"{}"
    return b"{" + reply[len(_SUCCESS) :] if reply.startswith(_SUCCESS) else reply


def _message(message: Message, *, as_text: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"msg_id": message.msg_id}
    text = _utf8(message.payload) if as_text else None
    if text is None:
        shown["payload"] = b2a_base64(message.payload, newline=False).decode()
    else:
        shown["payload"] = text
        shown["encoding"] = "text"
    shown["priority"] = PRIORITY_NAMES[message.priority]
    shown["create_time"] = message.created_ms // 1000
    if message.meta:
        meta = orjson.loads(message.meta)
        if "header" in meta:
            shown["header"] = meta["header"]
        if "tags" in meta:
            shown["tags"] = meta["tags"]
    if message.key:
        shown["key"] = message.key
    return shown


def _utf8(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None

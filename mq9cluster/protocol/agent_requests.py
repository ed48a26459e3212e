"""From body to request for the agents' commands, checked whole before anything is done.

Called by broker.agents; raises the domain's errors. Source: docs/protocol.md, sections 1 and 4.
"""

from typing import Any, NamedTuple

import orjson

from mq9cluster.domain.address import MailAddress
from mq9cluster.domain.agent import (
    AgentCard,
    check_depth,
    may_be_deep,
    parse_card,
    parse_mailbox,
    parse_name,
)
from mq9cluster.domain.errors import InvalidField
from mq9cluster.domain.limits import REPORT_INFO_BYTES_MAX
from mq9cluster.protocol import fields


class Whom(NamedTuple):
    """Which agents are meant: the one of that name, or, without a name, all of that mailbox."""

    name: str
    address: MailAddress | None


def parse_register(payload: bytes) -> AgentCard:
    """The body of AGENT.REGISTER."""
    return parse_card(fields.parse_body(payload))


def parse_unregister(payload: bytes) -> Whom:
    """The body of AGENT.UNREGISTER."""
    return _whom(fields.parse_body(payload))


def parse_report(payload: bytes) -> tuple[Whom, bytes]:
    """The body of AGENT.REPORT: whom, and what it says as JSON, or nothing."""
    body = fields.parse_body(payload)
    info = body.get("report_info")
    if info is not None and may_be_deep(payload):
        check_depth(info)
    return _whom(body), b"" if info is None else _encoded(info)


def _whom(body: dict[str, Any]) -> Whom:
    """A whole card may be sent: then its name counts, not its mailbox."""
    name, mailbox = body.get("name"), body.get("mailbox")
    if name is None and mailbox is not None:
        return Whom("", parse_mailbox(mailbox))
    return Whom(parse_name(name), None)


def _encoded(info: object) -> bytes:
    encoded = orjson.dumps(info)
    if len(encoded) > REPORT_INFO_BYTES_MAX:
        raise InvalidField("report_info", f"more than {REPORT_INFO_BYTES_MAX} bytes of JSON")
    return encoded

"""From body to request for the agents' commands, checked whole before anything is done.

Called by broker.agents; raises the domain's errors. Source: docs/protocol.md, sections 1 and 4.
"""

from typing import Any

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

Whom = tuple[str, MailAddress | None]
"""Which agents are meant: the one of that name, or, without a name, all of that mailbox."""


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
    said = b""
    if info is not None:
        if may_be_deep(payload):
            check_depth(info)
        said = orjson.dumps(info)
        if len(said) > REPORT_INFO_BYTES_MAX:
            raise InvalidField("report_info", f"more than {REPORT_INFO_BYTES_MAX} bytes of JSON")
    return _whom(body), said


def _whom(body: dict[str, Any]) -> Whom:
    """A whole card may be sent: then its name counts, not its mailbox."""
    name = body.get("name")
    if name is None and (mailbox := body.get("mailbox")) is not None:
        return "", parse_mailbox(mailbox)
    return parse_name(name), None

"""What is sent and what is received: headers, messages, agents. Source: docs/protocol.md, sections
3 and 4. Called by `client`; no I/O.
"""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import orjson

from mq9cluster.domain.errors import InvalidField
from mq9cluster.domain.message import Priority


@dataclass(frozen=True, slots=True)
class Message:
    """A message as FETCH and QUERY give it; the last two only where a group was named."""

    address: str
    msg_id: int
    payload: bytes
    priority: Priority
    create_time: int  # Unix seconds
    headers: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    key: str = ""
    group_name: str = ""
    handout: str = ""

    def json(self) -> Any:
        """The payload, parsed. Raises ValueError where it is no JSON."""
        return orjson.loads(self.payload)


class Discovered(Sequence[dict[str, Any]]):
    """A page of agents, best first, as they registered; `"_mq9"` of each tells score, last_seen,
    report_info and what matched.
    """

    def __init__(self, reply: Mapping[str, Any]) -> None:
        self.agents: list[dict[str, Any]] = reply["agents"]
        self.total: int = reply["total"]  # on all pages
        self.partial: list[int] = reply.get("partial", [])  # shards that did not answer in time
        self.embedder: dict[str, Any] | None = reply.get("embedder")

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, at: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, at: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self.agents[at]

    def __len__(self) -> int:
        return len(self.agents)


def messages_of(address: str, reply: Mapping[str, Any], group_name: str = "") -> list[Message]:
    """The messages of a FETCH or a QUERY."""
    handout = reply.get("handout", "")
    return [
        Message(
            address,
            shown["msg_id"],
            b64decode(shown["payload"]),
            Priority[shown["priority"].upper()],
            shown["create_time"],
            shown.get("header", {}),
            tuple(shown.get("tags", ())),
            shown.get("key", ""),
            group_name,
            handout,
        )
        for shown in reply["messages"]
    ]


def send_headers(
    *,
    msg_id: str,
    priority: Priority,
    key: str,
    delay: int,
    ttl: int,
    tags: Sequence[str],
    headers: Mapping[str, str] | None,
) -> dict[str, str]:
    """The headers of a SEND; what is empty or 0 is left out. Raises InvalidField where a tag has a
    comma, which would make it two.
    """
    if any("," in tag for tag in tags):
        raise InvalidField("tags", "a comma parts two tags")
    named = {
        "mq9-priority": "" if priority == Priority.NORMAL else priority.name.lower(),
        "mq9-key": key,
        "mq9-delay": str(delay) if delay else "",
        "mq9-ttl": str(ttl) if ttl else "",
        "mq9-tags": ",".join(tags),
        "Nats-Msg-Id": msg_id,
    }
    return {**(headers or {}), **{name: value for name, value in named.items() if value}}


def body_of(**fields: object) -> bytes:
    """The JSON of a request; what is empty, 0 or None is left out, as if it were not given."""
    return orjson.dumps({name: value for name, value in fields.items() if value})

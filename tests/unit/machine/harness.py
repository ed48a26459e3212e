"""A shard as the tests of its rules see it: one command at a time, time moved by the test alone.

Two shards answer alike: the machine over rows in memory, and the plain model of
tests/property/model.py. Every rule is asserted of both, so that the model is known to be right
before it judges the machine.
"""

import json
from collections.abc import Iterable
from typing import Any, Protocol

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.errors import Mq9Error
from mq9cluster.domain.message import Message
from mq9cluster.domain.outcome import HandedOut, Outcome, Refused

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
BOX = "box"


class Backend(Protocol):
    """What both shards can do."""

    def apply(self, now_ms: int, command: c.Command) -> Outcome: ...

    def query(self, ref: bytes, **filters: Any) -> list[Message] | Refused: ...

    def peek(self, ref: bytes, **filters: Any) -> list[Message] | Refused: ...


def owner(connection: int, node: int = 1, incarnation: int = 1) -> c.Owner:
    return c.Owner(node, incarnation, connection)


def meta(tags: Iterable[str] = (), /, **header: str) -> bytes:
    return json.dumps({"tags": list(tags), "header": header}).encode()


def why(outcome: Outcome | list[Message]) -> type[Mq9Error] | None:
    """The class of the error that refused a command, or None."""
    return type(outcome.error) if isinstance(outcome, Refused) else None


def ids(outcome: Outcome | list[Message] | Refused) -> list[int]:
    """The msg_ids of a FETCH or QUERY, in their order."""
    if isinstance(outcome, HandedOut):
        return [msg_id for _, msg_id in outcome.places]
    assert isinstance(outcome, list), outcome
    return [message.msg_id for message in outcome]


class Shard:
    """Short names for commands; one mailbox, group and connection unless said otherwise."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.now_ms = START_MS

    def wait(self, ms: int = 0, *, s: int = 0, days: int = 0) -> None:
        """Let time pass."""
        self.now_ms += ms + s * 1000 + days * DAY_MS

    def apply(self, command: c.Command) -> Outcome:
        return self.backend.apply(self.now_ms, command)

    def create(self, box: str = BOX, **settings: Any) -> Outcome:
        return self.apply(c.CreateMailbox(mailbox_ref("$G", box), **settings))

    def send(self, payload: bytes = b"x", box: str = BOX, **fields: Any) -> Outcome:
        return self.apply(c.SendMessage(mailbox_ref("$G", box), payload, **fields))

    def fetch(
        self, group: str = "g", box: str = BOX, by: int | c.Owner = 1, **fields: Any
    ) -> Outcome:
        fields = {"deliver": c.Deliver.EARLIEST, **fields}
        return self.apply(c.FetchMessages(mailbox_ref("$G", box), group, _owner(by), **fields))

    def ack(
        self, msg_id: int, group: str = "g", box: str = BOX, by: int | c.Owner = 1, **fields: Any
    ) -> Outcome:
        return self.apply(
            c.AckMessages(mailbox_ref("$G", box), group, msg_id, _owner(by), **fields)
        )

    def nack(
        self, msg_id: int, group: str = "g", box: str = BOX, by: int | c.Owner = 1, **fields: Any
    ) -> Outcome:
        return self.apply(
            c.NackMessage(mailbox_ref("$G", box), group, msg_id, _owner(by), **fields)
        )

    def delete(self, msg_id: int, box: str = BOX) -> Outcome:
        return self.apply(c.DeleteMessage(mailbox_ref("$G", box), msg_id))

    def end(self, by: int | c.Owner = 1) -> Outcome:
        return self.apply(c.EndConnection(_owner(by)))

    def end_incarnation(self, node: int, incarnation: int) -> Outcome:
        return self.apply(c.EndIncarnation(node, incarnation))

    def query(self, box: str = BOX, **filters: Any) -> list[Message] | Refused:
        """QUERY, now."""
        self.apply(c.Expire())
        return self.backend.query(mailbox_ref("$G", box), **filters)

    def peek(self, box: str = BOX, **filters: Any) -> list[Message] | Refused:
        """FETCH without a group, now."""
        self.apply(c.Expire())
        return self.backend.peek(mailbox_ref("$G", box), **filters)


def _owner(by: int | c.Owner) -> c.Owner:
    return owner(by) if isinstance(by, int) else by

"""Outcomes: past tense, what applying a command came to. A refused command changed nothing."""

from typing import NamedTuple

from mq9cluster.domain.errors import Mq9Error


class MailboxCreated(NamedTuple):
    """CREATE succeeded."""

    mailbox: bytes


class MessageStored(NamedTuple):
    """SEND succeeded; `msg_id` -1 while delayed, `duplicate` when the sender repeated itself."""

    msg_id: int
    duplicate: bool = False


class HandedOut(NamedTuple):
    """FETCH of a group. `places` are (priority, msg_id) in delivery order.

    `resume` is set when the row budget ran out before anything was found: where to go on.
    """

    handout: str
    places: tuple[tuple[int, int], ...]
    resume: tuple[int, int] | None = None


class AgentRegistered(NamedTuple):
    """REGISTER succeeded; `expires_at_s` is Unix time, 0: never."""

    name: str
    expires_at_s: int


class AgentsReported(NamedTuple):
    """REPORT reached so many agents; the first of them expires then (Unix time, 0: none does).

    `resume` is set when there are more of the mailbox: the name behind which to go on.
    """

    agents: int
    expires_at_s: int
    resume: str = ""


class AgentsUnregistered(NamedTuple):
    """UNREGISTER removed so many; `resume` as in AgentsReported."""

    agents: int
    resume: str = ""


class Done(NamedTuple):
    """ACK, NACK, DELETE, Expire, what embedders bring and the ends of owners."""


class Refused(NamedTuple):
    """The command was refused and changed nothing."""

    error: Mq9Error


def refused(caught: Mq9Error) -> Refused:
    """A refusal by an error that was raised, without the way it came.

    A traceback holds every frame below it, and one of them holds the outcome: each refusal would be
    a cycle of a whole batch, left to the collector, which then stops the node for 100 ms.
    """
    return Refused(caught.with_traceback(None))


Outcome = (
    MailboxCreated
    | MessageStored
    | HandedOut
    | AgentRegistered
    | AgentsReported
    | AgentsUnregistered
    | Done
    | Refused
)

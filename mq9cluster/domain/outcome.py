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


class Done(NamedTuple):
    """ACK, NACK, DELETE, Expire and the ends of owners."""


class Refused(NamedTuple):
    """The command was refused and changed nothing."""

    error: Mq9Error


Outcome = MailboxCreated | MessageStored | HandedOut | Done | Refused

"""What clients of one mailbox asked and were told: the history that checkers judge.

Owns the records and the logical clock that may order them; the chaos suite orders them by seconds
since the run began. Written by workloads (here and in tests/support), read by `checkers`. An
operation spans from `began` to `ended`; of one whose answer never came nothing is known: it may
have happened or not (`Told.UNKNOWN`), which is never taken for either.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

NEVER = math.inf
PRIORITIES = ("critical", "urgent", "normal")


class Told(Enum):
    """What the client was told of its operation."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class LogicalClock:
    """Ticks at every beginning and end, so that 'ended before another began' can be asked."""

    def __init__(self) -> None:
        self._now = 0

    def tick(self) -> int:
        """The next moment."""
        self._now += 1
        return self._now


@dataclass(slots=True)
class Span:
    """When an operation was under way; `ended` stays NEVER while its outcome is unknown."""

    began: float
    ended: float = NEVER
    told: Told = Told.UNKNOWN

    def end(self, at: float, told: Told) -> None:
        """The answer came."""
        self.ended, self.told = at, told

    def before(self, other: "Span") -> bool:
        """Whether this one was over when the other began."""
        return self.ended < other.began


@dataclass(slots=True)
class Send(Span):
    """One message, by its payload; several attempts with one Nats-Msg-Id are one Send.

    `msg_id` is what the first answer said, -1 for a delayed message, 0 while nothing was said.
    """

    payload: str = ""
    priority: str = "normal"
    key: str = ""
    dedupe_id: str = ""
    delay_s: int = 0
    msg_id: int = 0


@dataclass(slots=True)
class Repeat(Span):
    """A SEND repeated under the same Nats-Msg-Id, and what it was answered."""

    of: Send | None = None
    msg_id: int = 0
    duplicate: bool = False


@dataclass(slots=True)
class Delete(Span):
    """One DELETE."""

    msg_id: int = 0


@dataclass(slots=True)
class HandOut(Span):
    """A FETCH of a group and what it gave, in delivery order.

    `released` is when its consumer began to let go of it (an ACK, NACK or new FETCH), or when it
    lost it for certain. `timed`: bound to an ack_wait, so that its end is not known exactly.
    `sure_until`: from then on the cluster may have ended it without the consumer knowing.
    """

    group: str = ""
    consumer: str = ""
    handout: str = ""
    msg_ids: tuple[int, ...] = ()
    payloads: tuple[str, ...] = ()
    timed: bool = False
    asked_s: float = 0.0  # monotonic: ack_wait runs from about then
    released: float = NEVER
    sure_until: float = NEVER
    node: str = ""  # whom it was asked of


@dataclass(slots=True)
class Confirmation(Span):
    """An ACK, as the messages it confirms if it is carried out."""

    group: str = ""
    msg_ids: tuple[int, ...] = ()
    handout: str = ""
    scope: str = "batch"
    timed: bool = False
    repeats: bool = False  # asked again after the restart, over another connection


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a reader was shown it."""

    msg_id: int
    payload: str
    priority: str
    key: str = ""


@dataclass(slots=True)
class History:
    """All that is known of one mailbox.

    `found` is everything that a new group was given after the restart.
    `exists` is whether the mailbox was there then, `drained` the groups that were read to the end.
    """

    mailbox: str
    create: Span
    sends: list[Send] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    deletes: list[Delete] = field(default_factory=list)
    hand_outs: list[HandOut] = field(default_factory=list)
    confirmations: list[Confirmation] = field(default_factory=list)
    exists: bool = True
    found: list[Stored] = field(default_factory=list)
    drained: frozenset[str] = frozenset()

    def release_all(self, at: float) -> None:
        """The node died: nobody holds anything any more."""
        for hand_out in self.hand_outs:
            hand_out.released = min(hand_out.released, at)

    def acknowledged(self) -> int:
        """How many operations were answered with success."""
        spans = (self.sends, self.repeats, self.deletes, self.hand_outs, self.confirmations)
        return sum(span.told is Told.DONE for kind in spans for span in kind)

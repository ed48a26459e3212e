"""Input takes turns: a client that sends more than its share at once waits, so that others do not.

Made by `listener`; `connection` asks it how much a client may have done at once, and hands it
whatever has to be gone on with later. A client that is alone has large shares, for these make large
batches. In company they are small: all who wait get one slice of the loop's time together, client
by client, and between two slices the loop goes round a few times without one. What a calm client's
request needs (read, propose, apply, write: a round each) then meets one slice, not one in every
round.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from mq9cluster.protocol.nats import EVENTS_PER_FEED_MAX

EVENTS_ALONE: Final = EVENTS_PER_FEED_MAX  # a few milliseconds, for which nobody else waits
EVENTS_IN_COMPANY: Final = 64  # as many requests as a good client has under way: half a millisecond
COMPANY_S: Final = 0.1  # who was silent for so long does not mind meeting one large share
SLICE_S: Final = 0.001  # what a calm client waits longer, about once in a request
ROUNDS_BETWEEN: Final = 3  # of the loop, without a slice; an empty one costs some microseconds
# Commands cost most when they are applied, all that gathered at once and at every replica, where
# others have company: so few of one client may be under way. Applying takes some 10 µs for each.
COMMANDS_ALONE_MAX: Final = 1_024
COMMANDS_IN_COMPANY_MAX: Final = 128
# So much read at once ends a client's turn: copying it takes a fraction of a millisecond, which
# counts when it reads on.
READ_BYTES_MAX: Final = 131_072
READ_S: Final = 0.0002

Turn = Callable[[], None]


class Shares:
    """How much one client may have done at once, and the queue of those that want more."""

    __slots__ = (
        "_began_s",
        "_call_soon",
        "_company_until_s",
        "_rounds",
        "_scheduled",
        "_seconds",
        "_waiting",
        "commands",
        "events",
        "in_company",
        "last",
    )

    def __init__(self, call_soon: Callable[[Turn], object], seconds: Callable[[], float]) -> None:
        self._call_soon = call_soon
        self._seconds = seconds
        self._waiting: deque[Turn] = deque()
        self._scheduled = False
        self._rounds = 0  # until the next slice
        self._began_s = 0.0
        self._company_until_s = 0.0
        self.last = 0  # whose input was worked on
        self.in_company = False
        self.events = EVENTS_ALONE
        self.commands = COMMANDS_ALONE_MAX

    def work(self, connection: int) -> None:
        """What `connection` sent is worked on now, and before it that of another (`last`)."""
        if self.last:
            self._company_until_s = self._seconds() + COMPANY_S
            self.in_company = True
            self.events = EVENTS_IN_COMPANY
            self.commands = COMMANDS_IN_COMPANY_MAX
        self.last = connection

    def wait(self, turn: Turn) -> None:
        """Call `turn` when it is its client's: behind those that wait already."""
        self._waiting.append(turn)
        self._schedule()

    def charge(self, cost_s: float) -> None:
        """The turn that is running will cost so much more outside of the slice."""
        self._began_s -= cost_s

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._rounds = ROUNDS_BETWEEN if self.in_company else 0
            self._call_soon(self._round)

    def _round(self) -> None:
        """One round of the loop: the last of them has the slice."""
        if self._rounds > 0:
            self._rounds -= 1
            self._call_soon(self._round)
            return
        began_s = self._began_s = self._seconds()
        if self.in_company and began_s >= self._company_until_s:
            self.in_company = False
            self.events = EVENTS_ALONE
            self.commands = COMMANDS_ALONE_MAX
        waiting = self._waiting
        turns = len(waiting)  # alone: everybody once
        try:
            while waiting and (self._in_slice() if self.in_company else turns > 0):
                turns -= 1
                waiting.popleft()()
        finally:  # a fault in one must not leave all others waiting for ever
            self._scheduled = False
            if waiting:
                self._schedule()

    def _in_slice(self) -> bool:
        return self._seconds() - self._began_s < SLICE_S

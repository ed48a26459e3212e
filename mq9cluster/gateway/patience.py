"""REPORTs wait unread for the beat at which they leave anyway.

A heartbeat that is read as it arrives has to fetch, for itself alone, all the code and data that
reading takes; hundreds read in a row share that. So what a socket gave is looked at just enough to
tell that it is one REPORT and nothing else, and stays with its connection until the beat. Whatever
else arrives there has all of it read at once, in its order; so has the connection's end.

Made by `listener`; `connection` leaves input here and is told to read it. A REPORT at 12.340 s: its
bytes are kept, the beat is asked for; at 12.500 s `read_unread` has it taken apart (by a short way,
where it is one request as all clients write it) and proposed, and with the end of the reading the
shards' parcels leave (`cluster.beat`). A connection that fails while it reads is aborted by its own
hand, and the others are read all the same.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from mq9cluster.gateway.shares import Shares
from mq9cluster.protocol.subjects import REPORT_SUBJECT

UNREAD_BYTES_MAX: Final = 4_096  # of what one read gave; a REPORT that says more is read at once
UNREAD_MAX: Final = 1_024  # such reads of all connections; then reading them takes 10 ms already
READ_TOGETHER: Final = 16  # a fifth of a slice, so that one is not overrun by much

_REPORT: Final = b"PUB %b " % REPORT_SUBJECT
_LINES: Final = 2  # the PUB and its payload: whatever has more may hold a PING, say


class Beats(Protocol):
    """What is used here of the beat at which REPORTs leave (`cluster.beat.ReportBeat`)."""

    def wait(self, then: Callable[[], object]) -> None:
        """Call `then` at the next beat."""

    def read_first(self, read: Callable[[Callable[[], None]], None]) -> None:
        """Call `read` at each beat before those who wait; these are called when it says so."""


class Reader(Protocol):
    """A connection that was left unread."""

    connection: int

    def read_unread(self) -> None:
        """Read it now, if that was not done before."""


class Patience:
    """What all connections of a listener were left unread of, and when it is read."""

    __slots__ = ("_asked", "_beats", "_done", "_reading", "_shares", "_waiting")

    def __init__(self, beats: Beats, shares: Shares) -> None:
        self._beats = beats
        self._shares = shares
        self._waiting: list[Reader] = []
        self._reading: deque[Reader] = deque()
        self._asked = False  # a beat will come
        self._done: Callable[[], None]
        beats.read_first(self._read)

    def suits(self, data: bytes) -> bool:
        """Whether `data`, as a socket gave it, is one REPORT and may wait."""
        return (
            data.startswith(_REPORT)
            and len(data) <= UNREAD_BYTES_MAX
            and data.count(b"\r\n") == _LINES
            and len(self._waiting) < UNREAD_MAX
        )

    def wait(self, reader: Reader) -> None:
        """Have `reader` read at the next beat; only after `suits`."""
        self._waiting.append(reader)
        if not self._asked:
            self._ask()

    def _ask(self) -> None:
        self._asked = True
        self._beats.wait(self._came)

    def _came(self) -> None:
        """The beat is over. What arrived while it was read waits for another."""
        self._asked = False
        if self._waiting:
            self._ask()

    def _read(self, done: Callable[[], None]) -> None:
        self._done = done
        self._reading.extend(self._waiting)
        self._waiting.clear()
        self._read_some()

    def _read_some(self) -> None:
        reading = self._reading
        if len(reading) > 1:  # they are company to each other
            self._shares.work(reading[0].connection)
        try:
            for _ in range(min(READ_TOGETHER, len(reading))):
                reading.popleft().read_unread()
        finally:  # a fault in one must not leave all others waiting for ever
            if reading:
                self._shares.wait(self._read_some)
            else:
                self._done()

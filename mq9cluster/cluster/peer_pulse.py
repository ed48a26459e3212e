"""Signs of life between two nodes: pings, what their answers tell, and how long ago they came.

TCP alone notices nothing when a peer hangs, and a stopped process still accepts connections: only
an answered ping is a sign of life. Pure: time is handed in. Used by `peer_link` (`Pulse`) and
`peer_service` (`PingAnswers`).
"""

from collections import deque
from typing import Final

PINGS_REMEMBERED: Final = 16  # several times what can be under way before a peer counts as silent
SAMPLES: Final = 8  # two seconds of pings: among them one had a quick way, also under load
NEVER_MS: Final = 1 << 40


class Pulse:
    """This node's pings to one peer."""

    __slots__ = ("_count", "_heard_s", "_samples", "_sent_s", "heard")

    def __init__(self, now_s: float) -> None:
        self._count = 0
        self._heard_s = now_s
        self.begin(now_s)

    def begin(self, now_s: float) -> None:
        """Streams are open: a sign of life as well; pings of older ones are not answered here."""
        self._heard_s = now_s
        self.heard = 0  # the last ping that was answered on these streams
        self._sent_s: dict[int, float] = {}
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)

    def ping(self, now_s: float) -> int:
        """The number of a ping that is sent now."""
        self._count += 1
        self._sent_s[self._count] = now_s
        self._sent_s.pop(self._count - PINGS_REMEMBERED, None)
        return self._count

    def answered(self, ping: int, their_wall_ms: int, now_s: float, wall_ms: int) -> None:
        """An answer has come. One to a ping that was not sent is no sign of life."""
        sent_s = self._sent_s.pop(ping, None)
        if sent_s is None:
            return
        self._heard_s = now_s
        self.heard = ping
        took_s = now_s - sent_s
        self._samples.append((took_s, their_wall_ms + round(took_s * 500) - wall_ms))

    def overslept(self, seconds: float, now_s: float) -> None:
        """This node did not listen for so long: that says nothing about the peer."""
        self._heard_s = min(self._heard_s + seconds, now_s)

    def silent_s(self, now_s: float) -> float:
        """How long ago the peer gave a sign of life."""
        return now_s - self._heard_s

    @property
    def offset_ms(self) -> int | None:
        """How far the peer's wall clock is ahead; half of the quickest way there and back off at
        most. None before it is known.
        """
        return min(self._samples)[1] if self._samples else None


class PingAnswers:
    """When this node answered the pings that came over one stream.

    A lease must count from something of this node's own that its grantor heard. When the grantor's
    words arrived proves nothing: they may have waited in a buffer while this process was stopped.
    """

    __slots__ = ("_answered_s",)

    def __init__(self) -> None:
        self._answered_s: dict[int, float] = {}

    def answer(self, ping: int, now_s: float) -> None:
        """An answer leaves now."""
        self._answered_s[ping] = now_s
        if len(self._answered_s) > PINGS_REMEMBERED:
            del self._answered_s[next(iter(self._answered_s))]

    def silent_ms(self, heard: int, now_s: float) -> int:
        """How long ago the answer left that the peer heard last; NEVER_MS where it heard none."""
        answered_s = self._answered_s.get(heard)
        return NEVER_MS if answered_s is None else max(0, round((now_s - answered_s) * 1000))

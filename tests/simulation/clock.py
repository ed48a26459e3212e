"""Virtual time: a heap of things to do, and the clocks and random sources nodes are given.

Owned by a simulated cluster. One seed decides everything: ties are broken by order of scheduling,
and every random choice comes from a `random.Random` made from the seed. Nothing here waits.
"""

import heapq
import random
from collections.abc import Callable
from itertools import count


class Storm(Exception):
    """More happens than a healthy system does: messages breed messages."""


class Scheduler:
    """Runs callbacks in the order of their virtual times, in microseconds.

    Raises Storm when there are more than `events_max` of them.
    """

    def __init__(self, events_max: int = 10**9) -> None:
        self.now_us = 0
        self.events = 0
        self._events_max = events_max
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, delay_us: int, call: Callable[[], None]) -> None:
        """Do `call` when `delay_us` have passed."""
        heapq.heappush(self._due, (self.now_us + delay_us, next(self._order), call))

    @property
    def next_us(self) -> int | None:
        """When something is due next."""
        return self._due[0][0] if self._due else None

    def run(self, until_us: int) -> None:
        """Do everything due up to `until_us`."""
        due = self._due
        while due and due[0][0] <= until_us:
            self.now_us, _, call = heapq.heappop(due)
            self.events += 1
            if self.events > self._events_max:
                raise Storm(f"{self.events} events")
            call()
        self.now_us = until_us


class NodeClock:
    """A node's clocks: a monotonic one with a rate of its own, and a wall clock that somebody keeps
    right but for an offset. Port `Clock`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        offset_ms: int = 0,
        rate: float = 1.0,
        started_ms: int = 0,
    ) -> None:
        """`started_ms`: where the monotonic clock stands at virtual time zero."""
        self._scheduler = scheduler
        self._started_ms = started_ms
        self.offset_ms = offset_ms
        self.rate = rate

    def monotonic_ms(self) -> int:
        """Milliseconds; never goes back as long as `rate` stays."""
        return int(self._scheduler.now_us * self.rate) // 1000 + self._started_ms

    def seconds(self) -> float:
        """The monotonic clock, finer."""
        return self._scheduler.now_us * self.rate / 1_000_000 + self._started_ms / 1000

    def wall_ms(self) -> int:
        """Milliseconds; the offset may change at any time."""
        return self._scheduler.now_us // 1000 + self.offset_ms


class NodeRandom:
    """A node's random source, seeded. Port `Random`."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def token(self, length: int) -> bytes:
        """`length` bytes."""
        return self._random.randbytes(length)

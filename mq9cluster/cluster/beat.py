"""What may wait leaves at a beat: everybody's on this node in one turn of the loop.

Beats are multiples of a period by the wall clock. Nodes whose clocks agree beat together, so that
what they send each other meets; where clocks differ, or jump, it only meets less.
"""

import asyncio
from collections.abc import Callable

from mq9cluster.domain.limits import REPORT_HOLD_MS, REPORT_WAIT_MS


class Beat:
    """Calls whoever waits at the next beat."""

    __slots__ = ("_least_ms", "_loop", "_period_ms", "_waiting", "_wall_ms")

    def __init__(
        self, period_ms: int, wall_ms: Callable[[], int] | None = None, least_ms: int = 0
    ) -> None:
        """Who waits first waits `least_ms` or more. Without a clock the loop's own counts."""
        self._loop = asyncio.get_running_loop()
        self._period_ms = period_ms
        self._wall_ms = wall_ms or (lambda: round(self._loop.time() * 1000))
        self._least_ms = least_ms
        self._waiting: list[Callable[[], object]] = []

    @classmethod
    def of_reports(cls, wall_ms: Callable[[], int] | None = None) -> "Beat":
        """At which a node's REPORTs leave."""
        return cls(REPORT_WAIT_MS, wall_ms)

    @classmethod
    def of_holds(cls, wall_ms: Callable[[], int] | None = None) -> "Beat":
        """At which its leaders hold what arrived no longer."""
        return cls(REPORT_HOLD_MS, wall_ms, least_ms=REPORT_HOLD_MS // 2)

    def wait(self, then: Callable[[], object]) -> None:
        """Call `then` at the next beat, with all others."""
        if not self._waiting:
            self._loop.call_later(self._next_ms() / 1000, self._beat)
        self._waiting.append(then)

    def _next_ms(self) -> int:
        """How long to the next beat: more than nothing, at most a period beyond the least."""
        return (
            self._least_ms + self._period_ms - (self._wall_ms() + self._least_ms) % self._period_ms
        )

    def _beat(self) -> None:
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            self._loop.call_soon(then)  # a failure of one is not the others'

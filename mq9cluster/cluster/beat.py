"""What may wait, and what comes again and again, happens at beats: everybody's on this node in one
turn of the loop.

Beats are multiples of a period by the wall clock. Nodes whose clocks agree beat together, so that
what they send each other meets; where clocks differ, or jump, it only meets less. Beats of several
periods that fall together are one turn: a heartbeat then leaves in the frame that REPORTs take, and
an otherwise idle node wakes once.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from mq9cluster.domain.limits import REPORT_HOLD_MS, REPORT_WAIT_MS

TICK_MS: Final = REPORT_WAIT_MS // 2  # of Raft: every other one leaves with REPORTs
TOGETHER_S: Final = 0.003  # clocks are read in whole ms, and not at the same time

Call = Callable[[], object]


class Instants:
    """Moments to come, and who is called then: those within TOGETHER_S are one."""

    __slots__ = ("_loop", "_to_come")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._to_come: list[tuple[float, list[Call]]] = []  # a handful

    def call(self, delay_s: float, then: Call) -> None:
        """Call `then` after so long, or TOGETHER_S sooner or later."""
        at_s = self._loop.time() + delay_s
        for instant_s, calls in self._to_come:
            if abs(instant_s - at_s) <= TOGETHER_S:
                calls.append(then)
                return
        instant: tuple[float, list[Call]] = (at_s, [then])
        self._to_come.append(instant)
        self._loop.call_later(delay_s, self._come, instant)

    def _come(self, instant: tuple[float, list[Call]]) -> None:
        self._to_come.remove(instant)
        for then in instant[1]:
            self._loop.call_soon(then)  # a failure of one is not the others'


class Beat:
    """Calls whoever waits at the next beat."""

    __slots__ = ("_after_ms", "_instants", "_least_ms", "_loop", "_period_ms", "_wall_ms")

    def __init__(
        self,
        period_ms: int,
        wall_ms: Callable[[], int] | None = None,
        least_ms: int = 0,
        *,
        after_ms: int = 0,
        instants: Instants | None = None,
    ) -> None:
        """Beats `after_ms` behind the multiples; who waits does so for `least_ms` or more.

        Without a clock the loop's own counts; without `instants` it meets no other beats.
        """
        self._loop = asyncio.get_running_loop()
        self._period_ms = period_ms
        self._wall_ms = wall_ms or (lambda: round(self._loop.time() * 1000))
        self._least_ms = least_ms
        self._after_ms = after_ms
        self._instants = instants or Instants()

    @classmethod
    def of_holds(
        cls, wall_ms: Callable[[], int] | None = None, instants: Instants | None = None
    ) -> "Beat":
        """At which its leaders hold what arrived no longer."""
        return cls(REPORT_HOLD_MS, wall_ms, REPORT_HOLD_MS // 2, instants=instants)

    @classmethod
    def of_ticks(
        cls,
        wall_ms: Callable[[], int] | None = None,
        instants: Instants | None = None,
        *,
        every: int = 1,
    ) -> "Beat":
        """At which Raft's time passes, or every so many of these: as the leaders' entries of
        REPORTs leave.
        """
        period_ms = every * TICK_MS
        least_ms = period_ms // 2  # who is called a little early is not called for that beat again
        return cls(period_ms, wall_ms, least_ms, after_ms=REPORT_HOLD_MS, instants=instants)

    def wait(self, then: Call) -> None:
        """Call `then` at the next beat, with all others."""
        self._instants.call(self._next_ms() / 1000, then)

    async def come(self) -> None:
        """Return at the next beat."""
        came: asyncio.Future[None] = self._loop.create_future()

        def come() -> None:
            if not came.done():  # cancelled, say
                came.set_result(None)

        self.wait(come)
        await came

    def _next_ms(self) -> int:
        """How long to the next beat: more than nothing, at most a period beyond the least."""
        least_ms = self._least_ms
        since_ms = self._wall_ms() + least_ms - self._after_ms
        return least_ms + self._period_ms - since_ms % self._period_ms


class ReportBeat(Beat):
    """The beat at which a node's REPORTs leave, once what clients sent of them has been read."""

    __slots__ = ("_awaited", "_read", "_waiting")

    def __init__(
        self, wall_ms: Callable[[], int] | None = None, instants: Instants | None = None
    ) -> None:
        super().__init__(REPORT_WAIT_MS, wall_ms, instants=instants)
        self._waiting: list[Call] = []
        self._awaited = False  # it will come, or what it has read is not yet read
        self._read: Callable[[Callable[[], None]], object] | None = None

    def read_first(self, read: Callable[[Callable[[], None]], object]) -> None:
        """At each beat call `read`, and who waits only when `read` calls what it is given, once."""
        self._read = read

    def wait(self, then: Call) -> None:
        """Call `then` at the next beat, with all others; or at this one while it has read."""
        self._waiting.append(then)
        if not self._awaited:
            self._awaited = True
            super().wait(self._come)

    def _come(self) -> None:
        if self._read is None:
            self._leave()
        else:
            self._read(self._leave)

    def _leave(self) -> None:
        self._awaited = False
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            self._loop.call_soon(then)  # a failure of one is not the others'

"""Raft's time on one node: its groups tick together, at beats that all nodes share; elections are
in between.

Made by `cluster`, which runs it as a task and has it look ahead when a peer was lost. A tick is one
frame to each peer, whatever is due in however many groups, and every other tick is the frame that
REPORTs take as well (`beat`). But who stands for election in the same moment as another gets no
majority, so that is done to the millisecond that chance chose, not at the next tick.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from mq9cluster.cluster.beat import TICK_MS, Beat
from mq9cluster.cluster.durability import Group

TICK_S: Final = TICK_MS / 1000
AHEAD_S: Final = 1.5 * TICK_S  # the longest between two ticks, when the wall clock is put right
LATER_S: Final = 0.002  # Raft's clock counts whole ms: no sooner than it says


class Ticked(Protocol):
    """What of `raft_engine.RaftEngine` is used here."""

    def tick(self) -> None:
        """Let time pass."""

    def stands_in_s(self) -> float | None:
        """In how many seconds it stands for election; None while it leads."""


class Ticking:
    """The ticks of one node."""

    def __init__(
        self,
        groups: Mapping[int, tuple[Group, Ticked]],
        wake: Callable[[Group], None],
        beat: Beat,
    ) -> None:
        """`wake` has the group's work done; `groups` may grow."""
        self._groups = groups
        self._wake = wake
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._stopped = False

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            for group, engine in self._groups.values():
                engine.tick()
                self._wake(group)
            self.look_ahead()
            await self._beat.come()

    def look_ahead(self) -> None:
        """Have those stand in time that are to before the next tick."""
        for group, engine in self._groups.values():
            stands_in_s = engine.stands_in_s()
            if stands_in_s is not None and 0 <= stands_in_s <= AHEAD_S:
                self._loop.call_later(stands_in_s + LATER_S, self._stand, group, engine)

    def stop(self) -> None:
        """Nobody stands any more."""
        self._stopped = True

    def _stand(self, group: Group, engine: Ticked) -> None:
        """Unless its leader spoke meanwhile."""
        if not self._stopped:
            engine.tick()
            self._wake(group)

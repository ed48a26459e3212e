"""Reads everything this node has on disk now and then, beside the work: damage in a block that
nobody asks for is found while the other replicas are whole.

Started by `node`. What was too much to be read before the start is read right after it, and all of
it again every week. A slice takes the loop some two milliseconds and then rests nine times as long.
Damage is told to the durability loop, which stops the node: it must not serve with holes.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from mq9cluster.storage.errors import StorageFailed

SLICE_S: Final = 0.002  # of the loop's time at once; a disk that has to be asked may take longer
REST: Final = 9  # times what a slice took
REST_S_MIN: Final = 0.01
ROWS_FIRST: Final = 1_000
ROWS_MAX: Final = 100_000
TOLD_S: Final = 60.0  # between two words of progress
PERIOD_S: Final = 7 * 86_400.0

_log = logging.getLogger(__name__)


class Walk(Protocol):
    """What is used of `storage.scrub.Scrub`."""

    def step(self, rows_max: int) -> bool:
        """Read up to `rows_max` rows; whether that was all. Raises StorageFailed."""


class Scrubbing:
    """Rounds over all rows of a node, as long as it runs."""

    def __init__(
        self,
        walk: Walk,
        rows: Callable[[], int],
        on_damage: Callable[[BaseException], None],
        seconds: Callable[[], float],
    ) -> None:
        """`rows` tells about how many there are."""
        self.rounds = 0
        self._slice_rows = ROWS_FIRST
        self._walk = walk
        self._rows = rows
        self._on_damage = on_damage
        self._seconds = seconds

    async def run(self, *, at_once: bool) -> None:
        """Round after round, the first one now or in a period; ends only when damage was found."""
        if not at_once:
            await asyncio.sleep(PERIOD_S)
        try:
            while True:
                await self._round()
                await asyncio.sleep(PERIOD_S)
        except StorageFailed as error:
            self._on_damage(error)

    async def _round(self) -> None:
        _log.info("scrubbing", extra={"rows_about": self._rows()})
        began_s = told_s = self._seconds()
        read, done = 0, False
        while not done:
            started_s = self._seconds()
            done = self._walk.step(self._slice_rows)
            now_s = self._seconds()
            took_s = now_s - started_s
            read += self._slice_rows
            if now_s - told_s >= TOLD_S:
                told_s = now_s
                _log.info("scrubbing", extra={"rows_read": read, "rows_about": self._rows()})
            if took_s < SLICE_S / 2:
                self._slice_rows = min(self._slice_rows * 2, ROWS_MAX)
            elif took_s > SLICE_S * 2:
                self._slice_rows = max(self._slice_rows // 2, 1)
            await asyncio.sleep(max(REST_S_MIN, REST * took_s))
        self.rounds += 1
        _log.info("scrubbed", extra={"seconds": round(self._seconds() - began_s, 1)})

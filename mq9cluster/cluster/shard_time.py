"""Shard time: what a leader stamps entries with.

It starts where the wall clock stands or the shard's last stamp, gone on since this node heard it,
whichever is later: a time without a leader passes, too. It goes on with the monotonic clock, slewed
towards the wall clock; a wall clock that jumps never makes it jump, and it never goes back.
"""

from typing import Final

from mq9cluster.domain.ports import Clock

SLEW: Final = 0.05  # of the time elapsed: a delay of a minute is off by three seconds at worst


class ShardTime:
    """One leader's source of stamps, Unix milliseconds."""

    __slots__ = ("_clock", "_elapsed_ms", "_now_ms")

    def __init__(self, clock: Clock, last_ms: int, heard_ms: int | None = None) -> None:
        """`heard_ms`: where the monotonic clock stood when the stamp `last_ms` came; None: now."""
        self._clock = clock
        self._elapsed_ms = clock.monotonic_ms() if heard_ms is None else heard_ms
        self._now_ms = float(last_ms)
        self._now_ms = float(max(self.now_ms(), clock.wall_ms()))

    def now_ms(self) -> int:
        """The time, not before any it said earlier."""
        elapsed_ms = self._clock.monotonic_ms()
        passed_ms = elapsed_ms - self._elapsed_ms
        if passed_ms > 0:
            self._elapsed_ms = elapsed_ms
            behind_ms = self._clock.wall_ms() - (self._now_ms + passed_ms)
            slew_ms = max(-SLEW * passed_ms, min(SLEW * passed_ms, behind_ms))
            self._now_ms += passed_ms + slew_ms
        return int(self._now_ms)

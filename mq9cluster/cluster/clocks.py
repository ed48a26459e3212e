"""The cluster's idea of the time: the median of all nodes' wall clocks, as this node sees it."""

from collections.abc import Iterable
from statistics import median_low
from typing import Final

from mq9cluster.domain.ports import Clock

OFF_MEDIAN_MS_MAX: Final = 500  # a node further off does not lead: it stamps entries


class ClusterClock:
    """This node's clock, moved to the median; implements `domain.ports.Clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset_ms = 0  # how far the median is ahead of this node's clock

    def hear(self, ahead_ms: Iterable[int]) -> None:
        """How far the clocks of the peers that can be heard are ahead of ours."""
        self.offset_ms = median_low(sorted([0, *ahead_ms]))

    @property
    def may_lead(self) -> bool:
        """Whether this node's own clock is near enough to the median."""
        return abs(self.offset_ms) <= OFF_MEDIAN_MS_MAX

    def near_median(self, ahead_ms: int) -> bool:
        """Whether a clock that is so far ahead of this node's own is near enough."""
        return abs(ahead_ms - self.offset_ms) <= OFF_MEDIAN_MS_MAX

    def wall_ms(self) -> int:
        """The median of the wall clocks, Unix milliseconds."""
        return self._clock.wall_ms() + self.offset_ms

    def monotonic_ms(self) -> int:
        """This node's own monotonic clock, milliseconds."""
        return self._clock.monotonic_ms()

    def seconds(self) -> float:
        """This node's own fine clock."""
        return self._clock.seconds()

"""The cluster's idea of the time: the median of all nodes' wall clocks, as this node sees it.

A node knows it once it has heard a majority of the clocks, and does not lead before: a leader's
stamps never go back, so one entry stamped an hour ahead would cost a shard an hour. Between two
clocks there is no median; then the one nearer to the median of before counts. Where there was none
and they disagree, a third is waited for a while; then the earlier counts: a shard's time that is
behind can be mended.
"""

from collections.abc import Iterable
from typing import Final

from mq9cluster.domain.ports import Clock

OFF_MEDIAN_MS_MAX: Final = 500  # a node further off does not lead: it stamps entries
SET_MS_MIN: Final = 50  # what a clock moves beyond the monotonic one, it was set by
COMPARED_MS_MAX: Final = 1_500  # age of a comparison: a peer that is silent for longer is down
CLOCKS_MIN: Final = 3  # of which one may be wrong
UNDECIDED_MS_MAX: Final = 10_000  # a node that starts with the others is heard by then
STEP_MS_MAX: Final = 250  # two of Raft's ticks, at which it is read


class ClusterClock:
    """This node's clock, moved to the median; implements `domain.ports.Clock`."""

    def __init__(self, clock: Clock, members: int) -> None:
        self._clock = clock
        self._members = members
        self._heard = 1  # clocks, with this node's own
        self._settled = False  # heard enough of them at least once
        self._born_ms = clock.monotonic_ms()
        self._undecided = False  # two clocks that disagree, and no third to tell who is right
        self.offset_ms = 0  # how far the median is ahead of this node's clock
        self._away_ms = self._own_away_ms()  # wall clock less monotonic one
        self._compared_ms = 0  # until then, peers may still be compared with a clock since set

    def _own_away_ms(self) -> int:
        return self._clock.wall_ms() - self._clock.monotonic_ms()

    def hear(self, ahead_ms: Iterable[int]) -> None:
        """How far the clocks of the peers that can be heard are ahead of ours."""
        clocks = sorted([0, *ahead_ms])
        self._heard = len(clocks)
        before_ms, self._away_ms = self._away_ms, self._own_away_ms()
        if self._members > 1 and self._settled:
            set_by_ms = self._away_ms - before_ms
            self.offset_ms -= set_by_ms
            now_ms = self._clock.monotonic_ms()
            if abs(set_by_ms) > SET_MS_MIN:
                self._compared_ms = now_ms + COMPARED_MS_MAX
            # Hearing nobody is no reason to think better of one's own clock, nor is what was
            # compared with it before it was set.
            if self._heard == 1 or now_ms < self._compared_ms:
                return
        low, high = clocks[(self._heard - 1) // 2], clocks[self._heard // 2]
        nearer_high = abs(high - self.offset_ms) < abs(low - self.offset_ms)
        self.offset_ms = high if self._settled and nearer_high else low
        self._settled |= self._heard >= min(CLOCKS_MIN, self._members)
        self._undecided = not self._settled and high - low > OFF_MEDIAN_MS_MAX

    @property
    def may_lead(self) -> bool:
        """Whether the median is known, and this node's own clock near enough to it."""
        if 2 * self._heard <= self._members or abs(self.offset_ms) > OFF_MEDIAN_MS_MAX:
            return False
        waited_ms = self._clock.monotonic_ms() - self._born_ms
        return not self._undecided or waited_ms > UNDECIDED_MS_MAX

    def near_median(self, ahead_ms: int) -> bool:
        """Whether a clock that is so far ahead of this node's own is near enough."""
        return abs(ahead_ms - self.offset_ms) <= OFF_MEDIAN_MS_MAX

    def wall_ms(self) -> int:
        """The median of the wall clocks, Unix milliseconds."""
        # Not the wall clock itself: it may have been set since it was last compared.
        return self._clock.monotonic_ms() + self._away_ms + self.offset_ms

    def monotonic_ms(self) -> int:
        """This node's own monotonic clock, milliseconds."""
        return self._clock.monotonic_ms()

    def seconds(self) -> float:
        """This node's own fine clock."""
        return self._clock.seconds()


class AwakeClock:
    """Time that this node was awake, for Raft's timeouts and commands' deadlines; implements
    `domain.ports.Clock`.

    A node that stood still heard nobody, and the others, if they stood still with it, said nothing:
    the time between two readings counts for STEP_MS_MAX at most. So when a machine goes on with
    several nodes on it, those that led lead, and nobody stands for election. Safety is no question
    of clocks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_ms = self._awake_ms = clock.monotonic_ms()

    def wall_ms(self) -> int:
        """The wall clock: nothing is taken off that."""
        return self._clock.wall_ms()

    def monotonic_ms(self) -> int:
        """Milliseconds awake, from anywhere."""
        now_ms = self._clock.monotonic_ms()
        self._awake_ms += min(now_ms - self._read_ms, STEP_MS_MAX)
        self._read_ms = now_ms
        return self._awake_ms

    def seconds(self) -> float:
        """The fine clock."""
        return self._clock.seconds()

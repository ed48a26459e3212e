"""Whose clock counts."""

import pytest

from mq9cluster.cluster.clocks import (
    OFF_MEDIAN_MS_MAX,
    STEP_MS_MAX,
    UNDECIDED_MS_MAX,
    AwakeClock,
    ClusterClock,
)

HOUR_MS = 3_600_000


class Clock:
    """A wall clock that stands at noon until somebody sets it."""

    def __init__(self) -> None:
        self.set_by_ms = 0
        self.up_ms = 0

    def wall_ms(self) -> int:
        return 12 * HOUR_MS + self.set_by_ms + self.up_ms

    def monotonic_ms(self) -> int:
        return self.up_ms

    def seconds(self) -> float:
        return 0.0


def clock(members: int) -> ClusterClock:
    return ClusterClock(Clock(), members)


def test_a_node_alone_leads_by_its_own_clock_at_once() -> None:
    assert clock(1).may_lead


@pytest.mark.parametrize(("members", "needed"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_nobody_leads_before_hearing_a_majority_of_the_clocks(members: int, needed: int) -> None:
    mine = clock(members)
    mine.hear([0] * (needed - 1))
    assert not mine.may_lead
    mine.hear([0] * needed)
    assert mine.may_lead


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_an_hour_off_does_not_lead_and_goes_by_the_others(hours: int) -> None:
    off = clock(3)
    off.hear([-hours * HOUR_MS, -hours * HOUR_MS])
    assert not off.may_lead
    assert off.wall_ms() == (12 - hours) * HOUR_MS
    sound = clock(3)
    sound.hear([0, hours * HOUR_MS])
    assert sound.may_lead
    assert sound.wall_ms() == 12 * HOUR_MS
    assert not sound.near_median(hours * HOUR_MS)


def test_the_bound_itself_is_near_enough() -> None:
    mine = clock(3)
    mine.hear([OFF_MEDIAN_MS_MAX] * 2)
    assert mine.may_lead
    mine.hear([OFF_MEDIAN_MS_MAX + 1] * 2)
    assert not mine.may_lead


@pytest.mark.parametrize("hours", [-1, 1])
def test_when_a_sound_node_dies_the_other_one_leads_and_the_one_that_is_off_does_not(
    hours: int,
) -> None:
    sound, off = clock(3), clock(3)
    sound.hear([0, hours * HOUR_MS])
    off.hear([-hours * HOUR_MS] * 2)
    sound.hear([hours * HOUR_MS])
    off.hear([-hours * HOUR_MS])
    assert (sound.may_lead, off.may_lead) == (True, False)
    assert off.wall_ms() == (12 - hours) * HOUR_MS


def test_two_clocks_that_disagree_wait_for_a_third_and_then_the_earlier_counts() -> None:
    own = Clock()
    early, late = ClusterClock(own, 3), ClusterClock(own, 3)
    early.hear([HOUR_MS])
    late.hear([-HOUR_MS])
    own.up_ms = UNDECIDED_MS_MAX
    assert (early.may_lead, late.may_lead) == (False, False)
    own.up_ms = UNDECIDED_MS_MAX + 1
    assert (early.may_lead, late.may_lead) == (True, False)
    assert early.wall_ms() == own.wall_ms()
    assert late.wall_ms() == own.wall_ms() - HOUR_MS


@pytest.mark.parametrize(
    ("apart_ms", "leads"), [(OFF_MEDIAN_MS_MAX, True), (OFF_MEDIAN_MS_MAX + 1, False)]
)
def test_two_clocks_that_agree_wait_for_nobody(apart_ms: int, leads: bool) -> None:
    mine = clock(3)
    mine.hear([apart_ms])
    assert mine.may_lead is leads


def test_the_third_clock_ends_the_waiting() -> None:
    mine = clock(3)
    mine.hear([HOUR_MS])
    assert not mine.may_lead
    mine.hear([HOUR_MS, 0])
    assert mine.may_lead


@pytest.mark.parametrize("hours", [-1, 1])
def test_hearing_nobody_for_a_while_is_no_reason_to_think_better_of_oneself(hours: int) -> None:
    """Simulator, seed 14: cut off in between, it led as soon as it heard one of the others."""
    off = clock(3)
    off.hear([-hours * HOUR_MS] * 2)
    off.hear([])
    assert not off.may_lead
    off.hear([-hours * HOUR_MS])
    assert not off.may_lead


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_wrongly_while_alone_is_not_believed_afterwards(hours: int) -> None:
    own = Clock()
    mine = ClusterClock(own, 3)
    mine.hear([0, 0])
    mine.hear([])
    own.set_by_ms = hours * HOUR_MS
    mine.hear([])
    mine.hear([-hours * HOUR_MS])
    assert not mine.may_lead
    assert mine.wall_ms() == 12 * HOUR_MS


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_wrongly_is_not_followed_before_it_is_compared_anew(hours: int) -> None:
    """Simulator, seed 231: elected in that quarter of a second, it stamped an hour ahead."""
    own = Clock()
    mine = ClusterClock(own, 3)
    mine.hear([0, 0])
    own.set_by_ms = hours * HOUR_MS
    assert mine.wall_ms() == 12 * HOUR_MS
    mine.hear([0, 0])  # compared with the clock as it was
    assert not mine.may_lead
    assert mine.wall_ms() == 12 * HOUR_MS
    own.up_ms += 2_000
    mine.hear([-hours * HOUR_MS] * 2)
    assert not mine.may_lead
    assert mine.wall_ms() == 12 * HOUR_MS + 2_000
    own.set_by_ms = 0
    mine.hear([-hours * HOUR_MS] * 2)
    own.up_ms += 2_000
    mine.hear([0, 0])
    assert mine.may_lead
    assert mine.wall_ms() == 12 * HOUR_MS + 4_000


def test_a_node_alone_in_its_cluster_goes_by_its_own_clock_however_that_is_set() -> None:
    own = Clock()
    mine = ClusterClock(own, 1)
    mine.hear([])
    own.set_by_ms = HOUR_MS
    mine.hear([])
    assert mine.may_lead
    assert mine.wall_ms() == 13 * HOUR_MS


def test_time_awake_passes_as_time_does_while_somebody_looks() -> None:
    steady = Clock()
    awake = AwakeClock(steady)
    began_ms = awake.monotonic_ms()
    for _ in range(8):
        steady.up_ms += STEP_MS_MAX
        assert awake.monotonic_ms() - began_ms == steady.up_ms
    assert awake.wall_ms() == steady.wall_ms()


def test_a_standstill_is_one_step_of_time_awake() -> None:
    steady = Clock()
    awake = AwakeClock(steady)
    began_ms = awake.monotonic_ms()
    steady.up_ms += HOUR_MS
    assert awake.monotonic_ms() - began_ms == STEP_MS_MAX
    assert awake.monotonic_ms() - began_ms == STEP_MS_MAX
    steady.up_ms += STEP_MS_MAX + 1
    assert awake.monotonic_ms() - began_ms == 2 * STEP_MS_MAX

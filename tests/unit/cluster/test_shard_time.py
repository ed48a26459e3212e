"""Shard time goes with the monotonic clock, leans towards the wall clock, and never goes back."""

from mq9cluster.cluster.shard_time import SLEW, ShardTime


class HandClock:
    def __init__(self, wall_ms: int) -> None:
        self.wall, self.monotonic = wall_ms, 0

    def wall_ms(self) -> int:
        return self.wall

    def monotonic_ms(self) -> int:
        return self.monotonic

    def seconds(self) -> float:
        return self.monotonic / 1000

    def pass_ms(self, ms: int) -> None:
        self.wall += ms
        self.monotonic += ms


def test_it_follows_a_good_clock() -> None:
    clock = HandClock(1_000_000)
    time = ShardTime(clock, last_ms=0)
    clock.pass_ms(2_500)
    assert time.now_ms() == 1_002_500


def test_it_starts_no_earlier_than_the_last_stamp() -> None:
    assert ShardTime(HandClock(1_000_000), last_ms=5_000_000).now_ms() == 5_000_000


def test_a_wall_clock_that_jumps_ahead_only_leans_it() -> None:
    clock = HandClock(1_000_000)
    time = ShardTime(clock, last_ms=0)
    clock.pass_ms(1_000)
    clock.wall += 3_600_000
    assert time.now_ms() == 1_001_000 + int(1_000 * SLEW)


def test_a_wall_clock_that_jumps_back_does_not_take_it_along() -> None:
    clock = HandClock(5_000_000)
    time = ShardTime(clock, last_ms=0)
    clock.wall = 1_000
    stamps = []
    for _ in range(5):
        clock.pass_ms(100)
        stamps.append(time.now_ms())
    assert stamps == [5_000_000 + int(n * 100 * (1 - SLEW)) for n in range(1, 6)]


def test_a_time_without_a_leader_passes_for_who_heard_the_last_stamp_before_it() -> None:
    """Chaos, soak, seed 32: time stood still between the last stamp and the next leader, so that
    messages outlived their ttl by as long, where the wall clocks were behind that stamp.
    """
    clock = HandClock(1_000_000)
    clock.pass_ms(60_000)
    heard_ms = clock.monotonic_ms()
    clock.pass_ms(2_700)
    time = ShardTime(clock, last_ms=5_000_000, heard_ms=heard_ms)
    assert time.now_ms() == 5_000_000 + int(2_700 * (1 - SLEW))


def test_where_the_last_stamp_was_heard_late_the_wall_clock_counts() -> None:
    clock = HandClock(1_000_000)
    time = ShardTime(clock, last_ms=400_000, heard_ms=clock.monotonic_ms())
    assert time.now_ms() == 1_000_000


def test_after_a_long_silence_it_is_the_wall_clock_that_counts() -> None:
    clock = HandClock(1_000_000)
    clock.monotonic += 86_400_000 + 5_000  # the steady clock gains five seconds a day
    clock.wall += 86_400_000
    assert ShardTime(clock, last_ms=1_000_000, heard_ms=0).now_ms() == clock.wall

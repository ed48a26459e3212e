"""Those who wait for a beat are called in one turn, when the clock says so."""

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from mq9cluster.cluster import beat
from mq9cluster.cluster.beat import TICK_MS, TOGETHER_S, Beat, Instants, ReportBeat
from mq9cluster.domain.limits import REPORT_HOLD_MS, REPORT_WAIT_MS


class Loop:
    """Remembers what is to be called, and when."""

    def __init__(self) -> None:
        self.now_s = 12.34
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.soon: list[object] = []

    def call_later(self, delay_s: float, call: Callable[..., object], *args: object) -> None:
        self.later.append((delay_s, partial(call, *args)))

    def call_soon(self, call: object) -> None:
        self.soon.append(call)

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """In that module alone: other libraries' threads ask for the running loop as well."""
    loop = Loop()
    monkeypatch.setattr(beat, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    return loop


def nobody() -> None:
    """Waits, and does nothing then."""


@pytest.mark.parametrize(
    ("now_ms", "least_ms", "after_ms", "waits_ms"),
    [
        (1_000, 0, 0, 250),
        (1_001, 0, 0, 249),
        (1_249, 0, 0, 1),
        (1_000, 12, 0, 250),
        (1_237, 12, 0, 13),
        (1_238, 12, 0, 12 + 250),
        (1_239, 12, 0, 261),
        (1_000, 0, 25, 25),
        (1_024, 0, 25, 1),
        (1_025, 0, 25, 250),
        (1_012, 12, 25, 13),
        (1_013, 12, 25, 12 + 250),
    ],
)
def test_a_beat_is_so_far_behind_a_multiple_of_its_period_and_no_sooner_than_asked(
    loop: Loop, now_ms: int, least_ms: int, after_ms: int, waits_ms: int
) -> None:
    Beat(250, lambda: now_ms, least_ms, after_ms=after_ms).wait(nobody)
    assert loop.later[0][0] == waits_ms / 1000
    assert (now_ms + waits_ms) % 250 == after_ms
    assert waits_ms > least_ms


def test_all_who_wait_are_called_in_one_turn_and_once(loop: Loop) -> None:
    patient = Beat(250, lambda: 0)
    calls = [partial(nobody), partial(nobody)]
    for call in calls:
        patient.wait(call)
    ((_, fire),) = loop.later
    fire()
    assert loop.soon == calls
    patient.wait(nobody)
    assert len(loop.later) == 2
    assert loop.soon == calls


def test_without_a_clock_the_loops_own_counts(loop: Loop) -> None:
    Beat(250).wait(nobody)
    assert loop.later[0][0] == (250 - 12_340 % 250) / 1000


def test_beats_that_fall_together_are_one_turn(loop: Loop) -> None:
    instants = Instants()
    first, second = partial(nobody), partial(nobody)
    instants.call(0.100, first)
    loop.now_s += 0.050
    instants.call(0.050 + 0.9 * TOGETHER_S, second)
    ((_, fire),) = loop.later
    instants.call(0.050 + 1.1 * TOGETHER_S, nobody)
    assert len(loop.later) == 2
    fire()
    assert loop.soon == [first, second]


@pytest.mark.parametrize("arrives_ms", [0, REPORT_HOLD_MS // 2])
def test_every_other_tick_is_when_a_leaders_entries_of_reports_leave(
    loop: Loop, arrives_ms: int
) -> None:
    """What left its node at a beat arrives, and is held until another."""
    ticked_ms = 4 * REPORT_WAIT_MS + REPORT_HOLD_MS - TICK_MS
    now_ms = ticked_ms
    instants = Instants()
    Beat.of_ticks(lambda: now_ms, instants).wait(nobody)
    now_ms = 4 * REPORT_WAIT_MS + arrives_ms
    loop.now_s += (now_ms - ticked_ms) / 1000
    Beat.of_holds(lambda: now_ms, instants).wait(nobody)
    assert len(loop.later) == 1
    assert REPORT_WAIT_MS == 2 * TICK_MS


def test_who_was_called_a_little_early_is_not_called_for_the_same_beat_again(loop: Loop) -> None:
    now_ms = TICK_MS + REPORT_HOLD_MS - 1
    Beat.of_ticks(lambda: now_ms).wait(nobody)
    assert loop.later[0][0] == (TICK_MS + 1) / 1000


async def test_waiting_for_a_beat_may_be_given_up() -> None:
    quick = Beat(1)
    coming = asyncio.ensure_future(quick.come())
    await asyncio.sleep(0)
    coming.cancel()
    await quick.come()
    assert coming.cancelled()


def test_what_is_read_first_is_and_who_comes_meanwhile_leaves_with_the_others(loop: Loop) -> None:
    reports = ReportBeat(lambda: 0)
    reading: list[Callable[[], None]] = []
    reports.read_first(reading.append)
    before, meanwhile, after = partial(nobody), partial(nobody), partial(nobody)
    reports.wait(before)
    ((_, fire),) = loop.later
    fire()
    (come,) = loop.soon
    come()
    reports.wait(meanwhile)
    assert loop.soon == [come]
    assert len(loop.later) == 1
    (read,) = reading
    read()
    assert loop.soon == [come, before, meanwhile]
    reports.wait(after)
    assert len(loop.later) == 2


def test_reports_leave_at_once_where_nothing_is_to_be_read(loop: Loop) -> None:
    reports = ReportBeat(lambda: 0)
    first = partial(nobody)
    reports.wait(first)
    ((delay_s, fire),) = loop.later
    assert delay_s == REPORT_WAIT_MS / 1000
    fire()
    (come,) = loop.soon
    come()
    assert loop.soon == [come, first]

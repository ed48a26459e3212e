"""Those who wait for a beat are called in one turn, when the clock says so."""

from types import SimpleNamespace

import pytest

from mq9cluster.cluster import beat
from mq9cluster.cluster.beat import Beat


class Loop:
    """Remembers what is to be called, and when."""

    def __init__(self) -> None:
        self.later: list[tuple[float, object]] = []
        self.soon: list[object] = []

    def call_later(self, delay_s: float, call: object) -> None:
        self.later.append((delay_s, call))

    def call_soon(self, call: object) -> None:
        self.soon.append(call)

    def time(self) -> float:
        return 12.34


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """In that module alone: other libraries' threads ask for the running loop as well."""
    loop = Loop()
    monkeypatch.setattr(beat, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    return loop


@pytest.mark.parametrize(
    ("now_ms", "least_ms", "waits_ms"),
    [
        (1_000, 0, 250),
        (1_001, 0, 249),
        (1_249, 0, 1),
        (1_000, 12, 250),
        (1_237, 12, 13),
        (1_238, 12, 12 + 250),
        (1_239, 12, 261),
    ],
)
def test_a_beat_is_a_multiple_of_its_period_and_no_sooner_than_asked(
    loop: Loop, now_ms: int, least_ms: int, waits_ms: int
) -> None:
    Beat(250, lambda: now_ms, least_ms).wait(lambda: None)
    assert loop.later[0][0] == waits_ms / 1000
    assert (now_ms + waits_ms) % 250 == 0
    assert waits_ms > least_ms


def test_all_who_wait_are_called_in_one_turn_and_once(loop: Loop) -> None:
    patient = Beat(250, lambda: 0)
    calls = [object(), object()]
    for call in calls:
        patient.wait(call)  # type: ignore[arg-type]
    ((_, fire),) = loop.later
    fire()  # type: ignore[operator]
    assert loop.soon == calls
    fire()  # type: ignore[operator]
    assert loop.soon == calls


def test_without_a_clock_the_loops_own_counts(loop: Loop) -> None:
    Beat(250).wait(lambda: None)
    assert loop.later[0][0] == (250 - 12_340 % 250) / 1000

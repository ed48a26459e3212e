"""Whose piece of work is done in which turn of the loop, with a clock that the pieces move."""

import math
from collections.abc import Callable

import pytest

from mq9cluster.cluster.turns import LONG_SLICE_S, SLICE_S, TURNS_BETWEEN, Turns

PIECE_S = SLICE_S * 0.26  # four of them use a slice up


class Loop:
    """A loop whose turns the test takes, and its clock."""

    def __init__(self, long_s: float = math.inf) -> None:
        self.now_s = 100.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.done: list[str] = []
        self.turns = Turns(self, lambda: self.now_s, long_s)  # type: ignore[arg-type]

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, wait_s: float, callback: Callable[[], None]) -> None:
        self.later.append((wait_s, callback))

    def turn(self) -> list[str]:
        """One turn of the loop; what was done in it."""
        self.done.clear()
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()
        return list(self.done)

    def sleep(self) -> float:
        """Until the next timer; how long that took."""
        ((wait_s, callback),) = self.later
        self.later.clear()
        self.now_s += wait_s
        self.soon.append(callback)
        return wait_s

    def piece(self, name: str, parts: int = 1, *, charge_s: float = 0.0) -> Callable[[], bool]:
        left = parts

        def run() -> bool:
            nonlocal left
            left -= 1
            self.now_s += PIECE_S
            self.done.append(name)
            if charge_s:
                self.turns.charge(charge_s)
            return left > 0

        return run


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_work_is_done_at_once_while_the_slice_lasts(loop: Loop) -> None:
    for number in range(6):
        loop.turns.take("a", loop.piece(f"a{number}"))
    assert loop.done == ["a0", "a1", "a2", "a3"]
    assert loop.turn() == ["a4", "a5"]
    assert (loop.turn(), loop.soon, loop.later) == ([], [], [])


def test_every_turn_has_a_slice_of_its_own(loop: Loop) -> None:
    for _ in range(3):
        loop.turns.take("a", loop.piece("a"))
        loop.turns.take("a", loop.piece("a"))
        loop.turn()
    loop.turns.take("a", loop.piece("late"))
    assert loop.done == ["late"]


def test_one_who_asks_for_much_waits_behind_nobody_but_himself(loop: Loop) -> None:
    for number in range(20):
        loop.turns.take("greedy", loop.piece(f"g{number}"))
    loop.turns.take("calm", loop.piece("calm"))
    assert loop.turn()[:3] == ["g4", "calm", "g5"]


def test_clients_take_turns_piece_by_piece(loop: Loop) -> None:
    loop.turns.take("a", loop.piece("a", parts=8))
    assert loop.done == ["a"]
    loop.turns.take("b", loop.piece("b", parts=2))
    loop.turns.take("c", loop.piece("c"))
    assert loop.turn() == ["a", "b", "c", "a"]
    assert loop.turn() == ["b", "a", "a", "a"]
    assert loop.turn() == ["a", "a"]


def test_a_long_piece_of_work_is_gone_on_with_before_what_its_client_asked_later(
    loop: Loop,
) -> None:
    loop.turns.take("a", loop.piece("long", parts=3))
    loop.turns.take("a", loop.piece("next"))
    assert loop.turn() == ["long", "long", "next"]


def test_what_was_promised_to_come_is_waited_for(loop: Loop) -> None:
    loop.turns.take("a", loop.piece("dear", charge_s=3 * SLICE_S))
    loop.turns.take("b", loop.piece("b"))
    assert loop.done == ["dear"]
    assert loop.turn() == []
    assert loop.sleep() == pytest.approx(2 * SLICE_S)
    loop.now_s += PIECE_S
    assert loop.turn() == ["b"]


def test_a_promise_is_paid_by_the_time_that_passed(loop: Loop) -> None:
    loop.turns.take("a", loop.piece("dear", charge_s=3 * SLICE_S))
    loop.turns.take("b", loop.piece("b"))
    loop.now_s += 5 * SLICE_S  # its command was applied meanwhile
    assert loop.turn() == ["b"]
    assert loop.later == []


def test_the_work_of_a_client_that_is_gone_is_dropped(loop: Loop) -> None:
    loop.turns.take("a", loop.piece("a", parts=8))
    loop.turns.take("b", loop.piece("b"))
    loop.turns.forget("a")
    loop.turns.forget("nobody")
    assert loop.turn() == ["b"]
    assert loop.turn() == []


def test_work_may_bring_more_work(loop: Loop) -> None:
    def bring() -> bool:
        loop.turns.take("a", loop.piece("brought"))
        return False

    loop.turns.take("a", bring)
    assert loop.done == ["brought"]


# --- searches ------------------------------------------------------------------------------------


@pytest.fixture
def searching() -> Loop:
    """A loop whose every piece takes long, and one client's is under way."""
    loop = Loop(long_s=PIECE_S / 2)
    loop.turns.take("greedy", loop.piece("g", parts=100))
    assert loop.done == ["g"]
    return loop


def test_of_searches_there_is_a_slice_every_few_turns(searching: Loop) -> None:
    assert PIECE_S > LONG_SLICE_S
    turns = [searching.turn() for _ in range(3 * (TURNS_BETWEEN + 1))]
    assert turns == 3 * [["g"], *([] for _ in range(TURNS_BETWEEN))]


def test_who_searches_waits_behind_who_does_not(searching: Loop) -> None:
    searching.turns.take("greedy", searching.piece("later"))
    searching.turns.take("calm", searching.piece("calm"))
    assert searching.done == ["g", "calm"]  # at once
    assert searching.turn() == ["g"]


def test_searches_of_several_clients_take_turns(searching: Loop) -> None:
    searching.turns.take("other", searching.piece("o", parts=100))
    slices = [searching.turn() for _ in range(4 * (TURNS_BETWEEN + 1))]
    assert [each for each in slices if each] == [["g"], ["o"], ["g"], ["o"]]


def test_who_has_nothing_more_to_search_is_as_any_other() -> None:
    loop = Loop(long_s=PIECE_S / 2)
    loop.turns.take("a", loop.piece("a", parts=2))
    while loop.soon:
        loop.turn()
    loop.turns.take("a", loop.piece("short"))
    assert loop.done[-1] == "short"  # at once


def test_searches_of_a_client_that_is_gone_are_dropped(searching: Loop) -> None:
    searching.turns.forget("greedy")
    assert searching.turn() == []
    assert searching.soon == []

"""The judge of registers and names: right histories pass, a stale read does not."""

import random

import pytest

from chaos.checkers.linear import Operation, State, entry, judge, name, register
from chaos.history import NEVER


def write(began: float, ended: float, value: object) -> Operation:
    return Operation(began, ended, "write", value)


def read(began: float, ended: float, told: object) -> Operation:
    return Operation(began, ended, "read", told=told)


def take(began: float, ended: float, told: object) -> Operation:
    return Operation(began, ended, "take", told=told)


def look(began: float, ended: float, told: object) -> Operation:
    return Operation(began, ended, "look", told=told)


def wrong(*operations: Operation) -> bool:
    return judge("k", operations, register, None) != []


def test_reads_see_the_write_before_them() -> None:
    assert not wrong(write(0, 1, "a"), read(2, 3, "a"), write(4, 5, "b"), read(6, 7, "b"))


def test_a_stale_read_is_told_with_its_moment() -> None:
    history = [write(0, 1, "a"), write(2, 3, "b"), read(4, 5, "a")]
    (text,) = judge("k", history, register, None)
    assert text.startswith("k: read None told 'a' at 4.000 to 5.000")


def test_reads_while_a_write_is_under_way_may_see_either_but_not_go_back() -> None:
    assert not wrong(write(0, 1, "a"), write(2, 9, "b"), read(3, 4, "a"), read(5, 6, "b"))
    assert wrong(write(0, 1, "a"), write(2, 9, "b"), read(3, 4, "b"), read(5, 6, "a"))


def test_a_value_never_written_is_told() -> None:
    assert wrong(write(0, 1, "a"), read(2, 3, "z"))


def test_a_lost_write_is_told() -> None:
    assert wrong(write(0, 1, "a"), read(2, 3, None))


def test_an_unknown_write_may_happen_late_or_never() -> None:
    unknown = write(2, NEVER, "b")
    assert not wrong(write(0, 1, "a"), unknown, read(3, 4, "a"))
    assert not wrong(write(0, 1, "a"), unknown, read(3, 4, "a"), read(50, 51, "b"))
    assert wrong(write(0, 1, "a"), unknown, read(50, 51, "b"), read(60, 61, "a"))


def test_an_unknown_write_cannot_happen_before_it_was_asked() -> None:
    assert wrong(write(0, 1, "a"), read(2, 3, "b"), write(4, NEVER, "b"))


def test_of_those_who_race_for_a_name_one_gets_it() -> None:
    race = [take(0, 5, told=True), take(1, 6, told=False), look(7, 8, told=True)]
    assert judge("n", race, name, False) == []
    race[1] = take(1, 6, told=True)
    assert judge("n", race, name, False) != []


def test_a_name_that_was_taken_is_not_free_again() -> None:
    assert judge("n", [take(0, 1, told=True), look(2, 3, told=False)], name, False) != []
    assert judge("n", [take(0, 1, told=False), look(2, 3, told=False)], name, False) != []


def test_a_taken_name_may_be_an_unknown_ones() -> None:
    assert judge("n", [take(0, NEVER, None), take(2, 3, told=False)], name, False) == []


def test_an_agent_that_was_taken_out_is_not_found_nor_taken_out_again() -> None:
    def out(began: float, ended: float, told: object) -> Operation:
        return Operation(began, ended, "delete", told=told)

    right = [write(0, 1, "a"), out(2, 3, told=True), read(4, 5, None), out(6, 7, told=False)]
    assert judge("agent", right, entry, None) == []
    assert judge("agent", [*right[:2], read(4, 5, "a")], entry, None) != []
    assert judge("agent", [*right[:2], out(4, 5, told=True)], entry, None) != []
    assert judge("agent", [right[0], out(2, NEVER, None), read(4, 5, None)], entry, None) == []
    touched = Operation(8, 9, "touch", told=True)
    assert judge("agent", [*right, touched], entry, None) != []
    # an unknown REGISTER nobody read may still be what was touched
    assert judge("agent", [*right, write(5, NEVER, "b"), touched], entry, None) == []


def cell(state: State, operation: Operation) -> tuple[bool, State]:
    """A register, and `sweep`, which takes one value out of it and no other."""
    if operation.does == "sweep":
        met = operation.value == state
        return operation.unknown or operation.told == met, None if met else state
    return register(state, operation)


def sweep(began: float, ended: float, value: object, told: object = None) -> Operation:
    return Operation(began, ended, "sweep", value, told)


def test_an_unknown_write_that_nobody_read_may_be_what_another_operation_met() -> None:
    unknown, gone = write(2, NEVER, "b"), read(6, 7, None)
    for swept in (sweep(4, 5, "b", told=True), sweep(4, NEVER, "b")):
        assert judge("k", [write(0, 1, "a"), unknown, swept, gone], cell, None) == []
        assert judge("k", [write(0, 1, "a"), swept, gone], cell, None) != []
        assert judge("k", [write(0, 1, "a"), unknown, swept, gone, read(8, 9, "a")], cell, None)
    assert judge("k", [write(0, 1, "a"), unknown, sweep(4, NEVER, "c"), gone], cell, None) != []


def test_the_moment_told_is_not_one_that_an_operation_under_way_explains() -> None:
    swept = [write(0, 1, "a"), sweep(2, 9, "a", told=True), read(3, 4, None), read(5, 6, None)]
    (text,) = judge("k", [*swept, read(10, 11, "a")], cell, None)
    assert text.startswith("k: read None told 'a' at 10.000 to 11.000")


@pytest.mark.parametrize("seed", range(8))
def test_any_run_of_a_real_register_passes_and_a_forged_read_does_not(seed: int) -> None:
    rng = random.Random(seed)
    state, at, history = None, 0.0, []
    for number in range(200):
        at += 1
        began, ended = at - rng.uniform(0, 2), at + rng.uniform(0, 2)
        if rng.choice((True, False)):
            state = number
            lost = rng.randrange(20) == 0
            history.append(write(began, NEVER if lost else ended, number))
        else:
            history.append(read(began, ended, state))
    assert judge("k", history, register, None) == []
    last = max(one.ended for one in history if not one.unknown)
    first = next(one.value for one in history if one.does == "write")
    assert judge("k", [*history, read(last + 1, last + 2, first)], register, None) != []

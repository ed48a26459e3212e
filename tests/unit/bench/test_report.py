"""Ratios and medians of the comparison."""

from bench.loadgen import Figures
from bench.report import Row, median


def trial(rate: float, errors: int = 0) -> Figures:
    return Figures(10, 0, errors, False, 1.0, rate, 5.0, 9.0, 11.0)


def test_the_ratio_is_our_median_over_theirs():
    row = Row("SEND", "c1 o1", (trial(10), trial(30), trial(20)), (trial(5), trial(100), trial(8)))
    assert row.ratio == 20 / 8


def test_there_is_no_ratio_where_a_side_was_not_measured():
    assert Row("SEND", "c1 o1", (trial(10),), ()).ratio is None


def test_errors_of_both_sides_are_added_up():
    assert Row("SEND", "c1 o1", (trial(1, errors=2),), (trial(1, errors=3),)).errors == 5


def test_the_median_of_no_trials_is_nothing():
    assert median((), "p50_us") == 0.0

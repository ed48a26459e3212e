"""Too little traffic fails, so do replicas that differ; silence and healing are measured."""

from math import inf

from chaos.checkers.availability import Acknowledged, judge_healing, longest_silence
from chaos.checkers.replicas import all_equal, apart, judge_answers
from chaos.checkers.verdict import too_little


def test_too_little_traffic_is_no_proof() -> None:
    assert too_little({"sends": 100, "acks": 5}, {"sends": 100, "acks": 5}).right
    assert too_little({"sends": 99, "acks": 5}, {"sends": 100, "acks": 5}).violations == [
        "sends: 99, at least 100 are needed"
    ]
    assert not too_little({}, {"sends": 1}).right


def test_replicas_at_one_entry_hold_one_state() -> None:
    assert apart({"n1": {"0": (7, "a")}, "n2": {"0": (7, "a")}, "n3": {"0": (8, "b")}}) == []
    assert apart({"n1": {"0": (7, "a")}, "n2": {"0": (7, "b")}}) == [
        "shard 0 at 7: n1 and n2 hold different states"
    ]


def test_replicas_are_equal_when_each_shard_has_them_all_at_one_entry() -> None:
    here, there = {"0": (7, "a"), "1": (3, "c")}, {"0": (7, "a")}
    assert all_equal({"n1": {"0": (7, "a")}, "n2": {"0": (7, "a")}}, 2)
    assert not all_equal({"n1": {"0": (7, "a")}, "n2": {"0": (8, "a")}}, 2)
    assert not all_equal({"n1": here, "n2": there}, 2)
    assert not all_equal({}, 0)


def test_nodes_that_answer_differently_are_told() -> None:
    assert judge_answers({"box": {"n1": [1], "n2": [1]}}).right
    assert judge_answers({"box": {"n1": [1], "n2": [], "n3": [1]}}).violations == [
        "box: n1 and n2 answer differently"
    ]


def test_the_longest_silence_reaches_from_one_acknowledgement_to_the_next() -> None:
    times = [Acknowledged(at, at + 0.5) for at in (0, 1, 2, 7, 8)]
    assert longest_silence(times, 0, 9) == 5
    assert longest_silence(times, 0, 20) == 20 - 8.5
    assert longest_silence([], 3, 9) == 6


def test_service_that_does_not_come_back_in_time_is_told() -> None:
    assert judge_healing(10, 14.9, 5).right
    assert judge_healing(10, 15.1, 5).violations == [
        "full service after the faults only after 5.1 s, 5 s allowed"
    ]
    assert "never" in judge_healing(10, inf, 5).violations[0]

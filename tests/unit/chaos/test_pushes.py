"""The judge of push subscriptions: what is missing, made up or doubled is told."""

import pytest

from chaos.checkers.pushes import Given, judge
from chaos.history import Told

SENT = {"a": Told.DONE, "b": Told.DONE, "u": Told.UNKNOWN, "r": Told.REFUSED}
ALL = [(1, "a"), (2, "b")]


def given(*messages: tuple[int, str], group: bool = False, lost: bool = False) -> Given:
    return Given("n1", 1.5, group, lost, list(messages))


def wrong(*subscriptions: Given, last: Given | None = None) -> list[str]:
    return judge("box", SENT, [*subscriptions, *([last] if last else [])], last)


def test_what_is_right_is_right():
    assert wrong(given((2, "b")), given(), last=given(*ALL)) == []
    assert wrong(last=given(*ALL, (3, "u"))) == []
    members = [given((1, "a"), group=True), given((2, "b"), (3, "u"), group=True)]
    assert wrong(*members, last=given(*ALL)) == []


def test_what_nobody_was_given_is_lost():
    assert wrong(given(*ALL), last=given((1, "a"))) == [
        "box: no plain subscription was given b of 1 acknowledged"
    ]
    assert wrong(given((2, "b"), group=True), last=given(*ALL)) == [
        "box: no member of the group was given a of 1 acknowledged"
    ]
    assert wrong() == []  # nobody was there long enough


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([(1, "a"), (1, "a")], "1 was given behind 1"),
        ([(2, "b"), (1, "a")], "1 was given behind 2"),
        ([(1, "x")], "x was never sent"),
        ([(1, "r")], "r was refused, and given"),
    ],
)
def test_what_a_subscription_may_not_be_given(messages, text):
    assert wrong(given(*messages)) == [f"box: subscription of 1.50 at n1: {text}"]


def test_a_member_is_given_nothing_twice_unless_its_node_was_lost():
    twice = [(1, "a"), (2, "b"), (1, "a")]
    assert wrong(given(*twice, group=True)) == ["box: member of 1.50 at n1: 1 was given twice"]
    assert wrong(given(*twice, group=True, lost=True)) == []
    assert wrong(given(*ALL, group=True), given(*ALL, group=True)) == []


def test_an_id_is_one_messages_and_a_message_has_one():
    assert wrong(given((1, "a")), given((1, "b"))) == ["box: 1 is a and b"]
    assert wrong(given((1, "a")), given((2, "a"))) == ["box: a has the ids 1 and 2"]

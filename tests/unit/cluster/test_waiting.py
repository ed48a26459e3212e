"""Who is woken by a change, and in which order."""

from mq9cluster.cluster.waiting import Waiter, WaitingRoom
from mq9cluster.domain.command import FetchMessages, Owner
from mq9cluster.domain.message import ALL_PRIORITIES
from mq9cluster.domain.read import Browse, Follow, MessagesRead

MAILBOX, OTHER = b"$G\0here", b"$G\0there"
OWNER = Owner(1, 1, 1)


def of_group(group: str) -> Waiter:
    return Waiter(FetchMessages(MAILBOX, group, OWNER), 0, lambda _: None)


def without_group() -> Waiter:
    return Waiter(Browse(MAILBOX), 0, lambda _: None)


def test_a_change_wakes_the_first_of_each_group_and_all_without_one() -> None:
    room = WaitingRoom()
    first, second, other, free, free2 = (
        of_group("a"),
        of_group("a"),
        of_group("b"),
        without_group(),
        without_group(),
    )
    for waiter in (first, second, other, free, free2):
        room.park(waiter)
    assert set(room.wake([OTHER, MAILBOX])) == {first, other, free, free2}
    assert room.count == 1
    assert room.wake_queue(MAILBOX, ("a", (), ALL_PRIORITIES)) == [second]
    assert room.wake([MAILBOX]) == []


def test_a_change_wakes_the_first_of_each_set_of_tags() -> None:
    room = WaitingRoom()
    plain, tagged, tagged2, another = (
        Waiter(FetchMessages(MAILBOX, "a", OWNER, tags=tags), 0, lambda _: None)
        for tags in ((), ("x",), ("x",), ("y",))
    )
    for waiter in (plain, tagged, tagged2, another):
        room.park(waiter)
    assert set(room.wake([MAILBOX])) == {plain, tagged, another}
    assert room.wake_queue(MAILBOX, ("a", ("x",), ALL_PRIORITIES)) == [tagged2]


def test_a_change_wakes_the_first_of_each_set_of_priorities_and_all_who_are_pushed_to() -> None:
    room = WaitingRoom()
    both, urgent, urgent2 = (
        Waiter(FetchMessages(MAILBOX, "a", OWNER, priorities=wanted), 0, lambda _: None)
        for wanted in (0b0110, 0b0010, 0b0010)
    )
    pushed = [
        Waiter(Follow(MAILBOX, priorities=wanted), 0, lambda _: None) for wanted in (0b0010, 0b1111)
    ]
    for waiter in (both, urgent, urgent2, *pushed):
        room.park(waiter)
    assert set(room.wake([MAILBOX])) == {both, urgent, *pushed}
    assert room.wake_queue(MAILBOX, ("a", (), 0b0010)) == [urgent2]


def test_one_woken_for_nothing_goes_back_to_its_place() -> None:
    room = WaitingRoom()
    first, second = of_group("a"), of_group("a")
    room.park(first)
    room.park(second)
    (woken,) = room.wake([MAILBOX])
    room.park(woken, first=True)
    assert room.wake_queue(MAILBOX, ("a", (), ALL_PRIORITIES)) == [first]


def test_one_that_left_is_not_woken() -> None:
    room = WaitingRoom()
    waiter = of_group("a")
    room.park(waiter)
    room.leave(waiter)
    room.leave(waiter)
    assert (room.wake([MAILBOX]), room.count) == ([], 0)


def test_a_waiter_is_answered_once() -> None:
    answers: list[object] = []
    waiter = Waiter(Browse(MAILBOX), 0, answers.append)
    waiter.finish(MessagesRead([]))
    waiter.finish(MessagesRead([], "late"))
    assert answers == [MessagesRead([])]

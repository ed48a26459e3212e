"""Who is woken by a change, and in which order."""

from mq9cluster.cluster.waiting import Waiter, WaitingRoom
from mq9cluster.domain.command import FetchMessages, Owner
from mq9cluster.domain.read import Browse, MessagesRead

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
    assert room.wake_queue(MAILBOX, ("a", ())) == [second]
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
    assert room.wake_queue(MAILBOX, ("a", ("x",))) == [tagged2]


def test_one_woken_for_nothing_goes_back_to_its_place() -> None:
    room = WaitingRoom()
    first, second = of_group("a"), of_group("a")
    room.park(first)
    room.park(second)
    (woken,) = room.wake([MAILBOX])
    room.park(woken, first=True)
    assert room.wake_queue(MAILBOX, ("a", ())) == [first]


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

"""Commands for the same thing keep their order, whatever takes a while among them."""

from functools import partial

from mq9cluster.broker.in_order import InOrder


def test_what_waits_goes_on_in_its_order_up_to_what_takes_a_while() -> None:
    order, done = InOrder(), []
    assert order.is_free(b"a")
    order.begin(b"a")
    order.wait(b"a", partial(done.append, 1))
    order.wait(b"a", partial(order.begin, b"a"))
    order.wait(b"a", partial(done.append, 2))
    assert (order.is_free(b"a"), order.is_free(b"b"), done) == (False, True, [])
    order.end(b"a")
    assert (order.is_free(b"a"), done) == (False, [1])
    order.end(b"a")
    assert (order.is_free(b"a"), done) == (True, [1, 2])


def test_what_waits_behind_several_waits_for_the_last() -> None:
    order, done = InOrder(), []
    order.begin(b"a")
    order.begin(b"a")
    order.wait(b"a", partial(done.append, 1))
    order.end(b"a")
    assert done == []
    order.end(b"a")
    assert done == [1]


def test_what_takes_no_time_after_all_lets_the_rest_go_on() -> None:
    order, done = InOrder(), []

    def at_once() -> None:
        order.begin(b"a")
        order.end(b"a")

    order.begin(b"a")
    order.wait(b"a", at_once)
    order.wait(b"a", partial(done.append, 1))
    order.end(b"a")
    assert (order.is_free(b"a"), done) == (True, [1])

"""What two healthy nodes say to each other."""

import asyncio
import logging

from mq9cluster.cluster.peer_pulse import NEVER_MS
from mq9cluster.cluster.peers import Answered, Flag, NotSent


def _ask(node, data, peer="b"):
    reply = asyncio.get_running_loop().create_future()
    node.peers.request(peer, 7, data, reply.set_result)  # a second answer would raise
    return reply


async def test_what_gathered_in_one_turn_arrives_in_order_as_one_frame(net):
    a, b = await net.pair()
    messages = [(number % 9, b"%d" % number) for number in range(2_000)]
    for group, data in messages:
        a.peers.send_raft("b", group, data)
    await b.ears.until(lambda: b.ears.raft)
    assert b.ears.raft == [messages]


async def test_urgent_messages_overtake_bulk_that_waits_already(net):
    a, b = await net.pair()
    bulk = [bytes([number]) * (3 << 20) for number in range(4)]
    for data in bulk:
        a.peers.send_raft("b", 1, data, bulk=True)
    a.peers.send_raft("b", 2, b"heartbeat")
    await b.ears.until(lambda: sum(map(len, b.ears.raft)) == 5)
    arrived = [message for call in b.ears.raft for message in call]
    assert arrived == [(2, b"heartbeat"), *((1, data) for data in bulk)]


async def test_frames_of_routes_arrive_in_order(net):
    a, b = await net.pair()
    frames = [b"%d" % number for number in range(500)]
    for frame in frames:
        assert a.peers.send_route("b", frame)
        if frame.endswith(b"0"):
            await asyncio.sleep(0)
    await b.ears.until(lambda: len(b.ears.routes) == 500)
    assert b.ears.routes == frames


async def test_each_request_gets_its_own_answer_once(net):
    a, b = await net.pair()
    replies = [_ask(a, b"%d" % number) for number in range(1_000)]
    assert await asyncio.gather(*replies) == [Answered(b"re: %d" % n) for n in range(1_000)]
    assert b.ears.requests == [("a", 7, b"%d" % number) for number in range(1_000)]


async def test_answers_may_come_in_another_order_than_requests(net):
    a, b = await net.pair()
    b.ears.answer = None
    first, second = _ask(a, b"first"), _ask(a, b"second")
    await b.ears.until(lambda: len(b.ears.responds) == 2)
    b.ears.responds[1](b"2")
    assert await second == Answered(b"2")
    assert not first.done()
    b.ears.responds[0](b"1")
    b.ears.responds[0](b"again")
    assert await first == Answered(b"1")
    third = _ask(a, b"and the stream is well")
    await b.ears.until(lambda: len(b.ears.responds) == 3)
    b.ears.responds[2](b"3")
    assert await third == Answered(b"3")


async def test_a_cancelled_request_reaches_the_answering_side_and_tells_nobody_here(net):
    a, b = await net.pair()
    b.ears.answer = None
    told = []
    pending = a.peers.request("b", 1, b"wait", told.append)
    await b.ears.until(lambda: b.ears.responds)
    pending.cancel()
    pending.cancel()
    await b.ears.until(lambda: b.ears.cancelled)
    assert b.ears.cancelled == [b"wait"]
    b.ears.responds[0](b"too late")
    b.ears.answer = lambda data: data
    assert await _ask(a, b"next") == Answered(b"next")
    assert told == []


async def test_whom_nobody_knows_is_down_for_everybody_who_asks(net):
    a, _ = await net.pair()
    a.peers.send_raft("nobody", 1, b"x")
    assert not a.peers.send_route("nobody", b"x")
    assert await _ask(a, b"x", peer="nobody") == NotSent()
    assert not a.peers.is_up("nobody")
    assert a.peers.clock_offset_ms("nobody") is None
    assert a.peers.silent_ms("nobody") >= 0


async def test_a_request_to_a_node_that_is_not_there_was_not_sent(net):
    a = await net.start("a")
    assert await _ask(a, b"x") == NotSent()
    assert not a.peers.send_route("b", b"x")
    a.peers.send_raft("b", 1, b"x")
    assert a.peers.numbers("b").dropped == 1


async def test_pings_tell_flags_and_how_long_ago_answers_left_that_were_heard(net):
    a, b = await net.pair()
    a.ears.said = Flag.LEADS_META | Flag.DRAINING
    await b.ears.until(lambda: ("a", a.ears.said) in {ping[:2] for ping in b.ears.pings})
    await b.ears.until(lambda: len(b.ears.pings) >= 3)
    silent_ms = [ping[2] for ping in b.ears.pings]
    assert silent_ms[0] == NEVER_MS
    assert all(0 < one < 2_000 for one in silent_ms[1:])  # since the answer before


async def test_the_clock_of_a_node_an_hour_ahead_is_known(net):
    a, b = await net.pair()
    b.clock.ahead_ms = 3_600_000
    async with asyncio.timeout(60):
        # The quickest of the last pings counts, and some were answered before.
        while abs((a.peers.clock_offset_ms("b") or 0) - 3_600_000) > 500:
            b.ears.pings.clear()
            await b.ears.until(lambda: b.ears.pings)
    assert a.peers.silent_ms("b") < 2_000


async def test_a_node_with_numbers_tells_them(net):
    a, b = await net.pair()
    before = a.peers.numbers("b")
    a.peers.send_route("b", bytes(10_000))
    await b.ears.until(lambda: b.ears.routes)
    after = a.peers.numbers("b")
    assert (after.up, after.connects, after.dropped, after.waiting_bytes) == (True, 1, 0, 0)
    assert 10_000 < after.sent_bytes - before.sent_bytes < 11_000


async def test_a_mistake_of_the_node_breaks_the_streams_and_they_come_back(net, caplog):
    a, _ = await net.pair()

    def fail(reply):
        raise ValueError("a mistake")

    a.peers.request("b", 1, b"x", fail)
    await a.ears.until(lambda: a.ears.told.count("b up") == 2)
    assert a.ears.told == ["b up", "b down", "b up"]
    assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == ["link failed"]
    assert await _ask(a, b"well again") == Answered(b"re: well again")

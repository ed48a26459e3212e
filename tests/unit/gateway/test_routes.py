"""Routes of two and three nodes without a wire: frames are handed from one to the other."""

import asyncio
import random
from collections import deque

import pytest

from mq9cluster.gateway.exchange import Exchange
from mq9cluster.gateway.interest import Subscription
from mq9cluster.gateway.outgoing import Outgoing
from mq9cluster.gateway.route_frames import (
    Aim,
    decode_interest,
    decode_message,
    encode_interest,
    encode_message,
)
from mq9cluster.gateway.routes import Routes
from mq9cluster.gateway.telling import SLICE

ACCOUNT = "$G"


class Client:
    """Keeps what it is delivered; `takes` says whether it still can."""

    def __init__(self, takes=True):
        self.takes = takes
        self.heard = []

    def deliver(self, subscription, message):
        del subscription
        if self.takes:
            self.heard.append(message.payload)
        return self.takes


class Net:
    """Nodes, and the frames between them in order; `carry` hands over the next ones."""

    def __init__(self, *names):
        self.frames = deque()
        self.full = set()  # names of nodes whose peers' outboxes to them are full
        self.nodes = {}
        for name in names:
            routes = Routes(self._sender(name), random.Random(1))
            exchange = Exchange(lambda _: None, random.Random(2), routes)
            self.nodes[name] = exchange, routes

    def _sender(self, name):
        def send(peer, frame):
            if peer in self.full:
                return False
            self.frames.append((name, peer, frame))
            return True

        return send

    def connect(self, a, b):
        self.nodes[a][1].on_up(b)
        self.nodes[b][1].on_up(a)
        self.carry()

    def carry(self, count=None):
        while self.frames and count != 0:
            sender, receiver, frame = self.frames.popleft()
            self.nodes[receiver][1].on_frame(sender, frame)
            count = count and count - 1

    def subscribe(self, node, subject, queue=None, client=None):
        client = client or Client()
        subscription = Subscription(client, subject, queue, b"1")
        self.nodes[node][0].interest(ACCOUNT).add(subscription)
        return client

    def publish(self, node, subject, payload=b"x", silent_for=None):
        count = self.nodes[node][0].publish(
            ACCOUNT, subject, None, None, payload, silent_for=silent_for
        )
        self.carry()
        return count


@pytest.fixture
def net():
    made = Net("a", "b")
    made.connect("a", "b")
    return made


@pytest.mark.parametrize("queue", [None, b"", b"workers"])
def test_interest_is_read_as_it_was_written(queue):
    frame = encode_interest(b"$G", b"a.>", queue, 70_000)
    assert decode_interest(frame) == (b"$G", b"a.>", queue, 70_000)


@pytest.mark.parametrize("reply", [None, b"_INBOX.1"])
@pytest.mark.parametrize("header", [None, b"NATS/1.0\r\n\r\n"])
@pytest.mark.parametrize("aim", [Aim(True, []), Aim(False, [b"g", b"h"])])
@pytest.mark.parametrize("exactly", [False, True])
def test_a_message_is_read_as_it_was_written(reply, header, aim, exactly):
    frame = encode_message(b"$G", aim, Outgoing(b"s", reply, header, b"\x00"), exactly=exactly)
    account, aimed, message, read_exactly = decode_message(frame)
    assert (account, aimed, read_exactly) == (b"$G", aim, exactly)
    assert message.subject == b"s"
    assert (message.reply, message.header, message.payload) == (reply, header, b"\x00")


async def test_a_peer_that_tells_everything_again_is_never_without_its_interest(net):
    client = net.subscribe("b", b"s")
    net.carry()
    net.nodes["b"][1].on_frame("a", b"A")  # asked for everything: BEGIN, interest, END
    for count in range(3):
        assert net.nodes["a"][1].match(ACCOUNT, b"s").plain, f"forgotten after {count} frames"
        net.carry(1)
    assert net.publish("a", b"s") == 1
    assert client.heard == [b"x"]


async def test_interest_that_ended_unheard_is_over_when_everything_was_told_again(net):
    keeps, gone = net.subscribe("b", b"keeps"), Client()
    subscription = Subscription(gone, b"gone", None, b"2")
    table = net.nodes["b"][0].interest(ACCOUNT)
    table.add(subscription)
    net.carry()
    net.full.add("a")
    table.remove(subscription)  # its peer's outbox is full: not told
    net.full.clear()
    assert net.publish("a", b"gone") == 1
    net.nodes["b"][1].on_frame("a", b"A")
    net.carry()
    assert net.publish("a", b"gone") == 0
    assert net.publish("a", b"keeps") == 1
    assert keeps.heard == [b"x"]


async def test_what_was_not_told_for_a_full_outbox_is_told_later(net, monkeypatch):
    monkeypatch.setattr("mq9cluster.gateway.telling.RESYNC_S", 0.0)
    net.full.add("a")
    client = net.subscribe("b", b"s")
    net.full.clear()
    assert net.publish("a", b"s") == 0
    await asyncio.sleep(0.01)
    net.carry()
    assert net.publish("a", b"s") == 1
    assert client.heard == [b"x"]


async def test_a_group_member_that_cannot_take_it_leaves_it_to_the_other_node(net):
    ended = net.subscribe("a", b"s", b"g", Client(takes=False))
    there = net.subscribe("b", b"s", b"g")
    net.carry()
    assert [net.publish("a", b"s", b"%d" % number) for number in range(20)] == [1] * 20
    assert there.heard == [b"%d" % number for number in range(20)]
    assert ended.heard == []


async def test_a_group_with_no_member_elsewhere_is_not_sent_elsewhere(net):
    here = net.subscribe("a", b"s", b"g")
    plain = net.subscribe("b", b"s")
    net.carry()
    assert net.publish("a", b"s") == 2
    assert (here.heard, plain.heard) == ([b"x"], [b"x"])


async def test_a_peer_that_is_down_wants_nothing(net):
    net.subscribe("b", b"s")
    net.carry()
    net.nodes["a"][1].on_down("b")
    assert net.publish("a", b"s") == 0
    assert not net.nodes["a"][1].wanted


async def test_plain_interest_is_told_once_whatever_the_count(net):
    for _ in range(3):
        net.subscribe("b", b"s")
    assert len(net.frames) == 1


async def test_a_peer_whose_outbox_is_full_is_not_nobody(net):
    client = net.subscribe("b", b"s")
    net.carry()
    net.full.add("b")
    assert net.publish("a", b"s") == 1
    assert net.nodes["a"][1].dropped == 1
    net.full.clear()
    assert net.publish("a", b"s", b"later") == 1
    assert client.heard == [b"later"]


# --- very many subscriptions ---------------------------------------------------------------------

MANY = 100_000


async def turns(net, done, most):
    """Let the loop turn until `done()`; no turn may add more than `most` frames."""
    before = len(net.frames)
    for _ in range(MANY):
        if done():
            return
        await asyncio.sleep(0)
        assert len(net.frames) - before <= most
        before = len(net.frames)
    pytest.fail("it does not come to an end")


def subscribe_many(net, count=MANY):
    table = net.nodes["b"][0].interest(ACCOUNT)
    subscriptions = [
        Subscription(Client(), b"s.%d" % number, None, b"1") for number in range(count - 20)
    ]
    subscriptions += [
        Subscription(Client(), b"p.%d.>" % number, b"g", b"1") for number in range(20)
    ]
    for subscription in subscriptions:
        table.add(subscription)
    net.frames.clear()
    return table, subscriptions


def heard_of(net, count):
    routes = net.nodes["a"][1]
    return len(routes._subscriptions.get("b", ())) == count


async def test_a_hundred_thousand_subscriptions_are_told_a_slice_a_turn(net):
    subscribe_many(net)
    net.nodes["b"][1].on_frame("a", b"A")
    assert len(net.frames) == SLICE
    await turns(net, lambda: len(net.frames) == MANY + 2, SLICE)
    net.carry()
    assert heard_of(net, MANY)
    assert net.publish("a", b"s.99") == 1
    assert net.publish("a", b"p.7.x") == 1


async def test_what_changes_while_everything_is_told_comes_out_right(net):
    table, subscriptions = subscribe_many(net, 4 * SLICE)
    net.nodes["b"][1].on_frame("a", b"A")
    gone = [subscriptions[1], subscriptions[-30], subscriptions[-1]]  # told, not yet, a pattern
    for one in gone:
        table.remove(one)
    again, new = subscriptions[2], Subscription(Client(), b"s.new", None, b"1")
    table.remove(again)
    table.add(again)
    table.add(new)
    await turns(net, lambda: net.frames[-1][2] == b"E", SLICE)
    net.carry()
    assert heard_of(net, 4 * SLICE - 2)
    assert [net.publish("a", one.subject.replace(b">", b"x")) for one in gone] == [0] * 3
    assert [net.publish("a", one.subject) for one in (again, new)] == [1] * 2


async def test_a_full_outbox_interrupts_the_telling_and_nothing_of_it_is_lost(net, monkeypatch):
    monkeypatch.setattr("mq9cluster.gateway.telling.FULL_S", 0.0)
    monkeypatch.setattr("mq9cluster.gateway.telling.RESYNC_S", 0.0)
    table, subscriptions = subscribe_many(net, 4 * SLICE)
    net.nodes["b"][1].on_frame("a", b"A")
    net.full.add("a")
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(net.frames) == SLICE
    table.remove(subscriptions[0])  # was told, and its end cannot be
    net.full.clear()
    await turns(net, lambda: sum(frame == b"E" for *_, frame in net.frames) == 2, SLICE)
    net.carry()
    assert heard_of(net, 4 * SLICE - 1)
    assert net.publish("a", subscriptions[0].subject) == 0


async def test_a_peer_that_goes_down_wants_nothing_at_once_and_is_forgotten_bit_by_bit(
    net, monkeypatch
):
    subscribe_many(net)
    net.nodes["b"][1].on_frame("a", b"A")
    await turns(net, lambda: len(net.frames) == MANY + 2, SLICE)
    net.carry()
    dropped = []
    drop = Routes._drop
    monkeypatch.setattr(Routes, "_drop", lambda *told: (dropped.append(1), drop(*told)))
    routes = net.nodes["a"][1]
    routes.on_down("b")
    assert [net.publish("a", subject) for subject in (b"s.0", b"s.99000", b"p.7.x")] == [0] * 3
    before = 0
    while routes.wanted:
        assert len(dropped) - before <= SLICE
        before = len(dropped)
        await asyncio.sleep(0)
    assert len(dropped) == MANY


async def test_a_peer_that_is_back_while_it_is_forgotten_keeps_what_it_tells_anew(net):
    subscribe_many(net, 4 * SLICE)
    net.nodes["b"][1].on_frame("a", b"A")
    await turns(net, lambda: net.frames[-1][2] == b"E", SLICE)
    net.carry()
    net.nodes["a"][1].on_down("b")
    net.nodes["b"][1].on_frame("a", b"A")
    net.carry()
    await turns(net, lambda: bool(net.frames) and net.frames[-1][2] == b"E", SLICE)
    net.carry()
    await asyncio.sleep(0.01)
    assert heard_of(net, 4 * SLICE)
    assert [net.publish("a", b"s.%d" % number) for number in (0, 3 * SLICE)] == [1, 1]

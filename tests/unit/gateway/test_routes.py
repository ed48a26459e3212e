"""Routes of two and three nodes without a wire: frames are handed from one to the other."""

import asyncio
import random
from collections import deque

import pytest

from mq9cluster.gateway.exchange import Exchange
from mq9cluster.gateway.interest import Subscription
from mq9cluster.gateway.outgoing import Outgoing
from mq9cluster.gateway.routes import (
    Aim,
    Routes,
    decode_interest,
    decode_message,
    encode_interest,
    encode_message,
)

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
    monkeypatch.setattr("mq9cluster.gateway.routes.RESYNC_S", 0.0)
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

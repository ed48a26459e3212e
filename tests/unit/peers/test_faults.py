"""Peers that stop, hang, vanish, come back, flood or talk nonsense."""

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections import Counter

import grpc
import grpc.aio
import pytest

from mq9cluster.cluster import peer_hello, peer_link, peer_requests, peer_service
from mq9cluster.cluster.peers import Answered, Lost, NotSent
from mq9cluster.cluster.proto import peers_pb2 as pb
from tests.support.cluster import until

NOTICED_S = (0.7, 15.0)  # about a second; TCP by itself would notice nothing for a quarter hour
STOOD_STILL_S = 3.0  # three times what a peer may be silent
UNHEARD_S = peer_service.LOOK_S * peer_service.UNHEARD_LOOKS_MAX
LATE_S = 0.1  # the look before the first may be the stream's beginning
STOPPED_S_MAX = 15.0  # a moment; what hangs would hang for ever
SERVICE = "/mq9.peers.v1.Peers"


def _ask(node, data):
    reply = asyncio.get_running_loop().create_future()
    node.peers.request("b", 7, data, reply.set_result)
    return reply


class Stranger:
    """Speaks gRPC to a node by hand."""

    def __init__(self, node):
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{node.port}")

    async def __aenter__(self):
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self._channel.__aexit__(*error)

    def open(self, method):
        return self._channel.stream_stream(f"{SERVICE}/{method}")()

    async def greeted(self, method, frame, **words):
        """A stream on which Hello was said; the answer is read."""
        call = self.open(method)
        await call.write(frame(hello=_hello(**words)).SerializeToString())
        answer = await call.read()
        assert frame.FromString(answer).hello.name == "b"
        return call


def _hello(**words):
    return pb.Hello(**({"version": 1, "name": "a", "node_id": "aaaa", "to": "b"} | words))


async def _ended(call):
    """The status of a call that the node ends."""
    async with asyncio.timeout(60):
        return await call.code(), await call.details()


# --- stopping -------------------------------------------------------------------------------------


async def test_stopping_is_quick_silent_and_told_to_everybody(net, caplog, capfd):
    a, b = await net.pair()
    b.ears.answer = None
    reply = _ask(a, b"never answered")
    await b.ears.until(lambda: b.ears.responds)
    began_s = time.monotonic()
    await b.peers.stop()
    await a.ears.until(lambda: "b down" in a.ears.told)
    took_s = time.monotonic() - began_s
    assert await reply == Lost()
    assert b.ears.cancelled == [b"never answered"]
    await a.peers.stop()
    await a.peers.stop()
    assert took_s < STOPPED_S_MAX
    # Only ours: gRPC's poller may still tell of an earlier test's loop.
    ours = [r for r in caplog.records if r.name.startswith("mq9cluster")]
    assert [r.getMessage() for r in ours if r.levelno >= logging.INFO] == []
    assert capfd.readouterr() == ("", "")


async def test_stopping_finishes_requests_under_way_here(net):
    a, b = await net.pair()
    b.ears.answer = None
    reply = _ask(a, b"x")
    await b.ears.until(lambda: b.ears.responds)
    await a.peers.stop()
    assert await reply == Lost()
    assert not a.peers.is_up("b")
    assert await _ask(a, b"y") == NotSent()


async def test_stopping_is_quick_while_a_peer_hangs(net):
    a, b, wire = await net.pair_over_wire()
    wire.freeze()
    for _ in range(8):
        a.peers.send_raft("b", 1, bytes(4 << 20), bulk=True)
    async with Stranger(b) as stranger:
        call = stranger.open("Raft")
        await call.wait_for_connection()
        for node in (a, b):
            began_s = time.monotonic()
            await node.peers.stop()
            assert time.monotonic() - began_s < STOPPED_S_MAX
        call.cancel()


@pytest.mark.parametrize("turns", range(0, 60, 4))
async def test_stopping_is_quick_at_any_moment_of_dialling(net, turns):
    a, b = await net.start("a"), await net.start("b")
    for _ in range(turns):
        await asyncio.sleep(0.0005)  # the moments differ, the outcome must not
    for node in (a, b):
        began_s = time.monotonic()
        await node.peers.stop()
        assert time.monotonic() - began_s < STOPPED_S_MAX


# --- going and coming back ------------------------------------------------------------------------


async def test_a_peer_that_starts_anew_on_the_same_port_is_reached_again(net):
    a, b = await net.pair()
    await b.peers.stop()
    await a.ears.until(lambda: "b down" in a.ears.told)
    a.peers.send_raft("b", 1, b"lost")
    assert await _ask(a, b"x") == NotSent()
    b = await net.start("b")
    await a.ears.until(lambda: a.ears.told[-1] == "b up")
    a.peers.send_raft("b", 1, b"new")
    await b.ears.until(lambda: b.ears.raft)
    assert b.ears.raft == [[(1, b"new")]]
    assert await _ask(a, b"x") == Answered(b"re: x")
    assert a.ears.told == ["b up", "b down", "b up"]


async def test_a_peer_that_hangs_is_noticed_in_about_a_second_on_both_sides(net):
    a, b, wire = await net.pair_over_wire()
    b.ears.answer = None
    sent = _ask(a, b"under way")
    await b.ears.until(lambda: b.ears.responds)
    wire.freeze()
    began_s = time.monotonic()
    await a.ears.until(lambda: "b down" in a.ears.told)
    assert NOTICED_S[0] < time.monotonic() - began_s < NOTICED_S[1]
    assert await sent == Lost()
    await b.ears.until(lambda: b.ears.cancelled)
    assert b.ears.cancelled == [b"under way"]
    wire.thaw()
    await a.ears.until(lambda: a.ears.told[-1] == "b up")


async def test_who_stood_still_does_not_take_it_for_silence_of_others(net):
    a, b = await net.pair()
    before = [node.peers.numbers(peer).connects for node, peer in ((a, "b"), (b, "a"))]
    for _ in range(2):
        time.sleep(STOOD_STILL_S)  # noqa: ASYNC251  both stand still: they share the loop
        told = len(a.ears.pings), len(b.ears.pings)
        await a.ears.until(lambda told=told: len(a.ears.pings) > told[0] + 2)
        await b.ears.until(lambda told=told: len(b.ears.pings) > told[1] + 2)
    assert [node.peers.numbers(peer).connects for node, peer in ((a, "b"), (b, "a"))] == before
    assert (a.ears.told, b.ears.told) == (["b up"], ["a up"])


async def test_who_sends_no_pings_is_sent_away(net):
    b = await net.start("b")
    async with Stranger(b) as stranger:
        raft = await stranger.greeted("Raft", pb.RaftFrame)
        requests = await stranger.greeted("Requests", pb.RequestFrame)
        began_s = time.monotonic()
        await asyncio.gather(_ended(raft), _ended(requests))
        took_s = time.monotonic() - began_s
    assert took_s >= UNHEARD_S - LATE_S


async def test_a_stopped_process_is_noticed_and_reached_again_when_it_goes_on(net):
    addresses = ",".join(f"{name}={at}" for name, at in net.addresses().items())
    command = [sys.executable, "-m", "tests.unit.peers.lone_peer", "b", addresses]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:  # noqa: ASYNC220  starts at once
        try:
            a = await net.start("a")
            await a.ears.until(lambda: "b up" in a.ears.told)
            other.send_signal(signal.SIGSTOP)
            began_s = time.monotonic()
            await a.ears.until(lambda: "b down" in a.ears.told)
            assert time.monotonic() - began_s < NOTICED_S[1]
            other.send_signal(signal.SIGCONT)
            await a.ears.until(lambda: a.ears.told[-1] == "b up")
            assert await _ask(a, b"x") == Answered(b"x")
        finally:
            other.kill()


async def test_a_newer_stream_of_a_peer_ends_its_older_one(net):
    b = await net.start("b")
    b.ears.answer = None
    async with Stranger(b) as stranger:
        old = await stranger.greeted("Requests", pb.RequestFrame)
        asked = pb.RequestFrame(items=[pb.Item(id=1, data=b"old")])
        await old.write(asked.SerializeToString())
        await b.ears.until(lambda: b.ears.responds)
        new = await stranger.greeted("Requests", pb.RequestFrame)
        assert await old.read() is grpc.aio.EOF
        assert b.ears.cancelled == [b"old"]
        asked = pb.RequestFrame(items=[pb.Item(id=1, data=b"new")])
        await new.write(asked.SerializeToString())
        await b.ears.until(lambda: len(b.ears.responds) == 2)
        b.ears.responds[1](b"yes")
        assert pb.RequestFrame.FromString(await new.read()).items[0].data == b"yes"


# --- too much -------------------------------------------------------------------------------------


async def test_what_waits_for_a_slow_peer_is_bounded_and_the_rest_told_or_dropped(net, monkeypatch):
    for module, name in (
        (peer_link, "RAFT_OUTBOX_BYTES_MAX"),
        (peer_link, "ROUTE_OUTBOX_BYTES_MAX"),
        (peer_requests, "OUTBOX_BYTES_MAX"),
    ):
        monkeypatch.setattr(module, name, 1 << 20)
    a, _, wire = await net.pair_over_wire()
    wire.freeze()
    piece = bytes(64 << 10)
    told = []
    for _ in range(200):
        a.peers.send_raft("b", 1, piece)
        a.peers.send_raft("b", 1, piece, bulk=True)
        a.peers.send_route("b", piece)
        a.peers.request("b", 1, piece, told.append)
    assert not a.peers.send_route("b", piece)
    numbers = a.peers.numbers("b")
    assert numbers.waiting_bytes <= 3 << 20
    assert numbers.dropped > 300
    await a.ears.until(lambda: "b down" in a.ears.told)
    await asyncio.sleep(0)
    kinds = Counter(type(reply) for reply in told)
    assert kinds == {Lost: 15, NotSent: 185}  # 15 fill the outbox, and left as one frame
    assert a.peers.numbers("b").waiting_bytes == 0


async def test_answers_that_nobody_reads_end_the_stream(net, monkeypatch):
    monkeypatch.setattr(peer_requests, "OUTBOX_BYTES_MAX", 1 << 20)
    b = await net.start("b")
    b.ears.answer = lambda data: bytes(256 << 10)
    async with Stranger(b) as stranger:
        call = await stranger.greeted("Requests", pb.RequestFrame)
        items = [pb.Item(id=number) for number in range(200)]
        await call.write(pb.RequestFrame(items=items).SerializeToString())
        await b.ears.until(lambda: len(b.ears.requests) == 200)
        read = 0
        while read < 200:
            try:
                data = await call.read()
            except grpc.aio.AioRpcError:
                break
            assert data is not grpc.aio.EOF
            read += len(pb.RequestFrame.FromString(data).items)
        assert read < 200
        assert await _ended(call) == (grpc.StatusCode.ABORTED, "it does not read its answers")


# --- nonsense -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"version": 2}, "it speaks version 2 of the peer protocol, we speak 1"),
        ({"cluster_id": "theirs"}, "it belongs to another cluster"),
        ({"name": "x"}, "'x' is not a peer"),
        ({"name": "b"}, "'b' is not a peer"),
        ({"to": "c"}, "it looks for 'c', this is b"),
        ({"to": ""}, "it looks for '', this is b"),
        ({"node_id": "cccc"}, "a has another node's data"),
        ({"node_id": "bbbb"}, "a has another node's data"),
    ],
)
@pytest.mark.parametrize(
    ("method", "frame"),
    [("Raft", pb.RaftFrame), ("Requests", pb.RequestFrame), ("Routes", pb.RouteFrame)],
)
async def test_whoever_is_no_peer_is_told_so_and_not_heard(net, caplog, words, why, method, frame):
    b = await net.start("b")
    b.peers.cluster_id = "ours"
    b.peers.know({"a": "aaaa"})
    async with Stranger(b) as stranger:
        for _ in range(3):
            call = stranger.open(method)
            await call.write(frame(hello=_hello(**words)).SerializeToString())
            assert await _ended(call) == (grpc.StatusCode.PERMISSION_DENIED, why)
    assert b.ears.pings == b.ears.requests == b.ears.routes == []
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [(r.message, r.why) for r in warnings] == [("peer refused", why)]


async def test_a_peer_that_is_not_reached_for_long_is_named(net, caplog, monkeypatch):
    monkeypatch.setattr(peer_link, "COMPLAIN_S", 0.0)
    await net.start("a")  # and b never

    def warnings():
        return [r for r in caplog.records if r.levelno >= logging.WARNING]

    await until(warnings, "a warning")
    assert (warnings()[0].message, warnings()[0].peer) == ("peer not reached", "b")
    assert warnings()[0].why


async def test_a_snapshot_of_a_stranger_is_refused(net):
    b = await net.start("b")
    async with Stranger(b) as stranger:
        call = stranger.open("Snapshot")
        first = pb.SnapshotFrame(hello=_hello(name="x"), header=b"h", chunk=b"evil")
        await call.write(first.SerializeToString())
        assert (await _ended(call))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert b.ears.chunks == []


async def test_both_sides_of_a_refusal_say_so_once_in_their_logs(net):
    a, b = await net.start("a"), net.node("b")
    a.peers.cluster_id, b.peers.cluster_id = "one", "another"
    said = []

    def note(record):
        said.append((record.peer, record.dialled, record.why))
        a.ears.changed.set()
        return False

    log = logging.getLogger(peer_hello.__name__)
    log.addFilter(note)
    try:
        await b.start()
        await a.ears.until(lambda: len(said) == 4)
    finally:
        log.removeFilter(note)
    assert sorted(said) == [
        ("a", False, "it belongs to another cluster"),
        ("a", True, "it refuses us: it belongs to another cluster"),
        ("b", False, "it belongs to another cluster"),
        ("b", True, "it refuses us: it belongs to another cluster"),
    ]
    assert a.ears.told == b.ears.told == []


async def test_whoever_says_nothing_is_sent_away(net):
    b = await net.start("b")
    async with Stranger(b) as stranger:
        call = stranger.open("Raft")
        await call.wait_for_connection()
        assert await _ended(call) == (grpc.StatusCode.ABORTED, "no hello")


@pytest.mark.parametrize(
    ("method", "frame"),
    [("Raft", pb.RaftFrame), ("Requests", pb.RequestFrame), ("Routes", pb.RouteFrame)],
)
async def test_garbage_ends_the_stream_and_nothing_else(net, caplog, method, frame):
    a, b = await net.pair()
    async with Stranger(b) as stranger:
        call = stranger.open(method)
        await call.write(b"\xff\xff\xff")
        status = (grpc.StatusCode.ABORTED, f"a frame with garbage, no {frame.__name__}")
        assert await _ended(call) == status
        call = await stranger.greeted(method, frame)
        await call.write(b"\xff\xff\xff")
        assert await _ended(call) == status
    await a.ears.until(lambda: a.ears.told[-1] == "b up" and a.peers.is_up("b"))
    # Ours only: gRPC's one poller also wakes loops of earlier tests, and asyncio logs that they
    # are closed.
    ours = [r for r in caplog.records if r.name.startswith("mq9cluster")]
    assert [r for r in ours if r.levelno >= logging.ERROR] == []


async def test_one_number_for_two_requests_ends_the_stream(net):
    b = await net.start("b")
    b.ears.answer = None
    async with Stranger(b) as stranger:
        call = await stranger.greeted("Requests", pb.RequestFrame)
        items = [pb.Item(id=1, data=b"one"), pb.Item(id=1, data=b"two")]
        await call.write(pb.RequestFrame(items=items).SerializeToString())
        assert (await _ended(call))[0] is grpc.StatusCode.ABORTED
    assert b.ears.requests == [("a", 0, b"one")]
    assert b.ears.cancelled == [b"one"]

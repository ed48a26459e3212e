"""Snapshots on their way to a peer."""

import asyncio
import gc

import pytest

from mq9cluster.cluster import peers
from mq9cluster.cluster.peers import SNAPSHOT_CHUNK_BYTES_MAX, PeerUnavailable

GONE_S_MAX = 60.0  # about a second where nothing else runs; else it would be never
CHUNKS_AHEAD_MAX = 24  # what gRPC keeps in its windows and buffers, of 1 MiB chunks


async def test_a_snapshot_arrives_whole_and_in_order_and_its_result_comes_back(net):
    a, b = await net.pair()
    chunks = [b"%d" % number * 50_000 for number in range(40)]

    async def made():
        for chunk in chunks:
            yield chunk

    assert await a.peers.send_snapshot("b", b"shard 3", made()) == b"shard 3 installed"
    assert b.ears.chunks == chunks
    assert b.ears.broken_snapshots == 0


async def test_a_slow_receiver_holds_the_sender_back(net):
    a, b = await net.pair()
    b.ears.gate = asyncio.Semaphore(0)
    made = 0
    stalled = asyncio.Event()

    async def chunks():
        nonlocal made
        for _ in range(100):
            made += 1
            stalled.clear()
            yield bytes(SNAPSHOT_CHUNK_BYTES_MAX)

    sending = asyncio.ensure_future(a.peers.send_snapshot("b", b"", chunks()))
    ahead = 0
    for taken in range(100):
        # Two pings later, whatever could be sent meanwhile was sent.
        if taken < 3:
            b.ears.pings.clear()
            await b.ears.until(lambda: len(b.ears.pings) >= 2)
        ahead = max(ahead, made - taken)
        b.ears.gate.release()
        await b.ears.until(lambda count=taken + 1: len(b.ears.chunks) == count)
        b.ears.chunks[-1] = b""
    assert await sending == b" installed"
    assert 1 <= ahead <= CHUNKS_AHEAD_MAX
    assert a.ears.told == ["b up"]  # Raft and pings go on beside it


async def test_a_snapshot_that_breaks_off_is_told_to_both_sides(net):
    a, b = await net.pair()

    async def chunks():
        yield b"one"
        await b.ears.until(lambda: b.ears.chunks)
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        await a.peers.send_snapshot("b", b"", chunks())
    await b.ears.until(lambda: b.ears.broken_snapshots)
    assert b.ears.chunks == [b"one"]
    assert a.ears.told == ["b up"]


async def test_a_snapshot_to_a_peer_that_hangs_ends_with_its_streams(net):
    a, b, wire = await net.pair_over_wire()
    b.ears.gate = asyncio.Semaphore(1)

    async def chunks():
        while True:
            yield bytes(SNAPSHOT_CHUNK_BYTES_MAX)

    sending = asyncio.ensure_future(a.peers.send_snapshot("b", b"", chunks()))
    await b.ears.until(lambda: b.ears.chunks)
    wire.freeze()
    with pytest.raises(PeerUnavailable):
        await asyncio.wait_for(sending, GONE_S_MAX)
    await b.ears.until(lambda: b.ears.broken_snapshots)


async def test_a_receiver_that_stops_breaks_the_snapshot_off(net):
    a, b = await net.pair()
    b.ears.gate = asyncio.Semaphore(1)

    async def chunks():
        while True:
            yield bytes(SNAPSHOT_CHUNK_BYTES_MAX)

    sending = asyncio.ensure_future(a.peers.send_snapshot("b", b"", chunks()))
    await b.ears.until(lambda: b.ears.chunks)
    await asyncio.wait_for(b.peers.stop(), GONE_S_MAX)
    with pytest.raises(PeerUnavailable):
        await sending
    assert b.ears.broken_snapshots == 1


async def test_a_snapshot_that_is_given_up_leaves_no_complaint_behind(net, monkeypatch, caplog):
    """Chaos, failpoints, seed 41: the peer was gone, and so was who waited to hear why."""
    a, _ = await net.pair()
    broke, told = asyncio.Event(), asyncio.Event()

    class Broken:
        def __init__(self, call):
            self.call = call

        async def send(self, _):
            broke.set()
            raise PeerUnavailable("broken")

        async def receive(self):
            await told.wait()
            raise PeerUnavailable("refused")

    async def chunks():
        yield b""

    monkeypatch.setattr(peers, "_GrpcStream", Broken)
    sending = asyncio.create_task(a.peers._send_snapshot("b", b"", chunks()))
    await broke.wait()
    await asyncio.sleep(0)  # it waits now for what the peer answered
    sending.cancel()
    told.set()
    await asyncio.wait([sending])
    await asyncio.sleep(0)
    del sending
    gc.collect()
    assert [r for r in caplog.records if "never retrieved" in r.getMessage()] == []


async def test_nothing_is_sent_to_a_peer_that_is_down_or_unknown(net):
    a = await net.start("a")

    async def chunks():
        yield b"never"

    for peer in ("b", "nobody"):
        with pytest.raises(PeerUnavailable, match=f"no streams to {peer}"):
            await a.peers.send_snapshot(peer, b"", chunks())


async def test_a_receiver_that_answers_before_it_heard_all_is_heard(net):
    a, b = await net.pair()
    made = 0

    async def refuse(*_):
        return b"not wanted"

    async def chunks():
        nonlocal made
        for _ in range(400):
            made += 1
            yield bytes(100_000)

    b.ears.on_snapshot = refuse
    async with asyncio.timeout(60):
        assert await a.peers.send_snapshot("b", b"", chunks()) == b"not wanted"
    assert made < 400

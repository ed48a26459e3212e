"""Limits, from both sides, and clients that misbehave: they are bounded, and others do not feel
them.
"""

import asyncio
import socket
from itertools import pairwise

import pytest

from mq9cluster.gateway.allowance import Allowance
from mq9cluster.gateway.interest import Subscription
from mq9cluster.gateway.outgoing import Outgoing
from mq9cluster.gateway.session import Session
from mq9cluster.gateway.settings import DROPPED_PER_TURN_MAX
from mq9cluster.protocol.nats import EVENTS_PER_FEED_MAX
from tests.support.wire import CONNECT, Wire, eventually

# What a greedy client may get done while another has one request answered: a few turns' shares.
ROUND_TRIP_EVENTS_MAX = 8 * EVENTS_PER_FEED_MAX
DROPS_PER_SLICE_MAX = 16 * DROPPED_PER_TURN_MAX  # on a machine many times as fast
PUBLISH_64K = b"PUB flood 65536\r\n" + b"x" * 65536 + b"\r\n"


async def slow_reader(gateway, subject: bytes) -> socket.socket:
    """A subscriber that never reads: its socket buffers are small, and nobody empties them."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", gateway.listener.port))
    await loop.sock_sendall(sock, CONNECT + b"SUB %b 1\r\n" % subject)
    await eventually(lambda: gateway.exchange.interest("$G").count)
    return sock


async def gone(gateway, count: int) -> None:
    await eventually(lambda: len(gateway.listener.sessions) <= count)


async def test_a_reader_too_far_behind_is_cut_off_and_others_are_not(start_gateway):
    gateway = await start_gateway(pending_bytes_max=4_000_000)
    publisher = await gateway.open()
    reader = await gateway.open()
    await reader.answers(b"SUB flood 1\r\n")
    sock = await slow_reader(gateway, b"other")
    sock.close()
    await gone(gateway, 2)
    sock = await slow_reader(gateway, b"flood")
    await asyncio.sleep(0.05)
    for _ in range(200):
        publisher.send(PUBLISH_64K)
        await reader.until(b"x\r\n")
    await gone(gateway, 2)
    sock.close()
    totals = gateway.listener.totals
    assert (totals.over_pending, totals.over_deadline, totals.slow_consumers) == (1, 0, 1)
    assert gateway.handler.closed == [3, 4]
    assert await publisher.answers() == b""


async def test_a_reader_that_takes_nothing_within_the_deadline_is_cut_off(start_gateway):
    gateway = await start_gateway(write_deadline_s=0.2)
    publisher = await gateway.open()
    sock = await slow_reader(gateway, b"flood")
    for _ in range(100):
        await publisher.answers(PUBLISH_64K)
    await gone(gateway, 1)
    sock.close()
    totals = gateway.listener.totals
    assert (totals.over_pending, totals.over_deadline, totals.slow_consumers) == (0, 1, 1)


class Pipe:
    """A transport whose reader takes as much as the test says."""

    def __init__(self):
        self.waiting = 0
        self.seconds = 1
        self.aborted = False
        self.paused = 0

    def get_extra_info(self, name):
        return ("127.0.0.1", 1)

    def write(self, data):
        self.waiting += len(data)

    def get_write_buffer_size(self):
        return self.waiting

    def is_closing(self):
        return self.aborted

    def pause_reading(self):
        self.paused += 1

    def resume_reading(self):
        self.paused -= 1

    def abort(self):
        self.aborted = True


@pytest.mark.parametrize(("taken_per_s", "cut_off"), [(120, False), (90, True), (0, True)])
async def test_what_waits_must_leave_within_the_deadline_however_much_follows(
    gateway, taken_per_s, cut_off
):
    """1,000 bytes wait, and 100 follow every second: a reader must take 100 a second."""
    session = Session(gateway.listener._shared)
    pipe = Pipe()
    session.connection_made(pipe)
    session.flush()
    pipe.waiting = 0
    subscription = Subscription(session, b"a", None, b"1")
    for size in [989, *[90] * 30]:
        session.deliver(subscription, Outgoing(b"a", None, None, b"x" * (size - 4)))
        session.flush()
        session.sweep(float(pipe.seconds))
        pipe.seconds += 1
        pipe.waiting = max(pipe.waiting - taken_per_s, 0)
    assert pipe.aborted is cut_off
    session.connection_lost(None)


async def test_a_publisher_pauses_while_its_reader_is_behind(start_gateway):
    gateway = await start_gateway(pending_bytes_max=1000)
    shared = gateway.listener._shared
    reader, publisher, other = Session(shared), Session(shared), Session(shared)
    pipes = [Pipe(), Pipe(), Pipe()]
    for session, pipe in zip((reader, publisher, other), pipes, strict=True):
        session.connection_made(pipe)
        session.data_received(CONNECT)
        session.flush()
        pipe.waiting = 0
    reader.data_received(b"SUB a 1\r\n")
    publish = b"PUB a 400\r\n" + b"x" * 400 + b"\r\n"
    paused = []
    for _ in range(3):
        publisher.data_received(publish)
        other.data_received(b"PUB b 0\r\n\r\n")
        paused.append((pipes[1].paused, pipes[2].paused))
        reader.flush()
        await asyncio.sleep(0.02)
        pipes[0].waiting = max(pipes[0].waiting - 300, 0)
    assert paused == [(0, 0), (0, 0), (1, 0)]
    assert pipes[1].paused == 0
    for session in (reader, publisher, other):
        session.connection_lost(None)


async def test_a_silent_client_is_stale_after_the_outstanding_pings(start_gateway):
    gateway = await start_gateway(ping_interval_s=0.1, pings_out_max=2)
    wire = await Wire.open(gateway.listener.port)
    wire.send(CONNECT)
    said = await wire.rest()
    wire.close()
    assert said == b"PING\r\nPING\r\n-ERR 'Stale Connection'\r\n"
    assert gateway.listener.totals.stale_connections == 1


async def test_a_client_that_answers_pings_stays(start_gateway):
    gateway = await start_gateway(ping_interval_s=0.05, pings_out_max=1)
    wire = await gateway.open()
    for _ in range(6):
        await wire.until(b"PING\r\n")
        wire.send(b"PONG\r\n")
    session = gateway.listener.sessions[1]
    assert session.pings_out <= 1
    assert 0 <= session.rtt_s < 60


async def test_an_oversized_line_ends_with_its_error_and_is_not_hoarded(gateway):
    wire = await gateway.open()
    wire.send(b"PUB " + b"x" * 1_000_000)
    assert await wire.rest() == b"-ERR 'maximum control line exceeded'\r\n"
    await gone(gateway, 0)


async def test_a_payload_over_the_limit_is_told_even_while_it_is_still_being_sent(gateway):
    wire = await gateway.open()
    wire.send(b"PUB a 3000000\r\n" + b"x" * 3_000_000 + b"\r\nPING\r\n")
    assert await wire.rest() == b"-ERR 'Maximum Payload Violation'\r\n"


async def test_a_payload_at_the_limit_passes(gateway):
    wire = await gateway.open()
    said = await wire.answers(b"SUB a 1\r\nPUB a 1048576\r\n" + b"x" * 1_048_576 + b"\r\n")
    assert said == b"MSG a 1 1048576\r\n" + b"x" * 1_048_576 + b"\r\n"


async def test_a_failed_client_that_stays_is_cut_after_a_moment(gateway):
    wire = await gateway.open()
    wire.send(b"BAD\r\n")
    await wire.rest()
    assert gateway.handler.closed == [1]
    assert gateway.listener.sessions == {}
    assert len(gateway.listener._shared.leaving) == 1
    await eventually(lambda: not gateway.listener._shared.leaving)


async def test_refused_connections_take_no_place(start_gateway):
    gateway = await start_gateway(connections_max=1)
    first = await gateway.open()
    for _ in range(5):
        gateway.wires.append(await Wire.open(gateway.listener.port))
    first.close()
    await gone(gateway, 0)
    assert await (await gateway.open()).answers() == b""


async def test_subscriptions_are_counted_per_connection(start_gateway):
    gateway = await start_gateway(subscriptions_max=2)
    wire = await gateway.open()
    said = await wire.answers(b"SUB a 1\r\nSUB b 2\r\nSUB b 2\r\nSUB c 3\r\nPUB c 0\r\n\r\n")
    assert said == b"-ERR 'maximum subscriptions exceeded'\r\n"
    said = await wire.answers(b"UNSUB 1\r\nSUB c 3\r\nPUB c 0\r\n\r\n")
    assert said == b"MSG c 3 0\r\n\r\n"


async def test_one_connection_too_many_is_refused_with_its_reason(start_gateway):
    gateway = await start_gateway(connections_max=2)
    first, _ = await gateway.open(), await gateway.open()
    third = await Wire.open(gateway.listener.port)
    assert third.info["client_id"] == 3
    assert await third.rest() == b"-ERR 'maximum connections exceeded'\r\n"
    third.close()
    first.close()
    await gone(gateway, 1)
    assert (await gateway.open()).info["client_id"] == 4
    assert gateway.listener.totals.refused_connections == 1


async def test_a_flood_of_subscriptions_delays_nobody(gateway):
    flooder, other = await gateway.open(), await gateway.open()
    await other.answers(b"SUB quick.* 1\r\n")
    flooder.send(b"".join(b"SUB flood.%d.*.x %d\r\n" % (n, n) for n in range(60_000)))
    interest = gateway.exchange.interest("$G")
    taken = [1]
    while interest.count < 60_001:
        await other.answers(b"PUB quick.1 1\r\nx\r\n")
        taken.append(interest.count)
    assert max(after - before for before, after in pairwise(taken)) <= ROUND_TRIP_EVENTS_MAX
    flooder.abort()
    await gone(gateway, 1)
    left = [interest.count]
    while interest.count > 1:
        await asyncio.sleep(0)
        left.append(interest.count)
    assert max(before - after for before, after in pairwise(left)) <= DROPS_PER_SLICE_MAX


async def test_who_has_left_is_nobody_even_while_it_is_being_forgotten(gateway):
    leaving, other = await gateway.open(), await gateway.open()
    await leaving.answers(b"".join(b"SUB s.%d %d\r\n" % (n, n) for n in range(5_000)))
    await other.answers(b"SUB i 1\r\n")
    session = gateway.listener.sessions[1]
    session.abort()
    assert gateway.exchange.interest("$G").count > 4_000
    assert gateway.exchange.publish("$G", b"s.4999", None, None, b"x") == 0
    assert b"503" in await other.answers(b"PUB s.4998 i 0\r\n\r\n")
    await eventually(lambda: gateway.exchange.interest("$G").count == 1)


async def test_megabytes_of_pipelined_work_delay_nobody(gateway):
    flooder, other = await gateway.open(), await gateway.open()
    flooder.send(b"PUB $mq9.AI.X 1\r\nx\r\n" * 100_000)
    done = [0]
    while len(gateway.handler.commands) < 100_000:
        await other.answers(b"PUB quick.1 1\r\nx\r\n")
        done.append(len(gateway.handler.commands))
    assert max(after - before for before, after in pairwise(done)) <= ROUND_TRIP_EVENTS_MAX


async def test_wide_fan_out_yields_to_others(gateway):
    publisher, other = await gateway.open(), await gateway.open()
    reader = await gateway.open()
    await reader.answers(b"".join(b"SUB wide %d\r\n" % n for n in range(2000)))
    publisher.send(b"PUB wide 1\r\nx\r\n" * 500)
    turns = 0
    while gateway.listener.sessions[3].out_messages < 1_000_000:
        await other.answers()
        turns += 1
    assert turns > 10


async def test_commands_over_the_rate_are_told_overloaded_and_not_carried_out(start_gateway):
    gateway = await start_gateway(requests_per_s_max=5)
    wire = await gateway.open()
    said = await wire.answers(b"SUB i 1\r\n" + b"PUB $mq9.AI.X i 2\r\nok\r\n" * 8)
    refusal = b'{"error":"overloaded: 5 requests a second on this connection","code":"overloaded"}'
    taken = len(gateway.handler.commands)
    assert 5 <= taken <= 8  # a machine that stops for a second between two of them allows more
    assert said.count(b"\r\nok\r\n") == taken
    assert said.count(refusal) == 8 - taken == gateway.listener.totals.over_rate
    assert (await gateway.open()).info  # others have an allowance of their own


async def test_core_messages_and_commands_within_the_rate_pass(start_gateway):
    gateway = await start_gateway(requests_per_s_max=5)
    wire = await gateway.open()
    said = await wire.answers(
        b"SUB i 1\r\n" + b"PUB $mq9.AI.X i 2\r\nok\r\n" * 5 + b"PUB i 1\r\nx\r\n" * 50
    )
    assert (said.count(b"ok"), said.count(b"\r\nx\r\n")) == (5, 50)
    assert gateway.listener.totals.over_rate == 0


def test_an_allowance_fills_by_the_second_up_to_one_seconds_worth():
    allowance = Allowance(2, 100.0)
    assert [allowance.take(100.0) for _ in range(3)] == [True, True, False]
    assert [allowance.take(at) for at in (100.25, 100.5, 100.75, 101.0)] == [
        False,
        True,
        False,
        True,
    ]
    assert [allowance.take(999.0) for _ in range(3)] == [True, True, False]


async def test_refused_subscriptions_and_long_turns_are_counted(start_gateway):
    gateway = await start_gateway(subscriptions_max=2)
    wire = await gateway.open()
    await wire.answers(b"SUB a 1\r\nSUB b 2\r\nSUB c 3\r\nSUB d 4\r\n")
    totals = gateway.listener.totals
    assert (totals.refused_subscriptions, totals.turns_over) == (2, 0)
    await wire.answers(b"PUB none 0\r\n\r\n" * 2_000)  # more than one turn's share
    assert totals.turns_over > 0

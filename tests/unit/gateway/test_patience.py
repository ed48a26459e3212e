"""REPORTs that wait unread: which do, until when, and what ends their waiting before the beat."""

import struct
from collections import deque
from socket import SO_LINGER, SOL_SOCKET

import pytest

from mq9cluster.gateway import patience
from mq9cluster.gateway.patience import READ_TOGETHER, UNREAD_BYTES_MAX, Patience
from tests.support.wire import CONNECT, eventually

SUBJECT = b"$mq9.AI.AGENT.REPORT"


class Beats:
    """A beat that comes when a test says so."""

    def __init__(self):
        self.waiting = []
        self.read = None
        self.over = 0  # beats whose reading was done

    def wait(self, then):
        self.waiting.append(then)

    def read_first(self, read):
        self.read = read

    def come(self):
        self.read(self._read)

    def _read(self):
        self.over += 1
        waiting, self.waiting = self.waiting, []
        for then in waiting:
            then()


def report(name: bytes = b"a", size: int = 0) -> bytes:
    """A REPORT as a client writes it; with `size`, of so many bytes on the wire."""
    body = b'{"name":"%b"}' % name
    head = b"PUB %b in.box %d\r\n"
    body = body.ljust(size - len(head % (SUBJECT, size)) - len(b"\r\n"))
    return head % (SUBJECT, len(body)) + body + b"\r\n"


@pytest.fixture
def beats():
    return Beats()


@pytest.fixture
async def gateway(start_gateway, beats):
    return await start_gateway(beats=beats)


async def arrived(gateway, wire, data: bytes) -> None:
    """Send `data`, and wait until it has arrived."""
    number = wire.info["client_id"]
    session = gateway.listener.sessions[number]
    before = session.in_bytes
    wire.send(data)
    await eventually(lambda: session.in_bytes == before + len(data))


def names(gateway) -> list[bytes]:
    return [payload.split(b'"')[3] for *_, payload in gateway.handler.commands]


async def test_a_report_waits_for_the_beat_and_is_answered_then(gateway, beats):
    wire = await gateway.open()
    await wire.answers(b"SUB in.* 1\r\n")
    await arrived(gateway, wire, report())
    assert not gateway.handler.commands
    assert len(beats.waiting) == 1
    beats.come()
    assert await wire.until(b"}\r\n") == b'MSG in.box 1 12\r\n{"name":"a"}\r\n'
    assert beats.over == 1
    assert not beats.waiting


async def test_many_wait_each_in_its_order_for_one_beat(gateway, beats):
    wires = [await gateway.open() for _ in range(2 * READ_TOGETHER)]
    for wire in wires:
        await arrived(gateway, wire, report(b"first"))
        await arrived(gateway, wire, report(b"second"))
    assert not gateway.handler.commands
    assert len(beats.waiting) == 1
    beats.come()
    await eventually(lambda: beats.over)
    assert names(gateway) == [b"first", b"second"] * len(wires)


async def test_whatever_comes_behind_it_has_it_read_at_once_and_once(gateway, beats):
    wire = await gateway.open()
    await wire.answers(b"SUB in.* 1\r\n")
    await arrived(gateway, wire, report())
    assert await wire.answers() == b'MSG in.box 1 12\r\n{"name":"a"}\r\n'
    beats.come()
    assert await wire.answers() == b""
    assert len(gateway.handler.commands) == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(report() + b"PING\r\n", id="with a PING behind it"),
        pytest.param(report() + report(b"b"), id="two in one write"),
        pytest.param(report().replace(b"REPORT", b"UNREGISTER"), id="another command"),
        pytest.param(report().replace(b"REPORT", b"REPORTS"), id="a longer subject"),
        pytest.param(report().replace(b"PUB", b"pub"), id="in small letters"),
        pytest.param(report(size=UNREAD_BYTES_MAX + 1), id="longer than what may wait"),
    ],
)
async def test_what_is_not_one_report_is_read_as_it_arrives(gateway, beats, data):
    wire = await gateway.open()
    await arrived(gateway, wire, data)
    assert gateway.handler.commands
    assert not beats.waiting


async def test_a_report_of_the_longest_that_may_wait_waits(gateway, beats):
    wire = await gateway.open()
    data = report(size=UNREAD_BYTES_MAX)
    assert len(data) == UNREAD_BYTES_MAX
    await arrived(gateway, wire, data)
    assert not gateway.handler.commands
    beats.come()
    assert len(gateway.handler.commands) == 1


@pytest.mark.parametrize(
    "connect",
    [
        pytest.param(CONNECT.replace(b'"verbose":false', b'"verbose":true'), id="verbose"),
        pytest.param(CONNECT.replace(b'"pedantic":false', b'"pedantic":true'), id="pedantic"),
        pytest.param(b"", id="not yet introduced"),
    ],
)
async def test_who_is_told_of_each_message_or_not_known_does_not_wait(gateway, beats, connect):
    wire = await gateway.open(connect=connect)
    await arrived(gateway, wire, report())
    assert gateway.handler.commands
    assert not beats.waiting


async def test_more_than_so_many_do_not_wait(gateway, beats, monkeypatch):
    monkeypatch.setattr(patience, "UNREAD_MAX", 2)
    wires = [await gateway.open() for _ in range(3)]
    for wire, name in zip(wires, (b"a", b"b", b"c"), strict=True):
        await arrived(gateway, wire, report(name))
    assert names(gateway) == [b"c"]
    beats.come()
    assert names(gateway) == [b"c", b"a", b"b"]
    await arrived(gateway, wires[0], report(b"d"))
    assert names(gateway) == [b"c", b"a", b"b"]


async def test_a_message_in_pieces_is_put_together_whatever_it_looks_like(gateway, beats):
    """The second piece of its payload is, to the byte, a REPORT."""
    wire = await gateway.open()
    inner = report()
    await arrived(gateway, wire, b"PUB $mq9.AI.MAILBOX.CREATE %d\r\n" % len(inner))
    await arrived(gateway, wire, inner)
    beats.come()
    await wire.answers(b"\r\n")
    ((*_, subject, _, payload),) = gateway.handler.commands
    assert (subject, payload) == (b"$mq9.AI.MAILBOX.CREATE", inner)


async def test_whose_socket_is_gone_is_read_at_once(gateway, beats):
    wire = await gateway.open()
    await arrived(gateway, wire, report())
    reset_at_close = struct.pack("ii", 1, 0)
    wire.writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, reset_at_close)
    wire.abort()
    await eventually(lambda: gateway.handler.closed)
    assert names(gateway) == [b"a"]
    beats.come()
    assert names(gateway) == [b"a"]


async def test_who_sends_no_more_is_answered_at_the_beat(gateway, beats):
    wire = await gateway.open()
    await wire.answers(b"SUB in.* 1\r\n")
    await arrived(gateway, wire, report())
    wire.writer.write_eof()
    (session,) = gateway.listener.sessions.values()
    await eventually(lambda: session._eof)
    assert not gateway.handler.commands
    beats.come()
    assert await wire.rest() == b'MSG in.box 1 12\r\n{"name":"a"}\r\n'


async def test_a_node_that_goes_reads_and_answers_what_waits(gateway, beats):
    wire = await gateway.open()
    await wire.answers(b"SUB in.* 1\r\n")
    await arrived(gateway, wire, report())
    (session,) = gateway.listener.sessions.values()
    session.retire()
    beats.come()
    assert await wire.rest() == b'MSG in.box 1 12\r\n{"name":"a"}\r\n'


async def test_who_has_as_much_under_way_as_may_be_is_read_on_when_it_is_answered(
    start_gateway, beats
):
    gateway = await start_gateway(beats=beats, commands_in_flight_max=1)
    gateway.handler.hold = True
    wire = await gateway.open()
    await arrived(gateway, wire, report(b"first"))
    beats.come()
    assert names(gateway) == [b"first"]
    (session,) = gateway.listener.sessions.values()
    assert session._paused
    wire.send(report(b"second"))
    gateway.handler.held.pop()(b"{}")
    await eventually(lambda: session._unread)
    beats.come()
    assert names(gateway) == [b"first", b"second"]


async def test_a_client_that_fails_what_takes_its_report_is_cut_off(gateway, beats):
    wire = await gateway.open()
    await arrived(gateway, wire, report())
    gateway.handler.commands = None  # so that `handle` raises
    with pytest.raises(AttributeError):
        beats.come()
    assert await wire.rest() == b""


class Reader:
    connection = 1

    def __init__(self, then=None):
        self.read = 0
        self.then = then

    def read_unread(self):
        self.read += 1
        if self.then:
            self.then()


class Turns:
    """What waits for its turn, as `Shares` keeps it."""

    def __init__(self):
        self.waiting = deque()
        self.worked_for = []

    def work(self, connection):
        self.worked_for.append(connection)

    def wait(self, turn):
        self.waiting.append(turn)


def test_a_fault_in_one_does_not_keep_the_others(beats):
    turns = Turns()
    patient = Patience(beats, turns)
    readers = [Reader() for _ in range(READ_TOGETHER)]
    readers[0].then = lambda: 1 // 0
    for reader in readers:
        patient.wait(reader)
    with pytest.raises(ZeroDivisionError):
        beats.come()
    assert not beats.over
    turns.waiting.popleft()()
    assert [reader.read for reader in readers] == [1] * READ_TOGETHER
    assert beats.over == 1


def test_so_many_are_read_in_one_go_and_the_beat_is_over_behind_the_last(beats):
    turns = Turns()
    patient = Patience(beats, turns)
    readers = [Reader() for _ in range(READ_TOGETHER + 1)]
    for reader in readers:
        patient.wait(reader)
    beats.come()
    assert turns.worked_for, "they are company to each other"
    assert sum(reader.read for reader in readers) == READ_TOGETHER
    assert not beats.over
    turns.waiting.popleft()()
    assert sum(reader.read for reader in readers) == READ_TOGETHER + 1
    assert beats.over == 1
    assert not turns.waiting


def test_what_arrives_while_others_are_read_waits_for_another_beat(beats):
    patient = Patience(beats, Turns())
    late = Reader()
    patient.wait(Reader(then=lambda: patient.wait(late)))
    beats.come()
    assert not late.read
    assert len(beats.waiting) == 1
    beats.come()
    assert late.read == 1
    assert not beats.waiting

"""The server-side parser and the encoders, value by value."""

import pytest

from mq9cluster.protocol.nats import (
    CONNECT,
    EVENTS_PER_FEED_MAX,
    FAIL,
    PING,
    PONG,
    PUB,
    SUB,
    UNSUB,
    ServerParser,
    encode_error,
    encode_info,
    encode_message,
)

UNKNOWN = (FAIL, b"Unknown Protocol Operation")
TOO_LONG = (FAIL, b"maximum control line exceeded")
TOO_BIG = (FAIL, b"Maximum Payload Violation")
SILENT = (FAIL, b"")


def parse(data: bytes, payload_max: int = 1000) -> list:
    return ServerParser(payload_max).feed(data)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"PUB a 2\r\nhi\r\n", (PUB, b"a", None, None, b"hi")),
        (b"PUB a.b r 0\r\n\r\n", (PUB, b"a.b", b"r", None, b"")),
        (b"pub a 2\nhi\r\n", (PUB, b"a", None, None, b"hi")),
        (b"pUb\ta \t r\t 2 \r\nhi\r\n", (PUB, b"a", b"r", None, b"hi")),
        (b"PUB a 000000002\r\nhi\r\n", (PUB, b"a", None, None, b"hi")),
        (b"PUB a\rb 1\r\nx\r\n", (PUB, b"a", b"b", None, b"x")),
        (b"PUB a\x0bb 1\r\nx\r\n", (PUB, b"a\x0bb", None, None, b"x")),
        (b"PUB a 4\r\n\r\n\x00\n\r\n", (PUB, b"a", None, None, b"\r\n\x00\n")),
        (b"HPUB a 3 5\r\nhdrhi\r\n", (PUB, b"a", None, b"hdr", b"hi")),
        (b"hpub a r 3 3\r\nhdr\r\n", (PUB, b"a", b"r", b"hdr", b"")),
        (b"HPUB a\t3 3\r\nhdr\r\n", (PUB, b"a", None, b"hdr", b"")),
        (b"HPUB\ta 0 2\r\nhi\r\n", (PUB, b"a", None, None, b"hi")),
        (b"SUB a 1\r\n", (SUB, b"a", None, b"1")),
        (b"SUB a q 1\r\n", (SUB, b"a", b"q", b"1")),
        (b"sub  a\tq   s.id- \n", (SUB, b"a", b"q", b"s.id-")),
        (b"UNSUB 1\r\n", (UNSUB, b"1", 0)),
        (b"UNSUB 1 5\r\n", (UNSUB, b"1", 5)),
        (b"UNSUB 1 x\r\n", (UNSUB, b"1", 0)),
        (b"PING\r\n", (PING,)),
        (b"ping and anything\n", (PING,)),
        (b"PONG\r\n", (PONG,)),
        (b'CONNECT {"a":1}\r\n', (CONNECT, b'{"a":1}')),
        (b"CONNECT{}\n", (CONNECT, b"{}")),
        (b"CONNECT\r\n", (CONNECT, b"")),
    ],
)
def test_an_operation_becomes_its_event(line, event):
    assert parse(line + b"PING\r\n") == [event, (PING,)]


@pytest.mark.parametrize("line", [b"+OK\r\n", b"INFO {}\r\n", b'INFO {"a":[1]}\n'])
def test_what_servers_say_is_passed_over(line):
    assert parse(line + b"PING\r\n") == [(PING,)]


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"F", UNKNOWN),
        (b"\r\n", UNKNOWN),
        (b"\n", UNKNOWN),
        (b" PING\r\n", UNKNOWN),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", UNKNOWN),
        (b"MSG a 1 0\r\n\r\n", UNKNOWN),
        (b"HMSG a 1 0\r\n", UNKNOWN),
        (b"PUX", UNKNOWN),
        (b"PUB\r\n", UNKNOWN),
        (b"HPUB\r\n", UNKNOWN),
        (b"HPUBx a 1 1\r\n", UNKNOWN),
        (b"SUB\r\n", UNKNOWN),
        (b"UNSUB\r\n", UNKNOWN),
        (b"PUB a 2\r\nxxY", UNKNOWN),
        (b"PUB a 2\r\nxx\rY", UNKNOWN),
        (b"PUB a 2\nxx\nP", UNKNOWN),
        (b"PUB \r\n", SILENT),
        (b"PUB a\r\n", SILENT),
        (b"PUB a b c 2\r\n", SILENT),
        (b"PUB a -1\r\n", SILENT),
        (b"PUB a +2\r\n", SILENT),
        (b"PUB a 1_0\r\n", SILENT),
        (b"PUB a 0000000002\r\n", SILENT),
        (b"PUB a 9999999999\r\n", SILENT),
        (b"HPUB a 4 3\r\n", SILENT),
        (b"HPUB a 3\r\n", SILENT),
        (b"HPUB a b c 1 1\r\n", SILENT),
        (b"SUB \r\n", SILENT),
        (b"SUB a\r\n", SILENT),
        (b"SUB a b c d\r\n", SILENT),
        (b"UNSUB \r\n", SILENT),
        (b"UNSUB 1 2 3\r\n", SILENT),
        (b"INFO x\r\n", SILENT),
        (b"-ERR 'x'\r\n", SILENT),
        (b"PUB a 1001\r\n", TOO_BIG),
        (b"HPUB a 1 1001\r\n", TOO_BIG),
        (b"PUB " + b"x" * 4097, TOO_LONG),
        (b"PUB " + b"x" * 4095 + b" 0\r\n", TOO_LONG),
        (b"SUB " + b"x" * 4095 + b" 1\r\n", TOO_LONG),
        (b'CONNECT {"name":"' + b"x" * 4096, TOO_LONG),
    ],
)
def test_what_ends_a_connection_is_the_last_event(data, failure):
    parser = ServerParser(1000)
    assert parser.feed(b"PING\r\n" + data) == [(PING,), failure]
    assert parser.feed(b"PING\r\n") == []
    assert parser.held_bytes == 0


@pytest.mark.parametrize(
    "data",
    [
        b"PUB " + b"x" * 4094 + b" 0\r\n\r\n",
        b"SUB " + b"x" * 4094 + b" 1\r\n",
        b"PUB a 1000\r\n" + b"x" * 1000 + b"\r\n",
        b"HPUB a 10 1000\r\n" + b"x" * 1000 + b"\r\n",
        b"UNSUB 1 999999999\r\n",
    ],
)
def test_what_is_just_within_a_limit_passes(data):
    events = parse(data)
    assert len(events) == 1
    assert events[0][0] != FAIL


def test_an_endless_ping_is_not_kept():
    parser = ServerParser(1000)
    assert [parser.feed(b"PING" + b"x" * 5000), parser.feed(b"y" * 5000)] == [[], []]
    assert parser.held_bytes <= 4
    assert parser.feed(b"\r\n") == [(PING,)]


def test_a_call_gives_no_more_events_than_asked_for_and_the_rest_later():
    parser = ServerParser(1000)
    operations = b"PUB a 1\r\nx\r\nPING\r\nSUB a 1\r\n"
    assert [event[0] for event in parser.feed(operations, events_max=2)] == [PUB, PING]
    assert parser.has_more
    assert [event[0] for event in parser.feed(b"PONG\r\n", events_max=1)] == [SUB]
    assert parser.feed(b"") == [(PONG,)]
    assert not parser.has_more


def test_the_default_share_of_a_turn_is_bounded():
    parser = ServerParser(1000)
    assert len(parser.feed(b"PING\r\n" * 5000)) == EVENTS_PER_FEED_MAX


def test_an_8_mib_payload_in_packets_is_put_together_once():
    payload = bytes(range(256)) * 32768
    data = b"PUB a %d\r\n%b\r\n" % (len(payload), payload)
    parser = ServerParser(len(payload))
    events = []
    for start in range(0, len(data), 65536):
        events += parser.feed(data[start : start + 65536])
    assert events == [(PUB, b"a", None, None, payload)]
    assert parser.held_bytes == 0


def test_delivery_lines_are_exact():
    assert encode_message(b"a", b"1", None, None, b"hi") == b"MSG a 1 2\r\nhi\r\n"
    assert encode_message(b"a", b"1", b"r", None, b"") == b"MSG a 1 r 0\r\n\r\n"
    assert encode_message(b"a", b"1", None, b"hdr", b"hi") == b"HMSG a 1 3 5\r\nhdrhi\r\n"
    assert encode_message(b"a", b"1", b"r", b"hdr", b"") == b"HMSG a 1 r 3 3\r\nhdr\r\n"
    assert encode_error(b"Stale Connection") == b"-ERR 'Stale Connection'\r\n"
    assert encode_info({"proto": 1}) == b'INFO {"proto":1} \r\n'

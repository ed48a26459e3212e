"""The codec against every split, and against rubbish."""

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mq9cluster.protocol.nats import FAIL, PUB, ServerParser

HEADER = b"NATS/1.0\r\nmq9-key: k\r\n\r\n"
PAYLOAD_MAX = 64

CONVERSATIONS = [
    b'CONNECT {"verbose":false}\r\nPING\r\nSUB a.* 1\r\nsub b q 2\nPUB a.b 5\r\nhello\r\n'
    b"UNSUB 1 2\r\nPUB a.c reply.to 0\r\n\r\nPONG\r\nUNSUB 2\r\n",
    b"CONNECT{}\nHPUB h %d %d\r\n%bxyz\r\nHPUB h r %d %d\r\n%b\r\npInG  junk\r\n+OK\r\nINFO {}\r\n"
    % (len(HEADER), len(HEADER) + 3, HEADER, len(HEADER), len(HEADER), HEADER),
    b"PUB a\t4\n\r\n\r\n\r\nPUB \x0b 2\r\n\x0c\x0b\r\nPING\r\nPUB a 2\r\nxyz\r\n",
    b"PUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\n3\r\nPUB a 2\r\nx\r\rPING\r\n",
    b"SUB a 1\r\nPUB a 65\r\n" + b"x" * 65 + b"\r\nPING\r\n",
    b"PUB a b c 4\r\nPING\r\n",
    b"SUB a 1\r\nGET / HTTP/1.1\r\n\r\n",
]


def whole(data: bytes) -> list:
    return drain(ServerParser(PAYLOAD_MAX), [data])


def drain(parser: ServerParser, chunks: list[bytes], events_max: int = 512) -> list:
    events = []
    for chunk in chunks:
        events += parser.feed(chunk, events_max)
        while parser.has_more:
            events += parser.feed(b"", events_max)
    return events


def test_every_split_in_two_gives_the_same_events():
    for data in CONVERSATIONS:
        expected = whole(data)
        for place in range(len(data) + 1):
            chunks = [data[:place], data[place:]]
            assert drain(ServerParser(PAYLOAD_MAX), chunks) == expected


def test_one_byte_at_a_time_gives_the_same_events():
    for data in CONVERSATIONS:
        chunks = [data[place : place + 1] for place in range(len(data))]
        assert drain(ServerParser(PAYLOAD_MAX), chunks) == whole(data)


@given(
    st.lists(st.sampled_from(CONVERSATIONS[:2]), min_size=1, max_size=3),
    st.sampled_from([*CONVERSATIONS[2:], b""]),
    st.lists(st.integers(min_value=0, max_value=900), max_size=12),
    st.integers(min_value=1, max_value=5),
)
def test_many_splits_and_small_shares_give_the_same_events(beginning, ending, places, events_max):
    data = b"".join(beginning) + ending
    cuts = sorted({0, len(data), *(place for place in places if place < len(data))})
    chunks = [data[start:stop] for start, stop in pairwise(cuts)]
    assert drain(ServerParser(PAYLOAD_MAX), chunks, events_max) == whole(data)


REQUEST = b"PUB a.b in.1 5\r\nhello\r\n"
LONG = b"s" * 4_000
PIECES = st.sampled_from(
    [
        b"PUB ",
        b"a.b ",
        b"in.1 ",
        b"5",
        b"0",
        b" ",
        b"\r\n",
        b"hello",
        b"\n",
        b"\x0b",
        b"\xff",
        b"+1",
    ]
)


@given(st.one_of(st.lists(PIECES, max_size=9).map(b"".join), st.just(REQUEST)))
@example(b"PUB a in 64\r\n%b\r\n" % (b"x" * 64))
@example(b"PUB a in 65\r\n%b\r\n" % (b"x" * 65))
@example(b"PUB %b %b 1\r\nx\r\n" % (LONG, b"r" * 87))  # a line of 4,096 bytes
@example(b"PUB %b %b 1\r\nx\r\n" % (LONG, b"r" * 88))
@example(b"PUB a in 005\r\nhello\r\n")
@example(b"PUB a in 0000000005\r\nhello\r\n")
@example(b"PUB a in 12\r\nhello\r\nPING\r\n\r\n")
@example(b"PUB a in 5\r\nhello\r\nPING\r\n")
@example(b"PUB a in 5\r\nhel\r\n")
def test_a_request_taken_whole_is_the_event_it_is_otherwise(data):
    parser = ServerParser(PAYLOAD_MAX)
    request = parser.feed_request(data)
    if request is None:
        assert drain(parser, [data]) == whole(data), "nothing has happened"
    else:
        subject, reply, payload = request
        assert whole(data) == [(PUB, subject, reply, None, payload)]
    assert not parser.held_bytes or request is None


def test_a_request_as_clients_write_it_is_taken_whole():
    assert ServerParser(PAYLOAD_MAX).feed_request(REQUEST) == (b"a.b", b"in.1", b"hello")
    longest = b"PUB a in 64\r\n%b\r\n" % (b"x" * 64)
    assert ServerParser(PAYLOAD_MAX).feed_request(longest)
    assert ServerParser(PAYLOAD_MAX).feed_request(b"PUB %b %b 1\r\nx\r\n" % (LONG, b"r" * 87))


def test_no_request_is_taken_into_an_operation_that_has_begun_or_behind_one_that_waits():
    parser = ServerParser(PAYLOAD_MAX)
    parser.feed(b"PUB a %d\r\n" % len(REQUEST))
    assert parser.feed_request(REQUEST) is None
    assert parser.feed(REQUEST + b"\r\n") == [(PUB, b"a", None, None, REQUEST)]
    parser.feed(b"PING\r\nPING\r\n", 1)
    assert parser.feed_request(REQUEST) is None
    failed = ServerParser(PAYLOAD_MAX)
    failed.feed(b"RUBBISH\r\n")
    assert failed.feed_request(REQUEST) is None


WORDS = st.sampled_from(
    [
        *(b"PUB", b"HPUB", b"SUB", b"UNSUB", b"PING", b"CONNECT", b"+OK", b"-ERR", b"INFO", b"MSG"),
        *(
            b" ",
            b"\t",
            b"\r",
            b"\n",
            b"\r\n",
            b"a",
            b"1",
            b"5",
            b"99999",
            b"{}",
            b"\x0b",
            b"\x00\xff",
        ),
    ]
)


@settings(max_examples=300)
@given(st.lists(st.one_of(WORDS, st.binary(max_size=9000)), max_size=30))
def test_rubbish_raises_nothing_and_is_not_hoarded(chunks):
    parser = ServerParser(PAYLOAD_MAX)
    events = drain(parser, chunks)
    assert parser.held_bytes <= 4096 + 16 + PAYLOAD_MAX + 2
    assert [event for event in events[:-1] if event[0] == FAIL] == []


@settings(max_examples=300)
@given(st.lists(WORDS, max_size=40).map(b"".join), st.integers(min_value=1, max_value=30))
def test_rubbish_in_pieces_gives_what_it_gives_whole(data, size):
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert drain(ServerParser(PAYLOAD_MAX), chunks) == whole(data)

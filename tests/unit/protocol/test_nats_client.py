"""The client-side parser and operations."""

import pytest

from mq9cluster.protocol.nats import PUB, SUB, UNSUB, ServerParser
from mq9cluster.protocol.nats_client import (
    ERR,
    INFO,
    MSG,
    OK,
    PING,
    PONG,
    ClientParser,
    ProtocolError,
    encode_pub,
    encode_sub,
    encode_unsub,
)

CONVERSATION = (
    b'INFO {"a":1} \r\n+OK\r\nMSG a 1 2\r\nhi\r\nMSG a.b s.1 r 0\r\n\r\nPING\r\n'
    b"HMSG a 1 3 5\r\nhdrhi\r\nHMSG a 1 r 3 3\r\nhdr\r\n-ERR 'Stale Connection'\r\nPONG\r\n"
)
EVENTS = [
    (INFO, b'{"a":1}'),
    (OK,),
    (MSG, b"a", b"1", None, None, b"hi"),
    (MSG, b"a.b", b"s.1", b"r", None, b""),
    (PING,),
    (MSG, b"a", b"1", None, b"hdr", b"hi"),
    (MSG, b"a", b"1", b"r", b"hdr", b""),
    (ERR, b"Stale Connection"),
    (PONG,),
]


def test_every_split_gives_the_same_events():
    for place in range(len(CONVERSATION) + 1):
        parser = ClientParser()
        events = parser.feed(CONVERSATION[:place]) + parser.feed(CONVERSATION[place:])
        assert events == EVENTS
    parser = ClientParser()
    single = [CONVERSATION[place : place + 1] for place in range(len(CONVERSATION))]
    assert [event for byte in single for event in parser.feed(byte)] == EVENTS


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 x\r\n",
        b"MSG a 1 -2\r\n",
        b"MSG a 1 2\r\nhix\n",
        b"HMSG a 1 5 3\r\n",
        b"HMSG a 1 3\r\n",
        b"INFO " + b"x" * 1_100_000,
    ],
)
def test_what_is_no_nats_is_an_error(data):
    with pytest.raises(ProtocolError):
        ClientParser().feed(data)


def test_operations_are_what_the_server_reads():
    operations = (
        encode_sub(b"a", 1)
        + encode_sub(b"a", 2, b"q")
        + encode_unsub(1)
        + encode_unsub(2, 5)
        + encode_pub(b"a", b"hi")
        + encode_pub(b"a", b"hi", b"r", b"hdr")
    )
    assert ServerParser(100).feed(operations) == [
        (SUB, b"a", None, b"1"),
        (SUB, b"a", b"q", b"2"),
        (UNSUB, b"1", 0),
        (UNSUB, b"2", 5),
        (PUB, b"a", None, None, b"hi"),
        (PUB, b"a", b"r", b"hdr", b"hi"),
    ]

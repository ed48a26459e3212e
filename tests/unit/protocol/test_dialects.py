"""Words and headers of the older dialects, where a test over sockets would not get."""

import orjson
import pytest

from mq9cluster.domain.errors import InvalidField
from mq9cluster.domain.message import Message
from mq9cluster.protocol import nats_headers, replies
from mq9cluster.protocol.dialects import (
    DIALECT_000,
    DIALECT_001,
    DIALECT_001_OLD,
    OLD_CLIENT,
    as_told_to,
    place_of,
    pushed,
)


@pytest.mark.parametrize(
    ("dialect", "word", "wanted"),
    [
        (DIALECT_001, "*", {0, 1, 2, 3}),
        (DIALECT_001, "critical", {0}),
        (DIALECT_001, "urgent", {1}),
        (DIALECT_001, "high", {1}),
        (DIALECT_001, "low", {3}),
        (DIALECT_001_OLD, "high", {0, 1}),
        (DIALECT_001_OLD, "urgent", {1}),
        (DIALECT_000, "urgent", {0, 1}),
        (DIALECT_000, "notify", {3}),
    ],
)
def test_what_a_word_stands_for(dialect, word, wanted):
    assert {at for at in range(4) if dialect.priorities_of(word) >> at & 1} == wanted


@pytest.mark.parametrize(
    ("dialect", "word"), [(DIALECT_001, "notify"), (DIALECT_000, "low"), (DIALECT_000, "high")]
)
def test_words_of_another_dialect(dialect, word):
    with pytest.raises(InvalidField, match="invalid priority: must be one of"):
        dialect.priorities_of(word)


def test_only_the_published_client_is_told_other_words():
    assert as_told_to(DIALECT_001, OLD_CLIENT) is DIALECT_001_OLD
    assert as_told_to(DIALECT_001, "another") is DIALECT_001
    assert as_told_to(DIALECT_000, OLD_CLIENT) is DIALECT_000


def test_every_header_of_a_sender_can_be_pushed_again():
    """Also what a line would break on, and what was no UTF-8 when it came."""
    sent = b"NATS/1.0\r\nA: one\rtwo\r\nB\rC: x\r\nD: caf\xc3\xa9\r\nE: \xff\r\nF:\r\n\r\n"
    header = {
        nats_headers.shown(name): nats_headers.shown(value)
        for name, value in nats_headers.parse(sent)
    }
    meta = orjson.dumps({"header": header, "tags": ["a", "b"]})
    place = place_of("$mq9.AI.MAILBOX.MSG.a.b.*")
    assert place is not None
    subject, block = pushed(place, Message(7, 3, 1_999, 0, "k\u00e9", meta, b""))
    assert subject == b"$mq9.AI.MAILBOX.MSG.a.b.low"
    assert nats_headers.parse(block) == [
        ("mq9-msg-id", "7"),
        ("mq9-priority", "low"),
        ("mq9-create-time", "1"),
        ("mq9-key", "k\u00e9"),
        ("mq9-tags", "a,b"),
        ("A", "one two"),
        ("B C", "x"),
        ("D", "caf\u00e9"),
        ("E", "\ufffd"),
        ("F", ""),
    ]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b'{"error":""}', b"{}"),
        (b'{"error":"","msg_id":1}', b'{"msg_id":1}'),
        (b'{"error":"mailbox full","code":"x"}', b'{"error":"mailbox full","code":"x"}'),
    ],
)
def test_an_empty_error_is_left_out(reply, told):
    assert replies.without_error(reply) == told

"""Header blocks and CONNECT options."""

import pytest

from mq9cluster.protocol.nats_connect import BadConnect, ConnectOptions
from mq9cluster.protocol.nats_headers import encode, parse, shown, status


def test_headers_keep_order_names_and_repetition():
    block = b"NATS/1.0\r\nmq9-Key: a\r\nX:1\r\nX:  two words \r\nEmpty:\r\n\r\n"
    assert parse(block) == [("mq9-Key", "a"), ("X", "1"), ("X", "two words"), ("Empty", "")]


def test_rubbish_lines_are_skipped():
    assert parse(b"NATS/1.0 503 No\nno colon\n: no name\nA: b:c\n") == [("A", "b:c")]
    assert parse(b"") == []


def test_bytes_that_are_no_utf8_stay_different_and_are_shown_as_replaced():
    parsed = parse(b"NATS/1.0\r\na\xff: \xfe\r\nb: \xfd\r\nc: \xc3\xbc\r\n\r\n")
    assert len({value for _, value in parsed}) == 3
    assert [(shown(name), shown(value)) for name, value in parsed] == [
        ("a\ufffd", "\ufffd"),
        ("b", "\ufffd"),
        ("c", "ü"),
    ]


def test_the_status_is_read_from_the_first_line():
    assert status(b"NATS/1.0 503\r\nA: b\r\n\r\n") == (503, "")
    assert status(b"NATS/1.0 408 Request Timeout\r\n\r\n") == (408, "Request Timeout")
    assert status(b"NATS/1.0\r\n\r\n") == (0, "")


def test_what_is_encoded_parses_to_the_same():
    headers = [("mq9-tags", "a, b"), ("Grüße", "ü")]
    assert encode(headers).startswith(b"NATS/1.0\r\nmq9-tags: a, b\r\n")
    assert parse(encode(headers)) == headers


@pytest.mark.parametrize("header", [("", "x"), ("a:b", "x"), ("a\r", "x"), ("a", "x\ny")])
def test_a_header_that_would_break_its_line_is_refused(header):
    with pytest.raises(ValueError, match="header"):
        encode([header])


def test_connect_changes_only_what_it_names():
    first = ConnectOptions().updated(b'{"verbose":false,"Headers":true,"unknown":[1],"name":null}')
    assert first == ConnectOptions(verbose=False, headers=True)
    assert first.updated(b'{"pass":"p","auth_token":"t"}') == ConnectOptions(
        verbose=False, headers=True, password="p", token="t"
    )
    assert first.updated(b"null") == first


@pytest.mark.parametrize(
    "text", [b"", b"x", b"[]", b'"a"', b'{"verbose":"x"}', b'{"protocol":true}', b'{"name":5}']
)
def test_connect_of_the_wrong_shape_is_refused(text):
    with pytest.raises(BadConnect):
        ConnectOptions().updated(text)

"""The same bytes to our server and to nats-server, and what they answer compared byte by byte.

The numbers are the rows of what "any NATS client works" means; rows that bytes alone cannot show
are in the other modules of this folder.
"""

import asyncio

import pytest

from tests.conformance.core.script import Heard, play, raw

QUIET = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
FULL = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
LOUD = b'CONNECT {"pedantic":false}\r\n'
PEDANTIC = b'CONNECT {"verbose":false,"pedantic":true}\r\n'
MODERN = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"protocol":1}\r\n'
SILENT = b'CONNECT {"verbose":false,"pedantic":false,"echo":false}\r\n'

HEADER = b"NATS/1.0\r\nA: b\r\n\r\n"
HPUB = b"HPUB h %d %d\r\n%bxyz\r\n" % (len(HEADER), len(HEADER) + 3, HEADER)
ALL = b"SUB > 1\r\n"

Steps = list[tuple[str, bytes | object]]


def one(*chunks: bytes) -> Steps:
    return [("a", chunk) for chunk in chunks]


def pieces(data: bytes, size: int = 1) -> Steps:
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return [("a", raw(part)) for part in parts]


CASES: dict[str, Steps] = {
    # Handshake
    "1 INFO has the same fields": one(b""),
    "2 a second INFO follows the first PONG": one(MODERN, b"", b""),
    "2 but not without protocol 1": one(QUIET, b"", b""),
    "2 nor before CONNECT": one(b"", b"", MODERN),
    "2 a later CONNECT asks for it": one(QUIET, MODERN, b""),
    "3 verbose is the default": one(b"CONNECT {}\r\n"),
    "3 +OK of each operation but PING": one(
        LOUD + b"SUB a 1\r\nPUB a 1\r\nx\r\nPUB none 0\r\n\r\nUNSUB 1\r\nUNSUB 99\r\n"
    ),
    "3 +OK of HPUB": one(b'CONNECT {"headers":true,"pedantic":false}\r\n' + HPUB),
    "3 unknown fields are ignored": one(b'CONNECT {"verbose":false,"zig":[{}],"lang":"x"}\r\n'),
    "3 commands before CONNECT": one(b"SUB a 1\r\nPUB a 1\r\nx\r\n"),
    "3 PING before CONNECT": one(b""),
    "3 a second CONNECT changes what it names": one(LOUD, b'CONNECT {"verbose":false}\r\n', ALL),
    "3 a second CONNECT forgets subscriptions": one(
        b"SUB a 1\r\n" + QUIET + b"PUB a 0\r\n\r\n",
        QUIET + b"PUB a 0\r\n\r\nSUB b 1\r\nPUB a 0\r\n\r\nPUB b 0\r\n\r\n",
    ),
    "3 a name that is no UTF-8": one(b'CONNECT {"name":"\xff\xfe","verbose":false}\r\n'),
    "3 names of fields in any case": one(b'CONNECT {"Verbose":false,"PEDANTIC":false}\r\n'),
    "3 CONNECT null": one(b"CONNECT null\r\n"),
    "3 CONNECT without a blank": one(b"CONNECT{}\r\n"),
    "3 blanks around the JSON": one(b'CONNECT \t  {"verbose":false}  \r\n'),
    "4 CONNECT without JSON": one(b"CONNECT \r\n"),
    "4 CONNECT with nothing": one(b"CONNECT\r\n"),
    "4 bad JSON": one(b"CONNECT {verbose}\r\n"),
    "4 a list": one(b"CONNECT []\r\n"),
    "4 a field of the wrong type": one(b'CONNECT {"verbose":"yes"}\r\n'),
    "4 another field of the wrong type": one(b'CONNECT {"name":5}\r\n'),
    "4 a number for a flag": one(b'CONNECT {"pedantic":1}\r\n'),
    "4 an unknown protocol": one(b'CONNECT {"protocol":7}\r\n'),
    "4 a negative protocol": one(b'CONNECT {"protocol":-1}\r\n'),
    "4 no_responders without headers": one(b'CONNECT {"no_responders":true}\r\n'),
    # Parsing
    "5 lower case": one(b'connect {"verbose":false}\r\nsub a 1\r\npub a 1\r\nx\r\nunsub 1\r\n'),
    "5 mixed case": one(QUIET + b"sUb a 1\r\nPuB a 1\r\nx\r\npInG\r\n"),
    "5 tabs and repeated blanks": one(QUIET + b"SUB\ta \t q  1 \t\r\nPUB \t a\t 1 \r\nx\r\n"),
    "5 a bare LF": one(QUIET + b"SUB a 1\nPUB a 1\nx\r\nPING\n"),
    "5 a bare LF behind a payload": one(QUIET + b"PUB a 1\r\nx\nPING\r\n"),
    "5 byte by byte": pieces(FULL + ALL + b"PUB a r 3\r\n\r\n\n\r\n" + HPUB + b"UNSUB 1\r\n"),
    "5 in threes": pieces(QUIET + ALL + b"PUB a 3\r\nabc\r\nPUB b 0\r\n\r\n" * 5, 3),
    "5 a thousand PUBs in one write": one(
        QUIET + ALL + b"".join(b"PUB a.%d 3\r\n%03d\r\n" % (n, n) for n in range(1000))
    ),
    "5 PING with arguments": one(b"PING and more\r\nPONG too\r\n"),
    "5 what servers say": one(b"+OK\r\nINFO {}\r\n"),
    "5 INFO without JSON": one(b"INFO x\r\n"),
    "5 -ERR of a client": one(b"-ERR 'x'\r\n"),
    "5 a vertical tab is text": one(QUIET + b"SUB a\x0bb 1\r\nPUB a\x0bb 1\r\nx\r\n"),
    # Delivery
    "6 MSG with and without reply": one(QUIET + ALL + b"PUB a r 1\r\nx\r\nPUB a 1\r\ny\r\n"),
    "6 an empty payload": one(QUIET + ALL + b"PUB a 0\r\n\r\nPUB a r 0\r\n\r\n"),
    "6 an opaque payload": one(QUIET + ALL + b"PUB a 9\r\n\r\nPING\x00\xff\n\r\n"),
    "6 HMSG verbatim": one(
        FULL + ALL + HPUB + b"HPUB h r %d %d\r\n%b\r\n" % (len(HEADER), len(HEADER), HEADER)
    ),
    "6 header bytes that are no headers": one(FULL + ALL + b"HPUB h 3 5\r\nabcde\r\n"),
    "6 an empty header block": one(FULL + ALL + b"HPUB h 0 2\r\nab\r\n"),
    "6 headers are stripped for who has none": [("b", QUIET + ALL), ("a", FULL + HPUB)],
    "6 a reply subject is opaque": one(
        QUIET + b"SUB a 1\r\nPUB a b.> 1\r\nx\r\nPUB a b..c 0\r\n\r\n"
    ),
    "6 a large payload": one(QUIET + ALL + b"PUB a 1048576\r\n" + b"x" * 1_048_576 + b"\r\n"),
    # Wrong operations
    "7 an unknown operation": one(b"FOO\r\n"),
    "7 its first byte is enough": [("a", raw(b"F"))],
    "7 its third byte too": [("a", raw(b"PUX"))],
    "7 an empty line": one(b"\r\n"),
    "7 an empty line of LF": one(b"\n"),
    "7 a leading blank": one(b" PING\r\n"),
    "7 MSG of a client": one(b"MSG a 1 0\r\n\r\n"),
    "7 PUB alone": one(b"PUB\r\n"),
    "7 SUB alone": one(b"SUB\r\n"),
    "7 UNSUB alone": one(b"UNSUB\r\n"),
    "7 HPUB alone": one(FULL + b"HPUB\r\n"),
    "7 an HTTP request": one(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "7 PUB and a blank": one(b"PUB \r\n"),
    "7 SUB and a blank": one(b"SUB \r\n"),
    "7 UNSUB and a blank": one(b"UNSUB \r\n"),
    "7 PUB with one argument": one(b"PUB a\r\n"),
    "7 PUB with four": one(b"PUB a b c 2\r\n"),
    "7 SUB with one": one(b"SUB a\r\n"),
    "7 SUB with four": one(b"SUB a b c d\r\n"),
    "7 UNSUB with three": one(b"UNSUB 1 2 3\r\n"),
    "7 HPUB with two": one(FULL + b"HPUB a 12\r\n"),
    "7 HPUB with five": one(FULL + b"HPUB a b c 1 1\r\n"),
    "7 a negative size": one(b"PUB a -1\r\n"),
    "7 a signed size": one(b"PUB a +1\r\n"),
    "7 a size that is no number": one(b"PUB a x\r\n"),
    "7 a size of ten digits": one(b"PUB a 0000000001\r\n"),
    "7 more header than message": one(FULL + b"HPUB a 5 4\r\n"),
    "7 HPUB before CONNECT": one(HPUB),
    "7 HPUB without headers support": one(QUIET + HPUB),
    "7 a payload longer than declared": one(b"PUB a 2\r\nxyz\r\n"),
    "7 a payload longer by the first byte": [("a", raw(b"PUB a 2\r\nxxY"))],
    "7 a payload that ends in CR only": one(b"PUB a 2\r\nxx\rPING\r\n"),
    # Limits
    "8 over max_payload": one(b"PUB a 1048577\r\n"),
    "8 far over max_payload": one(b"PUB a 999999999\r\n"),
    "8 over max_payload with the header": one(FULL + b"HPUB a 10 1048577\r\n"),
    "8 an unterminated line": [("a", raw(b"PUB " + b"x" * 4097))],
    "8 an unterminated CONNECT": [("a", raw(b'CONNECT {"name":"' + b"x" * 4097))],
    "8 a terminated line over the limit": one(b"PUB " + b"x" * 4095 + b" 0\r\n\r\n"),
    "8 a line at the limit": one(LOUD + b"PUB " + b"x" * 4094 + b" 0\r\n\r\n"),
    "8 a SUB over the limit": one(b"SUB " + b"x" * 4095 + b" 1\r\n"),
    "8 a SUB at the limit": one(LOUD + b"SUB " + b"x" * 4094 + b" 1\r\n"),
    "8 trailing blanks count": one(b"PUB " + b"x" * 4094 + b" 0 \r\n\r\n"),
    "8 a long PING": one(b"PING " + b"x" * 5000 + b"\r\n"),
    # Invalid subjects
    "9 SUB with an empty token": one(LOUD + b"SUB a..b 1\r\nSUB .a 2\r\nSUB a. 3\r\nSUB . 4\r\n"),
    "9 SUB with a tail inside": one(QUIET + b"SUB a.>.b 1\r\nSUB >.a 2\r\n"),
    "9 such a sid is free": one(QUIET + b"SUB a..b 1\r\nSUB a 1\r\nPUB a 0\r\n\r\n"),
    "9 pedantic PUB": one(
        PEDANTIC
        + ALL
        + b"".join(
            b"PUB %b 1\r\nx\r\n" % s for s in (b"a.*", b"a..b", b".a", b"a.", b">", b"b*", b"a.>.c")
        )
    ),
    "9 without pedantic a literal": one(
        QUIET + ALL + b"SUB a.b 2\r\nPUB a.* 1\r\nx\r\nPUB > 1\r\nx\r\nPUB a..b 1\r\nx\r\n"
    ),
    "9 pedantic and verbose": one(b"CONNECT {}\r\nPUB a.* 1\r\nx\r\nPUB a 1\r\nx\r\n"),
    # Subjects
    "10 one token": one(
        QUIET + b"SUB a.* 1\r\nPUB a 0\r\n\r\nPUB a.b 0\r\n\r\nPUB a.b.c 0\r\n\r\n"
    ),
    "10 one or more": one(
        QUIET + b"SUB a.> 1\r\nPUB a 0\r\n\r\nPUB a.b 0\r\n\r\nPUB a.b.c 0\r\n\r\n"
    ),
    "10 in the middle": one(QUIET + b"SUB a.*.c 1\r\nPUB a.b.c 0\r\n\r\nPUB a.b.d 0\r\n\r\n"),
    "10 parts of tokens are text": one(
        QUIET
        + b"SUB b* 1\r\nSUB >x 2\r\nSUB ** 3\r\n"
        + b"PUB bx 0\r\n\r\nPUB b* 0\r\n\r\nPUB >x 0\r\n\r\nPUB ** 0\r\n\r\nPUB ab 0\r\n\r\n"
    ),
    "10 case matters": one(QUIET + b"SUB a 1\r\nPUB A 0\r\n\r\n"),
    "10 UTF-8": one(QUIET + "SUB größe.* 1\r\nPUB größe.日本 0\r\n\r\n".encode()),
    "10 sixty tokens": one(QUIET + ALL + b"PUB " + b".".join([b"t"] * 60) + b" 0\r\n\r\n"),
    "10 a token of 900 bytes": one(QUIET + b"SUB *.b 1\r\nPUB " + b"t" * 900 + b".b 0\r\n\r\n"),
    "10 dollar and inbox match": one(
        QUIET
        + b"SUB * 1\r\nPUB $x 0\r\n\r\nPUB _INBOX 0\r\n\r\nUNSUB 1\r\nSUB > 2\r\nPUB $x.y 0\r\n\r\n"
    ),
    "11 a sid belongs to its connection": [
        ("a", QUIET + b"SUB a 1\r\n"),
        ("b", QUIET + b"SUB b 1\r\nUNSUB 1\r\n"),
        ("b", b"PUB a 0\r\n\r\n"),
    ],
    "11 sids of any characters": one(QUIET + b"SUB a x-Y.9 \r\nPUB a 0\r\n\r\nUNSUB x-Y.9\r\n"),
    "11 a sid in use stays": one(LOUD + b"SUB a 1\r\nSUB b 1\r\nPUB b 0\r\n\r\nPUB a 0\r\n\r\n"),
    "11 UNSUB is immediate": one(QUIET + b"SUB a 1\r\nPUB a 0\r\n\r\nUNSUB 1\r\nPUB a 0\r\n\r\n"),
    "11 an unknown sid": one(LOUD + b"UNSUB 7\r\nUNSUB 7 3\r\n"),
    "11 UNSUB counts what was delivered": one(
        QUIET + b"SUB a 1\r\n" + b"PUB a 0\r\n\r\n" * 2 + b"UNSUB 1 4\r\n" + b"PUB a 0\r\n\r\n" * 4
    ),
    "11 UNSUB below what was delivered": one(
        QUIET + b"SUB a 1\r\n" + b"PUB a 0\r\n\r\n" * 2 + b"UNSUB 1 2\r\nPUB a 0\r\n\r\n"
    ),
    "11 UNSUB with rubbish": one(LOUD + b"SUB a 1\r\nUNSUB 1 x\r\nPUB a 0\r\n\r\n"),
    "11 a sid is free behind its maximum": one(
        QUIET + b"SUB a 1\r\nUNSUB 1 1\r\nPUB a 0\r\n\r\nSUB b 1\r\nPUB b 0\r\n\r\nPUB a 0\r\n\r\n"
    ),
    "11 a raised maximum": one(
        QUIET + b"SUB a 1\r\nUNSUB 1 1\r\nUNSUB 1 3\r\n" + b"PUB a 0\r\n\r\n" * 5
    ),
    "12 drain": [
        ("a", QUIET + b"SUB a 1\r\n"),
        ("b", QUIET + b"PUB a 1\r\n1\r\nPUB a 1\r\n2\r\n"),
        ("a", b"UNSUB 1\r\n"),
        ("b", b"PUB a 1\r\n3\r\n"),
    ],
    "12 order of a publisher": [
        ("a", QUIET + b"SUB a.> 1\r\n"),
        ("b", QUIET + b"".join(b"PUB a.%d 0\r\n\r\n" % (n % 7) for n in range(200))),
    ],
    "12 no echo": [("b", QUIET + ALL), ("a", SILENT + ALL + b"PUB a 0\r\n\r\n")],
    "12 no echo in a group": [
        ("b", QUIET + b"SUB a q 1\r\n"),
        ("a", SILENT + b"SUB a q 1\r\nPUB a 0\r\n\r\n"),
    ],
    "12 a bad client disturbs nobody": [
        ("a", QUIET + ALL),
        ("b", b"PUB a 1\r\nx\r\nrubbish\r\n"),
        ("c", QUIET + b"PUB c 0\r\n\r\n"),
    ],
    # Queue groups
    "13 a group beside a plain subscriber": [
        ("b", QUIET + b"SUB a q 1\r\n"),
        ("c", QUIET + b"SUB a 1\r\n"),
        ("a", QUIET + b"PUB a 0\r\n\r\n" * 10),
    ],
    "13 two groups": [
        ("b", QUIET + b"SUB a q 1\r\n"),
        ("c", QUIET + b"SUB a r 1\r\n"),
        ("a", QUIET + b"PUB a 0\r\n\r\n" * 10),
    ],
    "13 the last member gets everything": [
        ("b", QUIET + b"SUB a q 1\r\n"),
        ("c", QUIET + b"SUB a q 1\r\nUNSUB 1\r\n"),
        ("a", QUIET + b"PUB a 0\r\n\r\n" * 10),
    ],
    "13 a member that reached its maximum": [
        ("c", QUIET + b"SUB a q 1\r\nUNSUB 1 1\r\nPUB a 0\r\n\r\n"),
        ("b", QUIET + b"SUB a q 1\r\n"),
        ("a", QUIET + b"PUB a 0\r\n\r\n" * 10),
    ],
    # No responders
    "14 nobody is there": one(FULL + b"SUB i 1\r\nPUB no i 0\r\n\r\n"),
    "14 through a wildcard": one(FULL + b"SUB i.* 1\r\nPUB no i.7 0\r\n\r\n"),
    "14 not without asking": one(QUIET + b"SUB i 1\r\nPUB no i 0\r\n\r\n"),
    "14 not without a reply subject": one(FULL + b"SUB i 1\r\nPUB no 0\r\n\r\n"),
    "14 not where somebody is": [
        ("b", QUIET + b"SUB yes q 1\r\n"),
        ("a", FULL + b"SUB i 1\r\nPUB yes i 0\r\n\r\n"),
    ],
    "14 without a subscription": one(FULL + b"PUB no i 0\r\n\r\n"),
    "14 it counts against no maximum": one(
        FULL + b"SUB i 1\r\nUNSUB 1 1\r\n" + b"PUB no i 0\r\n\r\n" * 3
    ),
    "14 a group subscription does not hear it": one(FULL + b"SUB i q 1\r\nPUB no i 0\r\n\r\n"),
    "14 with headers": one(FULL + b"SUB i 1\r\nHPUB no i 3 3\r\nabc\r\n"),
    "14 one's own silence": one(
        FULL.replace(b"{", b'{"echo":false,') + b"SUB i 1\r\nSUB no 2\r\nPUB no i 0\r\n\r\n"
    ),
    "14 its own reply is not echoed": one(
        FULL.replace(b"{", b'{"echo":false,') + b"SUB i 1\r\nPUB no i 0\r\n\r\nPUB i 0\r\n\r\n"
    ),
    "15 JetStream is not there": one(
        FULL + b"SUB i 1\r\nPUB $JS.API.INFO i 0\r\n\r\nPUB $JS.API.STREAM.CREATE.x i 2\r\n{}\r\n"
    ),
    "6 broadcasts are plain messages": [
        ("b", QUIET + b"SUB $mq9.AI.BROADCAST.*.x 1\r\nSUB > 2\r\nUNSUB 2\r\n"),
        ("a", QUIET + b"PUB $mq9.AI.BROADCAST.d.x 2\r\nhi\r\n"),
    ],
    "16 credentials nobody asked for": one(b'CONNECT {"user":"a","pass":"b","auth_token":"c"}\r\n'),
}

# Overlapping subscriptions are served in no particular order: compared as sets.
CASES_ANY_ORDER: dict[str, Steps] = {
    "11 overlapping subscriptions": one(
        QUIET + b"SUB a.b 1\r\nSUB a.* 2\r\nSUB a.> 3\r\nSUB > 4\r\nSUB *.b 5\r\nPUB a.b 0\r\n\r\n"
    ),
    "11 the same subject twice": one(QUIET + b"SUB a 1\r\nSUB a 2\r\nPUB a 0\r\n\r\n"),
    "11 UNSUB of one of two": one(QUIET + b"SUB a 1\r\nSUB a 2\r\nUNSUB 2\r\nPUB a 0\r\n\r\n"),
    "13 one client in two groups": one(QUIET + b"SUB a q 1\r\nSUB a r 2\r\nPUB a 0\r\n\r\n"),
}


async def both_hear(both, steps: Steps, **config) -> tuple[dict[str, Heard], dict[str, Heard]]:
    ours, theirs = both(**config)
    return await asyncio.gather(play(ours, steps), play(theirs, steps))


@pytest.mark.parametrize("name", CASES)
async def test_our_bytes_are_nats_servers(both, name):
    ours, theirs = await both_hear(both, CASES[name])
    for connection, heard in theirs.items():
        assert ours[connection].text() == heard.text()
        assert ours[connection].events() == heard.events()
        assert ours[connection].closed == heard.closed


@pytest.mark.parametrize("name", CASES_ANY_ORDER)
async def test_our_deliveries_are_nats_servers_in_any_order(both, name):
    ours, theirs = await both_hear(both, CASES_ANY_ORDER[name])
    for connection, heard in theirs.items():
        assert sorted(ours[connection].events(), key=repr) == sorted(heard.events(), key=repr)


MQ9 = b"PUB $mq9.AI.MSG.SEND.a i 2\r\nhi\r\n"
MAILBOXES = b"$mq9.AI.MAILBOX.MSG.*.normal"

# All that differs: (steps, ours, theirs). The first four because section 7 of the protocol wants
# it,
# the others because nats-server hands malformed lines on to subscribers, or takes what it should
# not.
DIFFERENCES: dict[str, tuple[Steps, dict[str, bytes], dict[str, bytes]]] = {
    "commands are answered, and never said to have no responders": (
        one(FULL + b"SUB i 1\r\n" + MQ9),
        {"a": b"MSG i 1 2\r\nhi\r\n"},
        {
            "a": b"HMSG i 1 50 50\r\nNATS/1.0 503\r\nNats-Subject: $mq9.AI.MSG.SEND.a\r\n\r\n\r\n",
        },
    ),
    "commands are not forwarded, and their replies reach no wildcard": (
        [("b", QUIET + b"SUB > 1\r\n"), ("a", QUIET + b"SUB i 9\r\n" + MQ9)],
        {"a": b"MSG i 9 2\r\nhi\r\n", "b": b""},
        {"a": b"", "b": b"MSG $mq9.AI.MSG.SEND.a 1 i 2\r\nhi\r\n"},
    ),
    "a subscription to a command's subject hears nothing": (
        [("b", QUIET + b"SUB $mq9.AI.MSG.SEND.a 1\r\n"), ("a", QUIET + MQ9)],
        {"a": b"", "b": b""},
        {"a": b"", "b": b"MSG $mq9.AI.MSG.SEND.a 1 i 2\r\nhi\r\n"},
    ),
    "no wildcard stands where a mailbox address does": (
        one(LOUD + b"SUB %b 1\r\nSUB %b q 2\r\n" % (MAILBOXES, MAILBOXES)),
        {
            "a": b"+OK\r\n-ERR 'Permissions Violation for Subscription to \"%b\"'\r\n"
            b'-ERR \'Permissions Violation for Subscription to "%b" using queue "q"\'\r\n'
            % (MAILBOXES, MAILBOXES)
        },
        {"a": b"+OK\r\n+OK\r\n+OK\r\n"},
    ),
    "a CR inside a line is a blank": (
        one(QUIET + b"SUB > 1\r\nPUB a\rb 1\r\nx\r\n"),
        {"a": b"MSG a 1 b 1\r\nx\r\n"},
        {"a": b"MSG a\rb 1 1\r\nx\r\n"},
    ),
    "a size is told as a number, not as it was written": (
        one(QUIET + b"SUB > 1\r\nPUB a 000000002\r\nxx\r\n"),
        {"a": b"MSG a 1 2\r\nxx\r\n"},
        {"a": b"MSG a 1 000000002\r\nxx\r\n"},
    ),
    "HMSG of a client is as unknown as MSG": (
        one(b"HMSG a 1 0 0\r\n\r\n"),
        {"a": b"-ERR 'Unknown Protocol Operation'\r\n"},
        {"a": b"+OK\r\n"},
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
async def test_only_here_we_differ(both, name):
    steps, we, they = DIFFERENCES[name]
    ours, theirs = await both_hear(both, steps)
    heard = [
        {who: heard.text().replace(b"PONG\r\n", b"") for who, heard in side.items()}
        for side in (ours, theirs)
    ]
    assert heard == [we, they]

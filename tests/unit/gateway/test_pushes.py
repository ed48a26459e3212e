"""Subscriptions that the handler pushes to: who begins them, what ends them, and room."""

import asyncio

import pytest

from mq9cluster.domain.errors import InvalidField, Overloaded
from mq9cluster.gateway.settings import PUSHED_AHEAD_BYTES_MAX
from tests.support.wire import CONNECT, eventually

SUBJECT = b"$mq9.AI.MAILBOX.MSG.a.*"
HEADER = b"NATS/1.0\r\nmq9-msg-id: 1\r\n\r\n"


@pytest.fixture
def handler(gateway):
    gateway.handler.refuse = False
    return gateway.handler


async def test_the_handler_is_asked_for_subscriptions_under_its_prefix_alone(gateway, handler):
    wire = await gateway.open()
    await wire.answers(
        b"SUB %b 1\r\nSUB %b q 2\r\nSUB news 3\r\nSUB $mq9.AI.BROADCAST.a.b 4\r\nSUB > 5\r\n"
        % (SUBJECT, SUBJECT)
    )
    assert [push.asked for push in handler.pushes] == [
        (1, "$G", SUBJECT, None),
        (1, "$G", SUBJECT, b"q"),
    ]


async def test_what_is_pushed_is_a_message_of_that_subscription(gateway, handler):
    wire = await gateway.open()
    await wire.answers(b"SUB %b 7\r\n" % SUBJECT)
    (push,) = handler.pushes
    assert push.deliver(b"$mq9.AI.MAILBOX.MSG.a.low", HEADER, b"hi")
    expected = b"HMSG $mq9.AI.MAILBOX.MSG.a.low 7 %d %d\r\n%bhi\r\n"
    assert await wire.answers() == expected % (len(HEADER), len(HEADER) + 2, HEADER)


async def test_a_client_without_headers_is_given_the_payload(gateway, handler):
    wire = await gateway.open(connect=b'CONNECT {"verbose":false,"headers":false}\r\n')
    await wire.answers(b"SUB %b 7\r\n" % SUBJECT)
    handler.pushes[0].deliver(b"x", HEADER, b"hi")
    assert await wire.answers() == b"MSG x 7 2\r\nhi\r\n"


@pytest.mark.parametrize("end", [b"UNSUB 1\r\n", b"UNSUB 1 1\r\n", CONNECT])
async def test_what_ends_a_subscription_ends_its_push(gateway, handler, end):
    wire = await gateway.open()
    await wire.answers(b"SUB %b 1\r\n" % SUBJECT)
    (push,) = handler.pushes
    assert push.deliver(b"x", None, b"1")
    await wire.answers(end)
    assert not push.deliver(b"x", None, b"2")
    assert push.cancelled == 1
    assert b"MSG x 1 1\r\n2" not in await wire.answers()


async def test_the_last_of_so_many_is_given(gateway, handler):
    wire = await gateway.open()
    await wire.answers(b"SUB %b 1\r\nUNSUB 1 2\r\n" % SUBJECT)
    (push,) = handler.pushes
    assert [push.deliver(b"x", None, b"%d" % number) for number in range(3)] == [True, True, False]
    assert push.cancelled == 1
    assert await wire.answers() == b"MSG x 1 1\r\n0\r\nMSG x 1 1\r\n1\r\n"


async def test_the_end_of_the_connection_ends_them_all(gateway, handler):
    wire = await gateway.open()
    await wire.answers(b"SUB %b 1\r\nSUB %b 2\r\n" % (SUBJECT, SUBJECT))
    wire.abort()
    await eventually(lambda: [push.cancelled for push in handler.pushes] == [1, 1])
    assert not handler.pushes[0].deliver(b"x", None, b"")


async def test_a_sid_that_is_taken_stays_what_it_was(gateway, handler):
    wire = await gateway.open()
    await wire.answers(b"SUB %b 1\r\nSUB %b 1\r\n" % (SUBJECT, SUBJECT))
    assert [push.cancelled for push in handler.pushes] == [0]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            InvalidField("priority", "x"),
            b'Permissions Violation for Subscription to "%b"' % SUBJECT,
        ),
        (Overloaded("x"), b"maximum subscriptions exceeded"),
    ],
)
async def test_what_the_handler_refuses_is_no_subscription(gateway, handler, error, text):
    handler.refuse = error
    wire = await gateway.open()
    assert await wire.answers(b"SUB %b 1\r\n" % SUBJECT) == b"-ERR '%b'\r\n" % text
    handler.refuse = False
    assert await wire.answers(b"SUB %b 1\r\n" % SUBJECT) == b""
    assert len(handler.pushes) == 1


async def test_nobody_but_the_handler_delivers_to_them(gateway, handler):
    """Not the answer to a command, published to the very subject."""
    reader, other = await gateway.open(), await gateway.open()
    await reader.answers(b"SUB $mq9.AI.MAILBOX.MSG.a.low 1\r\n")
    await other.answers(b"PUB $mq9.AI.X $mq9.AI.MAILBOX.MSG.a.low 1\r\nx\r\n")
    await reader.answers(b"PUB $mq9.AI.X $mq9.AI.MAILBOX.MSG.a.low 1\r\nx\r\n")
    assert await reader.answers() == b""


async def test_room_until_so_much_is_owed_and_again_when_it_was_read(gateway, handler):
    wire = await gateway.open()
    await wire.answers(b"SUB %b 1\r\n" % SUBJECT)
    (push,) = handler.pushes
    wire.writer.transport.pause_reading()
    payload = bytes(PUSHED_AHEAD_BYTES_MAX // 8)
    given = 0
    while push.has_room():
        assert push.deliver(b"x", None, payload)
        given += 1
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert given > 4
    assert not push.has_room()
    assert push.resumed == 0
    wire.writer.transport.resume_reading()
    await eventually(lambda: push.resumed > 0)
    assert push.has_room()
    assert (await wire.answers()).count(b"MSG x 1 ") == given


async def test_the_handler_is_told_what_a_client_calls_itself(gateway, handler):
    await gateway.open(connect=b'CONNECT {"verbose":false,"name":"me"}\r\n')
    await eventually(lambda: handler.names == {1: "me"})


async def test_a_client_has_read_what_stands_before_the_ping_it_answers(gateway, handler):
    wire = await gateway.open()
    await wire.answers(b"SUB %b 1\r\n" % SUBJECT)
    (push,) = handler.pushes
    told = []
    push.deliver(b"x", None, b"1")
    push.confirm(told.append)
    push.deliver(b"x", None, b"2")
    push.confirm(told.append)
    assert await wire.answers() == b"MSG x 1 1\r\n1\r\nPING\r\nMSG x 1 1\r\n2\r\nPING\r\n"
    assert told == []
    await wire.answers(b"PONG\r\n")
    assert told == [True]
    wire.abort()
    await eventually(lambda: told == [True, False])
    push.confirm(told.append)
    assert told == [True, False, False]


async def test_the_keepalives_pong_is_nobody_elses(start_gateway):
    gateway = await start_gateway(ping_interval_s=0.2)
    gateway.handler.refuse = False
    wire = await gateway.open()
    await wire.answers(b"SUB %b 1\r\n" % SUBJECT)
    told = []
    await wire.until(b"PING\r\n")  # of the keepalive
    gateway.handler.pushes[0].confirm(told.append)
    await wire.answers(b"PONG\r\n")
    assert told == []
    await wire.answers(b"PONG\r\n")
    assert told == [True]

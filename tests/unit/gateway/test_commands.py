"""mq9 commands through a socket: who is asked, and who hears the answer (docs/protocol.md, section
7).
"""

import asyncio

import pytest

from tests.support.wire import CONNECT, eventually


async def test_a_command_reaches_the_handler_as_it_was_sent(gateway):
    wire = await gateway.open()
    header = b"NATS/1.0\r\nmq9-key: k\r\n\r\n"
    await wire.answers(
        b"PUB $mq9.AI.MSG.SEND.a 2\r\nhi\r\n"
        b"HPUB $mq9.AI.MSG.SEND.b r %d %d\r\n%bho\r\n" % (len(header), len(header) + 2, header)
    )
    assert gateway.handler.commands == [
        (1, "$G", b"$mq9.AI.MSG.SEND.a", None, b"hi"),
        (1, "$G", b"$mq9.AI.MSG.SEND.b", header, b"ho"),
    ]


async def test_the_answer_goes_to_every_matching_sid_of_the_asking_connection_only(gateway):
    asker, spy = await gateway.open(), await gateway.open()
    await spy.answers(b"SUB > 1\r\nSUB _INBOX.> 2\r\nSUB _INBOX.me.1 3\r\n")
    said = await asker.answers(
        b"SUB _INBOX.me.* 1\r\nSUB _INBOX.> 2\r\nPUB $mq9.AI.X _INBOX.me.1 2\r\nhi\r\n"
    )
    assert sorted(said.split(b"hi\r\n")) == [
        b"",
        b"MSG _INBOX.me.1 1 2\r\n",
        b"MSG _INBOX.me.1 2 2\r\n",
    ]
    assert await spy.answers() == b""


async def test_without_a_subscription_of_its_own_only_literal_subscribers_hear(gateway):
    asker, literal, spy = [await gateway.open() for _ in range(3)]
    await literal.answers(b"SUB _INBOX.me.1 7\r\nSUB _INBOX.me.1 q 8\r\nSUB _INBOX.me.* 9\r\n")
    await spy.answers(b"SUB _INBOX.me.* 1\r\nSUB > 2\r\nSUB _INBOX.me.* q 3\r\n")
    assert await asker.answers(b"PUB $mq9.AI.X _INBOX.me.1 2\r\nhi\r\n") == b""
    said = await literal.answers()
    assert said == b"MSG _INBOX.me.1 7 2\r\nhi\r\nMSG _INBOX.me.1 8 2\r\nhi\r\n"
    assert await spy.answers() == b""


async def test_commands_are_never_forwarded_and_broadcasts_are(gateway):
    spy, sender = await gateway.open(), await gateway.open()
    await spy.answers(b"SUB > 1\r\nSUB $mq9.AI.MSG.SEND.a 2\r\nSUB $mq9.> 3\r\n")
    await sender.answers(b"PUB $mq9.AI.MSG.SEND.a 1\r\nx\r\nPUB $mq9.AI.BROADCAST.d.e 1\r\ny\r\n")
    said = await spy.answers()
    assert said == b"MSG $mq9.AI.BROADCAST.d.e 1 1\r\ny\r\nMSG $mq9.AI.BROADCAST.d.e 3 1\r\ny\r\n"


async def test_no_responders_is_said_of_a_broadcast_but_never_of_a_command(gateway):
    gateway.handler.hold = True
    wire = await gateway.open()
    said = await wire.answers(
        b"SUB i 1\r\nPUB $mq9.AI.NO.SUCH i 0\r\n\r\nPUB $mq9.AI.BROADCAST.d.e i 0\r\n\r\n"
    )
    header = b"NATS/1.0 503\r\nNats-Subject: $mq9.AI.BROADCAST.d.e\r\n\r\n"
    assert said == b"HMSG i 1 %d %d\r\n%b\r\n" % (len(header), len(header), header)


@pytest.mark.parametrize(
    ("subscriptions", "heard"),
    [
        (b"SUB i.* 1\r\nUNSUB 1\r\n", []),
        (b"SUB i.* 1\r\nUNSUB 1 1\r\n", [b"1"]),
        (b"SUB i.* 1\r\nSUB i.9 2\r\n", [b"1", b"2"]),
        (b"SUB *.9 1\r\nSUB *.8 2\r\n", [b"1"]),
        (b"SUB i.9 q 1\r\n", [b"1"]),
    ],
)
async def test_own_subscriptions_are_looked_up_anew_after_every_change(
    gateway, subscriptions, heard
):
    wire = await gateway.open()
    await wire.answers(b"PUB $mq9.AI.X i.9 0\r\n\r\nPUB $mq9.AI.X i.8 0\r\n\r\n")
    said = await wire.answers(subscriptions + b"PUB $mq9.AI.X i.9 0\r\n\r\n")
    lines = sorted(said.split(b"\r\n\r\n")[:-1])
    assert lines == [b"MSG i.9 %b 0" % sid for sid in heard]
    assert b"MSG" not in await wire.answers(b"UNSUB 1\r\nUNSUB 2\r\nPUB $mq9.AI.X i.9 0\r\n\r\n")


async def test_unsub_with_a_maximum_counts_answers(gateway):
    wire = await gateway.open()
    said = await wire.answers(b"SUB i 1\r\nUNSUB 1 2\r\n" + b"PUB $mq9.AI.X i 1\r\nx\r\n" * 3)
    assert said == b"MSG i 1 1\r\nx\r\n" * 2
    assert gateway.exchange.interest("$G").count == 0


async def test_answers_may_come_late_in_any_order_and_exceed_max_payload(start_gateway):
    gateway = await start_gateway(payload_bytes_max=10)
    gateway.handler.hold = True
    wire = await gateway.open()
    await wire.answers(b"SUB i.* 1\r\nPUB $mq9.AI.X i.1 0\r\n\r\nPUB $mq9.AI.X i.2 0\r\n\r\n")
    first, second = gateway.handler.held
    second(b"y" * 100_000)
    first(b"x")
    said = await wire.answers()
    assert said == b"MSG i.2 1 100000\r\n" + b"y" * 100_000 + b"\r\nMSG i.1 1 1\r\nx\r\n"


async def test_an_answer_after_the_end_of_the_connection_reaches_only_literal_subscribers(gateway):
    gateway.handler.hold = True
    asker, other = await gateway.open(), await gateway.open()
    await other.answers(b"SUB back 5\r\nSUB > 6\r\n")
    await asker.answers(b"SUB i.* 1\r\nPUB $mq9.AI.X i.1 0\r\n\r\nPUB $mq9.AI.X back 0\r\n\r\n")
    asker.abort()
    await eventually(lambda: gateway.handler.closed)
    for respond in gateway.handler.held:
        respond(b"late")
    assert await other.answers() == b"MSG back 5 4\r\nlate\r\n"


async def test_the_handler_hears_of_the_end_once_behind_the_last_command(gateway):
    wire = await gateway.open()
    wire.send(b"PUB $mq9.AI.X 0\r\n\r\n" * 5000 + b"BAD\r\n")
    await wire.rest()
    assert len(gateway.handler.commands) == 5000
    assert gateway.handler.closed == [1]


async def test_a_half_closed_client_keeps_what_it_sent(start_gateway):
    gateway = await start_gateway(commands_in_flight_max=10)
    gateway.handler.hold = True
    wire = await gateway.open()
    wire.send(b"PUB $mq9.AI.X i 0\r\n\r\n" * 3000)
    wire.writer.write_eof()
    done = 0
    while not gateway.handler.closed:
        for respond in gateway.handler.held[done:]:
            done += 1
            respond(b"")
        await asyncio.sleep(0)
    assert len(gateway.handler.commands) == 3000


async def test_a_reset_client_keeps_what_was_read(start_gateway):
    gateway = await start_gateway(commands_in_flight_max=10)
    gateway.handler.hold = True
    wire = await gateway.open()
    wire.send(b"PUB $mq9.AI.X i 0\r\n\r\n" * 1000)
    await eventually(lambda: len(gateway.handler.commands) == 10)
    wire.abort()
    done = 0
    while not gateway.handler.closed:
        for respond in gateway.handler.held[done:]:
            done += 1
            respond(b"")
        await asyncio.sleep(0)
    assert len(gateway.handler.commands) == 1000


@pytest.mark.parametrize("subject", [b"MSG.QUERY.a", b"MSG.FETCH.a", b"AGENT.DISCOVER"])
async def test_nothing_is_read_for_a_client_that_is_gone(start_gateway, subject):
    """Not even answered is what was under way: the rest must not wait for it."""
    gateway = await start_gateway(commands_in_flight_max=10)
    gateway.handler.hold = True
    wire = await gateway.open()
    read = b"PUB $mq9.AI.%b i 0\r\n\r\n" % subject
    wire.send(b"SUB i 1\r\n" + read * 1000 + b"PUB $mq9.AI.MSG.SEND.a 0\r\n\r\n" * 50 + read)
    await eventually(lambda: len(gateway.handler.commands) == 10)
    wire.abort()
    for respond in gateway.handler.held:  # nobody notices before something is written
        respond(b"x")
        await asyncio.sleep(0.01)
        if gateway.handler.lost:
            break
    await eventually(lambda: gateway.handler.closed == [1])
    sent = [command[2] for command in gateway.handler.commands[gateway.handler.lost[1] :]]
    assert sent == [b"$mq9.AI.MSG.SEND.a"] * 50


@pytest.mark.parametrize("reply", [b"i ", b""])
@pytest.mark.parametrize(
    "limit", [{"commands_in_flight_max": 4}, {"commands_in_flight_bytes_max": 4_000}]
)
async def test_a_client_waits_for_its_own_commands_and_then_goes_on(start_gateway, limit, reply):
    gateway = await start_gateway(**limit)
    gateway.handler.hold = True
    wire, other = await gateway.open(), await gateway.open()
    wire.send(b"SUB i 1\r\n" + b"PUB $mq9.AI.X %b1000\r\n%b\r\n" % (reply, b"x" * 1000) * 3000)
    await eventually(lambda: len(gateway.handler.held) == 4)
    assert await other.answers() == b""
    assert len(gateway.handler.held) == 4
    assert gateway.listener.sessions[1].in_flight == 4
    gateway.handler.held[0](b"")
    await other.answers()
    assert len(gateway.handler.held) == 4
    gateway.handler.hold = False
    for respond in gateway.handler.held[1:]:
        respond(b"")
    await wire.answers()
    assert len(gateway.handler.commands) == 3000
    assert gateway.listener.sessions[1].in_flight == 0


@pytest.mark.parametrize("subject", [b"$mq9.AI.MAILBOX.MSG.*.normal", b"$mq9.AI.INBOX.>"])
async def test_a_wildcard_where_an_address_stands_is_a_permissions_violation(gateway, subject):
    wire = await gateway.open(connect=CONNECT.replace(b'"verbose":false', b'"verbose":true'))
    line = b'-ERR \'Permissions Violation for Subscription to "%b"' % subject
    assert await wire.answers(b"SUB %b 1\r\n" % subject) == line + b"'\r\n"
    assert await wire.answers(b"SUB %b q 1\r\n" % subject) == line + b' using queue "q"\'\r\n'
    assert await wire.answers(b"SUB $mq9.AI.MAILBOX.MSG.a.b.* 1\r\n") == b"+OK\r\n"


async def test_connection_numbers_rise_and_are_the_client_ids(gateway):
    wires = [await gateway.open() for _ in range(3)]
    assert [wire.info["client_id"] for wire in wires] == [1, 2, 3]


async def test_a_fault_of_the_handler_ends_the_connection_instead_of_hanging_it(gateway):
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    wire = await gateway.open()
    gateway.handler.commands = None
    wire.send(b"PUB $mq9.AI.X 0\r\n\r\n" * 3)
    assert await wire.rest() in (b"", b"<reset>")
    await eventually(lambda: gateway.handler.closed == [1])
    assert [type(context["exception"]) for context in faults] == [AttributeError]


@pytest.mark.parametrize("reply", [b"i..1", b".1", b"i.", b"i.*", b"i.>", b">", b"1"])
async def test_an_odd_reply_subject_spoils_nothing_for_the_next(gateway, reply):
    wire = await gateway.open()
    await wire.answers(b"SUB i.* 1\r\nSUB *.1 2\r\nUNSUB 2\r\nPUB $mq9.AI.X %b 0\r\n\r\n" % reply)
    said = await wire.answers(b"PUB $mq9.AI.X i.1 0\r\n\r\n")
    assert said == b"MSG i.1 1 0\r\n\r\n"


@pytest.mark.parametrize("leaving", ["ended", "listens no more", "heard enough"])
async def test_what_was_asked_for_by_a_listener_is_told_to_nobody_else_when_it_has_left(
    gateway, leaving
):
    gateway.handler.hold = True
    asker, spy = await gateway.open(), await gateway.open()
    await spy.answers(b"SUB _INBOX.a.1 1\r\nSUB _INBOX.a.1 q 2\r\nSUB _INBOX.a.* 3\r\nSUB > 4\r\n")
    maximum = b"UNSUB 1 1\r\nPUB _INBOX.a.2 0\r\n\r\n" if leaving == "heard enough" else b""
    await asker.answers(
        b"SUB _INBOX.a.* 1\r\nPUB $mq9.AI.MSG.FETCH.box _INBOX.a.1 0\r\n\r\n" + maximum
    )
    await spy.answers()
    if leaving == "ended":
        asker.abort()
        await eventually(lambda: gateway.handler.closed)
    elif leaving == "listens no more":
        await asker.answers(b"UNSUB 1\r\n")
    gateway.handler.held[0](b"secret")
    assert await spy.answers() == b""


async def test_who_listens_anew_meanwhile_is_told_there_and_once(gateway):
    gateway.handler.hold = True
    asker = await gateway.open()
    await asker.answers(b"SUB in.* 1\r\nSUB in.1 2\r\nPUB $mq9.AI.MSG.FETCH.box in.1 0\r\n\r\n")
    await asker.answers(b"UNSUB 1\r\nUNSUB 2\r\nSUB in.* 3\r\n")
    gateway.handler.held[0](b"found")
    assert await asker.answers() == b"MSG in.1 3 5\r\nfound\r\n"


async def test_who_did_not_listen_when_it_asked_has_its_answer_published_exactly(gateway):
    gateway.handler.hold = True
    asker, other = await gateway.open(), await gateway.open()
    await other.answers(b"SUB answers.here 1\r\nSUB answers.* 2\r\n")
    await asker.answers(b"PUB $mq9.AI.MSG.FETCH.box answers.here 0\r\n\r\n")
    asker.abort()
    await eventually(lambda: gateway.handler.closed)
    gateway.handler.held[0](b"for the other")
    assert await other.answers() == b"MSG answers.here 1 13\r\nfor the other\r\n"

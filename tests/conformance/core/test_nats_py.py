"""The official Python client against our server: what an application of NATS does all day."""

import asyncio

import nats
import pytest
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from tests.support.core_servers import CoreConfig, OurServer
from tests.support.nats_py import settled
from tests.support.wire import WAIT_S, eventually


@pytest.fixture
def port(both) -> int:
    return both()[0]


@pytest.fixture
async def client(port):
    connection = await nats.connect(f"nats://127.0.0.1:{port}")
    yield connection
    await connection.close()


@pytest.fixture
async def other(port):
    connection = await nats.connect(f"nats://127.0.0.1:{port}")
    yield connection
    await connection.close()


async def test_publish_subscribe_with_wildcards(client, other):
    subscription = await client.subscribe("orders.*.new")
    await settled(client)
    await other.publish("orders.eu.new", b"1")
    await other.publish("orders.eu.old", b"2")
    await other.publish("orders.us.new", "ü".encode())
    await other.flush()
    got = [await subscription.next_msg(WAIT_S) for _ in range(2)]
    assert [(m.subject, m.data) for m in got] == [
        ("orders.eu.new", b"1"),
        ("orders.us.new", "ü".encode()),
    ]
    with pytest.raises(NatsTimeout):
        await subscription.next_msg(0.05)


async def test_headers_travel(client, other):
    subscription = await client.subscribe("headers")
    await settled(client)
    await other.publish("headers", b"x", headers={"A": "1", "b-C": "two words"})
    message = await subscription.next_msg(WAIT_S)
    assert message.headers == {"A": "1", "b-C": "two words"}


async def test_request_and_reply(client, other):
    async def answer(message):
        await message.respond(b"re: " + message.data)

    await other.subscribe("service", cb=answer)
    await settled(other)
    answers = await asyncio.gather(
        *(client.request("service", b"%d" % n, timeout=WAIT_S) for n in range(200))
    )
    assert [message.data for message in answers] == [b"re: %d" % n for n in range(200)]


async def test_request_of_nobody_fails_at_once(client):
    with pytest.raises(NoRespondersError):
        await client.request("nobody", b"", timeout=WAIT_S)


async def test_request_in_the_old_style(client, other):
    async def answer(message):
        await message.respond(message.data)

    await other.subscribe("old", cb=answer)
    await settled(other)
    message = await client.request("old", b"x", timeout=WAIT_S, old_style=True)
    assert message.data == b"x"


async def test_many_answers_to_one_request(client, other):
    async def answer(message):
        for n in range(5):
            await message.respond(b"%d" % n)

    await other.subscribe("many", cb=answer)
    await settled(other)
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await subscription.unsubscribe(limit=5)
    await client.publish("many", b"", reply=inbox)
    got = [(await subscription.next_msg(WAIT_S)).data for _ in range(5)]
    assert got == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_queue_group_gets_each_message_once(client, other):
    got = []

    async def work(message):
        got.append(message.data)

    for connection in (client, other, client, other):
        await connection.subscribe("tasks.*", queue="workers", cb=work)
    await settled(client)
    await settled(other)
    for n in range(400):
        await client.publish(f"tasks.{n}", b"%d" % n)
    await client.flush()
    await other.flush()
    await eventually(lambda: len(got) >= 400)
    await asyncio.sleep(0.05)
    assert sorted(got, key=int) == [b"%d" % n for n in range(400)]


async def test_drain_delivers_what_was_under_way(port, other):
    connection = await nats.connect(f"nats://127.0.0.1:{port}")
    got = []

    async def slowly(message):
        await asyncio.sleep(0)
        got.append(message.data)

    await connection.subscribe("drained", cb=slowly)
    await settled(connection)
    echo = await other.subscribe("drained")
    for n in range(500):
        await other.publish("drained", b"%d" % n)
    for _ in range(500):  # what the server has handed out; the PING of flush() overtakes messages
        await echo.next_msg(WAIT_S)
    await connection.drain()
    assert got == [b"%d" % n for n in range(500)]
    assert connection.is_closed


async def test_a_payload_over_the_limit_is_refused_by_the_client_itself(client):
    with pytest.raises(nats.errors.MaxPayloadError):
        await client.publish("big", b"x" * (client.max_payload + 1))
    subscription = await client.subscribe("big")
    await client.publish("big", b"x" * client.max_payload)
    assert len((await subscription.next_msg(WAIT_S)).data) == client.max_payload


async def test_no_echo(port):
    quiet = await nats.connect(f"nats://127.0.0.1:{port}", no_echo=True)
    subscription = await quiet.subscribe("mine")
    await quiet.publish("mine", b"x")
    await settled(quiet)
    with pytest.raises(NatsTimeout):
        await subscription.next_msg(0.05)
    await quiet.close()


async def test_pedantic_and_verbose(port):
    connection = await nats.connect(f"nats://127.0.0.1:{port}", pedantic=True, verbose=True)
    subscription = await connection.subscribe("v")
    await connection.publish("v", b"x")
    assert (await subscription.next_msg(WAIT_S)).data == b"x"
    await connection.close()


@pytest.fixture
def restartable():
    server = OurServer(CoreConfig())
    server.start()
    yield server
    server.end()


async def in_thread(work, *arguments):
    """Our server has a loop of its own: waiting for it must not stop the client's."""
    await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


async def test_reconnect_renews_subscriptions(restartable):
    lost, again = asyncio.Event(), asyncio.Event()

    async def disconnected():
        lost.set()

    async def reconnected():
        again.set()

    port = restartable.port
    client = await nats.connect(
        f"nats://127.0.0.1:{port}",
        reconnect_time_wait=0.05,
        max_reconnect_attempts=-1,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        error_cb=_quietly,
    )
    subscription = await client.subscribe("kept")
    await client.flush()
    await in_thread(restartable.stop)
    await asyncio.wait_for(lost.wait(), WAIT_S)
    await client.publish("kept", b"while away")
    await in_thread(restartable.start, port)
    await asyncio.wait_for(again.wait(), WAIT_S)
    await client.publish("kept", b"back")
    await client.flush()
    assert (await subscription.next_msg(WAIT_S)).data == b"while away"
    assert (await subscription.next_msg(WAIT_S)).data == b"back"
    await client.close()


async def _quietly(error):
    pass


async def test_commands_are_requests(restartable):
    client = await nats.connect(f"nats://127.0.0.1:{restartable.port}")
    answers = await asyncio.gather(
        *(client.request("$mq9.AI.MSG.SEND.a", b"%d" % n, timeout=WAIT_S) for n in range(500))
    )
    assert [message.data for message in answers] == [b"%d" % n for n in range(500)]
    answer = await client.request("$mq9.AI.X", b"x", timeout=WAIT_S, old_style=True)
    assert answer.data == b"x"
    await client.close()

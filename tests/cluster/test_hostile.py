"""Slow, silent, half-open and malicious clients: none delays a calm one, none makes the node grow.

Nothing here measures speed: the machine is shared. A calm client works on while others misbehave,
and every one of its requests must succeed within a generous deadline; memory and the node's log are
looked at afterwards.
"""

import asyncio
import contextlib
import json
import random
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from chaos.cluster.process import ServedNode
from tests.conftest import ServeNode
from tests.support.mq9 import Mq9, encoded, ids, payloads
from tests.support.raw_nats import RawNats, header_block, publication

MIB = 1 << 20
CALM_S_MAX = 60.0  # for one round of the calm client, on a busy machine
ENDED_S_MAX = 30.0
WAITING_MAX = 1_000  # FETCHes of one connection
PENDING_BYTES_MAX = 64 * MIB  # what the node may hold for a client that does not read


def memory_bytes(node: ServedNode) -> int:
    """The node's resident memory."""
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@contextlib.asynccontextmanager
async def calm_client(node: ServedNode) -> AsyncIterator[None]:
    """A client that sends, fetches, acknowledges and talks to itself while the block runs.

    It must get through at least once after the block has done its worst.
    """
    connection = await nats.connect(node.url, allow_reconnect=False)
    mq9 = Mq9(connection)
    address = await mq9.box("calm")
    echo = await connection.subscribe("calm.echo")
    over = asyncio.Event()

    async def one_round(number: int) -> None:
        msg_id = await mq9.send(address, b"%d" % number)
        reply = await mq9.fetch(address, "calm")
        assert (ids(reply), payloads(reply)) == ([msg_id], [b"%d" % number])
        assert await mq9.ack(address, "calm", msg_id) == {"error": ""}
        await connection.publish("calm.echo", b"%d" % number)
        assert (await echo.next_msg(CALM_S_MAX)).data == b"%d" % number

    async def work() -> None:
        number = 0
        last_round = False
        while not last_round:
            last_round = over.is_set()
            number += 1
            await asyncio.wait_for(one_round(number), CALM_S_MAX)
            await asyncio.sleep(0.01)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        over.set()
        await working
        await connection.close()


def mute_socket(node: ServedNode) -> socket.socket:
    """A connected socket with a small receive buffer, of which nobody reads."""
    mute = socket.socket()
    mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    mute.connect((node.host, node.port))
    return mute


async def send_all(mute: socket.socket, data: bytes) -> bool:
    """Send in a thread; False when the node closed the connection meanwhile."""
    mute.settimeout(ENDED_S_MAX)
    try:
        await asyncio.to_thread(mute.sendall, data)
    except OSError:
        return False
    return True


async def cut_off(mute: socket.socket) -> bool:
    """Whether the node closes the connection: a peer's close shows although nothing was read."""
    mute.settimeout(1.0)
    for _ in range(int(ENDED_S_MAX * 10)):
        try:
            await asyncio.to_thread(mute.sendall, b"PING\r\n")
        except TimeoutError:
            continue  # the node does not read us any more, and has not let go either
        except OSError:
            return True
        await asyncio.sleep(0.1)
    return False


def calm_log(node: ServedNode) -> list[object]:
    """Lines a hostile client must never cause: errors and tracebacks."""
    return [
        line
        for line in node.log
        if str(line.get("level", "")).lower() in {"error", "critical"}
        or "Traceback" in str(line)
        or "raw" in line
    ]


async def test_a_subscriber_that_does_not_read_is_cut_off_at_its_pending_limit(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    before = memory_bytes(node)
    slow = mute_socket(node)
    await send_all(slow, b'CONNECT {"verbose":false}\r\nSUB flood 1\r\n')
    async with calm_client(node):
        publisher = await RawNats.connect(node.host, node.port)
        chunk = publication("flood", b"x" * 65_536) * 16
        for _ in range(96):  # 96 MiB
            publisher.post(chunk)
            await publisher.flush()
        assert await cut_off(slow)
        assert publisher.errors == []
        await publisher.close()
    assert memory_bytes(node) - before < PENDING_BYTES_MAX + 64 * MIB
    assert calm_log(node) == []
    slow.close()


async def test_a_client_that_asks_for_much_and_reads_nothing_is_cut_off(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    owner = Mq9(await RawNats.connect(node.host, node.port))
    address = await owner.box("large")
    for _ in range(5):
        await owner.send(address, b"x" * MIB)
    before = memory_bytes(node)
    slow = mute_socket(node)
    body = encoded({"deliver": "earliest", "config": {"max_wait_ms": 0}})
    asked = publication(f"$mq9.AI.MSG.FETCH.{address}", body, "_INBOX.slow")
    async with calm_client(node):
        await send_all(slow, b'CONNECT {"verbose":false}\r\nSUB _INBOX.slow 1\r\n')
        await send_all(slow, asked * 2000)  # 14 GB of replies
        assert await cut_off(slow)
    # what is pending, and the replies under way when the limit was reached
    assert memory_bytes(node) - before < PENDING_BYTES_MAX + 192 * MIB
    assert calm_log(node) == []
    slow.close()


async def commands_answered(node: ServedNode, command: str) -> int:
    """How many of these commands the node has answered; the test's timeout bounds a wait for it."""
    metrics = (await node.get("/metrics")).body.decode()
    counted = re.search(rf'^mq9_command_seconds_count\{{command="{command}"}} (\d+)', metrics, re.M)
    assert counted is not None
    return int(counted[1])


async def test_what_a_cut_off_client_held_is_open_again(serve_node: ServeNode) -> None:
    node = await serve_node()
    owner = Mq9(await RawNats.connect(node.host, node.port))
    address = await owner.box("held")
    await owner.send_all(address, [b"1", b"2"])
    slow = mute_socket(node)
    body = encoded({"group_name": "g", "deliver": "earliest"})
    await send_all(
        slow,
        b'CONNECT {"verbose":false}\r\nSUB flood 1\r\n'
        + publication(f"$mq9.AI.MSG.FETCH.{address}", body, "_INBOX.slow"),
    )
    while await commands_answered(node, "MSG.FETCH") == 0:
        pass  # each look is a round trip
    publisher = await RawNats.connect(node.host, node.port)
    for _ in range(96):
        publisher.post(publication("flood", b"x" * 65_536) * 16)
        await publisher.flush()
    assert ids(await owner.fetch(address, "g", max_wait_ms=30_000)) == [1, 2]
    slow.close()
    await publisher.close()


async def test_hundreds_of_silent_clients_cost_little(serve_node: ServeNode) -> None:
    node = await serve_node()
    before = memory_bytes(node)
    async with calm_client(node):
        silent = [await asyncio.open_connection(node.host, node.port) for _ in range(400)]
        # half of them fall silent in the middle of something
        for number, (_, writer) in enumerate(silent):
            writer.write((b"", b"PUB half 10", b"PUB half 10\r\nhal", b"CONNECT {")[number % 4])
        await asyncio.sleep(0.5)
    assert memory_bytes(node) - before < 400 * 65_536
    for _, writer in silent:
        writer.close()
    assert calm_log(node) == []


async def test_a_half_closed_client_keeps_what_it_sent_and_loses_what_it_held(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    owner = Mq9(await RawNats.connect(node.host, node.port))
    address = await owner.box("half")
    await owner.send(address, b"1")
    reader, writer = await asyncio.open_connection(node.host, node.port)
    body = encoded({"group_name": "g", "deliver": "earliest"})
    async with calm_client(node):
        writer.write(b'CONNECT {"verbose":false}\r\nSUB _INBOX.half 1\r\n')
        writer.write(publication(f"$mq9.AI.MSG.FETCH.{address}", body, "_INBOX.half"))
        while not (await reader.readline()).startswith(b"MSG _INBOX.half"):
            pass
        writer.write(
            b"".join(publication(f"$mq9.AI.MSG.SEND.{address}", b"%d" % n) for n in (2, 3))
        )
        writer.write_eof()
        assert ids(await owner.fetch(address, "g", max_wait_ms=30_000)) != []
        for _ in range(200):
            if ids(await owner.fetch(address, "g")) == [1, 2, 3]:
                break
            await asyncio.sleep(0.05)
        assert payloads(await owner.fetch(address, "g")) == [b"1", b"2", b"3"]
    writer.close()


async def test_a_message_cut_off_in_the_middle_is_not_stored(serve_node: ServeNode) -> None:
    node = await serve_node()
    owner = Mq9(await RawNats.connect(node.host, node.port))
    address = await owner.box("cut")
    whole = publication(f"$mq9.AI.MSG.SEND.{address}", b"whole or nothing")
    for length in range(1, len(whole)):
        _, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(whole[:length])
        await writer.drain()
        writer.close()
    _, writer = await asyncio.open_connection(node.host, node.port)
    writer.write(whole)
    writer.write_eof()
    assert payloads(await owner.fetch(address, "g", max_wait_ms=30_000)) == [b"whole or nothing"]
    assert ids(await owner.query(address)) == [1]
    assert calm_log(node) == []
    writer.close()


def rubbish(seed: int) -> bytes:
    """Bytes of many kinds: noise, almost-NATS, other protocols."""
    rng = random.Random(seed)
    words = (b"PUB", b"SUB", b"HPUB", b"MSG", b"CONNECT", b"INFO {}", b"$mq9.AI.MSG.SEND.x", b" ")
    words += (
        b"\r\n",
        b"\n",
        b"-1",
        b"0",
        b"99999999999999999999",
        b"{",
        b"}",
        b"\x00",
        b"\xff",
        b">",
    )
    return rng.choice(
        (
            rng.randbytes(rng.randrange(1, 20_000)),
            b"".join(rng.choices(words, k=rng.randrange(1, 400))),
            b" ".join(rng.choices(words, k=rng.randrange(1, 400))),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(512),
            b"*1\r\n$4\r\nPING\r\n",
            b"\r\n" * rng.randrange(1, 1000),
        )
    )


async def test_rubbish_ends_its_own_connection_alone(serve_node: ServeNode) -> None:
    node = await serve_node()
    before = memory_bytes(node)

    async def throw(seed: int) -> None:
        client = await RawNats.open(node.host, node.port)
        client.post(rubbish(seed))
        with contextlib.suppress(TimeoutError):  # some rubbish is a valid beginning
            await asyncio.wait_for(client.ended.wait(), 0.3)
        await client.close()

    async with calm_client(node):
        for start in range(0, 400, 40):
            await asyncio.gather(*(throw(seed) for seed in range(start, start + 40)))
    assert memory_bytes(node) - before < 32 * MIB
    assert calm_log(node) == []


OVERSIZED = (
    (b"PUB " + b"a" * 5000, "maximum control line exceeded"),
    (b"PUB " + b"a" * 5000 + b" 1\r\nx\r\n", "maximum control line exceeded"),
    (b"SUB " + b"a" * 100_000 + b" 1\r\n", "maximum control line exceeded"),
    (b"x" * 1_000_000, "Unknown Protocol Operation"),
    (b"PUB a 1048577\r\n", "Maximum Payload Violation"),
    (b"PUB a 999999999\r\n", "Maximum Payload Violation"),
    (b"HPUB a 1048577 1048577\r\n", "Maximum Payload Violation"),
    (b"HPUB a 12 1048577\r\n", "Maximum Payload Violation"),
)


@pytest.mark.parametrize(("sent", "error"), OVERSIZED, ids=lambda value: str(value)[:24])
async def test_an_oversized_line_is_told_and_ends_its_connection(
    shared_node: ServedNode, sent: bytes, error: str
) -> None:
    client = await RawNats.connect(shared_node.host, shared_node.port)
    async with calm_client(shared_node):
        client.post(sent)
        await asyncio.wait_for(client.ended.wait(), ENDED_S_MAX)
    assert client.errors == [error]


async def test_a_line_that_never_ends_does_not_grow_in_memory(serve_node: ServeNode) -> None:
    node = await serve_node()
    before = memory_bytes(node)
    async with calm_client(node):
        for beginning in (b"PUB ", b"CONNECT ", b"SUB ", b"INFO ", b"PING"):
            endless = mute_socket(node)
            await send_all(endless, beginning)
            for _ in range(64):
                if not await send_all(endless, b"x" * MIB):
                    break
            endless.close()
    assert memory_bytes(node) - before < 32 * MIB
    assert calm_log(node) == []


async def test_a_flood_of_subscriptions_is_bounded_and_forgotten_with_its_connection(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    grown = []
    before = memory_bytes(node)
    async with calm_client(node):
        for flood in range(3):
            client = await RawNats.connect(node.host, node.port)
            for start in range(0, 120_000, 10_000):
                lines = (
                    f"SUB flood{flood}.{number % 7}.{'*' if number % 2 else 'x'}.{number} {number}"
                    for number in range(start, start + 10_000)
                )
                client.post("\r\n".join(lines).encode() + b"\r\n")
                await client.flush()
            assert set(client.errors) == {"maximum subscriptions exceeded"}
            assert not client.ended.is_set()
            await client.close()
            grown.append(memory_bytes(node) - before)
    # the same memory serves each flood anew
    assert grown[2] < grown[0] + 48 * MIB
    assert grown[0] < 192 * MIB
    assert calm_log(node) == []


async def test_a_flood_of_waiting_fetches_is_bounded_and_told_overloaded(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    owner = Mq9(await RawNats.connect(node.host, node.port))
    address = await owner.box("wanted")
    before = memory_bytes(node)
    flood = 20_000
    body = encoded({"deliver": "earliest", "config": {"max_wait_ms": 300_000}})
    async with calm_client(node):
        client = await RawNats.connect(node.host, node.port)
        answers = [client.ask(f"$mq9.AI.MSG.FETCH.{address}", body) for _ in range(flood)]
        await client.flush()
        # the flooded connection itself is still served
        assert json.loads((await client.request("$mq9.AI.MAILBOX.CREATE")).payload)["error"] == ""
        refused = [json.loads(one.result().payload) for one in answers if one.done()]
        assert {reply["code"] for reply in refused} == {"overloaded"}
        assert all(reply["error"].startswith("overloaded: ") for reply in refused)
        assert len(refused) == flood - WAITING_MAX
        assert memory_bytes(node) - before < 96 * MIB
        # one message answers all that wait
        waited = [answer for answer in answers if not answer.done()]
        await owner.send(address, b"for all")
        replies = await asyncio.wait_for(asyncio.gather(*waited), 60)
        assert len(replies) == flood - len(refused)
        assert all(b'"messages":[{' in reply.payload for reply in replies)
        await client.close()
    assert calm_log(node) == []


async def test_waiting_fetches_of_a_connection_that_ended_are_forgotten(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    owner = Mq9(await RawNats.connect(node.host, node.port))
    address = await owner.box("wanted")
    body = encoded({"deliver": "earliest", "config": {"max_wait_ms": 300_000}})
    grown = []
    async with calm_client(node):
        before = memory_bytes(node)
        for _ in range(6):
            client = await RawNats.connect(node.host, node.port)
            for _ in range(5000):
                client.ask(f"$mq9.AI.MSG.FETCH.{address}", body)
            await client.flush()
            await client.close()
            grown.append(memory_bytes(node) - before)
        # another connection still may wait
        waiting = asyncio.create_task(owner.fetch(address, max_wait_ms=300_000))
        await asyncio.sleep(0.1)
        sender = Mq9(await RawNats.connect(node.host, node.port))
        await sender.send(address, b"here")
        assert payloads(await asyncio.wait_for(waiting, 30)) == [b"here"]
    assert grown[-1] < grown[1] + 24 * MIB


def giant_headers() -> list[bytes]:
    """HPUB header blocks that are valid and much too large to store, and malformed ones."""
    return [
        header_block([("X-Giant", "v" * 900_000)]),
        header_block([(f"X-{number}", "v") for number in range(60_000)]),
        header_block([("x" * 500_000, "v")]),
        header_block([("mq9-tags", "," * 500_000)]),
        header_block([("mq9-key", "k" * 500_000)]),
        header_block([("Nats-Msg-Id", "m" * 500_000)]),
    ]


async def test_giant_headers_are_refused_and_delay_nobody(serve_node: ServeNode) -> None:
    node = await serve_node()
    before = memory_bytes(node)
    client = await RawNats.connect(node.host, node.port)
    address = await Mq9(client).box("headed")
    inbox = client.subscribe("_INBOX.giant")
    async with calm_client(node):
        for block in giant_headers():
            client.post(
                b"HPUB $mq9.AI.MSG.SEND.%b _INBOX.giant %d %d\r\n%b\r\n"
                % (address.encode(), len(block), len(block), block)
            )
            reply = json.loads((await asyncio.wait_for(inbox.get(), CALM_S_MAX)).payload)
            assert reply["error"] == "invalid header: more than 65536 bytes as sent", reply
    assert memory_bytes(node) - before < 48 * MIB
    assert calm_log(node) == []
    await client.close()


async def test_malformed_headers_harm_nobody(serve_node: ServeNode) -> None:
    node = await serve_node()
    client = await RawNats.connect(node.host, node.port)
    address = await Mq9(client).box("headed")
    blocks = (
        b"",
        b"\r\n",
        b"NATS/1.0",
        b"NATS/1.0\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n: no name\r\n\r\n",
        b"NATS/1.0\r\na:b",
        b"NATS/9.9\r\na: b\r\n\r\n",
        b"\xff\xfe\xfd\r\n\r\n",
        b"NATS/1.0\r\n\xff: \xfe\r\n\r\n",
        b"NATS/1.0\r\na\r\n b\r\n\r\n",
    )
    async with calm_client(node):
        for block in blocks:
            client.post(
                b"HPUB $mq9.AI.MSG.SEND.%b %d %d\r\n%b\r\n"
                % (address.encode(), len(block), len(block), block)
            )
        await asyncio.wait(
            [asyncio.ensure_future(client.flush()), asyncio.ensure_future(client.ended.wait())],
            timeout=CALM_S_MAX,
            return_when="FIRST_COMPLETED",
        )
    assert calm_log(node) == []
    await client.close()


async def test_connections_that_come_and_go_leave_nothing_behind(serve_node: ServeNode) -> None:
    node = await serve_node()
    grown = []
    async with calm_client(node):
        before = memory_bytes(node)
        for _ in range(4):
            for _ in range(20):
                crowd = [await RawNats.connect(node.host, node.port) for _ in range(25)]
                for client in crowd:
                    client.subscribe("crowd.>")
                    client.ask("$mq9.AI.MAILBOX.CREATE")
                await asyncio.gather(*(client.close() for client in crowd))
            grown.append(memory_bytes(node) - before)
        for _ in range(100):
            if (await node.get("/varz")).json()["connections"] == 1:
                break
            await asyncio.sleep(0.05)
        assert (await node.get("/varz")).json()["connections"] == 1
        assert (await node.get("/subsz")).json()["num_subscriptions"] == 2
    assert grown[-1] < grown[0] + 24 * MIB
    assert calm_log(node) == []


MANY = 10_000
SEARCHES = 3_000  # below what one connection may have under way: all of them are taken


def searches(address: str, kind: str) -> list[bytes]:
    """Requests that take the node tens of milliseconds each."""
    nowait = {"max_wait_ms": 0}
    if kind == "queries":
        subject, bodies = "QUERY", [{"tags": ["none"]}] * SEARCHES
    elif kind == "reads":
        subject, bodies = "FETCH", [{"deliver": "earliest", "config": {"num_msgs": 1000}}] * 500
    elif kind == "searches":
        one = {"deliver": "earliest", "tags": ["none"], "config": nowait}
        subject, bodies = "FETCH", [one] * SEARCHES
    else:
        subject = "FETCH"
        bodies = [
            {
                "group_name": f"g{number % 900}",
                "deliver": "earliest",
                "force_deliver": True,
                "config": {**nowait, "num_msgs": 1000},
            }
            for number in range(SEARCHES)
        ]
    return [publication(f"$mq9.AI.MSG.{subject}.{address}", encoded(body)) for body in bodies]


async def filled(node: ServedNode) -> tuple[RawNats, str]:
    """A hostile client, and its mailbox with many messages."""
    client = await RawNats.connect(node.host, node.port)
    address = await Mq9(client).box("large")
    tagged = (("mq9-tags", "some"),)
    for _ in range(MANY // 1000):
        sends = (client.ask(f"$mq9.AI.MSG.SEND.{address}", b"x", tagged) for _ in range(1000))
        await asyncio.gather(*sends)
    return client, address


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["queries", "reads", "searches", "hand-outs"])
async def test_a_flood_of_long_searches_is_not_waited_for_by_others(
    serve_node: ServeNode, kind: str
) -> None:
    node = await serve_node()
    client, address = await filled(node)
    async with calm_client(node):
        client.post(b"".join(searches(address, kind)))
        await client.flush()
        await asyncio.sleep(0.5)
    await client.close()
    async with calm_client(node):
        pass
    assert calm_log(node) == []


@pytest.mark.slow
async def test_a_thousand_searches_that_one_message_wakes_are_not_waited_for_by_others(
    serve_node: ServeNode,
) -> None:
    node = await serve_node()
    client, address = await filled(node)
    body = encoded({"deliver": "earliest", "tags": ["none"], "config": {"max_wait_ms": 300_000}})
    async with calm_client(node):
        client.post(publication(f"$mq9.AI.MSG.FETCH.{address}", body) * WAITING_MAX)
        for _ in range(20):
            await client.request(f"$mq9.AI.MSG.SEND.{address}", b"x", timeout_s=CALM_S_MAX)
    await client.close()
    assert calm_log(node) == []

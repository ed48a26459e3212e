"""Slow, silent and half-open clients: none delays a calm one, none makes the node grow."""

import asyncio
import re
import socket

from chaos.cluster.process import ServedNode
from tests.conftest import ServeNode
from tests.support.hostile import (
    ENDED_S_MAX,
    MIB,
    calm_client,
    calm_log,
    memory_bytes,
    mute_socket,
    send_all,
)
from tests.support.mq9 import Mq9, encoded, ids, payloads
from tests.support.raw_nats import RawNats, publication

PENDING_BYTES_MAX = 64 * MIB  # what the node may hold for a client that does not read


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

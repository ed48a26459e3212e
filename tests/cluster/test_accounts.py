"""Accounts on three nodes: what belongs to one is nothing to the other, whatever node it is at."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import ServeCluster
from tests.support.careful import CarefulMq9
from tests.support.cluster import ServedCluster
from tests.support.mq9 import fresh, ids
from tests.support.raw_nats import Delivered, RawNats, publication

USERS = "".join(
    f"""
[[accounts]]
name = "{name}"
[[accounts.users]]
user = "{name}"
password = "pw"
"""
    for name in "AB"
)
HEARD_S_MAX = 30.0


@pytest.fixture
async def cluster(serve_cluster: ServeCluster, tmp_path: Path) -> AsyncIterator[ServedCluster]:
    """Three nodes with USERS."""
    file = tmp_path / "mq9.toml"
    file.write_text(USERS)
    return await serve_cluster(config=file)


async def as_user(cluster: ServedCluster, number: int, name: str) -> RawNats:
    node = list(cluster)[number]
    return await RawNats.connect(node.host, node.port, **{"user": name, "pass": "pw"})


async def heard_first(queue: "asyncio.Queue[Delivered]") -> bytes:
    return (await asyncio.wait_for(queue.get(), HEARD_S_MAX)).payload


async def test_accounts_are_apart_at_every_node(cluster: ServedCluster) -> None:
    a = [await as_user(cluster, number, "A") for number in range(3)]
    b = [await as_user(cluster, number, "B") for number in range(3)]
    # Core messages, plain and in a group: every node has members of both accounts.
    plain = [client.subscribe(">") for client in (*a, *b)]
    groups = [client.subscribe("work", "pool") for client in (a[1], b[1])]
    for client in (*a, *b):
        await client.flush()
    await _interest_arrived(a, b, plain, groups)
    for number in range(20):
        b[number % 3].post(publication("work", b"B%d" % number))
        a[number % 3].post(publication("work", b"A%d" % number))
    for client in (*a, *b):
        client.post(publication("end", b"end"))
        await client.flush()
    for name, heard in ((b"A", plain[:3]), (b"B", plain[3:])):
        for queue in heard:
            got = []
            while got.count(b"end") < 3:
                got.append(await heard_first(queue))
            assert sorted(set(got)) == sorted({b"%b%d" % (name, n) for n in range(20)} | {b"end"})
    for name, queue in zip((b"A", b"B"), groups, strict=True):
        got = [await heard_first(queue) for _ in range(20)]
        assert sorted(got) == sorted(b"%b%d" % (name, number) for number in range(20))
    # Mailboxes of one name are two.
    of_a, of_b = [CarefulMq9(client) for client in a], [CarefulMq9(client) for client in b]
    box = fresh()
    assert await of_a[0].create(box) == box
    await of_a[1].send(box, b"for A")
    for client in of_b:
        for command in (f"MSG.QUERY.{box}", f"MSG.FETCH.{box}", f"MSG.DELETE.{box}.1"):
            assert (await client.ask(command, {}))["code"] == "mailbox_not_found"
    assert await of_b[2].create(box) == box
    assert ids(await of_b[0].query(box)) == []
    assert ids(await of_a[2].query(box)) == [1]
    # So are agents.
    worker = {"name": "worker"}
    assert (await of_a[0].ask("AGENT.REGISTER", worker))["error"] == ""
    (found,) = (await of_a[2].ask("AGENT.DISCOVER", {}))["agents"]
    assert found["name"] == "worker"
    for client in of_b:
        assert (await client.ask("AGENT.DISCOVER", {}))["agents"] == []
        assert (await client.ask("AGENT.UNREGISTER", worker))["code"] == "agent_not_found"
    for connection in (*a, *b):
        await connection.close()


async def _interest_arrived(
    a: list[RawNats],
    b: list[RawNats],
    plain: "list[asyncio.Queue[Delivered]]",
    groups: "list[asyncio.Queue[Delivered]]",
) -> None:
    """Probe until every node reaches every subscription of its account, and forget the probes."""
    for clients, heard, group in ((a, plain[:3], groups[0]), (b, plain[3:], groups[1])):
        for client in clients:
            async with asyncio.timeout(HEARD_S_MAX):
                while any(queue.empty() for queue in (*heard, group)):
                    client.post(publication("work", b"probe"))
                    await asyncio.sleep(0.05)
            for one in clients:
                await one.flush()
            await asyncio.sleep(0.5)
            for queue in (*heard, group):
                while not queue.empty():
                    queue.get_nowait()

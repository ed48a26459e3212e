"""`mq9cluster serve` as a process: start, readiness, signals, exit codes."""

import asyncio
import json
import resource
import signal

import nats
import pytest

from chaos.cluster.process import NodeDidNotStart
from mq9cluster.domain.address import slot_of
from tests.support.raw_nats import RawNats


async def test_a_started_node_is_alive_and_ready(serve_node):
    node = await serve_node()
    assert (await node.get("/healthz")) == (200, b'{"status":"ok"}')
    assert (await node.get("/readyz")) == (200, b'{"status":"ok"}')


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
async def test_a_node_that_is_asked_to_stop_exits_with_0(serve_node, number):
    node = await serve_node()
    node.signal(number)
    assert await node.wait() == 0
    assert [line["event"] for line in node.log][-1] == "stopped"


async def test_a_node_whose_starter_is_gone_stops(serve_node):
    node = await serve_node()
    node._process.stdin.close()
    assert await node.wait() == 0


async def test_a_node_that_is_killed_starts_again_on_the_same_ports(serve_node):
    node = await serve_node()
    ports = (node.port, node.http_port)
    await node.kill()
    assert not node.running
    await node.restart()
    assert (node.port, node.http_port) == ports
    assert (await node.get("/readyz")).status == 200


async def why_not_started(starting):
    """Exit code and last words of a node that does not start."""
    with pytest.raises(NodeDidNotStart) as told:
        await starting
    code, *lines = str(told.value).splitlines()
    assert not any("Traceback" in line or "raw" in json.loads(line) for line in lines)
    critical = [json.loads(line) for line in lines if '"critical"' in line]
    assert len(critical) == 1
    return code, critical[0]["event"]


@pytest.mark.parametrize("what", ["http", "listen"])
async def test_a_taken_port_is_told_in_one_line_and_exits_with_1(serve_node, what):
    first = await serve_node()
    taken = {"http": first.http_port, "listen": first.port}[what]
    code, why = await why_not_started(serve_node(**{what: f"127.0.0.1:{taken}"}))
    assert code == "exit code 1"
    assert why == f"--{what}: cannot listen on 127.0.0.1:{taken}: Address already in use"


async def test_data_of_another_node_are_refused(serve_node):
    first = await serve_node()
    await first.terminate()
    code, why = await why_not_started(serve_node(data_dir=first.data_dir, name="other"))
    assert code == "exit code 1"
    assert why == f"storage: {first.data_dir} belongs to node node1, not other"


async def test_data_in_use_are_refused(serve_node):
    first = await serve_node()
    code, why = await why_not_started(serve_node(data_dir=first.data_dir, name="node1"))
    assert code == "exit code 1"
    assert str(first.data_dir) in why


async def test_missing_data_are_never_taken_for_a_new_node(serve_node):
    node = await serve_node()
    await node.terminate()
    for path in (node.data_dir / "db").iterdir():
        path.unlink()
    (node.data_dir / "db").rmdir()
    code, why = await why_not_started(node.start())
    assert code == "exit code 1"
    assert "a node never starts over on missing data" in why


async def request(client, subject, body=b""):
    return json.loads((await client.request(f"$mq9.AI.{subject}", body, timeout=30)).data)


async def acknowledged_until_the_end(client, closed):
    """How many of 200 SENDs of 10 kB were acknowledged before the connection ended."""
    end = asyncio.create_task(closed.wait())
    for number in range(200):
        sending = asyncio.create_task(request(client, "MSG.SEND.box", b"x" * 10_000))
        await asyncio.wait((sending, end), return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            sending.cancel()
            return number
        assert sending.result()["error"] == ""
    return 200


async def test_a_disk_that_takes_no_more_ends_the_node_with_one_line(serve_node):
    node = await serve_node()
    closed = asyncio.Event()
    client = await nats.connect(node.url, allow_reconnect=False, closed_cb=_setting(closed))
    await request(client, "MAILBOX.CREATE", b'{"name":"box"}')
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    acknowledged = await acknowledged_until_the_end(client, closed)
    assert 0 < acknowledged < 200
    assert await node.wait() == 1
    (last,) = [line for line in node.log if line["level"] == "critical"]
    assert last["event"].startswith("storage: ")
    await client.close()

    await node.start()
    client = await nats.connect(node.url)
    limit = json.dumps({"limit": 1000}).encode()
    kept = await request(client, "MSG.QUERY.box", limit)
    assert acknowledged <= len(kept["messages"]) <= acknowledged + 1
    await client.close()


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
async def test_lame_duck_announces_drains_over_its_time_and_ends(serve_node, number):
    node = await serve_node(lame_duck=2)
    crowd = [await RawNats.connect(node.host, node.port) for _ in range(20)]
    for client in crowd:
        client.subscribe("crowd")
        await client.flush()
    node.signal(number)
    await asyncio.gather(*(client.ended.wait() for client in crowd))
    assert all(client.info.get("ldm") is True for client in crowd)
    assert all(client.errors == [] for client in crowd)
    assert await node.wait() == 0


async def test_a_leaving_node_is_not_ready_and_sends_its_clients_away(serve_node):
    node = await serve_node(lame_duck=20)
    ldm, closed = asyncio.Event(), asyncio.Event()
    client = await nats.connect(
        node.url,
        allow_reconnect=False,
        lame_duck_mode_cb=_setting(ldm),
        closed_cb=_setting(closed),
    )
    node.signal(signal.SIGTERM)
    await ldm.wait()
    answer = await node.get("/readyz")
    assert (answer.status, answer.json()["error"]) == (503, "draining")
    assert (await node.get("/healthz")).status == 200
    assert (await node.get("/cluster")).json()["nodes"][0]["draining"] is True
    node.signal(signal.SIGTERM)  # said again: at once
    assert await node.wait() == 0
    await closed.wait()
    await client.close()


def _setting(event):
    async def callback(*_):
        event.set()

    return callback


async def test_the_number_of_shards_is_that_of_the_birth(serve_node):
    node = await serve_node(shards=3)
    client = await nats.connect(node.url, allow_reconnect=False)
    names = [f"box.{number}" for number in range(20)]
    for name in names:
        await request(client, "MAILBOX.CREATE", json.dumps({"name": name}).encode())
    await client.close()
    await node.restart(shards=8)
    assert [
        line["shards"] for line in node.events("the number of shards is that of its birth")
    ] == [3]
    shards = (await node.get("/cluster")).json()["shards"]
    expected = [0, 0, 0]
    for name in names:
        expected[slot_of(f"$G\0{name}".encode()) * 3 // 16_384] += 1
    assert [shard["mailboxes"] for shard in shards] == expected
    assert all(shard["leader"] == "node1" for shard in shards)


async def test_what_passed_through_is_measured(serve_node):
    node = await serve_node()
    client = await nats.connect(node.url, name="probe")
    await client.subscribe("work.>")
    await request(client, "MAILBOX.CREATE", b'{"name":"box"}')
    for _ in range(3):
        await request(client, "MSG.SEND.box", b"x")
    await request(client, "MSG.SEND.nowhere", b"x")
    metrics = (await node.get("/metrics")).body.decode().splitlines()
    for line in (
        'mq9_command_seconds_count{command="MSG.SEND"} 4.0',
        'mq9_command_seconds_count{command="MAILBOX.CREATE"} 1.0',
        'mq9_commands_refused_total{code="mailbox_not_found"} 1.0',
        "mq9_connections 1.0",
        "mq9_connections_total 1.0",
        "mq9_messages_in_total 5.0",
        "mq9_messages_out_total 5.0",
        "mq9_ready 1.0",
    ):
        assert line in metrics
    varz = (await node.get("/varz")).json()
    assert (varz["in_msgs"], varz["connections"], varz["port"]) == (5, 1, node.port)
    (connection,) = (await node.get("/connz?subs=1")).json()["connections"]
    assert (connection["name"], connection["lang"]) == ("probe", "python3")
    assert "work.>" in connection["subscriptions_list"]
    await client.close()

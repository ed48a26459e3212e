"""The registry through real nodes: REGISTER, REPORT and DISCOVER over sockets, what a node's
processor pays for each, and what an agent weighs.

`python -m bench.registry` starts three nodes, registers 100,000 made-up agents (those of
`bench.discovery`) over connections to all of them, and asks in every mode. `--agents 375000
--nodes 1 --shards 3` is one node's third of a million. Times are of the wall, and of the nodes'
processors (`/proc`), which other work on the machine does not count into. By hand; the
figures of docs/discovery.md are printed as Markdown.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import nats
import orjson
from nats.aio.client import Client

from bench.discovery import Maker
from bench.registering import connect, flood_all
from bench.servers import cpu_seconds, rss_bytes
from chaos.cluster.process import ServedNode
from mq9cluster.search.lexicon import load_lexicon
from tests.support.cluster import ServedCluster

CONNECTIONS = 6
OUTSTANDING = 128  # REPORTs under way on each
ANSWER_S_MAX = 60.0
MODES: dict[str, Callable[[str], dict[str, object]]] = {
    "text": lambda text: {"text": text},
    "semantic": lambda text: {"semantic": text},
    "hybrid": lambda text: {"text": text, "semantic": text, "mode": "hybrid"},
    "hybrid, a filter that leaves 5 %": lambda text: {
        "text": text,
        "mode": "hybrid",
        "filter": {"tags": "region-7", "not": {"version": "1.3"}},
    },
    'semantic, `"exact": true`': lambda text: {"semantic": text, "exact": True},
    "by name": lambda _: {},
    'hybrid, `"consistency": "stale"`': lambda text: {
        "text": text,
        "mode": "hybrid",
        "consistency": "stale",
    },
}


def cpu_s(node: ServedNode) -> float:
    """Seconds of processor that a node has used."""
    return cpu_seconds(node.pid)


async def ask(client: Client, command: str, body: bytes) -> dict[str, object]:
    answer = await client.request(f"$mq9.AI.AGENT.{command}", body, timeout=ANSWER_S_MAX)
    reply: dict[str, object] = orjson.loads(answer.data)
    if reply["error"]:
        raise SystemExit(f"{command}: {reply['error']}")
    return reply


async def register(nodes: Sequence[ServedNode], maker: Maker, agents: int) -> None:
    """The cards are made, and written in whole turns, so that most of the cores is the nodes'."""
    cards = (orjson.loads(maker.card(number).body) for number in range(agents))
    bodies = [orjson.dumps({**card, "ttl": 0}) for card in cards]
    connections = await connect([urlsplit(node.url).port or 0 for node in nodes])
    work = flood_all(connections, "REGISTER", bodies)
    await timed("REGISTER", agents, nodes, work)
    if failed := [each.last_failure.decode() for each in connections if each.failed]:
        raise SystemExit(f"REGISTER: {failed[0]}")
    for connection in connections:
        connection.transport.close()


async def report(clients: list[Client], maker: Maker, agents: int) -> None:
    numbers = iter(range(agents))

    async def lane(client: Client) -> None:
        for number in numbers:
            name = f"{maker.rare[number % len(maker.rare)]}-{number}"
            await ask(client, "REPORT", orjson.dumps({"name": name, "report_info": {"n": number}}))

    await asyncio.gather(*(lane(client) for client in clients for _ in range(OUTSTANDING)))


async def discover(
    client: Client,
    nodes: Sequence[ServedNode],
    questions: list[str],
    body: Callable[[str], dict[str, object]],
) -> tuple[float, float, float]:
    """p50, p99 of the wall and the mean of all nodes' processors, in ms."""
    times = []
    before_s = sum(map(cpu_s, nodes))
    for text in questions:
        start_s = time.perf_counter()
        reply = await ask(client, "DISCOVER", orjson.dumps(body(text)))
        times.append((time.perf_counter() - start_s) * 1e3)
        if reply.get("partial"):
            raise SystemExit(f"partial: {reply['partial']}")
    cuts = statistics.quantiles(times, n=100)
    spent_ms = (sum(map(cpu_s, nodes)) - before_s) / len(questions) * 1e3
    return cuts[49], cuts[98], spent_ms


async def timed(
    what: str, count: int, nodes: Sequence[ServedNode], work: Awaitable[object]
) -> None:
    before, start_s = [cpu_s(node) for node in nodes], time.perf_counter()
    ours_s = time.process_time()
    await work
    wall_s = time.perf_counter() - start_s
    ours = (time.process_time() - ours_s) / count * 1e6
    spent = [(cpu_s(node) - one) / count * 1e6 for node, one in zip(nodes, before, strict=True)]
    each = ", ".join(f"{one:.0f}" for one in spent)
    print(
        f"{what}: {count / wall_s:,.0f}/s; µs of processor each: {each} (node by node), "
        f"{ours:.0f} the load generator",
        flush=True,
    )


async def measure(options: argparse.Namespace, cluster: ServedCluster, *, filled: bool) -> None:
    nodes = list(cluster.nodes)
    clients = [
        await nats.connect(
            nodes[number % len(nodes)].url, pending_size=1 << 26, allow_reconnect=False
        )
        for number in range(CONNECTIONS)
    ]
    maker = Maker(load_lexicon())
    questions = [maker.question() for _ in range(options.questions)]
    empty = [rss_bytes(node.pid) for node in nodes]
    if filled:
        await until_everybody_is_found(clients[0], options.agents)
    else:
        await register(nodes, maker, options.agents)
    if options.reports:
        await timed("REPORT", options.agents, nodes, report(clients, maker, options.agents))
    heavier = [rss_bytes(node.pid) - one for node, one in zip(nodes, empty, strict=True)]
    weights = ", ".join(f"{one / options.agents:,.0f}" for one in heavier)
    print(f"bytes an agent, resident: {weights} (node by node; RocksDB's caches included)")
    await asyncio.sleep(options.settle_s)
    print("| DISCOVER, over a socket | p50 ms | p99 ms | ms of processor |\n|---|---:|---:|---:|")
    for mode, body in MODES.items():
        await discover(clients[0], nodes, questions[:20], body)  # warm
        p50, p99, spent = await discover(clients[0], nodes, questions, body)
        print(f"| {mode} | {p50:.1f} | {p99:.1f} | {spent:.1f} |", flush=True)
    for client in clients:
        await client.close()
    if options.restart:
        await restarted(cluster, options.agents)


async def until_everybody_is_found(client: Client, agents: int) -> None:
    while True:
        answer = await client.request("$mq9.AI.AGENT.DISCOVER", b'{"limit":1}', timeout=60)
        reply = orjson.loads(answer.data)
        if not reply["error"] and not reply.get("partial") and reply["total"] == agents:
            return
        await asyncio.sleep(0.2)


async def restarted(cluster: ServedCluster, agents: int) -> None:
    """How long after kill -9 of all nodes everybody is found again."""
    await cluster.kill()
    start_s = time.perf_counter()
    await cluster.start()
    ready_s = time.perf_counter() - start_s
    client = await nats.connect(cluster[0].url)
    await until_everybody_is_found(client, agents)
    print(f"restart: ready after {ready_s:.1f} s, all found {time.perf_counter() - start_s:.1f} s")
    await client.close()


async def run(options: argparse.Namespace) -> None:
    filled = bool(options.keep) and await asyncio.to_thread(Path(options.keep).exists)
    with ExitStack() as leaving:
        directory = options.keep or leaving.enter_context(
            tempfile.TemporaryDirectory(prefix="mq9-bench-", dir=options.dir)
        )
        cluster = ServedCluster(Path(directory), options.nodes, shards=options.shards)
        try:
            await cluster.start()
            await measure(options, cluster, filled=filled)
        finally:
            await cluster.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--reports", action="store_true", help="have every agent report once")
    parser.add_argument("--restart", action="store_true", help="kill -9 all, and time the start")
    parser.add_argument("--dir", default=None, help="where the nodes keep their data")
    parser.add_argument(
        "--settle-s",
        type=float,
        default=0.0,
        help="before questions: graphs are built, and indexes saved for --restart",
    )
    parser.add_argument("--keep", help="keep the data there; register nothing if there are some")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()

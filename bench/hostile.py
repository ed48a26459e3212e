"""Hostile clients beside a calm one: what they do to its p99.

`python -m bench.hostile`, by hand. One node. A calm client sends, fetches and acknowledges one
message after another for some seconds, alone and then beside each kind of hostile clients, which
are processes of their own, niced: they share the machine with the calm one, who is not to pay for
their own processor time. tests/cluster/test_hostile.py shows that nothing breaks; this measures.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench import report
from bench.loadgen import BUILD_DIR
from bench.run import interrupt
from bench.servers import ServerFailed, mq9_fleet
from tests.cluster.test_hostile import giant_headers, rubbish, searches
from tests.support.mq9 import Mq9
from tests.support.raw_nats import RawNats, publication

P99_RATIO_MAX = 5.0
HOST = "127.0.0.1"
MIB = 1 << 20
NICE = 10
SETTLE_SECONDS = 0.5

QUIET = b'CONNECT {"verbose":false,"headers":true}\r\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when the calm client's p99 stays within its bound beside all of them."""
    options = _parse(arguments)
    if options.attack:
        os.nice(NICE)
        uvloop.run(ATTACKS[options.attack](options.port))
        return 0
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, interrupt)
    BUILD_DIR.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="data-", dir=BUILD_DIR))
    try:
        console.print(report.circumstances(home).line())
        with mq9_fleet(home, 1).running() as fleet:
            rows = _measured(fleet.ports[0], options.seconds)
    except ServerFailed as error:
        console.print(f"[red]hostile: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(home, ignore_errors=True)
    table = Table("beside", "rounds", "p50 ms", "p99 ms", "p99 against calm")
    for name, times, ratio in rows:
        p50, p99 = 1000 * statistics.median(times), 1000 * _p99(times)
        table.add_row(name, str(len(times)), f"{p50:.2f}", f"{p99:.2f}", f"{ratio:.2f} x")
    console.print(table)
    return 0 if all(ratio <= P99_RATIO_MAX for _, _, ratio in rows) else 1


def _measured(port: int, seconds: float) -> list[tuple[str, list[float], float]]:
    """(kind, the calm client's times, its p99 against a calm phase right before)."""
    rows = []
    for name in ATTACKS:
        calm = uvloop.run(_calm(port, seconds))
        with _attackers(name, port):
            time.sleep(SETTLE_SECONDS)
            times = uvloop.run(_calm(port, seconds))
        if not rows:
            rows.append(("nobody", calm, 1.0))
        rows.append((name, times, _p99(times) / _p99(calm)))
    return rows


def _p99(times: Sequence[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


async def _calm(port: int, seconds: float) -> list[float]:
    """SEND, FETCH and ACK, one after another; what each request took."""
    client = await RawNats.connect(HOST, port)
    mq9 = Mq9(client)
    address = await mq9.box("calm")
    times: list[float] = []

    async def timed(work: Awaitable[object]) -> object:
        began = time.perf_counter()
        done = await work
        times.append(time.perf_counter() - began)
        return done

    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        msg_id = await mq9.send(address, b"calm")  # warm: not measured
        await timed(mq9.send(address, b"calm"))
        await timed(mq9.fetch(address, "calm"))
        await timed(mq9.ack(address, "calm", msg_id + 1))
        await asyncio.sleep(0.002)
    await client.close()
    return times


@contextmanager
def _attackers(name: str, port: int) -> Iterator[None]:
    """A process of hostile clients of this kind, as long as the context lasts."""
    command = [sys.executable, "-m", "bench.hostile", "--attack", name, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


# --- what hostile clients do, for ever ------------------------------------------------------------


async def _flood(port: int) -> None:
    """Four clients publish small messages that nobody wants, as fast as they can."""
    chunk = publication("flood.of.nothing", b"x" * 16) * 2000
    await asyncio.gather(*(_pour(port, chunk) for _ in range(4)))


async def _pour(port: int, chunk: bytes) -> None:
    client = await RawNats.connect(HOST, port)
    while True:
        client.post(chunk)
        await client.drain()
        await client.flush()


async def _commands(port: int) -> None:
    """Commands to mailboxes that are not there, thousands in a write."""
    body = publication("$mq9.AI.MSG.SEND.not.there", b"x", "_INBOX.gone") * 1000
    await asyncio.gather(*(_pour(port, body) for _ in range(2)))


async def _zeros(port: int) -> None:
    """Megabytes of nothing, which would compress to nothing: there is nothing to unfold here."""
    await _pour(port, publication("zeros", b"\0" * MIB) * 4)


async def _slow_readers(port: int) -> None:
    """Subscribers that never read, and a publisher who fills them up."""
    publisher = await RawNats.connect(HOST, port)
    while True:
        readers = [await RawNats.connect(HOST, port) for _ in range(4)]
        for reader in readers:
            reader.subscribe("filled")
            await reader.flush()
            reader._reader._transport.pause_reading()
        for _ in range(80):
            publisher.post(publication("filled", b"x" * MIB))
            await publisher.flush()
        for reader in readers:
            await reader.close()


async def _half_open(port: int) -> None:
    """Clients that begin a line or a message, and go."""
    while True:
        writers = []
        for seed in range(50):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.write(rubbish(seed) if seed % 2 else QUIET + b"PUB half 1000000\r\nxxx")
            writers.append(writer)
        await asyncio.sleep(0.05)
        for writer in writers:
            writer.transport.abort()


async def _headers(port: int) -> None:
    """Header blocks of nearly a megabyte."""
    blocks = [
        b"HPUB $mq9.AI.MSG.SEND.not.there _INBOX.gone %d %d\r\n%b\r\n" % (len(b), len(b), b)
        for b in giant_headers()
    ]
    await _pour(port, b"".join(blocks))


async def _searches(port: int) -> None:
    """Long searches by the thousand."""
    client = await RawNats.connect(HOST, port)
    mq9 = Mq9(client)
    address = await mq9.box("searched")
    for _ in range(10):
        sends = (client.ask(f"$mq9.AI.MSG.SEND.{address}", b"x") for _ in range(1000))
        await asyncio.gather(*sends)
    chunk = b"".join(searches(address, "queries")[:500])
    while True:
        client.post(chunk)
        await client.flush()
        await mq9.query(address, limit=1)


async def _subscriptions(port: int) -> None:
    """Thousands of wildcards, again and again."""
    while True:
        client = await RawNats.connect(HOST, port)
        with contextlib.suppress(ConnectionError):
            for start in range(0, 20_000, 2_000):
                lines = (f"SUB a.*.{n}.> {n}\r\n" for n in range(start, start + 2_000))
                client.post("".join(lines).encode())
                await client.flush()
        await client.close()


ATTACKS: dict[str, Callable[[int], Awaitable[None]]] = {
    "a flood of messages": _flood,
    "a flood of commands": _commands,
    "megabytes of zeros": _zeros,
    "slow readers": _slow_readers,
    "half-open connections": _half_open,
    "gigantic headers": _headers,
    "long searches": _searches,
    "subscriptions by the thousand": _subscriptions,
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase")
    parser.add_argument("--attack", choices=ATTACKS, help="only attack, for ever")
    parser.add_argument("--port", type=int, default=4222)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Hostile clients beside a calm one: what they do to its p99.

`python -m bench.hostile`, by hand. One node. A calm client sends, fetches and acknowledges one
message after another for some seconds, first beside a process that only burns a processor, then
beside hostile clients of one kind, who are a process of their own, as nice as the burner: what a
second busy process costs the calm one is in both figures, so their ratio is the node's doing.
Rounds take turns over the kinds; a kind's ratio is the median of its rounds.

Beside the times stands what the node itself worked between a request and its answer, in processor
time: it says how many of others' turns a request waited for, also where the machine is busy.
tests/cluster/test_hostile*.py show that nothing breaks; this measures.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.harness import measure
from bench.loadgen import BUILD_DIR
from bench.servers import mq9_fleet
from tests.support.hostile import giant_headers, rubbish, searches
from tests.support.mq9 import Mq9
from tests.support.raw_nats import RawNats, publication

P99_RATIO_MAX = 5.0
HOST = "127.0.0.1"
MIB = 1 << 20
NICE = 10
SETTLE_SECONDS = 0.5

QUIET = b'CONNECT {"verbose":false,"headers":true}\r\n'


@dataclass(slots=True)
class Phase:
    """What the calm client saw, a figure per request."""

    seconds: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)  # seconds of the node's processor meanwhile


@dataclass(slots=True)
class Kind:
    """All rounds of one kind of attack."""

    beside: list[Phase] = field(default_factory=list)
    calm: list[Phase] = field(default_factory=list)

    def ratio(self) -> float:
        """The calm client's p99 against that of the calm phase right before: median of rounds."""
        pairs = zip(self.beside, self.calm, strict=True)
        return statistics.median(_p99(one.seconds) / _p99(calm.seconds) for one, calm in pairs)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when the calm client's p99 stays within its bound beside all of them."""
    options = _parse(arguments)
    if options.attack:
        os.nice(NICE)
        uvloop.run(ATTACKS[options.attack](options.port))
        return 0
    return measure(
        "hostile", lambda home, console: _serve(options, home, console), below=options.data
    )


def _serve(options: argparse.Namespace, home: Path, console: Console) -> int:
    with mq9_fleet(home, 1).running() as fleet:
        measured = _measured(fleet.ports[0], fleet.servers[0].pid, options)
    _show(console, measured)
    return 0 if all(kind.ratio() <= P99_RATIO_MAX for kind in measured.values()) else 1


def _measured(port: int, pid: int, options: argparse.Namespace) -> dict[str, Kind]:
    measured: dict[str, Kind] = defaultdict(Kind)
    for _ in range(options.rounds):
        for name in options.kinds:
            with _beside("nobody", port):
                measured[name].calm.append(uvloop.run(_calm(port, pid, options.seconds)))
            with _beside(name, port):
                time.sleep(SETTLE_SECONDS)
                measured[name].beside.append(uvloop.run(_calm(port, pid, options.seconds)))
    return measured


def _show(console: Console, measured: dict[str, Kind]) -> None:
    columns = ("beside", "requests", "p50 ms", "p99 ms", "node's ms p50", "p99")
    table = Table(*columns, "p99 against calm", "of each round")
    calm = [phase for kind in measured.values() for phase in kind.calm]
    table.add_row("a burner", *_figures(calm), "", "")
    for name, kind in measured.items():
        pairs = zip(kind.beside, kind.calm, strict=True)
        rounds = " ".join(f"{_p99(one.seconds) / _p99(calm.seconds):.1f}" for one, calm in pairs)
        table.add_row(name, *_figures(kind.beside), f"{kind.ratio():.2f} x", rounds)
    console.print(table)


def _figures(phases: Sequence[Phase]) -> list[str]:
    """Requests in all; medians over the phases of the rest."""

    def typical(figure: Callable[[Phase], float]) -> str:
        return f"{1000 * statistics.median(figure(phase) for phase in phases):.2f}"

    return [
        str(sum(len(phase.seconds) for phase in phases)),
        typical(lambda phase: statistics.median(phase.seconds)),
        typical(lambda phase: _p99(phase.seconds)),
        typical(lambda phase: statistics.median(phase.worked)),
        typical(lambda phase: _p99(phase.worked)),
    ]


def _p99(figures: Sequence[float]) -> float:
    return sorted(figures)[len(figures) * 99 // 100]


async def _calm(port: int, pid: int, seconds: float) -> Phase:
    """SEND, FETCH and ACK, one after another; what each request took."""
    client = await RawNats.connect(HOST, port)
    mq9 = Mq9(client)
    address = await mq9.box("calm")
    node_clock = (~pid << 3) | 2  # of the kernel's clock ids: the processor time of a process
    phase = Phase()

    async def timed(work: Awaitable[object]) -> object:
        began, worked = time.perf_counter(), time.clock_gettime(node_clock)
        done = await work
        phase.seconds.append(time.perf_counter() - began)
        phase.worked.append(time.clock_gettime(node_clock) - worked)
        return done

    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        msg_id = await mq9.send(address, b"calm")  # warm: not measured
        await timed(mq9.send(address, b"calm"))
        await timed(mq9.fetch(address, "calm"))
        await timed(mq9.ack(address, "calm", msg_id + 1))
        await asyncio.sleep(0.002)
    await client.close()
    return phase


@contextmanager
def _beside(name: str, port: int) -> Iterator[None]:
    """A process of hostile clients of this kind, as long as the context lasts."""
    command = [sys.executable, "-m", "bench.hostile", "--attack", name, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


# --- what hostile clients do, for ever ------------------------------------------------------------


async def _nothing(_: int) -> None:
    """No client at all: the processor time of an attacker alone."""
    while True:
        pass


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
            reader.stop_reading()
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


ATTACKS: dict[str, Callable[[int], Coroutine[object, object, None]]] = {
    "nobody": _nothing,
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
    parser.add_argument("--seconds", type=float, default=3.0, help="of each phase")
    parser.add_argument(
        "--data", type=Path, default=BUILD_DIR, help="/dev/shm takes the disk out of the figures"
    )
    parser.add_argument("--rounds", type=int, default=3)
    kinds = [name for name in ATTACKS if name != "nobody"]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--attack", choices=ATTACKS, help="only attack, for ever")
    parser.add_argument("--port", type=int, default=4222)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

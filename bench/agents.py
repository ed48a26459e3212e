"""What heartbeats cost: agents that REPORT every so many seconds, and each node's processor time.

`python -m bench.agents --nodes 3`, by hand. Agents are spread over connections and those over
nodes; their REPORTs are spread evenly over time, so that most are alone in their socket's turn.
Told is what REPORTs take beyond what the node takes idle: as the core was, of an undisturbed core
as `pace` estimates it, and in the quiet windows of the run, those in which work was hardly
disturbed. Exits with 1 when the last, or the first where no window was quiet, is more than their
share, or an answer an error. With `--by mailbox` each agent reports by its mailbox instead of its
name, which every shard is asked.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench.connection import Connection
from bench.harness import measure
from bench.pace import Pace
from bench.servers import Fleet, ServerFailed, mq9_fleet

CORE_SHARE_MAX = 0.10
SETTLE_SECONDS = 20.0  # what the REGISTERs left: indexes that follow
# Of REPORTs that do not count: the first have the REGISTERs' files merged, and rows are written
# 1,024 entries (256 s) behind their REPORTs.
WARM_SECONDS = 290.0
IDLE_SECONDS = 20.0
WINDOW_SECONDS = 5.0
QUIET_MAX = 1.25  # times as long as undisturbed work takes in a quiet window
BEAT_SECONDS = 0.01  # what is due of the REPORTs is sent so often
REGISTERS_OUTSTANDING = 64  # on each connection that registers
DESCRIPTION = "Reads invoices, books them, and answers questions about the open ones. " * 6


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when every node stays below its share of a core."""
    options = _parse(arguments)
    return measure("agents", lambda home, console: _serve(options, home, console))


def _serve(options: argparse.Namespace, home: Path, console: Console) -> int:
    with mq9_fleet(home, options.nodes).running() as fleet, Pace(home) as pace:
        return asyncio.run(_measure(fleet, pace, options, console))


async def _measure(fleet: Fleet, pace: Pace, options: argparse.Namespace, console: Console) -> int:
    connections = [
        await Connection.open(fleet.ports[number % len(fleet.ports)], number)
        for number in range(options.connections)
    ]
    before = fleet.cpu_seconds()
    began_s = time.monotonic()
    await _register(connections[: 4 * len(fleet.ports)], options.agents)
    rate = options.agents / (time.monotonic() - began_s)
    costs = [1e6 * used / options.agents for used in fleet.used_since(before)]
    console.print(f"REGISTER {rate:,.0f}/s, {_listed(costs)} µs of processor time on each node")
    if unregistered := _failures(connections):
        # Every REPORT of such an agent would count as an error again, and say nothing of REPORT.
        raise ServerFailed(f"REGISTER: {unregistered}")
    await asyncio.sleep(SETTLE_SECONDS)
    await _report(connections, options, WARM_SECONDS)
    idle = await _load(fleet, pace, asyncio.sleep(IDLE_SECONDS, 0))
    busy = await _load(fleet, pace, _report(connections, options, options.seconds))
    rate = busy.reports / busy.seconds
    quiet = [window for window in busy.windows if window.slowdown <= QUIET_MAX]
    shares = []
    for node, (server, whole, alone) in enumerate(
        zip(fleet.servers, busy.shares, idle.shares, strict=True)
    ):
        as_it_was = whole - alone
        share = whole / busy.slowdown - alone / idle.slowdown
        in_quiet = [window.shares[node] - alone / idle.slowdown for window in quiet]
        shares.append(statistics.median(in_quiet) if quiet else as_it_was)
        console.print(
            f"{server.name}: {100 * as_it_was:.1f} % of a core beyond {100 * alone:.1f} % idle, "
            f"{1e6 * as_it_was / rate:.1f} µs a REPORT; undisturbed {100 * share:.1f} %, "
            f"{1e6 * share / rate:.1f} µs; RSS {server.rss_bytes() / 2**20:.0f} MiB"
        )
        if quiet:
            console.print(
                f"  in quiet windows {100 * shares[-1]:.1f} %, {100 * min(in_quiet):.1f} to "
                f"{100 * max(in_quiet):.1f} %"
            )
    console.print(
        f"work took {idle.slowdown:.2f} times as long as undisturbed while idle, "
        f"{busy.slowdown:.2f} times while they reported; at most {QUIET_MAX} times in {len(quiet)} "
        f"of {len(busy.windows)} windows of {WINDOW_SECONDS:g} s"
    )
    failed = sum(connection.failed for connection in connections)
    console.print(f"{rate:,.0f} REPORTs/s, {failed} errors")
    if failed:
        console.print(_failures(connections))
    return 0 if max(shares) <= CORE_SHARE_MAX and not failed else 1


class _Window(NamedTuple):
    """What some time took."""

    seconds: float
    shares: list[float]  # of a core, by node
    slowdown: float


class _Load(NamedTuple):
    """What some work took, as a whole and window by window."""

    reports: int
    seconds: float
    shares: list[float]
    slowdown: float
    windows: list[_Window]


async def _load(fleet: Fleet, pace: Pace, work: Awaitable[int]) -> _Load:
    looks = [(time.monotonic(), fleet.cpu_seconds())]
    working = asyncio.ensure_future(work)
    while not working.done():
        await asyncio.wait((working,), timeout=WINDOW_SECONDS)
        looks.append((time.monotonic(), fleet.cpu_seconds()))
    windows = [
        _window(pace, before, after)
        for before, after in pairwise(looks)
        if after[0] - before[0] >= WINDOW_SECONDS / 2  # what is left at the end may be too short
    ]
    return _Load(working.result(), *_window(pace, looks[0], looks[-1]), windows)


def _window(
    pace: Pace, before: tuple[float, list[float]], after: tuple[float, list[float]]
) -> _Window:
    """Between two looks at the clock and what each node has used."""
    seconds = after[0] - before[0]
    shares = [(now - then) / seconds for now, then in zip(after[1], before[1], strict=True)]
    return _Window(seconds, shares, pace.slowdown(before[0], after[0]))


async def _register(connections: list[Connection], agents: int) -> None:
    """Every agent once; each has a mailbox of its own."""

    async def some(connection: Connection, first: int) -> None:
        numbers = range(first, agents, len(connections))
        for asked, number in enumerate(numbers):
            await connection.until_answered(asked - REGISTERS_OUTSTANDING)
            card = {"name": f"agent-{number}", "mailbox": f"m.{number}", "payload": DESCRIPTION}
            connection.ask("REGISTER", **card, ttl=3_600)
        await connection.until_answered(len(numbers))

    await asyncio.gather(*(some(each, first) for first, each in enumerate(connections)))


async def _report(
    connections: list[Connection], options: argparse.Namespace, seconds: float
) -> int:
    """REPORT for some time, each agent in its turn and at its connection; how many were sent."""
    rate = options.agents / options.every
    began_s = time.monotonic()
    sent = 0
    while (passed_s := time.monotonic() - began_s) < seconds:
        while sent < rate * passed_s:
            number = sent % options.agents
            whom = (
                {"mailbox": f"m.{number}"}
                if options.by == "mailbox"
                else {"name": f"agent-{number}"}
            )
            info = {"load": 0.5, "state": "running"}
            connections[number % len(connections)].ask("REPORT", **whom, report_info=info)
            sent += 1
        await asyncio.sleep(BEAT_SECONDS)
    for connection in connections:
        await connection.until_answered(connection.asked)
    return sent


def _failures(connections: Sequence[Connection]) -> str:
    """How often each error was answered; "" where none was."""
    total = sum((connection.failures for connection in connections), Counter[bytes]())
    return ", ".join(f"{count} x {text.decode()}" for text, count in total.most_common(5))


def _listed(numbers: list[float]) -> str:
    return " ".join(f"{number:.0f}" for number in numbers)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.agents", description=__doc__)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--agents", type=int, default=100_000)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two REPORTs")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--connections", type=int, default=3_000)
    parser.add_argument("--by", choices=("name", "mailbox"), default="name")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""What heartbeats cost: agents that REPORT every so many seconds, and each node's processor time.

`python -m bench.agents --nodes 3`, by hand. Agents are spread over connections and those over
nodes; their REPORTs are spread evenly over time, so that most are alone in their socket's turn.
In rounds the nodes are idle and reported to in turn, since what either takes changes by the minute.
Told is what REPORTs take beyond what the node takes idle: as the core was, with the least and the
most of a round, of an undisturbed core as `pace` estimates it, and in the quiet windows of the run,
those in which work was hardly disturbed. Exits with 1 when the last, or the first where no window
was quiet, is more than their share, or an answer an error. With `--by mailbox` each agent reports
by its mailbox instead of its name, which every shard is asked.
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
CALM_SECONDS = 2.0  # after REPORTs, before what comes counts as idle
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
    idle, busy = _Load(), _Load()
    for _ in range(options.rounds):
        await asyncio.sleep(CALM_SECONDS)
        await idle.measure(fleet, pace, asyncio.sleep(options.seconds, 0))
        await busy.measure(fleet, pace, _report(connections, options, options.seconds))
    shares = _tell(fleet, idle, busy, console)
    failed = sum(connection.failed for connection in connections)
    console.print(f"{busy.rate:,.0f} REPORTs/s, {failed} errors")
    if failed:
        console.print(_failures(connections))
    return 0 if max(shares) <= CORE_SHARE_MAX and not failed else 1


class _Window(NamedTuple):
    """What some time took."""

    seconds: float
    shares: list[float]  # of a core, by node
    slowdown: float


class _Load:
    """What some work took, all of its rounds together, and window by window."""

    def __init__(self) -> None:
        self.reports = 0
        self.rounds: list[_Window] = []
        self.windows: list[_Window] = []

    async def measure(self, fleet: Fleet, pace: Pace, work: Awaitable[int]) -> None:
        """Another round of it, until it is done; it returns how many REPORTs it sent."""
        looks = [(time.monotonic(), fleet.cpu_seconds())]
        working = asyncio.ensure_future(work)
        while not working.done():
            await asyncio.wait((working,), timeout=WINDOW_SECONDS)
            looks.append((time.monotonic(), fleet.cpu_seconds()))
        self.reports += working.result()
        self.rounds.append(_window(pace, looks[0], looks[-1]))
        self.windows += [
            _window(pace, before, after)
            for before, after in pairwise(looks)
            if after[0] - before[0] >= WINDOW_SECONDS / 2  # what is left may be too short
        ]

    @property
    def seconds(self) -> float:
        """Of all rounds."""
        return sum(one.seconds for one in self.rounds)

    @property
    def rate(self) -> float:
        """REPORTs a second."""
        return self.reports / self.seconds

    @property
    def slowdown(self) -> float:
        """Of all rounds."""
        return sum(one.slowdown * one.seconds for one in self.rounds) / self.seconds

    def share(self, node: int) -> float:
        """What all rounds took of a core at one node."""
        return sum(one.shares[node] * one.seconds for one in self.rounds) / self.seconds


def _tell(fleet: Fleet, idle: _Load, busy: _Load, console: Console) -> list[float]:
    """Print what REPORTs cost; return what is held against the share that they may have."""
    quiet = [window for window in busy.windows if window.slowdown <= QUIET_MAX]
    shares = []
    for node, server in enumerate(fleet.servers):
        as_it_was = busy.share(node) - idle.share(node)
        by_round = [
            reported.shares[node] - alone.shares[node]
            for reported, alone in zip(busy.rounds, idle.rounds, strict=True)
        ]
        undisturbed = busy.share(node) / busy.slowdown - idle.share(node) / idle.slowdown
        console.print(
            f"{server.name}: {100 * as_it_was:.1f} % of a core ({100 * min(by_round):.1f} to "
            f"{100 * max(by_round):.1f}) beyond {100 * idle.share(node):.1f} % idle, "
            f"{1e6 * as_it_was / busy.rate:.1f} µs a REPORT; undisturbed "
            f"{100 * undisturbed:.1f} %, {1e6 * undisturbed / busy.rate:.1f} µs; "
            f"RSS {server.rss_bytes() / 2**20:.0f} MiB"
        )
        shares.append(as_it_was)
        if quiet:
            alone = idle.share(node) / idle.slowdown
            in_quiet = [window.shares[node] - alone for window in quiet]
            shares[-1] = statistics.median(in_quiet)
            console.print(
                f"  in quiet windows {100 * shares[-1]:.1f} %, {100 * min(in_quiet):.1f} to "
                f"{100 * max(in_quiet):.1f} %"
            )
    console.print(
        f"work took {idle.slowdown:.2f} times as long as undisturbed while idle, "
        f"{busy.slowdown:.2f} times while they reported; at most {QUIET_MAX} times in {len(quiet)} "
        f"of {len(busy.windows)} windows of {WINDOW_SECONDS:g} s"
    )
    return shares


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
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of idling, and of REPORTs, in each round"
    )
    parser.add_argument("--connections", type=int, default=3_000)
    parser.add_argument("--by", choices=("name", "mailbox"), default="name")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

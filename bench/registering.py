"""What a REGISTER and a REPORT cost: processor time on each of three nodes, and how many there are
in a second, of one checkout or of two that take turns.

`python -m bench.registering --base ../other-checkout`, by hand. The agents are those of
`bench.discovery`, made before the clock starts; the load generator is one process that writes and
counts whole turns of frames, so that of the machine's cores it takes little from the nodes (its
share is told). REPORTs are by name and by mailbox, as fast as they are answered.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson
from rich.console import Console
from rich.table import Table

from bench.connection import Connection
from bench.discovery import Maker
from bench.harness import checkouts, measure, taking_turns
from bench.servers import Fleet, ServerFailed
from mq9cluster.search.lexicon import load_lexicon

CONNECTIONS = 2  # to each node
OUTSTANDING = 64  # on each connection
JOBS = ("REGISTER", "REPORT", "REPORT by mailbox")


class Trial(NamedTuple):
    """One job once: operations a second, µs of each node's processor, of the load generator's."""

    rate: float
    costs: tuple[float, ...]
    ours: float


@dataclass
class Side:
    """A checkout's nodes, the connections to them, and what was measured."""

    name: str
    fleet: Fleet
    connections: list[Connection] = field(default_factory=list)
    trials: dict[str, list[Trial]] = field(default_factory=lambda: defaultdict(list))

    async def connect(self) -> None:
        """Have CONNECTIONS to each node."""
        self.connections = await connect(self.fleet.ports)

    async def trial(self, job: str, bodies: Sequence[bytes]) -> None:
        """Ask for all of `bodies`, as fast as they are answered."""
        before = self.fleet.cpu_seconds()
        ours_s, began_s = time.process_time(), time.monotonic()
        await flood_all(self.connections, job, bodies)
        passed_s, count = time.monotonic() - began_s, len(bodies)
        used = [1e6 * each / count for each in self.fleet.used_since(before)]
        ours = 1e6 * (time.process_time() - ours_s) / count
        self.trials[job].append(Trial(count / passed_s, tuple(used), ours))
        failed = [c.last_failure.decode() for c in self.connections if c.failed]
        if failed:
            raise ServerFailed(f"{job}: {failed[0]}")


async def connect(ports: Sequence[int]) -> list[Connection]:
    """CONNECTIONS to each node."""
    numbers = range(CONNECTIONS * len(ports))
    return [await Connection.open(ports[number % len(ports)], number) for number in numbers]


async def flood_all(connections: Sequence[Connection], job: str, bodies: Sequence[bytes]) -> None:
    """Ask for all of `bodies`, spread over the connections, as fast as they are answered."""
    await asyncio.gather(
        *(
            flood(connection, job, bodies[number :: len(connections)])
            for number, connection in enumerate(connections)
        )
    )


async def flood(connection: Connection, job: str, bodies: Sequence[bytes]) -> None:
    """Keep OUTSTANDING requests under way until all are answered."""
    command = job.partition(" ")[0].encode()
    sent = 0
    begun = connection.answered + connection.failed
    while sent < len(bodies):
        room = OUTSTANDING - (sent - (connection.answered + connection.failed - begun))
        turn = bodies[sent : sent + room]
        connection.asked += len(turn)
        connection.transport.write(
            b"".join(
                b"PUB $mq9.AI.AGENT.%b %b.1 %d\r\n%b\r\n"
                % (command, connection.inbox, len(body), body)
                for body in turn
            )
        )
        sent += len(turn)
        await connection.until_answered(begun + sent - OUTSTANDING // 2)
    await connection.until_answered(begun + sent)


def bodies_of(job: str, maker: Maker, first: int, count: int) -> list[bytes]:
    """What is asked of agents from `first` on."""
    numbers = range(first, first + count)
    if job == "REGISTER":
        cards = ((number, orjson.loads(maker.card(number).body)) for number in numbers)
        return [orjson.dumps({**card, "mailbox": f"m.{n}", "ttl": 3_600}) for n, card in cards]
    info = {"load": 0.5, "state": "running"}
    if job == "REPORT":
        names = (f"{maker.rare[number % len(maker.rare)]}-{number}" for number in numbers)
        return [orjson.dumps({"name": name, "report_info": info}) for name in names]
    return [orjson.dumps({"mailbox": f"m.{number}", "report_info": info}) for number in numbers]


async def compare(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """Every side does every job in every round; who begins alternates."""
    maker = Maker(load_lexicon())
    each = options.agents // options.rounds
    for side in sides:
        await side.connect()
    for turn in range(options.rounds):
        for job in options.jobs:
            bodies = bodies_of(job, maker, turn * each, each)
            for side in taking_turns(sides, turn):
                if options.pids:
                    print(f"{side.name} {job} {[each.pid for each in side.fleet.servers]}")
                await side.trial(job, bodies)
                await asyncio.sleep(options.rest)  # what follows the answers: indexes, graphs


def show(console: Console, sides: Sequence[Side], jobs: Sequence[str]) -> None:
    """Medians over the rounds."""
    table = Table("", "checkout", "/s", "µs on each node", "all nodes", "load generator", "ratio")
    for job in jobs:
        base = [sum(trial.costs) for trial in sides[0].trials[job]]
        for side in sides:
            trials = side.trials[job]
            nodes = zip(*(trial.costs for trial in trials), strict=True)
            sums = [sum(trial.costs) for trial in trials]
            ratios = [mine / theirs for mine, theirs in zip(sums, base, strict=True)]
            table.add_row(
                job,
                side.name,
                f"{statistics.median(trial.rate for trial in trials):,.0f}",
                " ".join(f"{statistics.median(node):.0f}" for node in nodes),
                f"{statistics.median(sums):.0f}",
                f"{statistics.median(trial.ours for trial in trials):.0f}",
                f"{statistics.median(ratios):.2f}",
            )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parse(arguments)
    return measure("registering", lambda home, console: serve(options, home, console))


def serve(options: argparse.Namespace, home: Path, console: Console) -> int:
    with checkouts(home, options.nodes, options.base) as fleets:
        sides = [Side(name, fleet) for name, fleet in fleets.items()]
        asyncio.run(compare(sides, options))
        show(console, sides, options.jobs)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.registering", description=__doc__)
    parser.add_argument("--base", type=Path, help="a checkout to compare with")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--agents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5, help="the agents are split over them")
    parser.add_argument("--rest", type=float, default=0.0, help="seconds between trials")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--pids", action="store_true", help="say which processes work when")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""What nodes cost while nobody asks anything: processor time of each over some seconds.

`python -m bench.idle --nodes 3`, by hand. With `--waiting` that many FETCHes wait at the first node
meanwhile, and must cost nothing. With `--base` the nodes of another checkout are idle at the same
time: their share tells what the machine's other work adds.
"""

import argparse
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from bench import loadgen
from bench.cpu import fleet_of
from bench.harness import measure
from bench.loadgen import LoadGenerator
from bench.servers import Server, mq9_fleet

CORE_SHARE_MAX = 0.03
SETTLE_SECONDS = 3.0  # elections, first compactions
WAIT_MS_MAX = 300_000  # a FETCH waits no longer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when every node stays below its share of a core."""
    options = _parse(arguments)
    return measure("idle", lambda home, console: _idle(options, home, console))


def _idle(options: argparse.Namespace, home: Path, console: Console) -> int:
    program = loadgen.build()
    with ExitStack() as stack:
        fleet = stack.enter_context(mq9_fleet(home, options.nodes).running())
        servers = fleet.servers
        if options.base:
            base = fleet_of(home / "base", options.nodes, options.base)
            servers += stack.enter_context(base.running()).servers
        stack.enter_context(_waiting(LoadGenerator(program, fleet.ports[:1]), options.waiting))
        shares = _shares(servers, options.seconds)
        for number, (server, share) in enumerate(zip(servers, shares, strict=True)):
            name = server.name if number < options.nodes else f"base {server.name}"
            rss = server.rss_bytes() / 2**20
            console.print(f"{name}: {100 * share:.2f} % of a core, RSS {rss:.0f} MiB")
    return 0 if max(shares[: options.nodes]) <= CORE_SHARE_MAX else 1


def _shares(servers: Sequence[Server], seconds: float) -> list[float]:
    time.sleep(SETTLE_SECONDS)
    before = [server.cpu_seconds() for server in servers]
    time.sleep(seconds)
    after = [server.cpu_seconds() for server in servers]
    return [(late - early) / seconds for early, late in zip(before, after, strict=True)]


@contextmanager
def _waiting(generator: LoadGenerator, count: int) -> Iterator[None]:
    """Inside, `count` FETCHes of one connection wait for what never comes."""
    if count:
        generator.ask("$mq9.AI.MAILBOX.CREATE", '{"name":"idle"}')
    body = b'{"config":{"max_wait_ms":%d}}' % WAIT_MS_MAX
    line = b"PUB $mq9.AI.MSG.FETCH.idle _INBOX.idle.%d %d\r\n%s\r\n"
    asked = b"".join(line % (number, len(body), body) for number in range(count))
    with socket.create_connection(("127.0.0.1", generator.ports[0])) as connection:
        connection.sendall(b'CONNECT {"verbose":false}\r\nSUB _INBOX.idle.* 1\r\n' + asked)
        yield


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--base", type=Path, help="a checkout whose nodes are idle beside")
    parser.add_argument("--waiting", type=int, default=0, help="FETCHes that wait meanwhile")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

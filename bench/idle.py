"""What nodes cost while nobody asks anything: processor time of each over some seconds.

`python -m bench.idle --nodes 3`, by hand. With `--waiting` that many FETCHes wait at the first node
meanwhile, and must cost nothing. With `--base` the nodes of another checkout are idle at the same
time: their share tells what the machine's other work adds.
"""

import argparse
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from bench import loadgen
from bench.harness import checkouts, measure
from bench.loadgen import LoadGenerator
from bench.servers import Fleet

CORE_SHARE_MAX = 0.03
SETTLE_SECONDS = 3.0  # elections, first compactions
WAIT_MS_MAX = 300_000  # a FETCH waits no longer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when every node stays below its share of a core."""
    options = _parse(arguments)
    return measure("idle", lambda home, console: _idle(options, home, console))


def _idle(options: argparse.Namespace, home: Path, console: Console) -> int:
    program = loadgen.build()
    with checkouts(home, options.nodes, options.base) as fleets:
        with _waiting(LoadGenerator(program, fleets["this"].ports[:1]), options.waiting):
            shares = _shares(fleets, options.seconds)
        for side, fleet in fleets.items():
            for server, share in zip(fleet.servers, shares[side], strict=True):
                name = server.name if side == "this" else f"{side} {server.name}"
                rss = server.rss_bytes() / 2**20
                console.print(f"{name}: {100 * share:.2f} % of a core, RSS {rss:.0f} MiB")
    return 0 if max(shares["this"]) <= CORE_SHARE_MAX else 1


def _shares(fleets: Mapping[str, Fleet], seconds: float) -> dict[str, list[float]]:
    time.sleep(SETTLE_SECONDS)
    before = {side: fleet.cpu_seconds() for side, fleet in fleets.items()}
    time.sleep(seconds)
    return {
        side: [used / seconds for used in fleet.used_since(before[side])]
        for side, fleet in fleets.items()
    }


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

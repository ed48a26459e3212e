"""Many clients of which most do nothing: what each costs, and how fast all are back after a node's
death.

`python -m bench.crowd`, by hand. First so many connections at one node that say CONNECT, SUB and
PING and then nothing, through real sockets: the node's resident memory for each. Then three nodes,
a crowd of clients at one of them, which is killed: every client connects to another node at once,
all of them together, and is served when a SEND of its own is acknowledged there.
"""

import argparse
import asyncio
import json
import resource
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from bench.harness import measure
from bench.loadgen import LoadFailed
from bench.servers import Fleet, Server, mq9_fleet

IDLE_BYTES_MAX = 30_000
SERVED_SECONDS_MAX = 5.0
ANSWER_SECONDS_MAX = 60.0
FILES_BESIDE = 500
CONNECT = b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}\r\n'
SEND = "PUB $mq9.AI.MSG.SEND.%s _INBOX.%d.1 1\r\nx\r\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when both figures are within their bounds."""
    options = _parse(arguments)
    _allow_files(max(options.idle, 2 * options.reconnecting) + FILES_BESIDE)
    return measure("crowd", lambda home, console: _serve(options, home, console))


def _serve(options: argparse.Namespace, home: Path, console: Console) -> int:
    with mq9_fleet(home / "one", 1).running() as fleet:
        each = idle_bytes(fleet.servers[0], options.idle)
    console.print(f"{options.idle:,} idle connections: {each:,.0f} bytes each")
    with mq9_fleet(home / "three", 3).running() as fleet:
        served = uvloop.run(_reconnected(fleet, options.reconnecting))
    console.print(f"{options.reconnecting:,} clients of a node that died: {_told(served)}")
    return 0 if each <= IDLE_BYTES_MAX and served[-1] <= SERVED_SECONDS_MAX else 1


def _told(served: list[float]) -> str:
    middle = served[len(served) // 2]
    return f"half of them served after {middle:.2f} s, the last after {served[-1]:.2f} s"


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        raise SystemExit(f"crowd: the limit of open files is {hard}, {count} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def idle_bytes(server: Server, count: int) -> float:
    """Resident bytes of the node for each of `count` connections that say hello, and no more."""
    before = server.rss_bytes()
    clients = [_hello(server.port, number) for number in range(count)]
    after = server.rss_bytes()
    for client in clients:
        client.close()
    return (after - before) / count


def _hello(port: int, number: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(CONNECT + b"SUB agents.%d.> 1\r\nPING\r\n" % number)
    heard = b""
    while b"PONG\r\n" not in heard:
        heard += client.recv(65_536)
    return client


class Client(asyncio.Protocol):
    """A client that wants one SEND acknowledged, wherever it can connect."""

    def __init__(self, crowd: "Crowd", number: int) -> None:
        self.crowd = crowd
        self.number = number
        self.heard = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, and ask."""
        self.transport = transport  # type: ignore[assignment]
        self.heard = b""
        self.send(CONNECT + b"SUB _INBOX.%d.* 1\r\n" % self.number)
        self.ask()

    def ask(self) -> None:
        """SEND to the client's own mailbox."""
        self.send((SEND % (f"crowd.{self.number}", self.number)).encode())

    def send(self, data: bytes) -> None:
        """Unless the socket is gone."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Look for the answer; what is refused is asked again."""
        self.heard += data
        while (at := self.heard.find(b"}\r\n")) >= 0:
            line, self.heard = self.heard[: at + 1], self.heard[at + 3 :]
            if b"MSG _INBOX" not in line:
                continue
            answer = json.loads(line[line.rindex(b"\r\n") + 2 :])
            if answer["error"] == "":
                self.crowd.served(self.number)
            else:
                asyncio.get_running_loop().call_later(0.05, self.ask)

    def connection_lost(self, exc: Exception | None) -> None:
        """Go elsewhere."""
        self.crowd.lost(self)


class Crowd:
    """Clients, and when each was served."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = ports
        self.times: dict[int, float] = {}
        self.wanted = 0
        self.all_served = asyncio.Event()
        self.over = False
        self._tasks: set[asyncio.Task[None]] = set()

    def served(self, number: int) -> None:
        """A client has its answer."""
        self.times.setdefault(number, time.perf_counter())
        if len(self.times) == self.wanted:
            self.all_served.set()

    def lost(self, client: Client) -> None:
        """At once, as all of them do."""
        if not self.over:
            self.connect(client, self.ports[1 + client.number % (len(self.ports) - 1)])

    def connect(self, client: Client, port: int) -> None:
        """Until it works."""
        task = asyncio.ensure_future(self._connect(client, port))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: Client, port: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_connection(lambda: client, "127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return

    async def until_served(self) -> None:
        """Wait for all. Raises LoadFailed."""
        try:
            await asyncio.wait_for(self.all_served.wait(), ANSWER_SECONDS_MAX)
        except TimeoutError as error:
            raise LoadFailed(f"{len(self.times)} of {self.wanted} clients were served") from error
        self.all_served.clear()


async def _reconnected(fleet: Fleet, count: int) -> list[float]:
    """When each of `count` clients was served after the death of the node they were at."""
    crowd = Crowd(fleet.ports)
    crowd.wanted = count
    await _create(fleet.ports[0], count)
    for number in range(count):
        crowd.connect(Client(crowd, number), fleet.ports[0])
    await crowd.until_served()
    crowd.times.clear()
    fleet.servers[0].kill()
    killed = time.perf_counter()
    await crowd.until_served()
    crowd.over = True
    return sorted(at - killed for at in crowd.times.values())


async def _create(port: int, count: int) -> None:
    """A mailbox for each client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    writer.write(CONNECT + b"SUB _INBOX.made.* 1\r\n")
    for number in range(count):
        body = b'{"name":"crowd.%d"}' % number
        line = b"PUB $mq9.AI.MAILBOX.CREATE _INBOX.made.1 %d\r\n%b\r\n" % (len(body), body)
        writer.write(line)
    answered = 0
    while answered < count:
        answered += (await reader.readline()).startswith(b'{"error":""')
    writer.close()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description=__doc__)
    parser.add_argument("--idle", type=int, default=5_000)
    parser.add_argument("--reconnecting", type=int, default=1_000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

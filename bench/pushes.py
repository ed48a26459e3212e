"""What a push subscription brings, beside a client that fetches: messages a second, and how late.

`python -m bench.pushes`, by hand. Three nodes and a mailbox with a backlog, read to its end by one
client at a time, in turn: a plain subscription, one of a queue group of its own, and FETCH and ACK
of a group, 100 and 1,000 messages at a time. Then single messages on their way to a plain
subscription, and to a FETCH that waits. Figures are medians of the rounds; the nodes take turns.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median

import uvloop
from rich.console import Console

from bench.harness import measure
from bench.servers import mq9_fleet

CONNECT = b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}\r\n'
PAYLOAD = b"x" * 128
OUTSTANDING = 1_000
READ_BYTES = 1 << 20
MARK = b"mq9-msg-id:"
PING = b"PING\r\n"
GROUPS = itertools.count(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    words = argparse.ArgumentParser(prog="python -m bench.pushes", description=__doc__)
    words.add_argument("--messages", type=int, default=20_000, metavar="N", help="in the mailbox")
    words.add_argument("--singles", type=int, default=300, metavar="N", help="one by one, a round")
    words.add_argument("--rounds", type=int, default=3, metavar="N")
    options = words.parse_args(arguments)
    return measure("pushes", lambda home, console: _serve(options, home, console))


def _serve(options: argparse.Namespace, home: Path, console: Console) -> int:
    with mq9_fleet(home / "three", 3).running() as fleet:
        ports = [server.port for server in fleet.servers]
        uvloop.run(_run(options, ports, console))
    return 0


async def _run(options: argparse.Namespace, ports: list[int], console: Console) -> None:
    filler = await Client.open(ports[0])
    await filler.ask("MAILBOX.CREATE", b'{"name":"backlog"}')
    await filler.fill(options.messages)
    ways: dict[str, Callable[[Client], Awaitable[None]]] = {
        "plain subscription": lambda client: client.subscribe("", options.messages),
        "queue group": lambda client: client.subscribe(_group() + " ", options.messages),
        "FETCH+ACK by 100": lambda client: client.consume(100, options.messages),
        "FETCH+ACK by 1,000": lambda client: client.consume(1_000, options.messages),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for port, (way, read) in itertools.product(ports * options.rounds, ways.items()):
        client = await Client.open(port)
        began_s = time.perf_counter()
        await read(client)
        rates[way].append(options.messages / (time.perf_counter() - began_s))
        client.close()
    for way, found in rates.items():
        console.print(
            f"{way}: {median(found):,.0f} messages/s ({min(found):,.0f} to {max(found):,.0f})"
        )
    late: dict[str, list[float]] = {"subscription": [], "waiting FETCH": []}
    for port in ports * options.rounds:
        late["subscription"] += await _subscribed(port, options.singles)
        late["waiting FETCH"] += await _fetched(port, options.singles)
    for way, seconds in late.items():
        seconds.sort()
        p99 = seconds[len(seconds) * 99 // 100]
        console.print(
            f"{way}: a message after {median(seconds) * 1000:.2f} ms, p99 {p99 * 1000:.1f}"
        )


def _group() -> str:
    return f"group{next(GROUPS)}"


async def _subscribed(port: int, count: int) -> list[float]:
    """Seconds from SEND to delivery, one message after the other."""
    client, sender, box = await Client.open(port), await Client.open(port), _group()
    await sender.ask("MAILBOX.CREATE", json.dumps({"name": box}).encode())
    client.write(b"SUB $mq9.AI.MAILBOX.MSG.%b.* 9\r\n" % box.encode())
    await client.ask(f"MSG.QUERY.{box}")
    late = []
    for _ in range(count):
        began_s = time.perf_counter()
        sender.publish(f"MSG.SEND.{box}", PAYLOAD)
        await client.delivered(1)
        late.append(time.perf_counter() - began_s)
    client.close()
    sender.close()
    return late


async def _fetched(port: int, count: int) -> list[float]:
    client, sender, box = await Client.open(port), await Client.open(port), _group()
    await sender.ask("MAILBOX.CREATE", json.dumps({"name": box}).encode())
    late = []
    for number in range(1, count + 1):
        where = {"deliver": "from_id", "from_id": number, "config": {"max_wait_ms": 60_000}}
        waiting = asyncio.ensure_future(client.ask(f"MSG.FETCH.{box}", json.dumps(where).encode()))
        await asyncio.sleep(0.002)  # it waits there by then
        began_s = time.perf_counter()
        sender.publish(f"MSG.SEND.{box}", PAYLOAD)
        await waiting
        late.append(time.perf_counter() - began_s)
    client.close()
    sender.close()
    return late


class Client:
    """A connection that asks one thing at a time, and counts what is pushed to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""

    @classmethod
    async def open(cls, port: int) -> "Client":
        """One to a node of this machine."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 26))
        client.write(CONNECT + b"SUB _INBOX.x 1\r\n")
        await client._reader.readline()
        return client

    def close(self) -> None:
        """End it."""
        self._writer.close()

    def write(self, data: bytes) -> None:
        """Protocol lines."""
        self._writer.write(data)

    def publish(self, command: str, body: bytes, reply: bytes = b"") -> None:
        """A command."""
        self.write(b"PUB $mq9.AI.%b %b%d\r\n%b\r\n" % (command.encode(), reply, len(body), body))

    async def ask(self, command: str, body: bytes = b"{}") -> dict[str, object]:
        """A command and its answer."""
        self.publish(command, body, b"_INBOX.x ")
        while not (head := await self._reader.readline()).startswith(b"MSG _INBOX.x 1 "):
            pass
        answer = await self._reader.readexactly(int(head.rsplit(b" ", 1)[1]) + 2)
        found: dict[str, object] = json.loads(answer)
        if found["error"]:
            raise SystemExit(f"pushes: {command}: {found['error']}")
        return found

    async def fill(self, count: int) -> None:
        """SEND so many to `backlog`."""
        for at in range(0, count, OUTSTANDING):
            some = min(OUTSTANDING, count - at)
            for _ in range(some):
                self.publish("MSG.SEND.backlog", PAYLOAD, b"_INBOX.x ")
            for _ in range(some):
                await self._reader.readuntil(b'"msg_id":')

    async def subscribe(self, queue: str, count: int) -> None:
        """Read `backlog` as a subscription."""
        self.write(b"SUB $mq9.AI.MAILBOX.MSG.backlog.* %b9\r\n" % queue.encode())
        await self.delivered(count)

    async def delivered(self, count: int) -> None:
        """Wait for so many messages that are pushed."""
        while count > 0:
            data = self._rest + await self._reader.read(READ_BYTES)
            count -= data.count(MARK)
            # Who does not answer the PING behind a page of a queue group is given no other.
            self.write(b"PONG\r\n" * (data.count(PING) - self._rest.count(PING)))
            self._rest = data[1 - len(MARK) :]  # the beginning of one, perhaps

    async def consume(self, num_msgs: int, count: int) -> None:
        """Read `backlog` as a worker of a group of its own."""
        group = _group()
        fetch = {"group_name": group, "deliver": "earliest", "config": {"num_msgs": num_msgs}}
        while count > 0:
            found = await self.ask("MSG.FETCH.backlog", json.dumps(fetch).encode())
            messages = found["messages"]
            assert isinstance(messages, list)
            count -= len(messages)
            ack = {"group_name": group, "msg_id": messages[-1]["msg_id"]}
            await self.ask("MSG.ACK.backlog", json.dumps(ack).encode())


if __name__ == "__main__":
    sys.exit(main())

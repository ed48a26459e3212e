"""A client of a node that asks as fast as it is told to, and only counts the answers.

Called by agents and registering: the one has thousands of them, the other floods a few.
"""

import asyncio
import json
from collections import Counter
from functools import partial
from typing import Final

# What the clients of today say; a node looks twice at what one that says less may send.
CONNECT: Final = b'{"verbose":false,"pedantic":false,"headers":true,"no_responders":true}'


class Connection(asyncio.Protocol):
    """A client that counts answers."""

    def __init__(self, inbox: str) -> None:
        self.inbox = inbox.encode()
        self.asked = 0
        self.answered = 0
        self.failed = 0
        self.last_failure = b""
        self.failures: Counter[bytes] = Counter()  # what was answered, where it was an error
        self.changed = asyncio.Event()
        self._rest = b""
        self.transport: asyncio.Transport

    @classmethod
    async def open(cls, port: int, number: int) -> "Connection":
        """One to a node of this machine, with an inbox of its own."""
        loop = asyncio.get_running_loop()
        new = partial(cls, f"_INBOX.{number}")
        _, connection = await loop.create_connection(new, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, and listen for answers."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"CONNECT %b\r\nSUB %b.* 1\r\n" % (CONNECT, self.inbox))

    def data_received(self, data: bytes) -> None:
        """Count answers: each is a line of its own that begins with a brace."""
        lines = (self._rest + data).split(b"\r\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b'{"error":""'):
                self.answered += 1
            elif line.startswith(b"{"):
                self.failed += 1
                self.last_failure = line
                self.failures[line] += 1
            elif line == b"PING":
                self.transport.write(b"PONG\r\n")
        self.changed.set()

    def ask(self, command: str, **fields: object) -> None:
        """Send a request."""
        self.asked += 1
        body = json.dumps(fields).encode()
        # One write: two would be two packets, and wake the node twice, as no client does.
        line = b"PUB $mq9.AI.AGENT.%b %b.%d %d\r\n%b\r\n"
        said = (command.encode(), self.inbox, self.asked, len(body), body)
        self.transport.write(line % said)

    async def until_answered(self, count: int) -> None:
        """Wait until so many answers came."""
        while self.answered + self.failed < count:
            self.changed.clear()
            await self.changed.wait()

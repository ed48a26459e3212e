"""A websocket client that says exactly what a test tells it to.

Built on the client side of wsproto, except where a test sends frames no client would send. It calls
nothing of the project.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    RejectConnection,
    Request,
)

from tests.support.wire import WAIT_S


class Browser:
    """One socket. `heard` is all the NATS bytes that came; `frames` how many messages they were."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.wire = WSConnection(ConnectionType.CLIENT)
        self.heard = b""
        self.control: list[Event] = []  # all that was no message
        self.ended = False

    @classmethod
    async def open(cls, port: int, origin: str = "", **tls: Any) -> Self:
        """A socket on which the upgrade was asked for; `answer` is what came of it."""
        browser = cls(*await asyncio.open_connection("127.0.0.1", port, **tls))
        headers = [(b"Origin", origin.encode())] if origin else []
        browser.say(Request(host="127.0.0.1", target="/", extra_headers=headers))
        return browser

    async def answer(self) -> AcceptConnection | RejectConnection:
        """How the server answered the upgrade."""
        await self.until(lambda: self.control)
        answer = self.control.pop(0)
        assert isinstance(answer, AcceptConnection | RejectConnection)
        return answer

    @classmethod
    async def connect(cls, port: int, connect: bytes, **tls: Any) -> Self:
        """A client past the NATS handshake."""
        browser = await cls.open(port, **tls)
        assert isinstance(await browser.answer(), AcceptConnection)
        await browser.hears(b"\r\n")
        await browser.answers(connect)
        return browser

    def say(self, event: Event) -> None:
        self.writer.write(self.wire.send(event))

    def send(self, data: bytes) -> None:
        """NATS bytes in one binary message."""
        self.say(BytesMessage(data=data))

    async def answers(self, data: bytes = b"") -> bytes:
        """Send `data` and a PING: what comes before the PONG."""
        self.send(data + b"PING\r\n")
        return (await self.hears(b"PONG\r\n")).removesuffix(b"PONG\r\n")

    async def hears(self, mark: bytes) -> bytes:
        """Everything up to and including `mark`."""
        await self.until(lambda: mark in self.heard)
        said, found, self.heard = self.heard.partition(mark)
        return said + found

    async def until(self, holds: Any) -> None:
        """Read until `holds()`, or fail at the end of the stream."""
        async with asyncio.timeout(WAIT_S):
            while not holds():
                assert not self.ended, "the server closed the connection"
                await self._read()

    async def rest(self, enough: Callable[[], bool] = lambda: False) -> bytes:
        """Everything until it is `enough`, or the server closes."""
        async with asyncio.timeout(WAIT_S):
            while not (self.ended or enough()):
                await self._read()
        return self.heard

    @property
    def close_code(self) -> int | None:
        """The code of the server's Close frame, if there was one."""
        return next((int(e.code) for e in self.control if isinstance(e, CloseConnection)), None)

    async def _read(self) -> None:
        try:
            data = await self.reader.read(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
            self.writer.close()
            return
        self.wire.receive_data(data)
        for event in self.wire.events():
            if isinstance(event, BytesMessage):
                self.heard += bytes(event.data)
            else:
                self.control.append(event)

    def abort(self) -> None:
        self.writer.transport.abort()

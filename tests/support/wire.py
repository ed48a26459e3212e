"""A raw NATS connection for tests: bytes out, bytes in, nothing interpreted."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

WAIT_S = 20.0  # for what should come at once; a busy machine may take a while

CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'


async def eventually(holds: Callable[[], object], wait_s: float = WAIT_S) -> None:
    """Wait for something that nothing announces."""
    async with asyncio.timeout(wait_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Wire:
    """One socket. `info` is the server's first line."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: bytes
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.info_line = info

    @property
    def info(self) -> dict[str, Any]:
        return json.loads(self.info_line[5:])

    @classmethod
    async def open(cls, port: int, *, connect: bytes = b"", limit: int = 2**26) -> "Wire":
        """Connect, read INFO, and send `connect` and a PING where it is given."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
        info = await asyncio.wait_for(reader.readline(), WAIT_S)
        wire = cls(reader, writer, info)
        if connect:
            wire.send(connect + b"PING\r\n")
            await wire.until(b"PONG\r\n")
        return wire

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def until(self, mark: bytes, wait_s: float = WAIT_S) -> bytes:
        """Everything up to and including `mark`."""
        return await asyncio.wait_for(self.reader.readuntil(mark), wait_s)

    async def exactly(self, count: int, wait_s: float = WAIT_S) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), wait_s)

    async def answers(self, data: bytes = b"", wait_s: float = WAIT_S) -> bytes:
        """Send `data` and a PING: what comes before the PONG."""
        self.send(data + b"PING\r\n")
        return (await self.until(b"PONG\r\n", wait_s)).removesuffix(b"PONG\r\n")

    async def rest(self, wait_s: float = WAIT_S) -> bytes:
        """Everything until the server closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), wait_s)
        except ConnectionError:
            return b"<reset>"

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()

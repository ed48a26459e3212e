"""Scripts of raw bytes, played to a server; what each connection heard is the result.

A step is (connection, bytes): the bytes are sent, then a PING, and everything up to its PONG (or
the end of the connection) is heard. `raw` steps send no PING. At the end every connection is pinged
once more, because what one connection causes another may hear later.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

from mq9cluster.protocol.nats_client import INFO, ClientParser
from tests.support.wire import WAIT_S

# Keys of INFO that nats-server has and we leave out on purpose, or whose values differ by nature.
INFO_LEFT_OUT = {"git_commit", "api_lvl", "xkey"}
INFO_OWN = {"server_id", "server_name", "version", "go", "port", "client_id"}


@dataclass
class Heard:
    """All that one connection received, and whether the server closed it."""

    data: bytes = b""
    closed: bool = False

    def events(self) -> list:
        """Its events, INFO without what differs by nature."""
        events = []
        for event in ClientParser().feed(self.data):
            if event[0] == INFO:
                info = json.loads(event[1])
                own = sorted(INFO_OWN & info.keys())
                rest = {k: v for k, v in info.items() if k not in INFO_OWN | INFO_LEFT_OUT}
                events.append(("INFO", own, rest))
            else:
                events.append(event)
        return events

    def text(self) -> bytes:
        """Its bytes without INFO lines."""
        lines = self.data.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.startswith(b"INFO "))


@dataclass
class Raw:
    """Bytes behind which no PING is sent."""

    data: bytes


def raw(data: bytes) -> Raw:
    return Raw(data)


@dataclass
class _Player:
    port: int
    heard: dict[str, Heard] = field(default_factory=dict)
    streams: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(
        default_factory=dict
    )

    async def step(self, name: str, data: bytes | Raw) -> None:
        if name not in self.streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**25)
            self.streams[name] = reader, writer
            self.heard[name] = Heard(await reader.readline())
        if isinstance(data, Raw):
            self.streams[name][1].write(data.data)
            await asyncio.sleep(0.002)  # another packet
        else:
            await self.ping(name, data)

    async def ping(self, name: str, data: bytes = b"") -> None:
        reader, writer = self.streams[name]
        heard = self.heard[name]
        if heard.closed:
            return
        writer.write(data + b"PING\r\n")
        try:
            heard.data += await asyncio.wait_for(reader.readuntil(b"PONG\r\n"), WAIT_S)
        except asyncio.IncompleteReadError as error:
            heard.data += error.partial
            heard.closed = True
        except ConnectionError:
            heard.closed = True

    async def listen(self, name: str) -> None:
        """Hear everything until the server closes."""
        reader, _ = self.streams[name]
        heard = self.heard[name]
        with contextlib.suppress(ConnectionError):
            heard.data += await asyncio.wait_for(reader.read(), WAIT_S)
        heard.closed = True


async def play(port: int, steps: list[tuple[str, bytes | Raw]]) -> dict[str, Heard]:
    """Play `steps`; what every connection heard, by name."""
    player = _Player(port)
    try:
        for name, data in steps:
            await player.step(name, data)
        for name in player.streams:
            await player.ping(name)
    finally:
        for _, writer in player.streams.values():
            writer.transport.abort()
    return player.heard


async def until_closed(port: int, data: bytes) -> Heard:
    """Send `data` and listen until the server closes."""
    player = _Player(port)
    await player.step("a", Raw(data))
    await player.listen("a")
    player.streams["a"][1].transport.abort()
    return player.heard["a"]

"""Peers on loopback sockets, with ears that tests look into, and a wire between them that can
stand still.

Run on the loop that nodes use and on asyncio's own.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import uvloop

from chaos.cluster.ports import free_ports
from mq9cluster.cluster.peers import Flag, PeerIdentity, Peers

NODE_IDS = {"a": "aaaa", "b": "bbbb", "c": "cccc"}
NOTHING = Flag(0)
ENOUGH_S = 60.0  # on a machine that has much else to do


def pytest_asyncio_loop_factories(config, item):
    """Both loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Clock:
    """The wall clock of a node, `ahead_ms` ahead of ours."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def seconds(self) -> float:
        return time.perf_counter()


class Chance:
    """Randomness."""

    def token(self, length: int) -> bytes:
        return os.urandom(length)


@dataclass
class Ears:
    """A PeerHandler that remembers. A request is held until `held` is called with its data, or
    answered at once with `answer(data)`.
    """

    answer: Callable[[bytes], bytes] | None = lambda data: b"re: " + data
    said: Flag = NOTHING
    told: list[str] = field(default_factory=list)
    pings: list[tuple[str, Flag, int]] = field(default_factory=list)
    raft: list[list[tuple[int, bytes]]] = field(default_factory=list)
    requests: list[tuple[str, int, bytes]] = field(default_factory=list)
    responds: list[Callable[[bytes], None]] = field(default_factory=list)
    cancelled: list[bytes] = field(default_factory=list)
    routes: list[bytes] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    gate: asyncio.Semaphore | None = None  # one for each chunk that may be taken
    broken_snapshots: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def flags(self):
        return self.said

    def on_ping(self, peer, flags, silent_ms):
        self.pings.append((peer, flags, silent_ms))
        self.changed.set()

    def on_raft(self, peer, messages):
        self.raft.append(list(messages))
        self.changed.set()

    def on_request(self, peer, kind, data, respond):
        self.requests.append((peer, kind, data))
        self.changed.set()
        if self.answer:
            respond(self.answer(data))
            return None
        self.responds.append(respond)

        def cancel():
            self.cancelled.append(data)
            self.changed.set()

        return cancel

    def on_route(self, peer, data):
        self.routes.append(data)
        self.changed.set()

    def on_up(self, peer):
        self.told.append(f"{peer} up")
        self.changed.set()

    def on_down(self, peer):
        self.told.append(f"{peer} down")
        self.changed.set()

    async def on_snapshot(self, peer, header, chunks):
        whole = False
        try:
            async for chunk in chunks:
                if self.gate:
                    await self.gate.acquire()
                self.chunks.append(chunk)
                self.changed.set()
            whole = True
        finally:
            if not whole:
                self.broken_snapshots += 1
                self.changed.set()
        return header + b" installed"

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until it holds; looks whenever something was heard."""
        async with asyncio.timeout(ENOUGH_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


class Node:
    """Peers and their ears."""

    def __init__(self, name, addresses, port, ears, clock, tls=None, node_id="") -> None:
        self.name = name
        self.port = port
        self.ears = ears
        self.clock = clock
        me = PeerIdentity(name, node_id or NODE_IDS[name], 1)
        self.peers = Peers(me, addresses, ears, clock, Chance(), tls)

    async def start(self) -> "Node":
        await self.peers.start("127.0.0.1", self.port)
        return self


class Wire:
    """Goes between a dialling node and `port`: can stand still, as if the other side hung."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task] = set()
        self.port = 0

    async def start(self) -> "Wire":
        self._server = await asyncio.start_server(self._joined, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def freeze(self) -> None:
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    async def _joined(self, reader, writer) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers += (writer, far_writer)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.ensure_future(self._carry(source, target))
            self._tasks.add(task)

    async def _carry(self, source, target) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                await self._flows.wait()
                target.write(data)
                await target.drain()
        target.close()

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()


class Net:
    """The nodes of a test."""

    def __init__(self) -> None:
        self.ports = dict(zip(NODE_IDS, free_ports(len(NODE_IDS)), strict=True))
        self.nodes: list[Node] = []
        self.wires: list[Wire] = []

    def addresses(self, names="ab", **other_ports):
        ports = {name: self.ports[name] for name in names} | other_ports
        return {name: f"127.0.0.1:{port}" for name, port in ports.items()}

    def node(self, name, names="ab", ears=None, clock=None, tls=None, node_id="", **other_ports):
        addresses = self.addresses(names, **other_ports)
        port = self.ports[name]
        node = Node(name, addresses, port, ears or Ears(), clock or Clock(), tls, node_id)
        self.nodes.append(node)
        return node

    async def start(self, name, **settings):
        return await self.node(name, **settings).start()

    async def wire_to(self, name):
        wire = await Wire(self.ports[name]).start()
        self.wires.append(wire)
        return wire

    async def pair(self):
        """Two nodes, each with streams to the other."""
        a, b = await self.start("a"), await self.start("b")
        await a.ears.until(lambda: "b up" in a.ears.told)
        await b.ears.until(lambda: "a up" in b.ears.told)
        return a, b

    async def pair_over_wire(self):
        """Two nodes; what `a` says to `b` goes over a wire."""
        wire = await self.wire_to("b")
        a, b = await self.start("a", b=wire.port), await self.start("b")
        await a.ears.until(lambda: "b up" in a.ears.told)
        await b.ears.until(lambda: "a up" in b.ears.told)
        return a, b, wire


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    net = Net()
    yield net
    for node in net.nodes:
        await node.peers.stop()
    for wire in net.wires:
        await wire.stop()

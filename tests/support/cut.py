"""A cluster whose nodes reach each other through wires that can be cut.

Each node is told addresses of its peers that lead through a forwarder of its own, in the event loop
of the test. A wire that is cut carries nothing and closes nothing, as a network that is gone: bytes
are kept, and go on when it heals. Clients are not affected.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from chaos.cluster.ports import free_ports
from tests.support.cluster import ServedCluster

PIECE_BYTES = 1 << 16


class Wire:
    """From one node to another: a port that leads to that one's."""

    def __init__(self, port: int, to_port: int) -> None:
        self.port = port
        self._to_port = to_port
        self.whole = asyncio.Event()
        self.whole.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            await self.whole.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
            try:
                await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
            finally:
                back.close()
        writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                await self.whole.wait()
                writer.write(piece)
                await writer.drain()
        writer.close()


class Wires:
    """All wires of a cluster, by who dials whom."""

    def __init__(self, cluster: ServedCluster) -> None:
        peers = {
            node.name: int(str(node.flags["peer_listen"]).rpartition(":")[2]) for node in cluster
        }
        ways = [(name, other) for name in peers for other in peers if other != name]
        ports = dict(zip(ways, free_ports(len(ways)), strict=True))
        self._wires = {way: Wire(port, peers[way[1]]) for way, port in ports.items()}
        for node in cluster:
            at = {**peers, **{to: port for (name, to), port in ports.items() if name == node.name}}
            node.flags["peers"] = ",".join(f"{to}=127.0.0.1:{port}" for to, port in at.items())

    async def start(self) -> None:
        for wire in self._wires.values():
            await wire.start()

    async def stop(self) -> None:
        for wire in self._wires.values():
            await wire.stop()

    @asynccontextmanager
    async def cut_off(self, name: str) -> AsyncIterator[None]:
        """Between this node and all others nothing passes, either way."""
        cut = [wire for way, wire in self._wires.items() if name in way]
        for wire in cut:
            wire.whole.clear()
        try:
            yield
        finally:
            for wire in cut:
                wire.whole.set()

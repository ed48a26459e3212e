"""A cluster to do things to: its nodes, who supervises them, and what can be seen of them.

Owns starting all of it, bringing back nodes that ended by themselves as a supervisor would, and
looking at every node's /cluster twice a second. Nemeses call it; `run` builds it.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.cluster.network import Network, Place
from chaos.cluster.process import LogLine, ServedNode
from chaos.janitor import Janitor

RESTART_S: Final = 1.0  # what a supervisor waits before it starts a node again
LOOK_S: Final = 0.5
ANSWER_S_MAX: Final = 2.0
DUPLICATE_WINDOW_S: Final = 3600  # a SEND of the first minute can be repeated at the end

Told = Callable[..., None]  # (what, **facts): an event for the history


class Death(NamedTuple):
    """A node that ended without being asked to."""

    at: float
    node: str
    code: int


class Look(NamedTuple):
    """What was seen of a node: the leaders it names, its memory and open files; of a silent one
    nothing.
    """

    at: float
    node: str
    leaders: dict[str, str]
    memory_bytes: int
    files: int


class FaultyNode(ServedNode):
    """A node of a cluster. `wanted`: the supervisor keeps it running."""

    def __init__(
        self,
        name: str,
        place: Place,
        data_dir: Path,
        environment: Mapping[str, str],
        **flags: object,
    ) -> None:
        super().__init__(data_dir, environment, (place.nats, place.http), name=name, **flags)
        self.name = name
        self.place = place
        self.host = place.host
        self.prefix = place.prefix
        self.wanted = False
        self.paused = False
        self.past_log: list[LogLine] = []

    def spawn_now(self) -> Any:
        """Start it without waiting; its earlier runs' log is kept."""
        self.past_log += self.log
        return super().spawn_now()

    def whole_log(self) -> list[LogLine]:
        """Of all its runs."""
        return [*self.past_log, *self.log]

    async def ask(self, path: str) -> Any:
        """What its HTTP side answers to GET `path`, as JSON; None where it does not."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                reader, writer = await asyncio.open_connection(self.host, self.http_port)
                try:
                    request = f"GET {path} HTTP/1.0\r\nHost: {self.name}\r\n\r\n"
                    writer.write(request.encode())
                    _, _, body = (await reader.read()).partition(b"\r\n\r\n")
                finally:
                    writer.transport.abort()
            return json.loads(body)
        except (OSError, ValueError):  # TimeoutError is an OSError
            return None

    def measures(self) -> tuple[int, int]:
        """Its memory in bytes and how many files it has open."""
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208
        return 0, 0


class FaultyCluster:
    """Nodes n1, n2, …, each in its place on `network` with a folder of `data`."""

    def __init__(
        self,
        names: list[str],
        network: Network,
        data: Callable[[str], Path],
        janitor: Janitor,
        tell: Told,
        now: Callable[[], float],
        environment: Mapping[str, Mapping[str, str]],
        shards: int,
    ) -> None:
        places = dict(zip(names, network.places(), strict=True))
        peers = ",".join(f"{name}={place.host}:{place.peers}" for name, place in places.items())
        self.network = network
        self.nodes = [
            FaultyNode(
                name,
                place,
                data(name),
                environment[name],
                peers=peers,
                peer_listen=f"{place.host}:{place.peers}",
                shards=shards,
                lame_duck=1,
                duplicate_window=DUPLICATE_WINDOW_S,
            )
            for name, place in places.items()
        ]
        self.deaths: list[Death] = []
        self.looks: list[Look] = []
        self._janitor = janitor
        self._tell = tell
        self._now = now
        self._tasks: list[asyncio.Task[None]] = []

    def __getitem__(self, name: str) -> FaultyNode:
        return next(node for node in self.nodes if node.name == name)

    @property
    def names(self) -> list[str]:
        """Of all nodes."""
        return [node.name for node in self.nodes]

    # --- life ------------------------------------------------------------------------------------

    async def start(self, within_s: float) -> None:
        """Start all, and wait until every one serves and they agree. Raises TimeoutError."""
        await self.revive(*self.nodes)
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._watch())]
        await self.until_whole(within_s)

    async def stop(self) -> None:
        """Kill what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.kill(*self.nodes)

    async def until_whole(self, within_s: float) -> None:
        """Until all serve and name the same leaders. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not await self.is_whole():  # noqa: ASYNC110  only asking tells
                await asyncio.sleep(0.05)

    async def is_whole(self) -> bool:
        """Whether all serve and name the same leaders."""
        if not all(node.running for node in self.nodes):
            return False
        ready = await asyncio.gather(*(node.ask("/readyz") for node in self.nodes))
        if not all(one and one.get("status") == "ok" for one in ready):
            return False
        told = await asyncio.gather(*(self._leaders(node) for node in self.nodes))
        return all(one and all(one.values()) and one == told[0] for one in told)

    async def describe(self) -> str:
        """What every node says of itself, for whoever looks into why it is not whole."""
        told = []
        for node in self.nodes:
            ready, leaders = await node.ask("/readyz"), await self._leaders(node)
            told.append(f"{node.name}: running {node.running}, {ready}, leaders {leaders}")
        return "; ".join(told)

    async def _leaders(self, node: FaultyNode) -> dict[str, str]:
        seen = await node.ask("/cluster")
        return {str(one["id"]): one["leader"] for one in seen["shards"]} if seen else {}

    async def leaders(self) -> dict[str, str]:
        """The leader of each shard by the first node that answers; {} if none does."""
        for told in await asyncio.gather(*(self._leaders(node) for node in self.nodes)):
            if told:
                return told
        return {}

    async def _supervise(self) -> None:
        """What Kubernetes does: a node that ended by itself is started again."""
        while True:
            await asyncio.sleep(0.1)
            for node in self.nodes:
                if node.wanted and not node.running:
                    node.wanted = False
                    code = await node.wait()
                    self.deaths.append(Death(self._now(), node.name, code))
                    self._tell("died", node=node.name, code=code)
                    asyncio.get_running_loop().call_later(RESTART_S, self._bring_back, node)

    def _bring_back(self, node: FaultyNode) -> None:
        if self._tasks and not self._tasks[0].cancelled() and not node.running:
            self._spawn(node)

    def _spawn(self, node: FaultyNode) -> None:
        self._janitor.kill(node.spawn_now().pid)
        node.wanted = True
        node.paused = False
        self._tell("started", node=node.name)

    # --- what is done to nodes -------------------------------------------------------------------

    async def kill(self, *nodes: FaultyNode) -> None:
        """SIGKILL to all of them at once; returns when they are dead."""
        for node in nodes:
            node.wanted = False
            if node.running:
                node.signal(signal.SIGKILL)
        await asyncio.gather(*(node.wait() for node in nodes))

    async def revive(self, *nodes: FaultyNode) -> None:
        """Start those of them that do not run."""
        for node in nodes:
            if not node.running:
                self._spawn(node)

    async def terminate(self, node: FaultyNode) -> int:
        """SIGTERM; its exit code."""
        node.wanted = False
        return await node.terminate()

    def pause(self, *nodes: FaultyNode) -> None:
        """SIGSTOP."""
        for node in nodes:
            node.paused = True
            node.signal(signal.SIGSTOP)

    def resume(self, *nodes: FaultyNode) -> None:
        """SIGCONT."""
        for node in nodes:
            node.paused = False
            if node.running:
                node.signal(signal.SIGCONT)

    async def heal(self) -> None:
        """Every node runs, none is paused, nothing is cut."""
        self.resume(*(node for node in self.nodes if node.paused))
        self.network.rule({})
        await self.revive(*self.nodes)

    # --- what is seen ----------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.gather(*(self._look(node) for node in self.nodes))
            await asyncio.sleep(LOOK_S)

    async def _look(self, node: FaultyNode) -> None:
        leaders = await self._leaders(node) if node.running and not node.paused else {}
        memory, files = node.measures() if node.running else (0, 0)
        self.looks.append(Look(self._now(), node.name, leaders, memory, files))

    def errors(self) -> Iterable[tuple[str, str]]:
        """What nodes logged as errors: (node, the line)."""
        for node in self.nodes:
            for line in node.whole_log():
                if line.get("level") in ("error", "critical"):
                    yield node.name, json.dumps(line)

    def tracebacks(self) -> Iterable[tuple[str, str]]:
        """What no node should ever log: (node, the lines)."""
        for node in self.nodes:
            texts = [str(line.get("raw") or line) for line in node.whole_log()]
            for number, text in enumerate(texts):
                if "Traceback" in text:
                    yield node.name, " | ".join(texts[number : number + 40])[-1000:]

"""Whole clusters for tests: several `chaos.cluster.process.ServedNode`s that know each other.

Owns the ports and names of a cluster's nodes, waiting until all of them serve, and telling who
leads what; the fixtures `serve_cluster` and `shared_cluster` of tests/conftest.py hand them to
tests.
"""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chaos.cluster.ports import free_ports
from chaos.cluster.process import ServedNode

READY_S_MAX = 60.0  # a cluster on a busy machine
LOOK_S = 0.05  # between two looks at what only polling tells


class NotInTime(AssertionError):
    """What was waited for did not come true; carries what it was."""


async def until(holds: Callable[[], Any], what: str, within_s: float = READY_S_MAX) -> float:
    """Look again and again, in a thread, until `holds()`; the seconds it took. Raises NotInTime."""
    began_s = time.monotonic()
    while not await asyncio.to_thread(holds):
        if time.monotonic() - began_s > within_s:
            raise NotInTime(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(LOOK_S)
    return time.monotonic() - began_s


class ClusterNode(ServedNode):
    """A node of a cluster."""

    @property
    def name(self) -> str:
        return str(self.flags["name"])

    @property
    def address(self) -> str:
        """`host:port`, as clients are told it in connect_urls."""
        return f"{self.host}:{self.port}"

    def is_ready_now(self) -> bool:
        """Whether it is up and /readyz says 200."""
        try:
            return self.running and self.get_now("/readyz").status == 200
        except OSError:
            return False

    async def until_ready(self, within_s: float = READY_S_MAX) -> float:
        """Wait for /readyz; the seconds it took."""
        return await until(self.is_ready_now, f"{self.name} is ready", within_s)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        guard = await asyncio.to_thread(self._guard)
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)
            await asyncio.to_thread(guard.communicate)

    def _guard(self) -> subprocess.Popen[bytes]:
        """Wakes the node when our end of its pipe closes, whatever happens to us: a stopped node
        would not even notice that its stdin was closed.
        """
        return subprocess.Popen(
            ["/bin/sh", "-c", f"read -r _; kill -CONT {self.pid} 2>/dev/null"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )


class ServedCluster:
    """`count` nodes, n1, n2, …; `flags` as of ServedNode, the same for all.

    `data_dir` has a folder per node. Bound to no event loop.
    """

    def __init__(
        self,
        data_dir: Path,
        count: int = 3,
        environments: Mapping[str, Mapping[str, str]] | None = None,
        **flags: Any,
    ) -> None:
        """`environments` adds variables for single nodes to those of `environment`."""
        environment = flags.pop("environment", {})
        ports = free_ports(3 * count)
        names = [f"n{number + 1}" for number in range(count)]
        peers = dict(zip(names, ports[:count], strict=True))
        told = ",".join(f"{name}=127.0.0.1:{port}" for name, port in peers.items())
        self.nodes = [
            ClusterNode(
                data_dir / name,
                {**environment, **(environments or {}).get(name, {})},
                (ports[count + number], ports[2 * count + number]),
                name=name,
                peers=told,
                peer_listen=f"127.0.0.1:{peers[name]}",
                **flags,
            )
            for number, name in enumerate(names)
        ]

    def __iter__(self) -> Iterator[ClusterNode]:
        return iter(self.nodes)

    def __getitem__(self, name: str | int) -> ClusterNode:
        """A node by its name, or by its place."""
        if isinstance(name, int):
            return self.nodes[name]
        return next(node for node in self.nodes if node.name == name)

    def others(self, *without: ClusterNode) -> list[ClusterNode]:
        """The other nodes."""
        return [node for node in self.nodes if node not in without]

    @property
    def urls(self) -> list[str]:
        """Where clients connect."""
        return [node.url for node in self.nodes]

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all and wait until every one is ready. Raises NodeDidNotStart, NotInTime."""
        await asyncio.to_thread(self.start_now)

    def start_now(self) -> None:
        """`start`, for those without an event loop."""
        self._with_each(lambda node: node.start_now(), [n for n in self.nodes if not n.running])
        self.wait_ready_now()

    async def kill(self) -> None:
        """SIGKILL to all at once; returns when they are dead."""
        await asyncio.to_thread(self.kill_now)

    def kill_now(self) -> None:
        """`kill`, for those without an event loop."""
        self._with_each(lambda node: node.kill_now(), self.nodes)

    def wait_ready_now(self, within_s: float = READY_S_MAX) -> None:
        """Until every node is ready and all of them name a leader of every shard."""
        until_s = time.monotonic() + within_s
        while not (all(node.is_ready_now() for node in self.nodes) and self.agrees_now()):
            if time.monotonic() > until_s:
                logs = "\n\n".join(node.log_text() for node in self.nodes)
                raise NotInTime(f"not ready within {within_s:g} s\n{logs}")
            time.sleep(LOOK_S)

    async def until_ready(self, within_s: float = READY_S_MAX) -> None:
        """`wait_ready_now`, with an event loop."""
        await asyncio.to_thread(self.wait_ready_now, within_s)

    @staticmethod
    def _with_each(do: Callable[[ClusterNode], object], nodes: Iterable[ClusterNode]) -> None:
        chosen = list(nodes)
        with ThreadPoolExecutor(len(chosen) or 1) as threads:
            for one in [threads.submit(do, node) for node in chosen]:
                one.result()

    def counted_now(self, metric: str, *nodes: ClusterNode) -> float:
        """The sum of all samples of a metric, of all labels and of these nodes, or of all."""
        found = 0.0
        for node in nodes or self.nodes:
            for line in node.get_now("/metrics").body.decode().splitlines():
                name, _, value = line.rpartition(" ")
                if name.partition("{")[0] == metric:
                    found += float(value)
        return found

    # --- who leads what --------------------------------------------------------------------------

    def leaders_now(self, *, seen_by: ClusterNode | None = None) -> dict[int, str]:
        """The leader of each shard, "" where none is known, as /cluster of a node that runs says.

        Raises OSError where it does not answer.
        """
        node = seen_by or next(node for node in self.nodes if node.running)
        shards = node.get_now("/cluster").json()["shards"]
        return {shard["id"]: shard["leader"] for shard in shards}

    def agrees_now(self) -> bool:
        """Whether all nodes name the same leader of every shard."""
        views = [self.leaders_now(seen_by=node) for node in self.nodes]
        return all(view == views[0] and all(view.values()) for view in views)

    async def leader_of(self, shard: int, *, among: Iterable[ClusterNode] = ()) -> ClusterNode:
        """The node that leads `shard`, once one is known; asked of, and found, `among` these."""
        chosen = list(among) or [node for node in self.nodes if node.running]
        names = {node.name for node in chosen}

        def known() -> str:
            leader = self.leaders_now(seen_by=chosen[0]).get(shard, "")
            return leader if leader in names else ""

        await until(known, f"shard {shard} has a leader")
        return self[await asyncio.to_thread(known)]

"""Raft over the durability loop and real logs: three replicas, one process, RocksDB underneath."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mq9cluster.cluster.clocks import STEP_MS_MAX, AwakeClock
from mq9cluster.cluster.durability import Durability, Retention
from mq9cluster.cluster.engine import LogEntry, Members, Message
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.cluster.raft_rules import Timing
from mq9cluster.storage.database import Database
from mq9cluster.storage.log import GroupLog
from tests.support.raft import FakeRandom

NAMES = ("a", "b", "c")
TIMING = Timing(heartbeat_ms=20, election_ms_min=2 * STEP_MS_MAX, election_ms_max=4 * STEP_MS_MAX)
DEADLINE_S = 60.0


class SystemClock:
    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def seconds(self) -> float:
        return time.monotonic()


class Node:
    """A node with one group. What it applied is gone with it, so it replays its log."""

    def __init__(self, name: str, path: Path, cluster: "Cluster", run: int) -> None:
        self.name = name
        self.nodes = cluster.nodes
        self.moved = cluster.moved
        self.database = Database.open(path, create=not path.exists())
        self.log = GroupLog(self.database, 0)
        self.committed: list[LogEntry] = []
        self.waiting: list[bytes] = []
        self.fatal: list[BaseException] = []
        loop = asyncio.get_running_loop()
        self.durability = Durability(
            self.database,
            self.fatal.append,
            lambda work: loop.run_in_executor(None, work),
            time.monotonic,
            retention=Retention(entries=10**6),
        )
        self.engine = RaftEngine(
            name=name,
            members=Members(NAMES),
            log=self.log,
            hard_state=self.log.hard_state,
            applied=0,
            clock=AwakeClock(SystemClock()),  # who leads goes on, whatever the machine does
            random=FakeRandom(run * 10 + NAMES.index(name)),
            timing=TIMING,
        )
        self.group = self.durability.register(0, self.engine, self.log, self, 0)
        self.nodes[name] = self
        self.ticking = asyncio.ensure_future(self.tick())

    async def tick(self) -> None:
        while True:
            self.engine.tick()
            self.durability.wake(self.group)
            self.moved.set()
            await asyncio.sleep(TIMING.heartbeat_ms / 2000)

    async def stop(self) -> None:
        self.ticking.cancel()
        del self.nodes[self.name]
        self.durability.forget(self.group)
        await self.durability.idle()
        self.database.close()

    def prepare(self) -> None:
        waiting, self.waiting = self.waiting, []
        if waiting and self.engine.is_leader:
            self.engine.propose(b",".join(waiting))

    def send(self, messages: Sequence[Message]) -> None:
        loop = asyncio.get_running_loop()
        for message in messages:
            loop.call_soon(self.deliver, message)

    def deliver(self, message: Message) -> None:
        target = self.nodes.get(message.peer)
        if target is not None:
            target.engine.receive(self.name, message.data)
            target.durability.wake(target.group)

    def on_committed(self, entries: Sequence[LogEntry]) -> None:
        self.committed += entries
        self.moved.set()

    @property
    def commands(self) -> list[bytes]:
        return [data for entry in self.committed if entry.data for data in entry.data.split(b",")]


class Cluster:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.nodes: dict[str, Node] = {}
        self.moved = asyncio.Event()  # somewhere, something
        self.run = 0

    def start(self, *names: str) -> None:
        self.run += 1
        for name in names:
            Node(name, self.path / name, self, self.run)

    async def until(self, met: Any) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            while not (found := met()):
                self.moved.clear()
                await self.moved.wait()
        return found

    async def leader(self) -> Node:
        def leading() -> Node | None:
            found = [node for node in self.nodes.values() if node.engine.is_leader]
            return max(found, key=lambda node: node.engine.term, default=None)

        found: Node = await self.until(leading)
        return found

    async def propose(self, *commands: bytes) -> None:
        leader = await self.leader()
        leader.waiting += commands
        leader.durability.wake(leader.group)

    async def stop(self) -> None:
        for node in list(self.nodes.values()):
            assert node.fatal == []
            await node.stop()


@pytest.fixture
async def cluster(tmp_path: Path) -> Any:
    made = Cluster(tmp_path)
    yield made
    await made.stop()


async def test_three_replicas_commit_the_same(cluster: Cluster) -> None:
    cluster.start(*NAMES)
    expected = [b"%d" % number for number in range(50)]
    for command in expected:
        await cluster.propose(command)
        await asyncio.sleep(0)
    await cluster.until(lambda: all(n.commands == expected for n in cluster.nodes.values()))


async def test_everything_is_there_after_all_were_stopped(cluster: Cluster) -> None:
    cluster.start(*NAMES)
    await cluster.propose(b"x", b"y")
    await cluster.until(lambda: any(n.commands == [b"x", b"y"] for n in cluster.nodes.values()))
    await cluster.stop()
    cluster.start(*NAMES)
    await cluster.until(lambda: all(n.commands == [b"x", b"y"] for n in cluster.nodes.values()))


async def test_work_goes_on_without_the_leader_and_reaches_it_when_it_is_back(
    cluster: Cluster,
) -> None:
    cluster.start(*NAMES)
    await cluster.propose(b"before")
    leader = await cluster.leader()
    await cluster.until(lambda: leader.commands)
    await leader.stop()
    await cluster.propose(b"after")
    await cluster.until(
        lambda: [n.commands[1:] for n in cluster.nodes.values()] == [[b"after"]] * 2
    )
    cluster.start(leader.name)
    back = cluster.nodes[leader.name]
    await cluster.until(lambda: back.commands == [b"before", b"after"])


async def test_a_read_is_confirmed_by_the_others(cluster: Cluster) -> None:
    cluster.start(*NAMES)
    await cluster.propose(b"x")
    leader = await cluster.leader()
    await cluster.until(lambda: leader.commands)
    done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    leader.engine.read_barrier(done.set_result)
    leader.durability.wake(leader.group)
    async with asyncio.timeout(DEADLINE_S):
        assert await done == leader.committed[-1].index


async def test_leadership_moves_on_request(cluster: Cluster) -> None:
    cluster.start(*NAMES)
    await cluster.propose(b"x")
    leader = await cluster.leader()
    await cluster.until(lambda: leader.commands)
    target = next(name for name in NAMES if name != leader.name)
    leader.engine.transfer(target)
    leader.durability.wake(leader.group)
    await cluster.until(lambda: cluster.nodes[target].engine.is_leader)

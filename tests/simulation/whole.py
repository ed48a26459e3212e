"""Whole nodes under faults, below their sockets: real shards, `meta`, engines, state machine and
durability loop, on virtual time, network and disks. One seed decides everything.

Clients send to mailboxes at random nodes. What must hold at every look: one leader a term and
group; replicas of a shard that stand at the same entry have the same state. And at the end, healed:
every SEND that was acknowledged is there, once.
"""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch
from zlib import crc32

from mq9cluster.cluster import cluster as cluster_module
from mq9cluster.cluster.cluster import Cluster
from mq9cluster.cluster.durability import Durability, Retention
from mq9cluster.cluster.membership import MemberEvents, Membership
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.command import CreateMailbox, SendMessage
from mq9cluster.domain.outcome import MessageStored, Outcome
from mq9cluster.domain.ports import Family
from mq9cluster.domain.read import MessagesRead, Query
from mq9cluster.storage.state import ShardState
from tests.simulation.checker import Violation
from tests.simulation.clock import NodeClock, NodeRandom, Scheduler
from tests.simulation.database import SimDatabase
from tests.simulation.disk import Disk
from tests.simulation.loop import run
from tests.simulation.network import Network, Weather
from tests.simulation.peers import SimPeers

NAMES = ("n1", "n2", "n3")
SHARDS = 2
MAILBOXES = tuple(mailbox_ref("$G", f"box{number}") for number in range(4))
FAULTS_S = 12.0
HEAL_S = 12.0  # a node that lost its lease begins a new run first
LOOK_S = 0.25
SEND_S = 0.02
EPOCH_MS = 1_700_000_000_000  # the wall clocks' beginning
LOG_KEPT = Retention(entries=8, entries_slack=2)  # a second's work: who was away needs the state
EVENTS_MAX = 1_000_000


class WholeNode:
    """A node's disk, and the process on it while it runs."""

    def __init__(self, world: "World", number: int, name: str) -> None:
        self.world = world
        self.name = name
        self.number = number
        self.disk = Disk(world.scheduler)
        self.clock = NodeClock(world.scheduler, started_ms=1_000 * number, offset_ms=EPOCH_MS)
        self.incarnation = 0
        self.states_taken = 0
        self.cluster: Cluster | None = None
        self._database: SimDatabase | None = None
        self._starting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start on what the disk holds."""
        world = self.world
        self._database = SimDatabase(self.disk, world.scheduler)
        durability = Durability(
            self._database,
            partial(self._failed, self._database),
            self._database.offload,
            self._database.seconds,
            retention=LOG_KEPT,
        )
        membership = Membership(
            self.name, self.number, f"{self.name}:4222", dict.fromkeys(NAMES, "sim"), SHARDS
        )
        with patch.object(cluster_module, "Peers", partial(SimPeers, world.network)):
            self.cluster = Cluster(
                membership,
                self._database,
                durability,
                self.clock,
                NodeRandom(f"{world.seed}/{self.name}/{self.incarnation}"),
                self._count_start(),
                self._count_start,
                MemberEvents(),
            )
        self._starting = asyncio.create_task(self.cluster.start(""))

    def _count_start(self) -> int:
        self.incarnation += 1  # the real one counts in a synced file
        return self.incarnation

    def _failed(self, database: SimDatabase, error: BaseException) -> None:
        if not database.dead:
            raise Violation(f"{self.name}: {error!r}") from error

    @property
    def serving(self) -> Cluster | None:
        """The cluster, once this node is a member."""
        if self.cluster is None or self._starting is None or not self._starting.done():
            return None
        self._starting.result()
        return self.cluster

    def crash(self, keep: int) -> None:
        """Lose the process, and what was not synced but for the first `keep` batches."""
        if self.cluster is None or self._database is None or self._starting is None:
            return
        self._database.dead = True
        self.cluster.peers.die()
        self.states_taken += self.cluster.snapshots.counts.received
        tasks = [self._starting, *self.cluster._tasks, self.cluster._beginning]
        tasks += self.cluster.snapshots.under_way()
        for task in tasks:
            if task:
                task.cancel()
        if hasattr(self.cluster, "shards"):
            self._silence(self.cluster)
        self.cluster = self._database = self._starting = None
        self.disk.crash(keep)

    def _silence(self, cluster: Cluster) -> None:
        for shard in cluster.shards.all:
            shard.stop()
        for replica in cluster.shards.replicas:
            replica.stop()


class World:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(f"whole/{seed}")
        self.scheduler = Scheduler(EVENTS_MAX)
        rough = self.random.choice([2_000, 10_000, 60_000])
        self.network = Network(
            self.scheduler, self.random, Weather(delay_us_min=100, delay_us_max=rough), ordered=True
        )
        self.nodes = [WholeNode(self, number, name) for number, name in enumerate(NAMES, 1)]
        self.off = self.random.choice([None, self.random.choice(self.nodes)])
        if self.off is not None:
            self.off.clock.offset_ms += self.random.choice([-1, 1]) * 3_600_000
        self.sync_us = self.random.choice([200, 3_000, 20_000])
        self.fault_s = self.random.choice([0.5, 1.5, 4.0])
        self.sent = 0
        self.acknowledged: dict[bytes, int] = {}
        self.refused = 0
        self.compared = 0
        self.leaders: dict[tuple[int, int], str] = {}
        self._digests: dict[tuple[int, int], int] = {}

    async def main(self) -> None:
        """Faults, then healing."""
        for node in self.nodes:
            node.disk.sync_us = self.sync_us
            node.start()
        tasks = [
            asyncio.create_task(self._repeat(SEND_S, self._send)),
            asyncio.create_task(self._repeat(LOOK_S, self._look)),
            asyncio.create_task(self._repeat(1.0, self._create)),
        ]
        faults = asyncio.create_task(self._repeat(self.fault_s, self._fault))
        await self._spend(FAULTS_S, tasks)
        faults.cancel()
        self._heal()
        before = len(self.acknowledged)
        await self._spend(HEAL_S, tasks)
        if len(self.acknowledged) == before:
            raise Violation("nothing was acknowledged after healing")
        for task in tasks:
            task.cancel()
        self._check_clocks()
        await self._check_end()
        for node in self.nodes:
            node.crash(0)

    async def _spend(self, seconds: float, tasks: list[asyncio.Task[None]]) -> None:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def _repeat(self, period_s: float, call: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0, 2 * period_s))
            call()

    # ------------------------------------------------------------------ clients

    def _create(self) -> None:
        cluster = self._any_serving()
        if cluster is not None:
            for ref in MAILBOXES:
                cluster.shards.of(ref).propose(CreateMailbox(ref, ttl_s=86_400), lambda _: None)

    def _send(self) -> None:
        cluster = self._any_serving()
        if cluster is None:
            return
        self.sent += 1
        ref = self.random.choice(MAILBOXES)
        payload = b"%d" % self.sent
        done = partial(self._answered, cluster, payload)
        cluster.shards.of(ref).propose(SendMessage(ref, payload), done)

    def _answered(self, cluster: Cluster, payload: bytes, outcome: Outcome) -> None:
        if cluster.peers.stopped:
            return  # nobody is there to hear it
        if isinstance(outcome, MessageStored):
            self.acknowledged[payload] = outcome.msg_id
        else:
            self.refused += 1

    def _any_serving(self) -> Cluster | None:
        serving = [node.serving for node in self.nodes]
        return self.random.choice([one for one in serving if one] or [None])

    # ------------------------------------------------------------------ faults

    def _fault(self) -> None:
        fault = self.random.choice([self._crash, self._crash_all, self._cut, self._cut, self._slow])
        fault()

    def _crash(self, node: WholeNode | None = None) -> None:
        node = node or self.random.choice(self.nodes)
        if node.cluster is None:
            return
        node.crash(self.random.choice([0, self.random.randint(0, node.disk.unsynced)]))

        def restart() -> None:
            if node.cluster is None:
                node.start()

        asyncio.get_running_loop().call_later(self.random.choice([0.1, 1.0, 6.0]), restart)

    def _crash_all(self) -> None:
        for node in self.nodes:
            self._crash(node)

    def _cut(self) -> None:
        name = self.random.choice(NAMES)
        others = [other for other in NAMES if other != name]
        self.network.split([name], others)
        asyncio.get_running_loop().call_later(
            self.random.choice([0.3, 2.0, 7.0]), self.network.heal
        )

    def _slow(self) -> None:
        self.random.choice(self.nodes).disk.sync_us = self.random.choice([200, 20_000, 500_000])

    def _heal(self) -> None:
        self.network.heal()
        self.network.weather = Weather()
        for node in self.nodes:
            node.disk.sync_us = 200

    # ------------------------------------------------------------------ checks

    def _look(self) -> None:
        for node in self.nodes:
            cluster = node.cluster
            if cluster is None:
                continue
            for number, (_, engine) in cluster._groups.items():
                if engine.is_leader:
                    leader = self.leaders.setdefault((number, engine.term), node.name)
                    if leader != node.name:
                        raise Violation(
                            f"group {number}: {leader} and {node.name} lead term {engine.term}"
                        )
            if node.serving:
                self._compare(node, cluster)

    def _compare(self, node: WholeNode, cluster: Cluster) -> None:
        for replica in cluster.shards.replicas:
            place = replica.shard, replica.machine.applied_index
            digest = self._digest(replica._state)
            known = self._digests.get(place)
            self.compared += known is not None
            if self._digests.setdefault(place, digest) != digest:
                raise Violation(f"{node.name}: another state of shard and entry {place}")

    def _digest(self, state: Any) -> int:
        assert isinstance(state, ShardState)
        digest = 0
        for family in Family:
            for key, value in state.scan_all(family):
                digest = crc32(value, crc32(key, digest))
        return digest

    def _check_clocks(self) -> None:
        """Who is an hour off the others leads nothing."""
        if self.off is None or self.off.cluster is None:
            return
        for number, (_, engine) in self.off.cluster._groups.items():
            if engine.is_leader:
                raise Violation(f"{self.off.name} leads group {number}, an hour off")

    async def _check_end(self) -> None:
        cluster = self.nodes[0].serving
        if cluster is None:
            raise Violation("n1 does not serve after healing")
        acknowledged = dict(self.acknowledged)  # by now; more may come while we ask
        found: dict[bytes, int] = {}
        for ref in MAILBOXES:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            cluster.shards.of(ref).query(Query(ref, limit=100_000), answer.set_result)
            read = await answer
            if not isinstance(read, MessagesRead):
                raise Violation(f"QUERY after healing: {read}")
            for message in read.messages:
                if message.payload in found:
                    raise Violation(f"{message.payload!r} was stored twice")
                found[message.payload] = message.msg_id
        lost = [payload for payload in acknowledged if payload not in found]
        if lost:
            raise Violation(f"{len(lost)} of {len(acknowledged)} lost, as {lost[:5]}")
        moved = [payload for payload, msg_id in acknowledged.items() if found[payload] != msg_id]
        if moved:
            raise Violation(f"acknowledged under another msg_id: {moved[:5]}")


def simulate_whole(seed: int, engine_type: type[RaftEngine] = RaftEngine) -> World:
    """Run `seed`. Raises Violation."""
    world = World(seed)
    try:
        with patch.object(cluster_module, "RaftEngine", engine_type):
            run(world.scheduler, world.main())
    except Exception as error:
        report = f"seed {seed} at {world.scheduler.now_us / 1e6:.6f} s: {error!r}"
        raise Violation(report) from error
    return world

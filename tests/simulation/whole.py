"""Whole nodes under faults, below their sockets: broker, shards, `meta`, engines, state machine,
durability loop and core NATS, on virtual time, network and disks. One seed decides everything.

A safety phase: clients work, and the faults of the plan come, one upon the other. Then a liveness
phase: everything is healed, but for one node that may stay away; within a deadline every mailbox
takes and gives messages again. At the end everything is read, drained and compared. `whole_watch`
checks every step of every group, `whole_history` every answer.
"""

import asyncio
import gc
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

from mq9cluster.cluster import clocks
from mq9cluster.cluster import cluster as cluster_module
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.domain import failpoints
from mq9cluster.storage.errors import StorageFailed
from tests.simulation import files
from tests.simulation.checker import Violation
from tests.simulation.clock import Scheduler
from tests.simulation.loop import run
from tests.simulation.network import Network
from tests.simulation.peers import SimPeers
from tests.simulation.process import Died
from tests.simulation.search import DIMENSIONS, installed
from tests.simulation.whole_agents import AgentsHistory
from tests.simulation.whole_clients import Client
from tests.simulation.whole_core import CoreHistory
from tests.simulation.whole_end import End
from tests.simulation.whole_faults import FAULTS
from tests.simulation.whole_history import BoxHistory, BoxKind
from tests.simulation.whole_limits import tiny
from tests.simulation.whole_node import EPOCH_MS, WholeNode
from tests.simulation.whole_options import WholeOptions
from tests.simulation.whole_traces import SimTracer
from tests.simulation.whole_watch import Watch, watched

EVENTS_MAX = 400_000  # several times what the busiest healthy run needs
LOOK_S = 0.2
RECOVERY_S_MAX = 20.0  # a lease that runs out, a run that is ended, another begun, a state brought
END_S_MAX = 25.0
TRAPS = ("failpoint", "death at an install")  # faults that need failpoints
OFF_MS = 500  # a clock so far off does not lead


class World:
    """One run."""

    def __init__(self, options: WholeOptions) -> None:
        self.options = options
        self.random = random.Random(f"whole/{options.seed}")
        self.scheduler = Scheduler(EVENTS_MAX)
        self.seen: Counter[str] = Counter()
        self.violation = ""
        self.watch = Watch(self)
        self.agents = AgentsHistory(self)
        self.core = CoreHistory(self)
        self.pushing = random.Random(f"pushing/{options.seed}")
        self.pushed: dict[str, set[int]] = {}  # to members of the group, by mailbox
        self.tracer = SimTracer(self)
        self.service = ""  # how the embedding service is: "", "slow", "broken" or "down"
        self.model = 1  # the embedding model that nodes are started with
        self.nodes: list[WholeNode] = []
        self.network = Network(
            self.scheduler,
            random.Random(f"network/{options.seed}"),
            replace(options.weather),
            ordered=True,
        )
        names = [f"n{number}" for number in range(1, options.nodes + 1)]
        self.nodes += [WholeNode(self, number, name) for number, name in enumerate(names, 1)]
        self.off = next((node for node in self.nodes if self._is_off(node)), None)
        self.created: set[str] = set()
        self.acknowledged = 0
        self.boxes = {name: BoxHistory(name, kind, self.broken) for name, kind in self._kinds()}
        self.clients = [Client(self, number) for number in range(1, options.clients + 1)]
        self.healed_us = 0
        self.away: WholeNode | None = None

    @staticmethod
    def _clock_is_off(node: WholeNode) -> bool:
        return abs(node.clock.offset_ms - EPOCH_MS) > OFF_MS

    def _is_off(self, node: WholeNode) -> bool:
        return abs(self.options.clock_offsets_ms[node.number - 1]) > OFF_MS

    def _kinds(self) -> Iterator[tuple[str, BoxKind]]:
        features = self.options.features
        yield "plain", BoxKind()
        yield "other", BoxKind()
        if "dead letters" in features:
            yield "deadly", BoxKind(max_deliver=2)
        if "retain acked" in features:
            yield "acked", BoxKind(retain_acked=True)
        if "limits" in features:
            yield "small", BoxKind(max_msgs=10)
        if "short-lived mailboxes" in features:
            yield "short", BoxKind(ttl_s=2)

    # --- time ------------------------------------------------------------------------------------

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Do `call` in the world, outside of all processes, so much later."""
        self.scheduler.after(round(seconds * 1_000_000), lambda: call() and None)

    def in_turn(self, call: Callable[..., object], *args: Any) -> None:
        """Do `call` in the world as soon as what runs now is done."""
        self.scheduler.after(0, lambda: call(*args) and None)

    @property
    def now_s(self) -> float:
        """True time."""
        return self.scheduler.now_us / 1_000_000

    @property
    def wall_s(self) -> float:
        """True Unix time."""
        return EPOCH_MS / 1000 + self.now_s

    def broken(self, why: str) -> None:
        """A property does not hold."""
        self.watch.broken(why)

    # --- a run -----------------------------------------------------------------------------------

    async def main(self) -> None:
        """Safety, then liveness."""
        for node in self.nodes:
            node.start()
        for client in self.clients:
            client.begin()
        for fault in self.options.plan:
            luck = random.Random(fault.seed)
            self.later(fault.at_ms / 1000, partial(self._happen, fault.kind, luck))
        await self.spend(self.options.faults_ms / 1000)
        self._heal()
        await self.until(self._works_again, RECOVERY_S_MAX, "work does not go on after healing")
        self.seen["recovery ms"] += (self.scheduler.now_us - self.healed_us) // 1000
        for client in self.clients:
            client.rest()
        await self.until(self._at_rest, END_S_MAX, "a request is never answered")
        await End(self).check()
        for node in self.nodes:
            node.crash(0)

    async def spend(self, seconds: float) -> None:
        """Let time go by, and go on only if all holds."""
        await asyncio.sleep(seconds)
        for node in self.nodes:
            if node.process and (error := node.process.unheard()):
                raise Violation(f"{node.name}: a task failed unheard: {error!r}") from error
        self.must_hold()

    async def until(self, holds: Callable[[], str], seconds_max: float, otherwise: str) -> None:
        """Wait until `holds` says that nothing is missing. Raises Violation: it takes too long."""
        until_s = self.now_s + seconds_max
        while why := holds():
            if self.now_s > until_s:
                raise Violation(f"{otherwise}: {why}")
            await self.spend(LOOK_S)

    def must_hold(self) -> None:
        """Raises Violation where something does not."""
        if self.violation:
            raise Violation(self.violation)

    @property
    def embedder_id(self) -> str:
        """What the cluster's embedder is called, if it is the one nodes are started with."""
        return f"openai:{self.model}:1:{DIMENSIONS}:-"

    def _happen(self, kind: str, luck: random.Random) -> None:
        if not self.healed_us:
            self.seen["faults"] += 1
            self.seen[f"fault: {kind}"] += 1
            FAULTS[kind](self, luck)

    def _heal(self) -> None:
        self.healed_us = max(1, self.scheduler.now_us)
        self.network.heal()
        self.network.weather = replace(self.options.weather, delay_us_max=2_000)
        born = any(node.is_member for node in self.nodes)
        if self.options.leave_one_out and born:  # all first members are needed for a birth
            # Of two clocks that differ nobody can tell which one is right: that one stays away.
            wrong = [node for node in self.nodes if self._clock_is_off(node)]
            self.away = self.random.choice(wrong or self.nodes)
            self.away.gone = True
            self.away.crash(0)
        self.service = ""
        for node in self.nodes:
            if node.model != self.model:
                node.crash(node.disk.unsynced)
            node.disk.full = node.disk.failing = False
            node.disk.damaged.clear()
            node.disk.sync_us = 200
            node.disk.go_on()
            node.resume()
            if node.process is not None:
                node.process.trap = None
            self.later(0.1, node.start)

    def crash_keeps(self, node: WholeNode) -> int:
        """How much of what is not synced a crash leaves."""
        return self.random.choice([0, node.disk.unsynced])

    def leads(self, node: WholeNode) -> bool:
        """Whether a node leads any group."""
        if node.cluster is None:
            return False
        return any(engine.is_leader for _, engine in node.cluster._groups.values())

    # --- liveness --------------------------------------------------------------------------------

    @property
    def here(self) -> list[WholeNode]:
        """Nodes that ought to work."""
        return [node for node in self.nodes if node is not self.away]

    def _works_again(self) -> str:
        """What does not work yet, "" for nothing."""
        for node in self.here:
            if not node.serving:
                return f"{node.name} does not serve"
        silent = self.silent()
        return f"nothing was stored in {silent[0].name}" if silent else ""

    def silent(self) -> list[BoxHistory]:
        """Mailboxes in which nothing was stored since all was healed."""
        since_s = self.healed_us / 1_000_000
        return [
            box
            for box in self.boxes.values()
            if not box.kind.max_msgs
            and not any(
                sent.acknowledged_s is not None and sent.invoked_s > since_s
                for sent in box.sent.values()
            )
        ]

    def _at_rest(self) -> str:
        return "a client waits" if any(client.busy for client in self.clients) else ""

    # --- passers-by -------------------------------------------------------------------------------

    def pass_by(self, node: WholeNode) -> None:
        """Somebody comes to a node that stands still, and reads: what it answers when it goes on
        must not be of the time before.
        """
        for box in self.boxes.values():
            if box.created_s is not None and node.serving:
                passer = Client(self, 2_000 + self.seen["passers-by"])
                self.seen["passers-by"] += 1
                passer.resting = True
                passer.node = node
                passer.connection = node.connect(passer._closed)
                passer.query(box)


class _Told(logging.Handler):
    """What nodes log of their own mistakes ends the run."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Storage fails by itself; nothing else may."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, StorageFailed | Died):
            world = self._world
            world.violation = world.violation or f"{record.getMessage()}: {error!r}"


@contextmanager
def _patched(world: World, engine_type: type[RaftEngine]) -> Iterator[None]:
    """Virtual peers, engines somebody looks at, failpoints that kill virtual processes."""
    quiet = logging.getLogger("mq9cluster")
    level, told = quiet.level, _Told(world)
    collecting = gc.isenabled()
    with (
        ExitStack() as patches,
        files.installed(),
        patch.object(cluster_module, "Peers", partial(SimPeers, world.network)),
        patch.object(cluster_module, "RaftEngine", watched(world, engine_type)),
        # Of two clocks that differ either may be right; after a while nodes take the earlier rather
        # than wait for ever. Here they wait: what a wrong guess does is no surprise.
        patch.object(clocks, "UNDECIDED_MS_MAX", 10**9),
    ):
        quiet.setLevel(logging.ERROR)
        quiet.addHandler(told)
        gc.disable()  # one run makes less garbage than the looking for it costs
        if world.options.tiny:
            forgets = "groups" not in world.options.features  # of which histories are kept
            patches.enter_context(tiny(forgets_groups=forgets))
        if "registry" in world.options.features:
            patches.enter_context(installed(world))
        if any(fault.kind in TRAPS for fault in world.options.plan):
            failpoints.arm(partial(WholeNode.trapped, world))
        try:
            yield
        finally:
            failpoints.disarm()
            quiet.removeHandler(told)
            quiet.setLevel(level)
            if collecting:
                gc.enable()


def simulate_whole(seed: int | WholeOptions, engine_type: type[RaftEngine] = RaftEngine) -> World:
    """Run a seed, or options. Raises Violation, with all the seed expands to."""
    options = WholeOptions.draw(seed) if isinstance(seed, int) else seed
    world = World(options)
    try:
        with _patched(world, engine_type):
            run(world.scheduler, world.main())
    except Exception as error:
        why = world.violation or (str(error) if isinstance(error, Violation) else repr(error))
        report = f"seed {options.seed} at {world.now_s:.6f} s: {why}\n{options.describe()}"
        raise Violation(report) from error
    return world

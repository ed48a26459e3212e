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
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

from mq9cluster.cluster import clocks
from mq9cluster.cluster import cluster as cluster_module
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.domain import failpoints
from tests.simulation.checker import Violation
from tests.simulation.clock import Scheduler
from tests.simulation.loop import run
from tests.simulation.network import Network
from tests.simulation.peers import SimPeers
from tests.simulation.whole_clients import GROUP, Client, decoded
from tests.simulation.whole_faults import FAULTS
from tests.simulation.whole_history import BoxHistory, BoxKind
from tests.simulation.whole_node import EPOCH_MS, WholeNode
from tests.simulation.whole_options import HOUR_MS, WholeOptions
from tests.simulation.whole_watch import Watch, watched

EVENTS_MAX = 400_000  # several times what the busiest healthy run needs
LOOK_S = 0.2
RECOVERY_S_MAX = 20.0  # a lease that runs out, a run that is ended, another begun, a state brought
END_S_MAX = 25.0
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
        await self._spend(self.options.faults_ms / 1000)
        self._heal()
        await self._until(self._works_again, RECOVERY_S_MAX, "work does not go on after healing")
        self.seen["recovery ms"] += (self.scheduler.now_us - self.healed_us) // 1000
        for client in self.clients:
            client.rest()
        await self._until(self._at_rest, END_S_MAX, "a request is never answered")
        await self._end()
        for node in self.nodes:
            node.crash(0)

    async def _spend(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._must_hold()

    async def _until(self, holds: Callable[[], str], seconds_max: float, otherwise: str) -> None:
        until_s = self.now_s + seconds_max
        while why := holds():
            if self.now_s > until_s:
                raise Violation(f"{otherwise}: {why}")
            await self._spend(LOOK_S)

    def _must_hold(self) -> None:
        if self.violation:
            raise Violation(self.violation)

    def _happen(self, kind: str, luck: random.Random) -> None:
        if not self.healed_us:
            self.seen["faults"] += 1
            self.seen[f"fault: {kind}"] += 1
            FAULTS[kind](self, luck)

    def _heal(self) -> None:
        self.healed_us = max(1, self.scheduler.now_us)
        self.network.heal()
        self.network.weather = replace(self.options.weather, delay_us_max=2_000)
        born = any(node.cluster_id for node in self.nodes)
        if self.options.leave_one_out and born:  # all first members are needed for a birth
            # Of two clocks that differ nobody can tell which one is right: that one stays away.
            wrong = [node for node in self.nodes if self._clock_is_off(node)]
            self.away = self.random.choice(wrong or self.nodes)
            self.away.gone = True
            self.away.crash(0)
        for node in self.nodes:
            node.disk.full = node.disk.failing = False
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
        since_s = self.healed_us / 1_000_000
        for box in self.boxes.values():
            if not box.kind.max_msgs and not any(
                sent.acknowledged_s is not None and sent.invoked_s > since_s
                for sent in box.sent.values()
            ):
                return f"nothing was stored in {box.name}"
        return ""

    def _at_rest(self) -> str:
        return "a client waits" if any(client.busy for client in self.clients) else ""

    # --- the end ---------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Everything that was promised is there, at every node."""
        for client in self.clients:
            client.disconnect()
        await self._until(self._all_due, END_S_MAX, "never due")
        for node in self.here:
            await self._read_everything(node)
        await self._drain()
        await self._until(self._alike, END_S_MAX, "replicas do not meet")
        self._check_clocks()

    def _all_due(self) -> str:
        since_s = self.now_s - 4.0
        recent = any(sent.invoked_s > since_s and sent.delay_s for sent in self._all_sent())
        return "a delay is not over" if recent else ""

    def _all_sent(self) -> Iterator[Any]:
        return (sent for box in self.boxes.values() for sent in box.sent.values())

    async def _at(
        self, node: WholeNode, work: Callable[[Client, Callable[[], None]], None]
    ) -> None:
        """Have a fresh client at `node` do something, and wait until it has."""
        client = Client(self, 1_000 + self.seen["readers"])
        self.seen["readers"] += 1
        client.resting = True
        client.node, done = node, asyncio.Event()
        client.connection = node.connect(client._closed)
        work(client, done.set)
        await self._until(lambda: "" if done.is_set() else node.name, END_S_MAX, "no answer at")
        self._must_hold()
        client.disconnect()

    async def _read_everything(self, node: WholeNode) -> None:
        for box in self.boxes.values():
            if box.created_s is not None and not box.kind.ttl_s:
                await self._at(node, partial(self._query, box))

    def _query(self, box: BoxHistory, client: Client, done: Callable[[], None]) -> None:
        invoked_s = self.now_s
        newest = dict(box.newest_of_key)

        def answered(reply: dict[str, Any] | None) -> None:
            if reply is None or reply["error"]:
                raise Violation(f"QUERY of {box.name} after healing: {reply}")
            box.queried(_texts(reply), newest, invoked_s, self.now_s)
            done()

        client.ask(f"MSG.QUERY.{box.name}", {"limit": 1_000}, answered)

    async def _drain(self) -> None:
        """A group that reads everything gets everything; nothing is held by anybody any more."""
        if "groups" not in self.options.features:
            return
        for box in self.boxes.values():
            if box.created_s is None or box.kind.ttl_s:
                continue
            dead = await self._dead_letters(box) if box.kind.max_deliver else set[str]()
            until_s = self.now_s + END_S_MAX
            while left := [one for one in box.not_drained(GROUP, self.now_s) if one not in dead]:
                if self.now_s > until_s:
                    raise Violation(f"{box.name}: no consumer gets {left[:5]} of {len(left)}")
                await self._at(self.random.choice(self.here), partial(self._take_all, box))
                await self._spend(LOOK_S)
                if box.kind.max_deliver:
                    dead = await self._dead_letters(box)

    def _take_all(self, box: BoxHistory, client: Client, done: Callable[[], None]) -> None:
        client.fetch(box, done=lambda _: client.ack(box, done))

    async def _dead_letters(self, box: BoxHistory) -> set[str]:
        found: set[str] = set()

        def ask(client: Client, done: Callable[[], None]) -> None:
            def answered(reply: dict[str, Any] | None) -> None:
                for message in _texts(reply or {}):
                    sent = box.sent[message["payload"]]
                    found.add(f"{sent.payload} (id {sent.msg_id})")
                done()

            client.ask(f"MSG.QUERY.{box.name}.dlq", {"limit": 1_000}, answered)

        await self._at(self.random.choice(self.here), ask)
        return found

    def _alike(self) -> str:
        """Every replica here stands at the same entry, with the same state."""
        for number, group in self.watch.groups.items():
            states = set()
            for node in self.here:
                assert node.cluster is not None
                if number in node.cluster._groups:
                    index = node.cluster._groups[number][0].applied
                    states.add((index, group.states.get(index)))
            if len(states) > 1:
                return f"group {number} stands at {sorted(index for index, _ in states)}"
        return ""

    def _check_clocks(self) -> None:
        """Who is an hour off the others leads nothing."""
        for node in self.here:
            others = sorted(other.clock.offset_ms for other in self.here)
            off_ms = abs(node.clock.offset_ms - others[len(others) // 2])
            if len(others) > 2 and off_ms > HOUR_MS // 2 and self.leads(node):
                raise Violation(f"{node.name} leads, an hour off")


def _texts(reply: dict[str, Any]) -> list[dict[str, Any]]:
    return decoded(reply) if reply.get("messages") else []


@contextmanager
def _patched(world: World, engine_type: type[RaftEngine]) -> Iterator[None]:
    """Virtual peers, engines somebody looks at, failpoints that kill virtual processes."""
    quiet = logging.getLogger("mq9cluster")
    level = quiet.level
    collecting = gc.isenabled()
    with (
        patch.object(cluster_module, "Peers", partial(SimPeers, world.network)),
        patch.object(cluster_module, "RaftEngine", watched(world, engine_type)),
        # Of two clocks that differ either may be right; after a while nodes take the earlier rather
        # than wait for ever. Here they wait: what a wrong guess does is no surprise.
        patch.object(clocks, "UNDECIDED_MS_MAX", 10**9),
    ):
        quiet.setLevel(logging.CRITICAL)
        gc.disable()  # one run makes less garbage than the looking for it costs
        if any(fault.kind == "failpoint" for fault in world.options.plan):
            failpoints.arm(partial(WholeNode.trapped, world))
        try:
            yield
        finally:
            failpoints.disarm()
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

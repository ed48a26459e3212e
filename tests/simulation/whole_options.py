"""What a seed expands to: the cluster, its clocks and disks, what clients do, and every fault in
advance.

Each seed turns on a random part of the features and of the kinds of faults (a swarm): a run with
everything at once hides what only shows where something is left out. Faults are a plan, each with a
seed of its own, so that a shrunk run can leave any of them out.
"""

import random
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mq9cluster.cluster.durability import Retention
from tests.simulation.network import Weather

HOUR_MS = 3_600_000
INSTALLS = 0.1  # of seeds are about bringing a state to who is behind
LONG_MS = 14_000  # of faults: leases run out in it, and others are given what was held

FEATURES = (
    "groups",  # FETCH with a group, and ACK
    "nack",
    "ack_wait",
    "named consumers",
    "delay",
    "ttl",
    "keys",
    "delete",
    "dead letters",
    "retain acked",
    "limits",
    "short-lived mailboxes",
    "retries",  # with Nats-Msg-Id
    "reconnects",
    "browse",
    "core",
    "visitors",  # every other way to read, and groups that come and go
    "traces",
    "registry",
    "embedder",  # with the registry: a service beside the built-in one, and models that change
    "slow work",  # what was fetched is held for seconds
)
FAULTS = (
    "crash",
    "crash leader",
    "crash majority",
    "power loss",
    "failpoint",
    "death at an install",
    "leave",
    "pause",
    "pause leader",
    "isolate",
    "isolate leader",
    "halves",
    "one way",
    "bridge",
    "loss",
    "slow network",
    "slow disk",
    "stalled disk",
    "full disk",
    "failing disk",
    "clock jump",
    "rotten disk",
    "meddling",
)
EMBEDDER_FAULTS = ("embedding service", "another model")  # where there is one
PUSHES = "pushes"  # subscriptions to mailboxes
PUSHED = 0.2  # of seeds have some; drawn apart, so that the others stay what they were
STANDSTILL = "standstill"
STANDSTILLS = 0.15  # of seeds have some; drawn apart, so that the others stay what they were


@dataclass(frozen=True)
class Fault:
    """One fault: when, and with which luck."""

    number: int
    at_ms: int
    kind: str
    seed: str


@dataclass(frozen=True)
class WholeOptions:
    """All of a run. A run is decided by these alone."""

    seed: int
    nodes: int
    shards: int
    features: tuple[str, ...]
    clients: int
    think_ms: int
    faults_ms: int
    sync_us: tuple[int, ...]
    clock_offsets_ms: tuple[int, ...]
    clock_rates: tuple[float, ...]
    retention: Retention
    weather: Weather
    tiny: bool  # limits that a short run meets: `whole_limits`
    leave_one_out: bool  # after the faults one node stays away
    plan: tuple[Fault, ...] = field(default=())

    @classmethod
    def draw(cls, seed: int) -> "WholeOptions":
        """The options of `seed`."""
        draw = random.Random(f"whole options/{seed}")
        nodes = draw.choice([1, 3, 3, 3, 3, 3, 3, 5, 5])
        offsets = [draw.choice([0, 0, draw.randint(-200, 200)]) for _ in range(nodes)]
        if nodes > 1 and draw.random() < 0.25:
            offsets[draw.randrange(nodes)] += draw.choice([-1, 1]) * HOUR_MS
        faults_ms = draw.choice([4_000, 5_000, 5_000, 6_000, 6_000, LONG_MS])
        if nodes == 1:  # fast, and with little that can happen
            faults_ms = 4_000
        sync_us = draw.choice([200, 200, 3_000, 20_000])
        features = set(draw.sample(FEATURES, k=draw.randint(3, 10)))
        if "slow work" in features:
            features.add("groups")
            if nodes > 1:
                faults_ms = draw.choice([faults_ms, LONG_MS])
        kinds = draw.sample(FAULTS, k=draw.randint(1, 7))
        if "slow work" in features and faults_ms == LONG_MS:
            kinds = ["isolate", *kinds[:2]]  # few, so that a lease runs out and others live on
        if {"registry", "embedder"} <= features:
            kinds += EMBEDDER_FAULTS
        if nodes > 1 and random.Random(f"standstill/{seed}").random() < STANDSTILLS:
            kinds = [STANDSTILL, *kinds]
        if random.Random(f"pushes/{seed}").random() < PUSHED:
            features.add(PUSHES)
        kept = draw.choice([2, 8, 8, 1_000])
        if draw.random() < INSTALLS:
            kinds, kept = ["death at an install", *kinds[:2]], 2
        # What costs most is what clients do: there is about as much of it in a long run, and in one
        # of a single node, where little else takes time.
        slower = 3 if nodes == 1 or faults_ms >= LONG_MS else 1
        return cls(
            seed=seed,
            nodes=nodes,
            shards=draw.choice([1, 2, 2, 3]),
            features=tuple(sorted(features)),
            clients=draw.choice([3, 5, 8]),
            think_ms=draw.choice([15, 30, 60]) * slower,
            faults_ms=faults_ms,
            sync_us=tuple(draw.choice([sync_us, sync_us, 200]) for _ in range(nodes)),
            clock_offsets_ms=tuple(offsets),
            clock_rates=tuple(
                draw.choice([1.0, 1.0, draw.uniform(0.95, 1.05)]) for _ in range(nodes)
            ),
            retention=Retention(entries=kept, entries_slack=2),
            weather=Weather(delay_us_min=100, delay_us_max=draw.choice([2_000, 10_000, 40_000])),
            tiny=draw.random() < 0.35,
            leave_one_out=nodes > 1 and draw.random() < 0.3,
            plan=_plan(draw, seed, kinds, faults_ms),
        )

    def without(self, faults: frozenset[int], features: frozenset[str]) -> "WholeOptions":
        """The same without some of its faults and features."""
        return replace(
            self,
            plan=tuple(fault for fault in self.plan if fault.number not in faults),
            features=tuple(name for name in self.features if name not in features),
        )

    def describe(self) -> str:
        """Everything, one a line."""
        lines = []
        for one in fields(self):
            value: Any = getattr(self, one.name)
            if one.name == "plan":
                lines += [f"  fault {f.number} = {f.kind} at {f.at_ms} ms" for f in self.plan]
            else:
                lines.append(f"  {one.name} = {value}")
        return "\n".join(lines)


def _plan(draw: random.Random, seed: int, kinds: list[str], until_ms: int) -> tuple[Fault, ...]:
    period_ms = draw.choice([1_500, 4_000] if until_ms == LONG_MS else [250, 600, 1_500])
    plan: list[Fault] = []
    at_ms = draw.choice(
        [draw.randint(300, 1_500), draw.randint(1_500, 2_500)]
    )  # some begin before the cluster has found itself
    while at_ms < until_ms:
        number = len(plan) + 1
        plan.append(Fault(number, at_ms, draw.choice(kinds), f"{seed}/{number}"))
        at_ms += draw.randint(1, 2 * period_ms)
    return tuple(plan)

"""To whom leaderships go, with everything around `Leading` made up."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mq9cluster.cluster.clocks import OFF_MEDIAN_MS_MAX, ClusterClock
from mq9cluster.cluster.leading import BALANCE_S, QUICK_DISK_S, SLOW_DISK_S, Leading
from mq9cluster.cluster.meta import META_GROUP
from mq9cluster.cluster.peers import Flag

PLACEMENT = [["n1", "n2", "n3"], ["n2", "n3", "n1"]]


class Engine:
    """Of a group that this node leads, or not; notes to whom it was handed."""

    def __init__(self, leads: bool) -> None:
        self.is_leader = leads
        self.may_lead = True
        self.commit_index = 7
        self.handed: list[str] = []
        self.behind: set[str] = set()

    def transfer(self, peer: str) -> None:
        self.handed.append(peer)

    def status(self) -> Any:
        peers = {n: SimpleNamespace(match=6 if n in self.behind else 7) for n in ("n2", "n3")}
        return SimpleNamespace(peers=peers)


class World:
    """Node n1, which leads both shards and meta, and what it knows of n2 and n3."""

    def __init__(self) -> None:
        self.names = ["n2", "n3"]
        self.down: set[str] = set()
        self.offsets = dict.fromkeys(self.names, 0)
        self.sync_floor_s = 0.0
        self.now_s = 100.0
        self.engines = {number: Engine(leads=True) for number in (0, 1, META_GROUP)}
        groups = {number: (SimpleNamespace(), one) for number, one in self.engines.items()}
        meta = SimpleNamespace(meta=SimpleNamespace(placement=PLACEMENT))
        own = SimpleNamespace(wall_ms=lambda: 0, monotonic_ms=lambda: 0)
        clock = ClusterClock(own, 3)  # type: ignore[arg-type]
        self.leading = Leading("n1", groups, meta, self, clock, self)  # type: ignore[arg-type]
        self.leading._loop = SimpleNamespace(time=lambda: self.now_s)  # type: ignore[assignment]
        for name in self.names:
            self.leading.heard(name, Flag(0))

    def is_up(self, name: str) -> bool:
        return name not in self.down

    def clock_offset_ms(self, name: str) -> int:
        return self.offsets[name]

    def wake(self, _: object) -> None:
        """A transfer is to be sent."""

    def watch(self) -> dict[int, list[str]]:
        """Look once; to whom each group was handed."""
        replicas = [SimpleNamespace(shard=n, leads=self.engines[n].is_leader) for n in (0, 1)]
        for engine in self.engines.values():
            engine.handed.clear()
        self.leading.watch_clocks()
        self.leading.watch(replicas)  # type: ignore[arg-type]
        return {n: list(engine.handed) for n, engine in self.engines.items() if engine.handed}


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_shard_goes_to_its_preferred_node_once_that_was_well_for_a_while(world) -> None:
    assert world.watch() == {}
    world.now_s += BALANCE_S - 0.1
    assert world.watch() == {}
    world.now_s += 0.2
    assert world.watch() == {1: ["n2"]}


@pytest.mark.parametrize(
    "ail",
    [
        lambda world: world.down.add("n2"),
        lambda world: world.leading.heard("n2", Flag.DRAINING),
        lambda world: world.leading.heard("n2", Flag.SLOW_DISK),
        lambda world: world.offsets.update(n2=OFF_MEDIAN_MS_MAX + 1),
        lambda world: world.engines[1].behind.add("n2"),
    ],
    ids=["down", "draining", "slow", "off", "behind"],
)
async def test_a_preferred_node_that_is_not_well_is_given_nothing(
    world, ail: Callable[[World], object]
) -> None:
    ail(world)
    world.watch()
    world.now_s += 10 * BALANCE_S
    assert world.watch() == {}


async def test_a_slow_disk_gives_everything_away_until_it_is_quick_again(world) -> None:
    world.sync_floor_s = SLOW_DISK_S
    assert (world.watch(), world.leading.disk_is_slow) == ({}, False)
    world.sync_floor_s = SLOW_DISK_S * 1.01
    assert world.watch() == {0: ["n2"], 1: ["n2"], META_GROUP: ["n2"]}
    world.sync_floor_s = QUICK_DISK_S * 1.01
    assert world.watch() == {0: ["n2"], 1: ["n2"], META_GROUP: ["n2"]}
    world.sync_floor_s = QUICK_DISK_S
    assert (world.watch(), world.leading.disk_is_slow) == ({}, False)


async def test_a_slow_disk_gives_nothing_to_one_that_is_slow_as_well(world) -> None:
    world.sync_floor_s = 1.0
    world.leading.heard("n2", Flag.SLOW_DISK)
    assert world.watch() == {0: ["n3"], 1: ["n3"], META_GROUP: ["n3"]}
    world.leading.heard("n3", Flag.SLOW_DISK)
    assert world.watch() == {}


async def test_who_leaves_hands_over_also_to_a_slow_disk(world) -> None:
    for name in world.names:
        world.leading.heard(name, Flag.SLOW_DISK)
    world.watch()
    assert world.leading.hand_over()
    assert [engine.handed for engine in world.engines.values()] == [["n2"]] * 3


async def test_a_clock_that_is_off_gives_everything_away_and_leads_nothing(world) -> None:
    world.offsets = dict.fromkeys(world.names, 3_600_000)
    assert world.watch() == {0: ["n2"], 1: ["n2"], META_GROUP: ["n2"]}
    assert not any(engine.may_lead for engine in world.engines.values())

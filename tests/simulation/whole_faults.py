"""What can happen to a cluster of whole nodes, each by a function of the world and its own luck.

Whatever a fault does ends by itself or when `World.heal` ends it.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mq9cluster.cluster import failing
from mq9cluster.domain import failpoints
from tests.simulation.database import SEQUENCE
from tests.simulation.whole_meddling import meddle

if TYPE_CHECKING:
    from tests.simulation.whole import World
    from tests.simulation.whole_node import WholeNode

BACK_S = (0.1, 0.5, 1.0, 3.0, 7.5)  # of what goes away; the last is longer than a lease
AWAY_S = 0.05  # after a pause, until others are heard again
ASKED_S = 0.005  # before the end of a pause, so that it is waited for
NO_TRAPS = ("database.", "sentinel.")  # steps of RocksDB's door, which is not there

SWITCHES = ("snapshot.switch.after", "log.reset.after", "snapshot.switched.before")

Luck = random.Random


def _some(world: "World", luck: Luck) -> "WholeNode":
    return luck.choice(world.nodes)


def _leader(world: "World", luck: Luck) -> "WholeNode":
    leading = [node for node in world.nodes if world.leads(node)]
    return luck.choice(leading or world.nodes)


def _crash_one(world: "World", luck: Luck, node: "WholeNode") -> None:
    if node.process is None:
        return
    node.crash(luck.choice([0, luck.randint(0, node.disk.unsynced), node.disk.unsynced]))
    world.later(luck.choice(BACK_S), node.start)


def _crash(world: "World", luck: Luck) -> None:
    _crash_one(world, luck, _some(world, luck))


def _crash_leader(world: "World", luck: Luck) -> None:
    _crash_one(world, luck, _leader(world, luck))


def _crash_majority(world: "World", luck: Luck) -> None:
    for node in luck.sample(world.nodes, k=len(world.nodes) // 2 + 1):
        _crash_one(world, luck, node)


def _power_loss(world: "World", luck: Luck) -> None:
    for node in world.nodes:
        _crash_one(world, luck, node)


def _failpoint(world: "World", luck: Luck) -> None:
    points = [point for point in failpoints.points() if not point.startswith(NO_TRAPS)]
    node = _some(world, luck)
    if node.process is not None:
        rare = [
            point for point in points if point.startswith(("snapshot.", "log.c", "vote", "run"))
        ]
        point = luck.choice(luck.choice([points, rare]))
        action = luck.choice(["crash", "crash", "crash", "stall(300)", "stall(6000)"])
        times = luck.choice([1, 1, 2, 5, 20])
        node.process.trap = failing.hitting(f"{point}={action}@{times}", node.at_failpoint)


def _death_at_install(world: "World", luck: Luck) -> None:
    """A follower falls behind, is brought a state, and dies while it is being switched to."""
    led = [node for node in world.nodes if not world.leads(node)]
    node = luck.choice(led or world.nodes)
    if node.process is not None and not world.network.is_cut:  # or nobody could go on without it
        node.process.trap = failing.hitting(f"{luck.choice(SWITCHES)}=crash@1", node.at_failpoint)
        others = [other.name for other in world.nodes if other is not node]
        world.later(luck.choice([1.0, 1.5, 2.0]), world.network.split([node.name], others))


def _leave(world: "World", luck: Luck) -> None:
    _some(world, luck).leave()


def _pause_one(world: "World", luck: Luck, node: "WholeNode") -> None:
    """Stopped, or, as a machine that is moved, also out of the others' reach for that long."""
    process = node.process
    if process is None or process.paused:
        return
    for_s, away = luck.choice([0.3, 1.0, 2.0, 4.5, 7.0]), luck.random() < 0.5
    node.pause()
    if away:
        others = [other.name for other in world.nodes if other is not node]
        world.later(for_s + AWAY_S, world.network.split([node.name], others))
    world.later(for_s - ASKED_S, partial(_if_there, node, process, world.pass_by))
    world.later(for_s, partial(_if_there, node, process, type(node).resume))


def _if_there(node: "WholeNode", process: object, call: Callable[["WholeNode"], None]) -> None:
    if node.process is process:
        call(node)


def _pause(world: "World", luck: Luck) -> None:
    _pause_one(world, luck, _some(world, luck))


def _pause_leader(world: "World", luck: Luck) -> None:
    _pause_one(world, luck, _leader(world, luck))


def _standstill(world: "World", luck: Luck) -> None:
    """Of the machine that all nodes are on, or of all but one: nobody does anything meanwhile."""
    spared = luck.choice([None, None, None, _some(world, luck)])
    for_s = luck.choice([0.8, 2.0, 4.5, 7.0, 12.0])
    for node in world.nodes:
        process = node.process
        if node is spared or process is None or process.paused:
            continue
        node.pause()
        wakes_s = for_s + luck.choice([0.0, 0.0, 0.05, 0.4])
        world.later(wakes_s, partial(_if_there, node, process, type(node).resume))


def _cut_off(world: "World", luck: Luck, node: "WholeNode") -> None:
    others = [other.name for other in world.nodes if other is not node]
    mend = world.network.split([node.name], others)
    world.later(luck.choice(BACK_S), mend)


def _isolate(world: "World", luck: Luck) -> None:
    _cut_off(world, luck, _some(world, luck))


def _isolate_leader(world: "World", luck: Luck) -> None:
    _cut_off(world, luck, _leader(world, luck))


def _shuffled(world: "World", luck: Luck) -> list[str]:
    return luck.sample([node.name for node in world.nodes], k=len(world.nodes))


def _halves(world: "World", luck: Luck) -> None:
    names = _shuffled(world, luck)
    cut = luck.randint(0, len(names))
    mend = world.network.split(names[:cut], names[cut:])
    world.later(luck.choice(BACK_S), mend)


def _one_way(world: "World", luck: Luck) -> None:
    names = _shuffled(world, luck)
    if luck.random() < 0.5:
        mend = world.network.cut(names[:1], names[1:])
    else:
        mend = world.network.cut(names[1:], names[:1])
    world.later(luck.choice(BACK_S), mend)


def _bridge(world: "World", luck: Luck) -> None:
    """One node hears everybody; the others hear only their half and that one."""
    names = _shuffled(world, luck)
    middle = (len(names) - 1) // 2
    mend = world.network.split(names[1 : 1 + middle], names[1 + middle :])
    world.later(luck.choice(BACK_S), mend)


def _loss(world: "World", luck: Luck) -> None:
    world.network.weather.loss = luck.choice([0.001, 0.01, 0.05])
    world.later(luck.choice(BACK_S), lambda: setattr(world.network.weather, "loss", 0.0))


def _slow_network(world: "World", luck: Luck) -> None:
    weather, usual_us = world.network.weather, world.options.weather.delay_us_max
    weather.delay_us_max = luck.choice([50_000, 200_000, 600_000])
    world.later(luck.choice(BACK_S), lambda: setattr(weather, "delay_us_max", usual_us))


def _slow_disk(world: "World", luck: Luck) -> None:
    _some(world, luck).disk.sync_us = luck.choice([200, 20_000, 100_000, 500_000])


def _stalled_disk(world: "World", luck: Luck) -> None:
    disk = _some(world, luck).disk
    disk.stall()
    world.later(luck.choice(BACK_S), disk.go_on)


def _full_disk(world: "World", luck: Luck) -> None:
    disk = _some(world, luck).disk
    disk.full = True
    world.later(luck.choice(BACK_S), lambda: setattr(disk, "full", False))


def _failing_disk(world: "World", luck: Luck) -> None:
    disk = _some(world, luck).disk
    disk.failing = True
    world.later(luck.choice(BACK_S), lambda: setattr(disk, "failing", False))


def _clock_jump(world: "World", luck: Luck) -> None:
    """Where the clocks of most nodes still agree: one node's, and one at a time."""
    if len(world.nodes) > 2:
        node = world.off or world.nodes[0]
        node.clock.offset_ms += luck.choice([-HOUR_MS, HOUR_MS, -2_000, 2_000, 100])


def _rotten_disk(world: "World", luck: Luck) -> None:
    """A row cannot be read for a while: whoever reads it must not take it for absent."""
    node = _some(world, luck)
    disk, names = node.disk, node.files.names
    for name in sorted(names):  # a saved index is only a cache, and checked
        if name.endswith(".index") and names[name].content and luck.random() < 0.5:
            content = bytearray(names[name].content)
            content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
            names[name].content = bytes(content)
    keys = [key for key in disk.rows if key != SEQUENCE]
    if keys:
        key = luck.choice(keys)
        disk.damaged.add(key)
        world.later(luck.choice(BACK_S), lambda: disk.damaged.discard(key))


def _embedding_service(world: "World", luck: Luck) -> None:
    world.service = luck.choice(["slow", "broken", "down"])
    world.later(luck.choice(BACK_S), lambda: setattr(world, "service", ""))


def _another_model(world: "World", luck: Luck) -> None:
    """The setting is changed, and a node is started anew with it; others follow some day."""
    world.model = luck.choice([1, 2, 3])
    _crash_one(world, luck, _some(world, luck))


HOUR_MS = 3_600_000

FAULTS: dict[str, Callable[["World", Luck], None]] = {
    "crash": _crash,
    "crash leader": _crash_leader,
    "crash majority": _crash_majority,
    "power loss": _power_loss,
    "failpoint": _failpoint,
    "death at an install": _death_at_install,
    "leave": _leave,
    "pause": _pause,
    "pause leader": _pause_leader,
    "standstill": _standstill,
    "isolate": _isolate,
    "isolate leader": _isolate_leader,
    "halves": _halves,
    "one way": _one_way,
    "bridge": _bridge,
    "loss": _loss,
    "slow network": _slow_network,
    "slow disk": _slow_disk,
    "stalled disk": _stalled_disk,
    "full disk": _full_disk,
    "failing disk": _failing_disk,
    "clock jump": _clock_jump,
    "rotten disk": _rotten_disk,
    "meddling": meddle,
    "embedding service": _embedding_service,
    "another model": _another_model,
}

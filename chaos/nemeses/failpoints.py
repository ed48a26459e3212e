"""Nodes that die or stand still between two steps of their own (docs/operations.md, failpoints)."""

from typing import Final

from chaos.nemeses.scene import Scene

VARIABLE: Final = "MQ9_FAILPOINTS"
# step: how often it is passed, at most, before the fault; some come often, some once in a start
STEPS: Final = {
    "log.write": 400,
    "log.sync": 400,
    "log.synced": 400,
    "log.compact": 4,
    "vote.put": 6,
    "raft.send": 800,
    "raft.receive": 800,
    "parcel.accept": 400,
    "parcel.answer": 400,
    "apply": 800,
    "meta.apply": 20,
    "state.commit": 400,
    "expire": 3,
    "run.begin": 1,
    "snapshot.send": 2,
    "snapshot.read": 2,
    "snapshot.receive": 2,
    "snapshot.chunk": 2,
    "snapshot.rows": 2,
    "snapshot.sync": 2,
    "snapshot.switch": 2,
    "snapshot.switched": 2,
    "snapshot.drop": 2,
    "sentinel.checkpoint": 3,
    "database.sync": 400,
}
ACTIONS: Final = ("crash", "crash", "stall(2000)")


class Failpoints:
    """One node is started with a failpoint armed, and started again when it died of it."""

    name = "failpoints"
    needs: frozenset[str] = frozenset()
    breaks_nodes = True

    async def play(self, scene: Scene) -> None:
        """Another point each time."""
        while not scene.over:
            (victim,) = scene.some(1)
            step = scene.rng.choice(sorted(STEPS))
            side = scene.rng.choice(("before", "after"))
            times = scene.rng.randint(1, STEPS[step])
            armed = f"{step}.{side}={scene.rng.choice(ACTIONS)}@{times}"
            with scene.fault(f"{self.name} {armed}", [victim], lost=True):
                await scene.cluster.kill(victim)
                victim.environment[VARIABLE] = armed
                await scene.wait(scene.rng.uniform(0.0, 2.0))
                await scene.cluster.revive(victim)
                await scene.wait(scene.rng.uniform(3.0, 6.0))
                del victim.environment[VARIABLE]
            await scene.cluster.kill(victim)
            await scene.recover()

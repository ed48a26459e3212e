"""Clocks that jump, or run fast or slow."""

from chaos.machine import SHIM
from chaos.nemeses.scene import Scene

SECOND_NS = 1_000_000_000
JUMPS_S = (-3600.0, -30.0, -2.0, 2.0, 30.0, 3600.0)
RATES = (0.85, 0.95, 1.05, 1.15)


class ClockJump:
    """The wall clock of one node is set ahead or back, and later right again."""

    name = "clock-jump"
    needs = frozenset({SHIM})
    breaks_nodes = False

    async def play(self, scene: Scene) -> None:
        """Jump, and back."""
        while not scene.over:
            victim = await scene.leader()
            shim = scene.shims[victim.name]
            jump_s = scene.rng.choice(JUMPS_S)
            with scene.fault(f"{self.name} {jump_s:+g} s", [victim], lost=True):
                shim.tell(wall_offset_ns=int(jump_s * SECOND_NS))
                await scene.wait(scene.rng.uniform(2, 6))
                shim.heal()
            await scene.recover()


class ClockDrift:
    """The wall clock of one node runs at another rate; the cluster's time is the median of all.

    Steady clocks that differ are the simulator's: a process cannot be lied to about its own.
    """

    name = "clock-drift"
    needs = frozenset({SHIM})
    breaks_nodes = False

    async def play(self, scene: Scene) -> None:
        """Drift apart, then be right again."""
        while not scene.over:
            victim = await scene.leader()
            rate = scene.rng.choice(RATES)
            with scene.fault(f"{self.name} x {rate:g}", [victim], lost=True):
                scene.shims[victim.name].drift(rate)
                await scene.wait(scene.rng.uniform(4, 8))
                scene.shims[victim.name].heal()
            await scene.recover()

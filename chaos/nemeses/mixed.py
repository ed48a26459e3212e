"""Several things that go wrong at once, or one after the other, as the seed will have it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from chaos.nemeses.disks import PowerLoss
from chaos.nemeses.scene import Nemesis, Scene

SPELL_S = (3.0, 8.0)


class Mixed:
    """Spells of one or two nemeses of those given. Of two, the second strikes into the first."""

    breaks_nodes = True

    def __init__(self, name: str, nemeses: Sequence[Callable[[], Nemesis]]) -> None:
        self.name = name
        self._nemeses = [make() for make in nemeses]

    @property
    def needs(self) -> frozenset[str]:
        """What all of them need."""
        return frozenset().union(*(one.needs for one in self._nemeses))

    async def play(self, scene: Scene) -> None:
        """Spell after spell."""
        while not scene.over:
            count = scene.rng.choice((1, 1, 2))
            chosen = scene.rng.sample(self._nemeses, count)
            # who takes the disk away must not meet who starts nodes on it
            alone = [one for one in chosen if isinstance(one, PowerLoss)]
            if alone:
                chosen = list[Nemesis](alone[:1])
            until = min(scene.until, scene.now() + scene.rng.uniform(*SPELL_S))
            spells = [replace(scene, until=until, patient=len(chosen) == 1) for _ in chosen]
            await asyncio.gather(
                *(one.play(spell) for one, spell in zip(chosen, spells, strict=True))
            )
            await scene.cluster.heal()
            await scene.recover()

"""Data of a minority that rot or vanish: such a node must say so and stay away, nothing is lost."""

import asyncio
import random
import shutil
from pathlib import Path

from chaos.cluster.nodes import FaultyNode
from chaos.cluster.power import DATABASE_FOLDER
from chaos.nemeses.scene import Scene

FLIPS_MAX = 4
DECIDED_S_MAX = 20.0  # for a node to start, or to refuse
KINDS = ("*.log", "*.sst", "MANIFEST-*")


class Corruption:
    """Bits flip in files of one node that is down. It refuses to start, or was not harmed; in the
    end they are flipped back where the files are still there.
    """

    name = "corruption"
    needs: frozenset[str] = frozenset()
    breaks_nodes = True

    async def play(self, scene: Scene) -> None:
        """Kill, flip, start, see; kill, flip back, start."""
        while not scene.over:
            (victim,) = scene.some(1)
            with scene.fault(self.name, [victim], lost=True):
                await scene.cluster.kill(victim)
                flips = _flip(victim.data_dir / DATABASE_FOLDER, scene.rng)
                told = [f"{path.name} at {place}" for path, place, _ in flips]
                scene.tell("flipped", node=victim.name, bits=told)
                refused = await _refuses(scene, victim)
                scene.tell("refused" if refused else "not harmed", node=victim.name)
                await scene.cluster.kill(victim)
                for path, place, bit in flips:
                    _flip_bit(path, place, bit)
            await scene.recover()


class Wipe:
    """All data of one node vanish while it is down. It must not come back as if nothing had been;
    later the data are found again.
    """

    name = "wipe"
    needs: frozenset[str] = frozenset()
    breaks_nodes = True

    async def play(self, scene: Scene) -> None:
        """Kill, move the data away, start, see; kill, move them back, start."""
        while not scene.over:
            (victim,) = scene.some(1)
            away = victim.data_dir.with_name(victim.data_dir.name + ".away")
            with scene.fault(self.name, [victim], lost=True):
                await scene.cluster.kill(victim)
                victim.data_dir.rename(away)
                refused = await _refuses(scene, victim)
                if not refused and await _serves(victim):
                    scene.tell("wrong", why=f"{victim.name} without its data serves as if it had")
                await scene.cluster.kill(victim)
                shutil.rmtree(victim.data_dir, ignore_errors=True)
                away.rename(victim.data_dir)
            await scene.recover()


async def _refuses(scene: Scene, victim: FaultyNode) -> bool:
    """Whether it ends by itself. The supervisor does not bring it back meanwhile."""
    await scene.cluster.revive(victim)
    victim.wanted = False
    until = scene.now() + DECIDED_S_MAX
    while victim.running and scene.now() < until:
        await asyncio.sleep(0.1)
        if await _serves(victim):
            await asyncio.sleep(2.0)  # it goes on looking through its rows
            break
    return not victim.running


async def _serves(node: FaultyNode) -> bool:
    ready = await node.ask("/readyz")
    return bool(ready and ready.get("status") == "ok")


def _flip(database: Path, rng: random.Random) -> list[tuple[Path, int, int]]:
    """Flip some bits of what is in there; (file, byte, bit) of each."""
    files = sorted(path for kind in KINDS for path in database.glob(kind) if path.stat().st_size)
    flips = []
    for path in rng.sample(files, min(len(files), rng.randint(1, FLIPS_MAX))):
        place, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        _flip_bit(path, place, bit)
        flips.append((path, place, bit))
    return flips


def _flip_bit(path: Path, place: int, bit: int) -> None:
    if not path.exists():  # RocksDB needed it no longer
        return
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes((byte ^ 1 << bit,)))

"""The matrix: which nemesis is played against which workloads, for how long; a TOML file."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.cells import WORKLOADS, Cell
from chaos.nemeses import clocks, corruption, disks, failpoints, partitions, processes, resources
from chaos.nemeses.mixed import Mixed
from chaos.nemeses.scene import Nemesis

FILE: Final = Path(__file__).with_name("matrix.toml")

_SIMPLE: Final = ("kill-one", "kill-leader", "kill-all", "pause-leader", "files-limit")
_NETWORK: Final = ("partition-halves", "partition-leader", "partition-one-way", "links-bad")
_DISKS: Final = ("power-one", "power-all", "disk-slow", "disk-stalled", "disk-failing")
_CLOCKS: Final = ("clock-jump",)  # two clocks wrong at once are a majority

NEMESES: Final[Mapping[str, Callable[[], Nemesis]]] = {
    "nothing": processes.Nothing,
    "kill-one": lambda: processes.Kill("one"),
    "kill-leader": lambda: processes.Kill("leader"),
    "kill-majority": lambda: processes.Kill("majority"),
    "kill-all": lambda: processes.Kill("all"),
    "pause-leader": lambda: processes.Pause("leader"),
    "pause-majority": lambda: processes.Pause("majority"),
    "pause-all": lambda: processes.Pause("all"),
    "rolling-restart": processes.RollingRestart,
    "partition-halves": lambda: partitions.Partition("halves"),
    "partition-leader": lambda: partitions.Partition("leader"),
    "partition-leader-and-clients": lambda: partitions.Partition("leader-and-clients"),
    "partition-one-way": lambda: partitions.Partition("one-way"),
    "partition-bridge": lambda: partitions.Partition("bridge"),
    "links-slow": lambda: partitions.BadLinks("slow"),
    "links-lossy": lambda: partitions.BadLinks("lossy"),
    "links-doubling": lambda: partitions.BadLinks("doubling"),
    "links-bad": lambda: partitions.BadLinks("bad"),
    "power-one": lambda: disks.PowerLoss("one"),
    "power-all": lambda: disks.PowerLoss("all"),
    "disk-full": disks.DiskFull,
    "disk-slow": lambda: disks.BadDisk("slow"),
    "disk-stalled": lambda: disks.BadDisk("stalled"),
    "disk-failing": lambda: disks.BadDisk("failing"),
    "clock-jump": clocks.ClockJump,
    "clock-drift": clocks.ClockDrift,
    "files-limit": resources.Descriptors,
    "memory-limit": resources.Memory,
    "corruption": corruption.Corruption,
    "wipe": corruption.Wipe,
    "failpoints": failpoints.Failpoints,
    "kill-leader-10": lambda: processes.Kill("leader", 10),
    "partition-leader-10": lambda: partitions.Partition("leader", 10),
    "power-all-20": lambda: disks.PowerLoss("all", 20),
    "mixed": lambda: _mixed("mixed", *_SIMPLE),
    "mixed-network": lambda: _mixed("mixed-network", *_SIMPLE, *_NETWORK),
    "mixed-everything": lambda: _mixed("mixed-everything", *_SIMPLE, *_NETWORK, *_DISKS, *_CLOCKS),
}


def _mixed(name: str, *names: str) -> Nemesis:
    return Mixed(name, [NEMESES[one] for one in names])


class BadMatrix(Exception):
    """The file says something there is no such thing of; the text names it."""


class Matrix(NamedTuple):
    """All cells, those of the short selection, and trials that are played when asked for."""

    cells: list[Cell]
    selection: list[Cell]
    trials: list[Cell]

    def named(self, names: Sequence[str]) -> list[Cell]:
        """Cells and trials by name. Raises BadMatrix."""
        known = {cell.name: cell for cell in (*self.cells, *self.trials)}
        if unknown := [one for one in names if one not in known]:
            raise BadMatrix(f"no cell {unknown[0]!r}: there are {', '.join(sorted(known))}")
        return [known[one] for one in names]


def read_matrix(path: Path = FILE) -> Matrix:
    """What the file says. Raises BadMatrix."""
    told = tomllib.loads(path.read_text())
    defaults = told.get("defaults", {})
    cells = [_cell({**defaults, **one}) for one in told["cell"]]
    trials = [_cell({**defaults, **one}) for one in told.get("trial", ())]
    names = [cell.name for cell in (*cells, *trials)]
    if len(set(names)) < len(names):
        raise BadMatrix(f"{path}: two cells of one name")
    chosen = set(told["selection"])
    if missing := chosen - {cell.name for cell in cells}:
        raise BadMatrix(f"{path}: no such cells: {sorted(missing)}")
    return Matrix(cells, [cell for cell in cells if cell.name in chosen], trials)


def _cell(told: dict[str, Any]) -> Cell:
    nemesis = told["nemesis"]
    if nemesis not in NEMESES:
        raise BadMatrix(f"no nemesis {nemesis!r}: there are {', '.join(sorted(NEMESES))}")
    workloads = tuple(told.pop("workloads"))
    if unknown := [one for one in workloads if one not in WORKLOADS]:
        raise BadMatrix(f"no workload {unknown[0]!r}: there are {', '.join(sorted(WORKLOADS))}")
    name = told.pop("name", nemesis)
    try:
        return Cell(name=name, workloads=workloads, **told)
    except TypeError as error:
        raise BadMatrix(f"cell {name}: {error}") from error

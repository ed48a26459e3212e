"""What is played, and what it came to: cells of the matrix and their results.

Read by `matrix`, played by `run`, told by `report.table`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.checkers.verdict import Verdict
from chaos.clients.connection import Stage
from chaos.clients.mailboxes import Mailboxes
from chaos.clients.pushes import Pushes
from chaos.clients.registers import Registers
from chaos.clients.registry import Registry
from chaos.clients.timers import Timers
from chaos.clients.workload import Workload

HEALED_S_MAX: Final = 60.0  # a hard limit; what was measured is in the report
LOSS: Final = ("mailboxes", "nodes")  # whose violations show that something was lost

WORKLOADS: Final[Mapping[str, Callable[[Stage], Workload]]] = {
    "mailboxes": Mailboxes,
    "registers": Registers,
    "timers": Timers,
    "registry": Registry,
    "pushes": Pushes,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A nemesis and the workloads it is played against."""

    name: str
    nemesis: str
    workloads: tuple[str, ...]
    seconds: float
    nodes: int = 3
    shards: int = 4
    log_entries_kept: int = 0  # 0: as many as the product keeps
    healed_s_max: float = HEALED_S_MAX
    outage_s_max: float = 0.0  # of nine faults in ten; 0: only measured
    unsynced: bool = False  # nodes skip every fsync: then something must be found lost
    soak: bool = False  # memory and open files are judged


@dataclass(slots=True)
class Result:
    """What a cell came to."""

    cell: Cell
    seed: str
    verdicts: list[Verdict] = field(default_factory=list)
    operations: int = 0
    unknown: int = 0
    refused: int = 0
    faults: int = 0
    outage_s: float = 0.0
    outages_s: list[float] = field(default_factory=list)
    whole_s: float = 0.0
    recoveries_s: list[float] = field(default_factory=list)
    took_s: float = 0.0
    folder: Path = Path()
    note: str = ""  # what a reader should know of how it was played

    @property
    def title(self) -> str:
        """The cell's name."""
        return self.cell.name

    @property
    def violations(self) -> list[str]:
        """All of them, each with its checker's name."""
        return [f"{one.checker}: {text}" for one in self.verdicts for text in one.violations]

    @property
    def right(self) -> bool:
        """Whether every checker is content; of a build that does not sync, whether one is not."""
        if self.cell.unsynced:
            return any(one.checker in LOSS and one.violations for one in self.verdicts)
        return not self.violations

"""What `run` asks of every workload, and what several of them use."""

from collections.abc import Iterable
from typing import Any, Protocol

from chaos.checkers.verdict import Verdict

Record = dict[str, Any]


class Workload(Protocol):
    """Clients with a purpose. `name` is what the matrix calls it."""

    name: str

    async def prepare(self) -> None:
        """Create what is needed, before anything goes wrong."""

    async def work(self) -> None:
        """Work until the stage's stop; what goes wrong is entered, not raised."""

    async def finish(self) -> None:
        """After everything is healed: ask again what was left open, and read everything."""

    def node_lost(self, node: str, at: float) -> None:
        """From `at` on the cluster may give away what was held over `node`."""

    def judge(self) -> list[Verdict]:
        """A verdict per checker."""

    def records(self) -> Iterable[Record]:
        """The history, as it is kept."""

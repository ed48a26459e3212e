"""The tracer of a simulated cluster: no span of what nobody began.

Stands for `admin.traces` on all nodes; owned by `whole.World`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.whole import World


class SimSpan:
    """A command under way."""

    def __init__(self, tracer: "SimTracer", traceparent: str) -> None:
        self.traceparent = traceparent
        self._tracer = tracer
        self._ended = False

    def end(self, _: str) -> None:
        """It was answered, once."""
        if self._ended:
            self._tracer.world.broken(f"{self.traceparent} ended twice")
        self._ended = True


class SimTracer:
    """Port `domain.tracing.Tracer`."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self._begun: set[str] = set()
        self._traces = 0

    def new_trace(self) -> str:
        """What a client says of itself."""
        self._traces += 1
        return f"trace {self._traces}"

    def begin(self, name: str, parent: str) -> SimSpan:
        """A node takes a command."""
        del name
        self._begun.add(parent)
        return SimSpan(self, parent)

    def record(self, name: str, parent: str, began_s: float, ended_s: float, shard: int) -> None:
        """A step of it is over."""
        self.world.seen[name] += 1
        if parent not in self._begun:
            self.world.broken(f"{name} of {parent}, shard {shard}: {began_s} to {ended_s}")

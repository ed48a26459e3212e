"""Spans below a client's command: how long it took to propose, to commit and to apply it.

Where tracing is on, `cluster` makes `TracedShard`s and its replicas have the node's `ParcelTraces`;
where it is off, neither exists, and nothing is done for any command. Traces are no part of
what is replicated: the node that took a command tells the leader, just ahead of the parcel, which
traces are in it, and the leader's node records the spans. What is told and never comes to
anything is forgotten.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from mq9cluster.cluster.shard import Done, Shard, UnansweredParcel
from mq9cluster.domain.command import Command
from mq9cluster.domain.outcome import Outcome
from mq9cluster.domain.ports import Clock
from mq9cluster.domain.tracing import Tracer
from mq9cluster.machine.codec import parcel_identity

TRACES_PER_PARCEL_MAX: Final = 64  # a parcel may hold thousands of commands; more are not followed
PARCELS_FOLLOWED_MAX: Final = 4_096  # told of or under way; the oldest are forgotten first

ParcelId = tuple[int, int, int, int]  # shard, node, incarnation, sequence


class ParcelTraces:
    """The traces in parcels that this node leads the way of. `current` is that of the command being
    taken just now.
    """

    def __init__(self, tracer: Tracer, clock: Clock) -> None:
        self.tracer = tracer
        self.current = ""
        self._clock = clock
        self._expected: OrderedDict[ParcelId, tuple[float, Sequence[str]]] = OrderedDict()
        self._proposed: OrderedDict[tuple[int, int], tuple[float, Sequence[str]]] = OrderedDict()

    def expect(self, shard: int, parcel: bytes, traces: Sequence[str]) -> None:
        """These are in a parcel that comes now; `parcel` need be no more than its head."""
        identity = parcel_identity(parcel)
        self._expected[shard, identity.node, identity.incarnation, identity.sequence] = (
            self._clock.seconds(),
            traces[:TRACES_PER_PARCEL_MAX],
        )
        if len(self._expected) > PARCELS_FOLLOWED_MAX:
            self._expected.popitem(last=False)

    def proposed(self, shard: int, index: int, parcels: Sequence[bytes]) -> None:
        """An entry of `parcels` is in the leader's log."""
        if not self._expected:
            return
        now_s = self._clock.seconds()
        found: list[str] = []
        for parcel in parcels:
            identity = parcel_identity(parcel)
            key = (shard, identity.node, identity.incarnation, identity.sequence)
            began_s, traces = self._expected.pop(key, (now_s, ()))
            self._record("mq9 propose", traces, began_s, now_s, shard)
            found += traces
        if found:
            self._proposed[shard, index] = (now_s, found)
            if len(self._proposed) > PARCELS_FOLLOWED_MAX:
                self._proposed.popitem(last=False)

    def committed(self, shard: int, index: int) -> tuple[float, Sequence[str]] | None:
        """A majority has it; what `applied` is to be given."""
        proposed = self._proposed.pop((shard, index), None)
        if proposed is None:
            return None
        proposed_s, traces = proposed
        now_s = self._clock.seconds()
        self._record("mq9 commit", traces, proposed_s, now_s, shard)
        return now_s, traces

    def applied(self, shard: int, committed: tuple[float, Sequence[str]]) -> None:
        """It is in the state."""
        committed_s, traces = committed
        self._record("mq9 apply", traces, committed_s, self._clock.seconds(), shard)

    def _record(
        self, name: str, traces: Sequence[str], began_s: float, ended_s: float, shard: int
    ) -> None:
        for trace in traces:
            self.tracer.record(name, trace, began_s, ended_s, shard)


class _Traced:
    """A command's `done`, with the trace it belongs to."""

    __slots__ = ("done", "trace")

    def __init__(self, done: Done, trace: str) -> None:
        self.done = done
        self.trace = trace

    def __call__(self, outcome: Outcome) -> None:
        self.done(outcome)


class TracedShard(Shard):
    """A shard that tells the leader which traces are in a parcel."""

    traces: ParcelTraces

    def propose(self, command: Command, done: Done, *, may_wait: bool = False) -> None:
        """As any shard, remembering the current trace."""
        if self.traces.current:
            done = _Traced(done, self.traces.current)
        super().propose(command, done, may_wait=may_wait)

    def _dispatch(self, sequence: int, parcel: UnansweredParcel) -> bool:
        traces = [done.trace for done in parcel.waiting if isinstance(done, _Traced)]
        if traces:
            self._tell(parcel.data, traces[:TRACES_PER_PARCEL_MAX])
        return super()._dispatch(sequence, parcel)

    def _tell(self, parcel: bytes, traces: list[str]) -> None:
        if self.replica and self.replica.leads:
            self.traces.expect(self.shard, parcel, traces)
        elif leader := self._find_leader(self.shard):
            leader.tell_traces(parcel, traces)

"""What a shard's leader was asked for and has not answered yet: parcels, on their way through the
log.

Called by `replica`, at a turn's end and when entries are committed. Parcels of one turn are one
entry. Those that may wait, of heartbeats, wait for a beat in which other nodes' arrive as well,
unless an entry leaves before: agents by the hundred thousand cost entries by the dozen.

A SEND's parcel: taken by `accept`, proposed at the turn's end, answered when its entry is applied.
Leadership lost meanwhile: `done(None)`, for the next leader may have it in its log; LOST where it
never was in one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from mq9cluster.cluster.beat import Beat
from mq9cluster.cluster.engine import Engine, LogEntry, NotLeader
from mq9cluster.cluster.waiting import Waiter
from mq9cluster.domain.command import Command
from mq9cluster.domain.errors import Mq9Error, Overloaded
from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.measures import Histogram
from mq9cluster.domain.outcome import Outcome, Refused, refused
from mq9cluster.domain.ports import Clock
from mq9cluster.machine.codec import PARCEL_OF_NOBODY, encode_command, encode_entry, encode_parcel

ENTRY_BYTES_MAX: Final = 4 << 20  # one entry: one message between peers, one write
ACCEPTED_BYTES_MAX: Final = 64 << 20  # of parcels taken and not yet applied, of all nodes

ParcelDone = Callable[[list[Outcome] | Refused | None], None]


class LeadershipLost(Mq9Error):
    """Between nodes only: this replica does not lead; ask another. Clients never see it."""

    code = "leadership_lost"


LOST: Final = Refused(LeadershipLost("leadership was lost"))


class Gather(Protocol):
    """Has what its node's clients asked for accepted, if it is to leave with this turn."""

    def __call__(self, *, entry: bool) -> None:
        """`entry`: there will be an entry anyway."""


class Traces(Protocol):
    """What of `tracing.ParcelTraces` is used here: it is told where entries are."""

    def expect(self, shard: int, parcel: bytes, traces: Sequence[str]) -> None:
        """These are in a parcel that comes now."""

    def proposed(self, shard: int, index: int, parcels: Sequence[bytes]) -> None:
        """An entry is in the log."""

    def committed(self, shard: int, index: int) -> tuple[float, Sequence[str]] | None:
        """It is committed; what `applied` is to be given, if anything."""

    def applied(self, shard: int, committed: tuple[float, Sequence[str]]) -> None:
        """It is applied."""


class _Accepted:
    """A parcel taken, and who waits for what it comes to."""

    __slots__ = ("data", "done")

    def __init__(self, data: bytes, done: ParcelDone) -> None:
        self.data = data
        self.done = done


class _UnderWay:
    """An entry this replica proposed as leader."""

    __slots__ = ("bytes", "parcels", "proposed_s", "term")

    def __init__(self, term: int, parcels: list[_Accepted], size: int, proposed_s: float) -> None:
        self.term = term
        self.proposed_s = proposed_s
        self.parcels = parcels
        self.bytes = size


class Proposals:
    """The proposals of one replica. Everything is called from the node's event loop."""

    def __init__(
        self,
        shard: int,
        clock: Clock,
        wake: Callable[[], None],
        pass_on: Callable[[Waiter], None],
        hold: Beat,
    ) -> None:
        """`wake` has a turn end soon; `pass_on` is told of a FETCH that is not proposed after all,
        and may propose another; at `hold` what may wait has waited long enough.
        """
        self.gather: Gather | None = None  # the shard's own parcel, at a turn's end
        self.traces: Traces | None = None  # where tracing is on
        self.commit_seconds = Histogram()
        self._shard = shard
        self._clock = clock
        self._wake = wake
        self._pass_on = pass_on
        self._hold = hold
        self._engine: Engine
        self._accepted: list[_Accepted] = []
        self._hurried = False  # what was accepted becomes an entry with this turn
        self._holding = False  # the beat will say so
        self._own: list[tuple[Command, Callable[[Outcome], None], Waiter | None]] = []
        self._bytes = 0
        self._under_way: dict[int, _UnderWay] = {}

    def start(self, engine: Engine) -> None:
        """Propose to this engine."""
        self._engine = engine

    @failpoint("parcel.accept")
    def accept(self, parcel: bytes, done: ParcelDone, *, may_wait: bool = False) -> None:
        """Take a parcel; `done` gets its outcomes, or None if leadership was lost meanwhile and it
        may be in the next leader's log.

        Raises NotLeader, Overloaded: then nothing was done; nor where `done` gets a Refused.
        """
        if not self._engine.is_leader:
            raise NotLeader(self._engine.leader)
        if self._bytes + len(parcel) > ACCEPTED_BYTES_MAX:
            raise Overloaded(f"shard {self._shard} has {ACCEPTED_BYTES_MAX} bytes under way")
        self._accepted.append(_Accepted(parcel, done))
        self._bytes += len(parcel)
        if not may_wait:
            self._hurry()
        elif not self._holding:
            self._holding = True
            self._hold.wait(self._held_long_enough)

    def add_own(
        self, command: Command, done: Callable[[Outcome], None], waiter: Waiter | None = None
    ) -> None:
        """Propose what no session repeats: FETCH, which is asked again, and what time brings.

        Not if `waiter` is no longer there when the turn ends.
        """
        if not self._own:
            self._wake()
        self._own.append((command, done, waiter))

    def _hurry(self) -> None:
        if not self._hurried:
            self._hurried = True
            self._wake()

    def _held_long_enough(self) -> None:
        self._holding = False
        if self._accepted:
            self._hurry()

    # --- a turn's end ----------------------------------------------------------------------------

    def gather_own_parcel(self) -> None:
        """A turn ends: have this node's own parcel accepted, if it leaves with it."""
        if self.gather:
            self.gather(entry=self._hurried or bool(self._own))

    def propose(self, now_ms: Callable[[], int]) -> None:
        """One entry of all parcels, or several where they are too much for one."""
        if self._own:
            self._accept_own()
        if self._engine.is_leader and not self._hurried:
            return  # there is nothing, or it may wait
        self._hurried = False
        if not self._accepted:
            return
        accepted, self._accepted = self._accepted, []
        stamp_ms = now_ms()
        for parcels in _entries(accepted):
            size = sum(len(parcel.data) for parcel in parcels)
            data = encode_entry(stamp_ms, [parcel.data for parcel in parcels])
            try:
                index, term = self._engine.propose(data)
            except NotLeader:
                self._lose(parcels, size, LOST)
                continue
            except Overloaded as error:
                self._lose(parcels, size, refused(error))
                continue
            self._under_way[index] = _UnderWay(term, parcels, size, self._clock.seconds())
            if self.traces:
                self.traces.proposed(self._shard, index, [parcel.data for parcel in parcels])

    def _accept_own(self) -> None:
        own = self._own_still_wanted()
        if not own:
            return
        data = encode_parcel(PARCEL_OF_NOBODY, [encode_command(command) for command, _ in own])

        def done(outcomes: list[Outcome] | Refused | None) -> None:
            if not isinstance(outcomes, list):
                outcomes = [outcomes or LOST] * len(own)
            for (_, answer), outcome in zip(own, outcomes, strict=True):
                answer(outcome)

        self._accepted.append(_Accepted(data, done))
        self._bytes += len(data)
        self._hurried = True

    def _own_still_wanted(self) -> list[tuple[Command, Callable[[Outcome], None]]]:
        """Without the FETCHes whose clients left in this turn: the end of such a connection is in a
        parcel before them, and nobody would give back what they are handed.
        """
        wanted: list[tuple[Command, Callable[[Outcome], None]]] = []
        while self._own:
            own, self._own = self._own, []
            for command, done, waiter in own:
                if waiter is None or waiter.done is not None:
                    wanted.append((command, done))
                else:
                    self._pass_on(waiter)  # which may propose at once
        return wanted

    # --- what becomes of entries -----------------------------------------------------------------

    def applied(self, entry: LogEntry, outcomes: Sequence[list[Outcome]]) -> None:
        """An entry was applied; if it was proposed here, each of its parcels gets its outcomes."""
        under_way = self._under_way.pop(entry.index, None)
        if under_way:
            self._answer(under_way, entry, outcomes)

    @failpoint("parcel.answer")
    def _answer(
        self, under_way: _UnderWay, entry: LogEntry, outcomes: Sequence[list[Outcome]]
    ) -> None:
        if under_way.term != entry.term:
            self._lose(under_way.parcels, under_way.bytes)
            return
        self._bytes -= under_way.bytes
        self.commit_seconds.observe(self._clock.seconds() - under_way.proposed_s)
        for parcel, came_to in zip(under_way.parcels, outcomes, strict=True):
            parcel.done(came_to)

    def let_go(self, before_term: int | None = None) -> None:
        """Nobody can say what becomes of entries proposed in an earlier term; None: of any."""
        for index, entry in list(self._under_way.items()):
            if before_term is None or entry.term < before_term:
                del self._under_way[index]
                self._lose(entry.parcels, entry.bytes)

    def _lose(self, parcels: Sequence[_Accepted], size: int, answer: Refused | None = None) -> None:
        self._bytes -= size
        for parcel in parcels:
            parcel.done(answer)


def _entries(accepted: list[_Accepted]) -> Iterator[list[_Accepted]]:
    """Cut what gathered into entries of at most ENTRY_BYTES_MAX, or one parcel."""
    first, size = 0, 0
    for at, parcel in enumerate(accepted):
        size += len(parcel.data)
        if size > ENTRY_BYTES_MAX and at > first:
            yield accepted[first:at]
            first, size = at, len(parcel.data)
    yield accepted[first:]

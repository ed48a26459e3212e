"""This node's replica of one shard: its engine and state machine, and, while it leads, those who
wait here.

`shard.Shard` hands it parcels and reads of this node's clients, `service` those of other nodes';
the durability loop calls `prepare`, `send` and `on_committed`.

A SEND on its leader: `accept` takes the parcel it travels in and wakes the group; at the turn's
end `prepare` makes one entry of all parcels; once that is synced on a majority `on_committed`
applies it, commits the writes, and gives each parcel its outcomes. A leader that is deposed:
`done(None)` for what is under way, which may yet be committed by the next leader; who asked asks
that one, with the same parcel, which applies once.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from mq9cluster.cluster.durability import Durability, Group
from mq9cluster.cluster.engine import MEMBERS_MARK, Engine, LogEntry, Message, NotLeader
from mq9cluster.cluster.shard_time import ShardTime
from mq9cluster.cluster.waiting import WAITING_PER_SHARD_MAX, FetchDone, Waiter, WaitingRoom
from mq9cluster.domain.command import Command, EndIncarnation, Expire, FetchMessages
from mq9cluster.domain.errors import Mq9Error, Overloaded, Unavailable
from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.measures import SIZE_BOUNDS, Histogram
from mq9cluster.domain.message import Message as MailMessage
from mq9cluster.domain.outcome import HandedOut, Outcome, Refused, refused
from mq9cluster.domain.ports import Clock, StateView, Writes
from mq9cluster.domain.read import Browse, MessagesRead, Query
from mq9cluster.machine import reads
from mq9cluster.machine.apply import Machine
from mq9cluster.machine.codec import (
    PARCEL_OF_NOBODY,
    decode_entry,
    encode_command,
    encode_entry,
    encode_parcel,
)

if TYPE_CHECKING:
    from mq9cluster.cluster.directory import Directory
    from mq9cluster.cluster.turns import Turns

ENTRY_BYTES_MAX: Final = 4 << 20  # one entry: one message between peers, one write
ACCEPTED_BYTES_MAX: Final = 64 << 20  # of parcels taken and not yet applied, of all nodes
GIVEN_S: Final = 0.00001  # handing out, reading and answering one message
SEARCHED_S: Final = 0.0000015  # looking at one in search of a tag
EXPIRE_WAIT_S_MAX: Final = 60.0  # a timer a year ahead would not follow a clock that is slewed

ParcelDone = Callable[[list[Outcome] | Refused | None], None]


class Gather(Protocol):
    """Has what its node's clients asked for accepted, if it is to leave with this turn."""

    def __call__(self, *, entry: bool) -> None:
        """`entry`: there will be an entry anyway."""


class State(StateView, Protocol):
    """What the replica needs of `storage.state.ShardState`."""

    def commit(self, writes: Writes) -> None:
        """Make `writes` visible, all or nothing."""


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


class Replica:
    """A replica of a shard. Everything is called from the node's event loop."""

    def __init__(
        self,
        shard: int,
        state: State,
        clock: Clock,
        send: Callable[[Sequence[Message]], None],
        send_state: Callable[[Sequence[str]], None] = lambda _: None,  # a group of one has no peers
    ) -> None:
        self.shard = shard
        self.engine: Engine
        self.machine = Machine(state)
        self.directory: Directory | None = None  # set before the start, where agents are searched
        self.waiting_room = WaitingRoom()
        self.caught_up = asyncio.Event()  # with the log as it was at the start
        self.entry_commands = Histogram(SIZE_BOUNDS)
        self.commit_seconds = Histogram()
        self.gather: Gather | None = None  # the shard's own parcel, at a turn's end
        self.traces: Traces | None = None  # where tracing is on
        self.send = send
        self.send_state = send_state
        self._state = state
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._heard_ms = clock.monotonic_ms()  # the machine's time, by the steady clock
        self._time = ShardTime(clock, self.machine.now_ms)
        self._accepted: list[_Accepted] = []
        self._own: list[tuple[Command, Callable[[Outcome], None], Waiter | None]] = []
        self._bytes = 0
        self._under_way: dict[int, _UnderWay] = {}
        self._led_term = 0
        self._reads: list[tuple[int, Callable[[], None]]] = []
        self._reads_behind_due: list[tuple[int, Callable[[], None], Callable[[], None]]] = []
        self._expire_at_ms = 0
        self._expire_timer: asyncio.TimerHandle | None = None
        self._group: Group | None = None
        self._durability: Durability | None = None
        self._turns: Turns
        self._catch_up_to = 0
        self._stopped = False

    def start(self, engine: Engine, durability: Durability, group: Group) -> None:
        """Begin to take part; called once the group is registered."""
        self.engine, self._durability, self._group = engine, durability, group
        self._turns = durability.turns
        self._catch_up_to = engine.commit_index
        if self.directory is not None:
            self.directory.rebuild()

    def stop(self) -> None:
        """Propose nothing more."""
        self._stopped = True
        if self._expire_timer:
            self._expire_timer.cancel()
        if self.directory is not None:
            self.directory.stop()

    @property
    def leads(self) -> bool:
        """Whether this replica is the shard's leader, by what it knows."""
        return self.engine.is_leader

    def wake(self) -> None:
        """Have the durability loop look at this group."""
        if self._durability and self._group and not self._stopped:
            self._durability.wake(self._group)

    # --- proposals -------------------------------------------------------------------------------

    @failpoint("parcel.accept")
    def accept(self, parcel: bytes, done: ParcelDone) -> None:
        """Take a parcel; `done` gets its outcomes, or None if leadership was lost meanwhile.

        Raises NotLeader, Overloaded: then nothing was done; nor where `done` gets a Refused.
        """
        if not self.engine.is_leader:
            raise NotLeader(self.engine.leader)
        if self._bytes + len(parcel) > ACCEPTED_BYTES_MAX:
            raise Overloaded(f"shard {self.shard} has {ACCEPTED_BYTES_MAX} bytes under way")
        if not self._accepted:
            self.wake()
        self._accepted.append(_Accepted(parcel, done))
        self._bytes += len(parcel)

    def _propose(
        self, command: Command, done: Callable[[Outcome], None], waiter: Waiter | None = None
    ) -> None:
        """Propose what no session repeats: FETCH, which is asked again, and what time brings.

        Not if `waiter` is no longer there when the turn ends.
        """
        if not self._own:
            self.wake()
        self._own.append((command, done, waiter))

    def end_run(self, node: int, incarnation: int) -> None:
        """As leader, release what a node's runs up to this one held.

        Proposed again until it is applied.
        """
        self._propose(EndIncarnation(node, incarnation), _nobody_waits)

    # --- the durability loop's callbacks ---------------------------------------------------------

    def prepare(self) -> None:
        """A turn ends: one entry of all parcels, or several where they are too much for one."""
        if self.gather:
            self.gather(entry=bool(self._accepted or self._own))
        self._notice_leadership()
        if self._own:
            self._accept_own()
        if not self._accepted:
            return
        accepted, self._accepted = self._accepted, []
        stamp_ms = self._time.now_ms()
        for parcels in _entries(accepted):
            size = sum(len(parcel.data) for parcel in parcels)
            data = encode_entry(stamp_ms, [parcel.data for parcel in parcels])
            try:
                index, term = self.engine.propose(data)
            except NotLeader:
                self._lose(parcels, size)
                continue
            except Overloaded as error:
                self._lose(parcels, size, refused(error))
                continue
            self._under_way[index] = _UnderWay(term, parcels, size, self._clock.seconds())
            if self.traces:
                self.traces.proposed(self.shard, index, [parcel.data for parcel in parcels])

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
                    self._wake_next(waiter)  # which may propose at once
        return wanted

    def _lose(self, parcels: Sequence[_Accepted], size: int, answer: Refused | None = None) -> None:
        self._bytes -= size
        for parcel in parcels:
            parcel.done(answer)

    def _notice_leadership(self) -> None:
        """A new term of our own starts with a fresh clock; a lost one lets go of who waits."""
        if self.engine.is_leader:
            if self._led_term != self.engine.term:
                self._led_term = self.engine.term
                self._time = ShardTime(self._clock, self.machine.now_ms, self._heard_ms)
                self._let_go_of_entries(before_term=self._led_term)
        elif self._led_term:
            self._led_term = 0
            self._let_go_of_entries(before_term=None)
            for waiter in self.waiting_room.clear():
                waiter.finish(LOST)

    def _let_go_of_entries(self, before_term: int | None) -> None:
        """Nobody can say what becomes of entries proposed in an earlier term."""
        for index, entry in list(self._under_way.items()):
            if before_term is None or entry.term < before_term:
                del self._under_way[index]
                self._lose(entry.parcels, entry.bytes)

    @failpoint("apply")
    def on_committed(self, entries: Sequence[LogEntry]) -> None:
        """Apply entries in order.

        State and applied index reach the database together, answers leave after.
        """
        before_ms = self.machine.now_ms
        for entry in entries:
            stamp_ms, parcels = decode_entry(entry.data) if has_parcels(entry.data) else (0, [])
            traced = self.traces.committed(self.shard, entry.index) if self.traces else None
            applied = self.machine.apply_parcels(entry.index, stamp_ms, parcels)
            self._state.commit(applied.writes)
            if traced and self.traces:
                self.traces.applied(self.shard, traced)
            self.entry_commands.observe(sum(map(len, applied.outcomes)))
            under_way = self._under_way.pop(entry.index, None)
            if under_way:
                self._answer(under_way, entry, applied.outcomes)
            if applied.agents and self.directory is not None:
                self.directory.follow(applied.agents)
            if applied.changed:
                for waiter in self.waiting_room.wake(applied.changed):
                    self._look(waiter, again=True)
        if self.machine.now_ms != before_ms:  # not by a leader's first entry, which has no stamp
            self._heard_ms = self._clock.monotonic_ms()
        self._after_applying()

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

    def _after_applying(self) -> None:
        applied = self.machine.applied_index
        if applied > self._catch_up_to:
            self.caught_up.set()
        if self._reads:
            ready = [then for index, then in self._reads if index <= applied]
            self._reads = [(index, then) for index, then in self._reads if index > applied]
            for then in ready:
                then()
        self._expire_when_due()

    # --- another state, from the leader ----------------------------------------------------------

    @staticmethod
    def place_of(state: State) -> int:
        """The last entry that is in `state`."""
        return Machine(state).applied_index

    def restore(self, state: State) -> None:
        """Go on from another state: what was cached of the old one is gone with its machine."""
        self._notice_leadership()
        self._let_go_of_entries(before_term=None)
        self._state = state
        self.machine = Machine(state)
        self._heard_ms = self._clock.monotonic_ms()
        if self.directory is not None:
            self.directory.rebuild()
        self._after_applying()

    # --- time ------------------------------------------------------------------------------------

    def _expire_when_due(self) -> None:
        """As leader, have an entry proposed the moment something falls due."""
        due_ms = self.machine.next_due_ms
        if self._stopped or not self.engine.is_leader:
            return
        if self._expire_timer:
            if due_ms >= self._expire_at_ms:
                return
            self._expire_timer.cancel()
        self._expire_at_ms = due_ms
        wait_s = max(0.0, (due_ms - self._time.now_ms()) / 1000)
        self._expire_timer = self._loop.call_later(min(wait_s, EXPIRE_WAIT_S_MAX), self._expire)

    @failpoint("expire")
    def _expire(self) -> None:
        self._expire_timer = None
        if self.engine.is_leader and self.machine.next_due_ms <= self._time.now_ms():
            self._propose(Expire(), _nobody_waits)
        else:
            self._expire_when_due()

    # --- reads -----------------------------------------------------------------------------------

    def confirm(self, done: Callable[[int | None], None]) -> None:
        """Call `done` with the index that anything acknowledged before now stands at or below.

        `done(None)`: leadership was lost. Raises NotLeader.
        """
        self.engine.read_barrier(done)
        self.wake()

    @property
    def term(self) -> int:
        """The term it is in: it has voted in no later one."""
        return self.engine.term

    def confirmed_by(self, peer: str, term: int) -> int | None:
        """What `confirm` would give, where the word of one peer about its term is enough."""
        try:
            return self.engine.confirmed_by(peer, term)
        except NotLeader:
            return None

    def now_ms(self) -> int:
        """Shard time, as it would be stamped now: what has expired by it is gone for readers."""
        return max(self.machine.now_ms, self._time.now_ms())

    def when_applied(self, index: int, then: Callable[[], None]) -> None:
        """Call `then` once this replica has applied the entry at `index`."""
        if index <= self.machine.applied_index:
            then()
        else:
            self._reads.append((index, then))

    def _when_current(self, then: Callable[[], None], lost: Callable[[], None]) -> None:
        """Call `then` once the state is as new as anything acknowledged before, and the time."""

        def current() -> None:
            self._when_due(then, lost)

        def confirmed(index: int | None) -> None:
            if index is None:
                lost()
            else:
                self.when_applied(index, current)

        try:
            self.confirm(confirmed)
        except NotLeader:
            lost()

    def _when_due(self, then: Callable[[], None], lost: Callable[[], None]) -> None:
        """Call `then` once what fell due by now is done, however many entries that takes.

        The timer does that, but after a change of leaders or a pause a read may come before it,
        and must not see what has expired, nor miss what is visible by now.
        """
        now_ms = self._time.now_ms()
        if self.machine.next_due_ms > now_ms:
            then()
            return
        self._reads_behind_due.append((now_ms, then, lost))
        if len(self._reads_behind_due) == 1:
            self._propose(Expire(), self._due_done)

    def _due_done(self, outcome: Outcome) -> None:
        """Have go on those for whom nothing is due any more.

        The others wait for another entry: they came when this one was stamped already, or more was
        due than one entry does. Comparing times hides what has expired, but shows no delayed
        message whose time has come. What an entry leaves of its own work (of a purge, say) is
        scheduled at its stamp, behind what is waited for: reads wait for nothing that began later.
        """
        waiting, self._reads_behind_due = self._reads_behind_due, []
        if isinstance(outcome, Refused):
            for _, _, lost in waiting:
                lost()
            return
        due_ms = self.machine.next_due_ms
        self._reads_behind_due = [read for read in waiting if read[0] >= due_ms]
        if self._reads_behind_due:
            self._propose(Expire(), self._due_done)
        for came_ms, then, _ in waiting:
            if came_ms < due_ms:
                then()

    def query(self, request: Query, done: FetchDone, client: Hashable = None) -> None:
        """QUERY; `done` gets the messages by msg_id, or LOST where this replica does not lead.

        `client` is on whose account it is read.
        """

        def read() -> None:
            self._collect(client, lambda: reads.query(self.machine.workspace, request), answer)

        def answer(found: MessagesRead | Refused) -> None:
            if isinstance(found, MessagesRead):
                found.messages.reverse()
            done(found)

        self._when_current(read, lambda: done(LOST))

    def _collect(
        self,
        client: Hashable,
        search: Callable[[], Iterator[MailMessage | None]],
        done: FetchDone,
    ) -> None:
        """Run a search to its end, others taking their turns whenever it allows that."""
        found: list[MailMessage] = []
        messages: Iterator[MailMessage | None] | None = None
        machine = self.machine

        def go_on() -> bool:
            nonlocal messages
            if self.machine is not machine:  # the rows it walks over are being dropped
                done(LOST)
                return False
            try:
                if messages is None:
                    messages = search()
                for message in messages:
                    if message is None:
                        return True
                    found.append(message)
            except Mq9Error as error:
                done(refused(error))
                return False
            done(MessagesRead(found))
            return False

        self._turns.take(client, go_on)

    # --- FETCH -----------------------------------------------------------------------------------

    def fetch(self, waiter: Waiter) -> None:
        """FETCH: answers as soon as there is something, or after `wait_ms`, or with LOST."""
        waiter.until_s = self._loop.time() + waiter.wait_ms / 1000
        request = waiter.request
        if isinstance(request, FetchMessages) and not request.tags:
            # What it finds stands on its own entry; only finding nothing needs a current state.
            self._look(waiter, again=False, current=False)
        else:
            self._look_when_current(waiter)

    def _look_when_current(self, waiter: Waiter) -> None:
        self._when_current(lambda: self._look(waiter, again=False), lambda: waiter.finish(LOST))

    def cancel(self, waiter: Waiter) -> None:
        """Nobody waits any more. What is already proposed happens all the same."""
        self.waiting_room.leave(waiter)
        waiter.forget()
        self._pass_on(waiter)

    def _look(self, waiter: Waiter, *, again: bool, current: bool = True) -> None:
        """Have a FETCH look for messages when its turn comes; `again`: something woke it."""
        request = waiter.request
        waiter.woken = again
        if isinstance(request, Browse):
            self._collect(
                waiter.client,
                lambda: self._browse(waiter, request),
                lambda found: self._browsed(waiter, found),
            )
        else:
            self._turns.take(
                waiter.client,
                lambda: self._weigh(waiter, request, again=again, current=current),
            )

    def _browse(self, waiter: Waiter, request: Browse) -> Iterator[MailMessage | None]:
        if waiter.done is None:
            return iter(())
        workspace = self.machine.workspace
        request = reads.beyond(workspace, request, waiter.seen)
        waiter.seen = reads.position(workspace, request.mailbox)
        return reads.browse(workspace, request)

    def _browsed(self, waiter: Waiter, found: MessagesRead | Refused) -> None:
        if waiter.done is None:
            return  # nobody waits any more, and nothing was looked at
        if not isinstance(found, MessagesRead) or found.messages:
            waiter.finish(found)
        elif waiter.seen != reads.position(self.machine.workspace, waiter.request.mailbox):
            self._look(waiter, again=True)  # something came while it looked, and woke it in vain
        else:
            self._park(waiter, first=False)

    def _weigh(self, waiter: Waiter, request: FetchMessages, *, again: bool, current: bool) -> bool:
        """Propose a FETCH with a group if that is worth an entry, else let it wait."""
        if waiter.done is None:
            return False
        workspace = self.machine.workspace
        try:
            worth_it = reads.would_change(workspace, request)
        except Mq9Error as error:
            if current:
                waiter.finish(refused(error))
                # In a turn of its own, for the next will fare alike, and so may 100,000.
                self._loop.call_soon(self._pass_on, waiter)
            else:
                self._look_when_current(waiter)
            return False
        if worth_it:
            rows = reads.rows_at_most(workspace, request)
            self._turns.charge(rows * (SEARCHED_S if request.tags else GIVEN_S))
            # From here on it answers what it is handed: nobody would give that back.
            waiter.stop_timer()
            self._propose(request, lambda outcome: self._fetched(waiter, outcome), waiter)
        elif current:
            self._park(waiter, first=again)
        else:
            self._look_when_current(waiter)
        return False

    def _fetched(self, waiter: Waiter, outcome: Outcome) -> None:
        if not isinstance(outcome, HandedOut):
            if isinstance(outcome, Refused):
                waiter.finish(outcome)
                if isinstance(outcome.error, Unavailable):  # its node's run has ended
                    self._pass_on(waiter)
            return
        request = waiter.request
        if outcome.places:
            messages = reads.messages_at(self.machine.workspace, request.mailbox, outcome.places)
            waiter.finish(MessagesRead(messages, outcome.handout))
        elif isinstance(request, FetchMessages):
            resume = outcome.resume or (0, 0)
            waiter.request = request._replace(force=False, resume=resume)
            if outcome.resume:
                self._look(waiter, again=True)
            else:
                self._park(waiter, first=False)
        self._wake_next(waiter)

    def _pass_on(self, waiter: Waiter) -> None:
        """It has ended. If something woke it that it did not take, that is for the next."""
        if waiter.woken:
            self._wake_next(waiter)

    def _wake_next(self, waiter: Waiter) -> None:
        """Have the next of its queue look: what woke this one may be enough for both."""
        for follower in self.waiting_room.wake_queue(waiter.request.mailbox, waiter.queue):
            self._look(follower, again=True)

    def _park(self, waiter: Waiter, *, first: bool) -> None:
        left_s = waiter.until_s - self._loop.time()
        if left_s <= 0 or self._stopped:
            waiter.finish(MessagesRead([]))
        elif self.waiting_room.count >= WAITING_PER_SHARD_MAX:
            waiter.finish(Refused(Overloaded(f"{WAITING_PER_SHARD_MAX} FETCHes are waiting")))
        else:
            waiter.woken = False
            self.waiting_room.park(waiter, first=first)
            if not waiter.timer:
                waiter.timer = self._loop.call_later(left_s, self._give_up, waiter)

    def _give_up(self, waiter: Waiter) -> None:
        self.waiting_room.leave(waiter)
        waiter.finish(MessagesRead([]))
        self._pass_on(waiter)


class LeadershipLost(Mq9Error):
    """Between nodes only: this replica does not lead; ask another. Clients never see it."""

    code = "leadership_lost"


LOST: Final = Refused(LeadershipLost("leadership was lost"))


def _nobody_waits(_: Outcome) -> None:
    """The outcome of what nobody asked for."""


def _entries(accepted: list[_Accepted]) -> Iterator[list[_Accepted]]:
    """Cut what gathered into entries of at most ENTRY_BYTES_MAX, or one parcel."""
    first, size = 0, 0
    for at, parcel in enumerate(accepted):
        size += len(parcel.data)
        if size > ENTRY_BYTES_MAX and at > first:
            yield accepted[first:at]
            first, size = at, len(parcel.data)
    yield accepted[first:]


def has_parcels(data: bytes) -> bool:
    """Whether an entry is the machine's, and not the no-op of a term or a change of members."""
    return bool(data) and data[0] != MEMBERS_MARK

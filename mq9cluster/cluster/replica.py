"""This node's replica of one shard: its engine and state machine, and, while it leads, those who
wait here.

`shard.Shard` hands it parcels and reads of this node's clients, `service` those of other nodes';
the durability loop calls `prepare`, `send` and `on_committed`.

A SEND on its leader: `accept` takes the parcel it travels in and wakes the group; at the turn's
end `prepare` has one entry made of all parcels (`proposals`); once that is synced on a majority
`on_committed` applies it, commits the writes, and gives each parcel its outcomes. A leader that is
deposed: `done(None)` for what is under way, which may yet be committed by the next leader; who
asked asks that one, with the same parcel, which applies once.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from mq9cluster.cluster.beat import Beat
from mq9cluster.cluster.durability import Durability, Group
from mq9cluster.cluster.engine import (
    MEMBERS_MARK,
    Engine,
    LogEntry,
    LogReader,
    Message,
    NotLeader,
)
from mq9cluster.cluster.proposals import LOST, ParcelDone, Proposals
from mq9cluster.cluster.shard_time import ShardTime
from mq9cluster.cluster.waiting import WAITING_PER_SHARD_MAX, FetchDone, Waiter, WaitingRoom
from mq9cluster.domain.command import EndIncarnation, Expire, FetchMessages
from mq9cluster.domain.errors import Mq9Error, Overloaded, Unavailable
from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.measures import SIZE_BOUNDS, Histogram
from mq9cluster.domain.message import Message as MailMessage
from mq9cluster.domain.outcome import HandedOut, Outcome, Refused, refused
from mq9cluster.domain.ports import Clock, StateView, Writes
from mq9cluster.domain.read import Browse, Follow, MessagesRead, Query
from mq9cluster.domain.registry import AgentRow
from mq9cluster.machine import reads
from mq9cluster.machine.agents_read import all_agents
from mq9cluster.machine.apply import Machine
from mq9cluster.machine.codec import decode_entry
from mq9cluster.storage.errors import StorageCorrupt

if TYPE_CHECKING:
    from mq9cluster.cluster.directory import Directory
    from mq9cluster.cluster.turns import Turns

GIVEN_S: Final = 0.00001  # handing out, reading and answering one message
SEARCHED_S: Final = 0.0000015  # looking at one in search of a tag
RECALLED_BYTES: Final = 1 << 20  # of the log, read in one go at the start
EXPIRE_WAIT_S_MAX: Final = 60.0  # a timer a year ahead would not follow a clock that is slewed


class State(StateView, Protocol):
    """What the replica needs of `storage.state.ShardState`."""

    def commit(self, writes: Writes) -> None:
        """Make `writes` visible, all or nothing."""


class Replica:
    """A replica of a shard. Everything is called from the node's event loop."""

    def __init__(
        self,
        shard: int,
        state: State,
        clock: Clock,
        hold: Beat,
        send: Callable[[Sequence[Message]], None],
        send_state: Callable[[Sequence[str]], None] = lambda _: None,  # a group of one has no peers
        *,
        shards: int = 1,
    ) -> None:
        """`hold`: the node's beat at which parcels that may wait become entries; `shards`: how many
        the cluster has.
        """
        self.shard = shard
        self._shards = shards
        self.engine: Engine
        self.machine = Machine(state, shards)
        self.directory: Directory | None = None  # set before the start, where agents are searched
        self.waiting_room = WaitingRoom()
        self.proposals = Proposals(shard, clock, self.wake, self._wake_next, hold)
        self.caught_up = asyncio.Event()  # with the log as it was at the start
        self.entry_commands = Histogram(SIZE_BOUNDS)
        self.send = send
        self.send_state = send_state
        self._state = state
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._heard_ms = clock.monotonic_ms()  # the machine's time, by the steady clock
        self._time = ShardTime(clock, self.machine.now_ms)
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
        self.proposals.start(engine)
        self._turns = durability.turns
        self._catch_up_to = engine.commit_index
        self._keep_log()
        if self.directory is not None:
            self.directory.rebuild()

    def recall(self, log: LogReader) -> None:
        """Before the start: take from the log what rows do not say. Raises StorageCorrupt."""
        at, end = self.machine.heard_from, self.machine.applied_index + 1
        if at and not log.first_index() <= at < end <= log.last_index() + 1:
            raise StorageCorrupt(
                f"storage: shard {self.shard}: heartbeats stand in entries {at} to {end - 1}, its "
                f"log holds {log.first_index()}..{log.last_index()}"
            )
        if at:
            self.machine.recall(_data_of(log, at, end))

    def flush(self) -> None:
        """Have the rows say everything, which some heartbeats are in the log for otherwise."""
        writes = self.machine.flush()
        if writes:
            self._state.commit(writes)
            self._keep_log()

    def _keep_log(self) -> None:
        if self._group:
            self._group.needed_from = self.machine.needed_from

    def all_agents(self) -> Iterator[AgentRow]:
        """Every agent of the shard, as `agents_read` gives them."""
        self.flush()
        return all_agents(self.machine.workspace)

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

    def accept(self, parcel: bytes, done: ParcelDone, *, may_wait: bool = False) -> None:
        """As `Proposals.accept`."""
        self.proposals.accept(parcel, done, may_wait=may_wait)

    def end_run(self, node: int, incarnation: int) -> None:
        """As leader, release what a node's runs up to this one held.

        Proposed again until it is applied.
        """
        self.proposals.add_own(EndIncarnation(node, incarnation), _nobody_waits)

    # --- the durability loop's callbacks ---------------------------------------------------------

    def prepare(self) -> None:
        """A turn ends: what was asked for becomes an entry, if any."""
        self.proposals.gather_own_parcel()
        self._notice_leadership()
        self.proposals.propose(self._time.now_ms)

    def _notice_leadership(self) -> None:
        """A new term of our own starts with a fresh clock; a lost one lets go of who waits."""
        if self.engine.is_leader:
            if self._led_term != self.engine.term:
                self._led_term = self.engine.term
                self._time = ShardTime(self._clock, self.machine.now_ms, self._heard_ms)
                self.proposals.let_go(before_term=self._led_term)
        elif self._led_term:
            self._led_term = 0
            self.proposals.let_go()
            for waiter in self.waiting_room.clear():
                waiter.finish(LOST)

    @failpoint("apply")
    def on_committed(self, entries: Sequence[LogEntry]) -> None:
        """Apply entries in order.

        State and applied index reach the database together, answers leave after.
        """
        before_ms = self.machine.now_ms
        for entry in entries:
            stamp_ms, parcels = decode_entry(entry.data) if has_parcels(entry.data) else (0, [])
            traces = self.proposals.traces
            traced = traces.committed(self.shard, entry.index) if traces else None
            applied = self.machine.apply_parcels(entry.index, stamp_ms, parcels)
            self._state.commit(applied.writes)
            if traced and traces:
                traces.applied(self.shard, traced)
            self._keep_log()
            self.entry_commands.observe(sum(map(len, applied.outcomes)))
            self.proposals.applied(entry, applied.outcomes)
            if applied.agents and self.directory is not None:
                self.directory.follow(applied.agents)
            if applied.changed:
                for waiter in self.waiting_room.wake(applied.changed):
                    self._look(waiter, again=True)
        if self.machine.now_ms != before_ms:  # not by a leader's first entry, which has no stamp
            self._heard_ms = self._clock.monotonic_ms()
        self._after_applying()

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
        self.proposals.let_go()
        self._state = state
        self.machine = Machine(state, self._shards)
        self._keep_log()
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
            self.proposals.add_own(Expire(), _nobody_waits)
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
            self.proposals.add_own(Expire(), self._due_done)

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
            self.proposals.add_own(Expire(), self._due_done)
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
        if not isinstance(request, FetchMessages):
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

    def _browse(self, waiter: Waiter, request: Browse | Follow) -> Iterator[MailMessage | None]:
        if waiter.done is None:
            return iter(())
        workspace = self.machine.workspace
        seen, waiter.seen = waiter.seen, reads.position(workspace, request.mailbox)
        if isinstance(request, Follow):
            return reads.follow(workspace, request)
        return reads.browse(workspace, reads.beyond(workspace, request, seen))

    def _browsed(self, waiter: Waiter, found: MessagesRead | Refused) -> None:
        if waiter.done is None:
            return  # nobody waits any more, and nothing was looked at
        if not isinstance(found, MessagesRead):
            waiter.finish(found)
        elif found.messages:
            number = str(waiter.seen[0]) if isinstance(waiter.request, Follow) else ""
            waiter.finish(MessagesRead(found.messages, number))
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
            self.proposals.add_own(request, lambda outcome: self._fetched(waiter, outcome), waiter)
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


def _nobody_waits(_: Outcome) -> None:
    """The outcome of what nobody asked for."""


def _data_of(log: LogReader, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Entries at <= index < end, without data where they hold no parcels."""
    while at < end:
        for entry in log.read(at, end, RECALLED_BYTES):
            yield entry.index, entry.data if has_parcels(entry.data) else b""
            at = entry.index + 1


def has_parcels(data: bytes) -> bool:
    """Whether an entry is the machine's, and not the no-op of a term or a change of members."""
    return bool(data) and data[0] != MEMBERS_MARK

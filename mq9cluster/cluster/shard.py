"""One shard as this node's clients use it, wherever its leader is.

`broker` proposes, fetches and queries here. Commands of one turn are one parcel; it goes to the
leader, here or one hop away, and again to the next leader if that one is lost, with the same
number, so that it applies once. What happened to a command is told truthfully: `unavailable` only
where no leader can have had it, `timeout` where one may have.

A SEND at a node that does not lead: gathered, closed into parcel 17, sent to the leader's node,
outcomes come back and each command's `done` is called. The leader dies: the answer is `Lost`;
parcel 17 and all behind it wait for the next leader and are sent to it in order; if the dead one
had 17 committed, the next answers with the outcomes it kept.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from mq9cluster.cluster.beat import Beat
from mq9cluster.cluster.engine import NotLeader
from mq9cluster.cluster.features import FEATURES, SINCE, level_of
from mq9cluster.cluster.proposals import LOST
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.waiting import FetchDone, Waiter
from mq9cluster.domain.command import Command, EndConnection, FetchMessages, Owner
from mq9cluster.domain.errors import Mq9Error, OutcomeUnknown, Overloaded, Unavailable
from mq9cluster.domain.measures import SIZE_BOUNDS, Histogram
from mq9cluster.domain.outcome import Outcome, Refused, refused
from mq9cluster.domain.ports import Clock
from mq9cluster.domain.read import MessagesRead, Query
from mq9cluster.machine.codec import Parcel, encode_command, encode_parcel

PARCEL_BYTES_MAX: Final = 4 << 20  # or one command
UNDER_WAY_COMMANDS_MAX: Final = 65_536  # taken and not yet answered; about a second's worth
UNDER_WAY_BYTES_MAX: Final = 64 << 20
PARCELS_UNDER_WAY_MAX: Final = 256  # then commands gather; below what a shard keeps outcomes of
PROPOSAL_DEADLINE_MS: Final = 5_000  # of time awake; below the request timeouts that clients use
READ_DEADLINE_S: Final = 5.0  # for finding a leader, beyond what a FETCH waits
PATIENT_COMMANDS_MAX: Final = 1_000  # gathered: then they leave; applied in about 10 ms
RETRY_S: Final = 0.05  # between two looks for a leader
PERSIST_S: Final = 1.0  # between two tries of what must not be lost

Done = Callable[[Outcome], None]


class Leader(Protocol):
    """The shard's leader on another node, as `links` reaches it."""

    def send_parcel(
        self, parcel: bytes, done: "Callable[[list[Outcome] | Refused | None], None]"
    ) -> None:
        """`done` gets the outcomes; None: it may have happened; Refused: nothing was done there."""

    def fetch(self, waiter: Waiter) -> Callable[[], None]:
        """Have `waiter` served there; the returned function cancels."""

    def tell_traces(self, parcel: bytes, traces: Sequence[str]) -> None:
        """These traces are in the parcel that follows."""

    def query(self, request: Query, done: FetchDone, client: Owner | None) -> None:
        """Have a QUERY answered there."""


class UnansweredParcel:
    """A parcel with its answers."""

    __slots__ = ("data", "deadline_ms", "may_wait", "maybe_done", "sent", "waiting")

    def __init__(
        self, data: bytes, waiting: list[Done], deadline_ms: int, *, may_wait: bool
    ) -> None:
        self.data = data
        self.may_wait = may_wait
        self.waiting = waiting
        self.deadline_ms = deadline_ms
        self.sent = False
        self.maybe_done = False


NOT_YET: Final = Refused(Unavailable("not before all nodes of the cluster run this version"))


class Shard:
    """A shard, from the side of those who ask."""

    def __init__(
        self,
        shard: int,
        node: int,
        incarnation: int,
        replica: Replica | None,
        beat: Beat,
        awake: Clock,
        find_leader: Callable[[int], Leader | None],
        features: Callable[[], int] = lambda: FEATURES,
    ) -> None:
        """`features` is the cluster's level: nothing above it is proposed. `beat`: the node's, at
        which commands that may wait leave, and deadlines are looked at, which go by `awake`.
        """
        self.shard = shard
        self.replica = replica
        self.parcel_commands = Histogram(SIZE_BOUNDS)
        self._node = node
        self._incarnation = incarnation
        self._find_leader = find_leader
        self._features = features
        self._loop = asyncio.get_running_loop()
        self._commands: list[bytes] = []
        self._waiting: list[Done] = []
        self._gathered_bytes = 0
        self._gathering_until_ms = 0
        self._closing = False
        self._hurried = False  # what has gathered is to leave with this turn
        self._beat = beat
        self._awake = awake
        self._awaits_beat = False
        self._all_may_wait = True  # of what has gathered
        self._sequence = 0
        self._parcels: dict[int, UnansweredParcel] = {}  # not yet answered, by sequence
        self._confirmed = 0
        self._under_way_commands = 0
        self._under_way_bytes = 0
        self._retry_timer: asyncio.TimerHandle | None = None
        self._checks_deadlines = False
        self._attempts: dict[Waiter, Callable[[], None]] = {}
        self._stopped = False
        if replica:
            replica.proposals.gather = self._gather

    def stop(self) -> None:
        """Retry nothing more."""
        self._stopped = True
        if self._retry_timer:
            self._retry_timer.cancel()

    def begin_run(self, incarnation: int) -> None:
        """This node's run was ended and a new one begins: what was under way is anybody's guess."""
        for sequence, parcel in list(self._parcels.items()):
            unknown = Refused(OutcomeUnknown("this run of the node was ended"))
            self._finish(sequence, [unknown] * len(parcel.waiting))
        self._incarnation = incarnation
        self._sequence = self._confirmed = 0

    @property
    def pending_commands(self) -> int:
        """Commands taken and not yet answered."""
        return len(self._commands) + self._under_way_commands

    @property
    def commands_under_way(self) -> int:
        """Commands in parcels that are not yet answered."""
        return self._under_way_commands

    @property
    def waiting_fetches(self) -> int:
        """FETCHes of this node's clients under way."""
        return len(self._attempts)

    # --- commands --------------------------------------------------------------------------------

    def propose(self, command: Command, done: Done, *, may_wait: bool = False) -> None:
        """Have `command` applied; `done` gets its outcome, later and once.

        One that `may_wait` waits up to REPORT_WAIT_MS for others to share an entry with.
        """
        if self.may(level_of(command)):
            self.propose_encoded(type(command), encode_command(command), done, may_wait=may_wait)
        else:
            done(NOT_YET)

    def may(self, level: int) -> bool:
        """Whether the whole cluster knows what this feature level brings."""
        return level <= self._features()

    def propose_encoded(
        self, kind: type[Command], data: bytes, done: Done, *, may_wait: bool = False
    ) -> None:
        """The same for a command of this kind that is its bytes already."""
        needed = SINCE.get(kind)
        if needed and needed > self._features():
            done(NOT_YET)
            return
        if len(self._commands) + self._under_way_commands >= UNDER_WAY_COMMANDS_MAX:
            why = f"shard {self.shard} has {UNDER_WAY_COMMANDS_MAX} commands under way"
            done(Refused(Overloaded(why)))
            return
        if self._gathered_bytes + self._under_way_bytes + len(data) > UNDER_WAY_BYTES_MAX:
            why = f"shard {self.shard} has {UNDER_WAY_BYTES_MAX} bytes under way"
            done(Refused(Overloaded(why)))
            return
        if not self._commands:
            self._gathering_until_ms = self._awake.monotonic_ms() + PROPOSAL_DEADLINE_MS
            if not self._checks_deadlines:
                self._check_deadlines_later()
        self._commands.append(data)
        self._waiting.append(done)
        self._gathered_bytes += len(data)
        self._all_may_wait &= may_wait
        if not may_wait or len(self._commands) >= PATIENT_COMMANDS_MAX:
            self._hurry()
        elif not self._hurried and not self._awaits_beat:
            self._awaits_beat = True
            self._beat.wait(self._on_beat)

    def _on_beat(self) -> None:
        """What may wait leaves; a leader here has it wait a little more for other nodes'."""
        self._awaits_beat = False
        if self._stopped or not self._commands:
            return
        if self.replica and self.replica.leads:
            self._close()
        else:
            self._hurry()

    def _hurry(self) -> None:
        """What has gathered leaves with this turn."""
        if not self._hurried:
            self._hurried = True
            self._close_at_the_turns_end()

    def propose_surely(self, command: Command, done: Callable[[], None]) -> None:
        """Propose until it is applied: for what must not be lost and may happen twice."""

        def answered(outcome: Outcome) -> None:
            if not isinstance(outcome, Refused):
                done()
            elif not self._stopped:
                self._loop.call_later(PERSIST_S, self.propose_surely, command, done)

        self.propose(command, answered)

    def _close_at_the_turns_end(self) -> None:
        if self.replica and self.replica.leads:
            self.replica.wake()  # whose turn's end calls _gather
        elif not self._closing:
            self._closing = True
            self._loop.call_soon(self._close)

    def _gather(self, *, entry: bool) -> None:
        """The replica's turn ends, with an `entry` or without: patient commands wait for one."""
        if self._hurried or entry:
            self._close()

    def _close(self) -> None:
        """A turn ends: what gathered becomes a parcel, or several, and leaves."""
        self._closing = False
        while self._commands and len(self._parcels) < PARCELS_UNDER_WAY_MAX:
            count, size = _that_fit(self._commands)
            commands, self._commands = self._commands[:count], self._commands[count:]
            waiting, self._waiting = self._waiting[:count], self._waiting[count:]
            self._gathered_bytes -= size
            self._sequence += 1
            identity = Parcel(self._node, self._incarnation, self._sequence, self._confirmed)
            parcel = UnansweredParcel(
                encode_parcel(identity, commands),
                waiting,
                self._gathering_until_ms,
                may_wait=self._all_may_wait,
            )
            self._parcels[self._sequence] = parcel
            self._under_way_commands += count
            self._under_way_bytes += len(parcel.data)
            self.parcel_commands.observe(count)
            if not self._retry_timer:
                self._dispatch(self._sequence, parcel)
        self._hurried = bool(self._commands)
        self._all_may_wait |= not self._commands

    def _dispatch(self, sequence: int, parcel: UnansweredParcel) -> bool:
        """Send a parcel to the leader; whether there is one."""
        done = partial(self._answered, sequence, parcel)
        if self.replica and self.replica.leads:
            try:
                parcel.sent = True
                self.replica.accept(parcel.data, done, may_wait=parcel.may_wait)
            except NotLeader:
                self._not_taken(parcel)
                return False
            except Overloaded as error:
                done(refused(error))
            return True
        leader = self._find_leader(self.shard)
        if leader is None:
            self._not_taken(parcel)
            return False
        parcel.sent = True
        leader.send_parcel(parcel.data, done)
        return True

    def _not_taken(self, parcel: UnansweredParcel) -> None:
        parcel.sent = False
        if not self._retry_timer and not self._stopped:
            self._retry_timer = self._loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        """Send again, in their order, all parcels that no leader has now."""
        self._retry_timer = None
        for sequence, parcel in list(self._parcels.items()):
            if not parcel.sent and not self._dispatch(sequence, parcel):
                return

    def _answered(
        self, sequence: int, parcel: UnansweredParcel, outcomes: list[Outcome] | Refused | None
    ) -> None:
        if self._parcels.get(sequence) is not parcel:
            return  # given up before; a later run counts from 1 again
        if outcomes is None:
            parcel.maybe_done = True
            self._not_taken(parcel)
        elif isinstance(outcomes, Refused):
            # "Nothing was done" is said of that leader: one before it may have it in the log.
            if parcel.maybe_done or outcomes.error.code == LOST.error.code:
                self._not_taken(parcel)
            else:
                self._finish(sequence, [outcomes] * len(parcel.waiting))
        else:
            self._finish(sequence, outcomes)

    def _finish(self, sequence: int, outcomes: list[Outcome]) -> None:
        parcel = self._parcels.pop(sequence)
        self._under_way_commands -= len(parcel.waiting)
        self._under_way_bytes -= len(parcel.data)
        self._confirmed = next(iter(self._parcels), self._sequence + 1) - 1
        for done, outcome in zip(parcel.waiting, outcomes, strict=True):
            done(outcome)
        if self._commands and len(self._parcels) == PARCELS_UNDER_WAY_MAX - 1:
            self._close_at_the_turns_end()

    def _check_deadlines_later(self) -> None:
        self._checks_deadlines = True
        self._beat.wait(self._check_deadlines)

    def _check_deadlines(self) -> None:
        """Give up what has waited too long, and say whether it may have happened."""
        self._checks_deadlines = False
        if self._stopped:
            return
        now_ms = self._awake.monotonic_ms()
        for sequence, parcel in list(self._parcels.items()):
            if parcel.deadline_ms > now_ms:
                break
            error: Mq9Error = Unavailable("the shard has no leader")
            if parcel.sent or parcel.maybe_done:
                error = OutcomeUnknown(f"no outcome within {PROPOSAL_DEADLINE_MS / 1000:g} s")
            self._finish(sequence, [Refused(error)] * len(parcel.waiting))
        if self._commands and self._gathering_until_ms <= now_ms:
            waiting = self._waiting
            self._commands, self._waiting, self._gathered_bytes = [], [], 0
            self._hurried = False
            for done in waiting:
                done(Refused(Unavailable("the shard takes no commands")))
        if self._parcels or self._commands:
            self._check_deadlines_later()

    # --- reads -----------------------------------------------------------------------------------

    def query(self, request: Query, done: FetchDone, client: Owner | None = None) -> None:
        """QUERY at the leader; `done` gets the messages by msg_id.

        `client` is on whose account it is read.
        """
        until_s = self._loop.time() + READ_DEADLINE_S

        def answered(found: MessagesRead | Refused) -> None:
            if found != LOST:
                done(found)
            elif self._loop.time() < until_s and not self._stopped:
                self._loop.call_later(RETRY_S, ask)
            else:
                done(Refused(Unavailable("the shard has no leader")))

        def ask() -> None:
            if self.replica and self.replica.leads:
                self.replica.query(request, answered, client)
            elif leader := self._find_leader(self.shard):
                leader.query(request, answered, client)
            else:
                answered(LOST)

        ask()

    def fetch(self, waiter: Waiter) -> None:
        """FETCH at the leader, again at the next one if that is lost."""
        waiter.until_s = self._loop.time() + waiter.wait_ms / 1000
        self._attempt(waiter)

    def _attempt(self, waiter: Waiter) -> None:
        if waiter.done is None:
            return
        left_ms = max(0, round((waiter.until_s - self._loop.time()) * 1000))
        done = partial(self._attempted, waiter)
        attempt = Waiter(waiter.request, left_ms, done, waiter.client)
        if self.replica and self.replica.leads:
            self._attempts[waiter] = partial(self.replica.cancel, attempt)
            self.replica.fetch(attempt)
        elif leader := self._find_leader(self.shard):
            self._attempts[waiter] = _nothing
            cancel = leader.fetch(attempt)
            if waiter in self._attempts:
                self._attempts[waiter] = cancel
        else:
            self._attempts[waiter] = _nothing
            attempt.finish(LOST)

    def _attempted(self, waiter: Waiter, found: MessagesRead | Refused) -> None:
        self._attempts.pop(waiter, None)
        if found == LOST:
            if self._stopped or self._loop.time() > waiter.until_s + READ_DEADLINE_S:
                waiter.finish(Refused(Unavailable("the shard has no leader")))
            else:
                self._attempts[waiter] = self._loop.call_later(
                    RETRY_S, self._attempt, waiter
                ).cancel
        elif waiter.done is None:
            self._give_back(waiter, found)
        else:
            waiter.finish(found)

    def _give_back(self, waiter: Waiter, found: MessagesRead | Refused) -> None:
        """Handed out to a connection that has ended meanwhile, perhaps behind its own end."""
        request = waiter.request
        if isinstance(found, MessagesRead) and isinstance(request, FetchMessages) and found.handout:
            self.propose_surely(EndConnection(request.owner), _nothing)

    def cancel(self, waiter: Waiter) -> None:
        """Nobody waits any more. What is already proposed happens all the same."""
        waiter.forget()
        cancel = self._attempts.pop(waiter, None)
        if cancel:
            cancel()


def _nothing() -> None:
    """Nobody is left to be told."""


def _that_fit(commands: list[bytes]) -> tuple[int, int]:
    """How many of the commands make up one parcel, and their bytes."""
    size = 0
    for count, command in enumerate(commands):
        if count and size + len(command) > PARCEL_BYTES_MAX:
            return count, size
        size += len(command)
    return len(commands), size

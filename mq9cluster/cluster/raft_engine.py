"""Raft for one replica: the only door to PySyncObj, and what makes it safe.

Owned by the group's node through the port in `engine.py`; calls `raft_log`, `raft_replication`,
`raft_reads`, `raft_members` and `raft_wire`. PySyncObj's class decides: roles, terms, votes,
elections, the no-op of a new term, the commit rule, stepping down without a majority, handing over
leadership. Replaced are replication and all that touches the world: its clock, random source,
journal, transport, dumps and pickle (docs/adr/0010-pysyncobj-as-raft-core.md says what and why; the
failures A to N that this closes are in tests/regression/test_raft_failures.py).

The class is taken from a private copy of PySyncObj's module, in which the names of clock, random,
pickle, poller, dump writer and resolver are bound to ours, so nothing in it can block, fork, start
a thread or unpickle, and the installed module stays as it is. Time stands still while the engine is
inside one call.
"""

from collections import deque
from collections.abc import Callable, Sequence
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

from pysyncobj.config import SyncObjConf
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from mq9cluster.cluster.engine import (
    EngineRefused,
    HardState,
    LogEntry,
    LogReader,
    Members,
    MembersRefused,
    Message,
    NotLeader,
    Ready,
)
from mq9cluster.cluster.raft_adapters import MOMENT, Journal, Nothing, Outbox, Refused
from mq9cluster.cluster.raft_log import RaftLog
from mq9cluster.cluster.raft_members import (
    MembersHistory,
    check_change,
    encode_members,
    sets_members,
)
from mq9cluster.cluster.raft_replication import Flow, Replication
from mq9cluster.cluster.raft_rules import LEADER, Rules, State, Timing
from mq9cluster.cluster.raft_wire import Append, MalformedMessage, decode, encode
from mq9cluster.domain.errors import Overloaded
from mq9cluster.domain.ports import Clock, Random

PYSYNCOBJ_VERSION = "0.3.17"
"""What the overrides below were written and tested against; private names carry no promise, so any
other is refused.
"""

ENTRY_BYTES_MAX = 16 * 1024 * 1024
"""One entry: a batch of 4 MiB, or a single command with the largest payload and its headers."""

OPEN_BYTES_MAX = 64 * 1024 * 1024
"""Proposed and not committed: a leader without a majority must refuse work before it fills the
memory.
"""

PAIR_OF_OTHERS = 2  # beside the leader: of three voters, two are a majority
TAKE_BYTES_MAX = 1024 * 1024
"""Handed on by one `take_committed`: a restart's backlog is applied in pieces of some 10 ms, so
that the loop keeps turning.
"""


def _private_copy() -> ModuleType:
    """PySyncObj's module a second time, under no name, with its view of the world replaced."""
    spec = find_spec("pysyncobj.syncobj")
    if spec is None or spec.loader is None:
        raise EngineRefused("PySyncObj is not installed")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    replaced: dict[str, object] = {
        "monotonicTime": MOMENT.monotonic,
        "random": MOMENT,
        "createJournal": lambda journal: journal,
        "createPoller": Nothing,
        "globalDnsResolver": Nothing,
        "Serializer": Nothing,
        "PIPE_NOTIFIER_ENABLED": False,
        "TCPTransport": None,
        "pickle": Refused("pickle"),
        "os": Refused("os"),
        "time": Refused("time"),
        "threading": Refused("threading", Lock=Nothing),
    }
    for name, value in replaced.items():
        if name not in vars(module):
            raise EngineRefused(f"PySyncObj has no {name} to replace")
        setattr(module, name, value)
    return module


SyncObj: Any = _private_copy().SyncObj


class Core(Rules, SyncObj):  # type: ignore[misc]  # PySyncObj ships no types
    """PySyncObj's class with the rules laid over it."""

    def __init__(
        self,
        name: str,
        history: MembersHistory,
        log: RaftLog,
        journal: Journal,
        outbox: Outbox,
        timing: Timing,
    ) -> None:
        Rules.__init__(self, name, history, log, outbox, timing, Node)
        conf = SyncObjConf(
            autoTick=False,
            journalFile=journal,
            appendEntriesPeriod=timing.heartbeat_ms / 1000,
            raftMinTimeout=timing.election_ms_min / 1000,
            raftMaxTimeout=timing.election_ms_max / 1000,
            leaderFallbackTimeout=timing.quorum_ms / 1000,
            connectionTimeout=timing.election_ms_max / 1000,  # not used, but validated
            onStateChanged=self.role_changed,
        )
        others = [self.node(peer) for peer in self.other_voters()]
        SyncObj.__init__(self, self.node(name), others, conf, transport=outbox)
        self.members_changed()
        if history.current.voters == (name,):
            self._SyncObj__raftElectionDeadline = 0.0  # nobody else could lead: no need to wait


OVERRIDDEN = tuple(
    name for name in vars(Rules) if name.startswith("_SyncObj__") or name == "_checkCommandsToApply"
)
"""The methods of PySyncObj that are replaced."""


def check_pysyncobj(installed: str, base: type, core: object) -> None:
    """Raises EngineRefused unless PySyncObj is the version, and has the private names, that the
    rules rely on.
    """
    if installed != PYSYNCOBJ_VERSION:
        raise EngineRefused(
            f"PySyncObj {installed} is installed, the engine is built for {PYSYNCOBJ_VERSION}"
        )
    missing = [name for name in State.__annotations__ if name not in vars(core)]
    missing += [name for name in OVERRIDDEN if not callable(getattr(base, name, None))]
    if missing:
        raise EngineRefused(f"PySyncObj lacks {', '.join(missing)}")


class PeerStatus(NamedTuple):
    """What the leader knows of a follower."""

    match: int
    next: int
    flow: Flow
    inflight: int


class RaftStatus(NamedTuple):
    """For /cluster and the metrics."""

    role: str
    term: int
    leader: str
    commit_index: int
    first_index: int
    last_index: int
    synced_index: int
    elections_won: int
    malformed: int
    peers: dict[str, PeerStatus]


class RaftEngine:
    """One replica of one group: the port `Engine`, over PySyncObj."""

    core_type: ClassVar[type[Core]] = Core

    def __init__(
        self,
        *,
        name: str,
        members: Members,
        log: LogReader,
        hard_state: HardState,
        applied: int,
        clock: Clock,
        random: Random,
        timing: Timing = Timing(),  # noqa: B008  # immutable
    ) -> None:
        """`members`: of the state at `applied`; later changes are read from the log. Raises
        EngineRefused.
        """
        self._clock = clock
        self._random = random
        self._enter()
        self._log = RaftLog(log, applied)
        if hard_state.term < self._log.last_term:
            raise EngineRefused(
                f"the log ends in term {self._log.last_term}, the vote is of term "
                f"{hard_state.term}: a vote is missing"
            )
        self._journal = Journal(self._log, hard_state, applied)
        self._out = Outbox()
        history = MembersHistory(applied, members)
        for entry in self._entries_from(applied + 1):
            history.append(entry)
        self._core = self.core_type(name, history, self._log, self._journal, self._out, timing)
        check_pysyncobj(VERSION, SyncObj, self._core)
        self._core._SyncObj__raftLastApplied = applied
        self._core.term_on_disk = hard_state.term
        self._handed_on = applied
        self._outstanding: deque[tuple[Ready, int, int]] = (
            deque()
        )  # with last index and conflicts when taken
        self._open: deque[tuple[int, int]] = deque()  # proposals not committed: index, bytes
        self._open_bytes = 0
        self._dirty = True
        self.malformed = 0

    def _entries_from(self, start: int) -> Sequence[LogEntry]:
        found: list[LogEntry] = []
        while start <= self._log.last_index:
            some = self._log.entries(start, self._log.last_index + 1, TAKE_BYTES_MAX)
            found += [entry for entry in some if sets_members(entry.data)]
            start = some[-1].index + 1
        return found

    def _enter(self) -> None:
        MOMENT.now_s = self._clock.monotonic_ms() / 1000
        MOMENT.source = self._random

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads, by what it knows."""
        return self._core.role == LEADER

    @property
    def leader(self) -> str:
        """The leader's node name as far as known, or ""."""
        return self._core.leader

    @property
    def term(self) -> int:
        """The current term."""
        return self._core.term

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self._core.commit

    @property
    def members(self) -> Members:
        """The members in force."""
        return self._core.history.current

    @property
    def members_applied(self) -> Members:
        """The members as of the state: those that go with a copy of it."""
        return self._core.history.applied

    def match_of(self, peer: str) -> int:
        """As leader: everything up to here is on the disk of `peer`; 0 where that is not known."""
        replication = self._core.replication
        progress = replication.peers.get(peer) if replication else None
        return progress.match if progress else 0

    @property
    def may_lead(self) -> bool:
        """Whether this replica stands for election; a node whose clock is off does not (it
        transfers, if it leads).
        """
        return self._core.may_lead

    @may_lead.setter
    def may_lead(self, value: bool) -> None:
        self._core.may_lead = value

    def propose(self, data: bytes) -> tuple[int, int]:
        """Append an entry as leader; its (index, term). Raises NotLeader, Overloaded."""
        if not data or sets_members(data):
            raise ValueError("an entry's data is not empty and does not begin with MEMBERS_MARK")
        if len(data) > ENTRY_BYTES_MAX:
            raise ValueError(f"an entry holds {ENTRY_BYTES_MAX} bytes at most")
        self._must_lead()
        if self._open_bytes + len(data) > OPEN_BYTES_MAX:
            raise Overloaded("too much is waiting for a majority")
        return self._append(data)

    def propose_members(self, members: Members) -> tuple[int, int]:
        """Append a change of members; its (index, term). Raises NotLeader, MembersRefused."""
        self._must_lead()
        core = self._core
        members = Members(tuple(sorted(members.voters)), tuple(sorted(members.learners)))
        if not core.own_term_committed():
            raise MembersRefused("this leader has not committed anything yet")
        if core.history.changed_at > core.commit:
            raise MembersRefused("the change before is not committed")
        check_change(core.history.current, members, core.name)
        self._enter()
        index, term = self._append(encode_members(members))
        core.history.append(LogEntry(index, term, encode_members(members)))
        core.members_changed()
        return index, term

    def receive(self, peer: str, data: bytes) -> None:
        """Take a message of `peer`; malformed ones are counted and dropped."""
        try:
            message = decode(data)
        except MalformedMessage:
            self.malformed += 1
            return
        self._enter()
        self._dirty = True
        self._core.handle(peer, message)

    def tick(self) -> None:
        """Let time pass."""
        self._enter()
        if self._core.due():
            self._dirty = True

    def stands_in_s(self) -> float | None:
        """In how many seconds it stands for election unless its leader speaks; negative where it
        should have, None while it leads.
        """
        core = self._core
        if core.role == LEADER:
            return None
        return float(core._SyncObj__raftElectionDeadline) - self._clock.monotonic_ms() / 1000

    def ready(self) -> Ready | None:
        """The work to do now, or None."""
        if not self._dirty:
            return None
        self._dirty = False
        self._enter()
        core, out = self._core, self._out
        self._settle()
        snapshots: Sequence[str] = ()
        now = [Message(peer, encode(message)) for peer, message in out.now]
        now += [Message(peer, encode(message), patient=True) for peer, message in out.patient]
        if core.replication is not None:
            now += self._lead(core.replication)
            snapshots = core.replication.snapshots_needed()
        after = sorted(out.after_sync, key=lambda sent: sent[0])
        later = [
            Message(peer, encode(message)) for peer, message in (*after, *sorted(out.acks.items()))
        ]
        out.now, out.patient, out.after_sync, out.acks = [], [], [], {}
        hard_state = self._journal.hard_state if self._journal.unsaved else None
        self._journal.unsaved = False
        unsaved = self._log.take_unsaved()
        if not (
            now or later or snapshots or hard_state or unsaved.entries or unsaved.truncate_from
        ):
            return None
        ready = Ready(hard_state, unsaved.truncate_from, unsaved.entries, now, later, snapshots)
        self._outstanding.append((ready, self._log.last_index, self._log.conflicts))
        return ready

    def synced(self, ready: Ready) -> None:
        """What `ready` asked to persist is on disk."""
        expected, last_index, conflicts = self._outstanding.popleft()
        if expected is not ready:
            raise ValueError("Readys are reported in the order they were taken")
        if conflicts == self._log.conflicts:
            self._log.saved(last_index)
        self._enter()
        if ready.hard_state is not None:
            self._core.vote_synced(ready.hard_state.term)
        if self._core.role == LEADER:
            self._settle()
            self._dirty = True

    def take_committed(self) -> Sequence[LogEntry]:
        """Committed entries not handed on before, and on this disk; call again until there are
        none.
        """
        stop = min(self._core.commit, self._log.synced_index) + 1
        if stop <= self._handed_on + 1:
            return ()
        entries = self._log.entries(self._handed_on + 1, stop, TAKE_BYTES_MAX)
        self._handed_on = entries[-1].index
        return entries

    def applied(self, index: int) -> None:
        """State now stands at `index`."""
        self._core._SyncObj__raftLastApplied = index
        self._core.history.forget(index)
        self._log.trim(index)

    def read_barrier(self, done: Callable[[int | None], None]) -> None:
        """Call `done(index)` once a read that waits for `index` is linearizable; `done(None)` if
        lost. Raises NotLeader.
        """
        self._must_lead(transferring=True)
        self._core.reads.ask(done)
        self._dirty = True

    def confirmed_by(self, peer: str, term: int) -> int | None:
        """The index of a read barrier that `peer`'s word settles: it was in `term` when it said so,
        and had not voted in a later one. Raises NotLeader.

        Where two voters are a majority, it and this leader are one that had elected nobody later
        when the read began, so all that was acknowledged by then is committed here: a round of
        messages would tell no more (thesis, 6.4; docs/adr/0021).
        """
        self._must_lead(transferring=True)
        core = self._core
        others = core.other_voters()
        enough = len(others) <= PAIR_OF_OTHERS and peer in others
        return core.commit if enough and term == core.term and core.own_term_committed() else None

    def transfer(self, peer: str) -> None:
        """Hand leadership to `peer`, a voter. Raises NotLeader."""
        self._must_lead()
        if peer not in self._core.other_voters():
            raise ValueError(f"{peer} is no other voter")
        self._enter()
        self._core.begin_transfer(peer)
        self._dirty = True

    def peer_lost(self, peer: str) -> None:
        """The connection to `peer` broke; a hint, which may be wrong or missing."""
        self._enter()
        self._core.peer_lost(peer)

    def snapshot_sent(self, peer: str, index: int | None) -> None:
        """The state at `index` was installed at `peer`; None: the transfer failed, ask again."""
        if self._core.replication is not None:
            self._core.replication.snapshot_sent(peer, index)
            self._dirty = True

    def snapshot_wanted(self, index: int, term: int) -> bool:
        """Whether a state at this place of the log must be installed."""
        if index <= self._core.commit:
            return False
        if self._log.holds(index, term):
            self._core.commit_up_to(index)
            self._dirty = True
            return False
        return True

    def restore(self, index: int, term: int, members: Members) -> None:
        """A wanted state was installed, on disk: the log is empty and begins behind `index`."""
        if self._outstanding:
            raise ValueError("a write of the old log is still under way")
        self._enter()
        self._out.acks.clear()
        self._log.restart(index, term)
        self._handed_on = index
        self._core._SyncObj__raftLastApplied = index
        self._core.history = MembersHistory(index, members)
        self._core.restored(index)
        self._dirty = True

    def status(self) -> RaftStatus:
        """Where this replica stands."""
        core, log = self._core, self._log
        peers = core.replication.peers if core.replication else {}
        return RaftStatus(
            ("follower", "candidate", "leader")[core.role],
            core.term,
            core.leader,
            core.commit,
            log.first_index,
            log.last_index,
            log.synced_index,
            core.elections,
            self.malformed,
            {
                peer: PeerStatus(one.match, one.next, one.flow, one.inflight)
                for peer, one in peers.items()
            },
        )

    def _must_lead(self, *, transferring: bool = False) -> None:
        core = self._core
        if core.role != LEADER:
            raise NotLeader(core.leader)
        if core.transfer_to and not transferring:
            raise NotLeader(core.transfer_to)

    def _append(self, data: bytes) -> tuple[int, int]:
        entry = self._log.append(self._core.term, data)
        self._open.append((entry.index, len(data)))
        self._open_bytes += len(data)
        self._dirty = True
        return entry.index, entry.term

    def _settle(self) -> None:
        core = self._core
        core.settle()
        if core.role != LEADER:
            self._open.clear()
            self._open_bytes = 0
        while self._open and self._open[0][0] <= core.commit:
            self._open_bytes -= self._open.popleft()[1]

    def _lead(self, replication: Replication) -> list[Message]:
        core = self._core
        opened = core.reads.waiting and core.own_term_committed()
        if opened:
            core.reads.open_round(core.commit)
        core.reads.confirm(core.other_voters())
        if core.everyone:
            replication.beat()
        sends = replication.sends(core.commit, core.reads.number, everyone=core.everyone or opened)
        core.everyone = False
        self._dirty |= replication.more
        made: dict[int, bytes] = {}  # followers at the same place are sent the same bytes
        found = []
        for peer, message in sends:
            data = made.get(id(message)) or encode(message)
            made[id(message)] = data
            found.append(
                Message(peer, data, bulk=isinstance(message, Append) and bool(message.entries))
            )
        return found

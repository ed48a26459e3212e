"""The engine port: one replica of one group, stepped by its node. No I/O, clock or threads.

Owned by the group's node, driven by `cluster/durability.py` in this order, once per turn of the
event loop:

1. `receive` what peers sent and `tick`; `propose` what clients asked.
2. `ready()` states the work: what to append and persist, and what to send. `Ready.messages` may
   leave at once; `Ready.messages_after_sync` (votes, acknowledgements of appends) only when the
   rest of it is on disk.
3. One synced write covers the Readys of *all* groups of the node; then `synced(ready)` on each:
   only now does the replica count itself into a majority.
   Further Readys may be taken before; they are written and reported in the same order.
4. `take_committed()` hands on committed entries, in order, once; the caller applies them and says
   `applied(index)`. `synced` may have left something to say: the next `ready()` says it.

A follower that needs entries the log no longer holds is named in `Ready.snapshots_needed`; the
caller streams the group's state to it and reports with `snapshot_sent`. On the other side the
caller asks `snapshot_wanted`, switches to the new state, and says `restore`.

Implemented by `raft_engine` (PySyncObj, made safe), also for groups of one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from mq9cluster.domain.log import HardState, LogEntry

__all__ = [
    "MEMBERS_MARK",
    "Engine",
    "EngineRefused",
    "HardState",
    "LogEntry",
    "LogReader",
    "Members",
    "MembersRefused",
    "Message",
    "NotLeader",
    "Ready",
    "ReplicatedEngine",
]

MEMBERS_MARK = 0
"""First byte of an entry that changes the group's members; a command's data never begins so."""


class Members(NamedTuple):
    """Who takes part in a group: voters make majorities, learners are only kept up to date.

    Each sorted, and nobody in both.
    """

    voters: tuple[str, ...]
    learners: tuple[str, ...] = ()


class Message(NamedTuple):
    """A message to a peer of the group, encoded by the engine. `bulk` ones carry entries, and let
    the others overtake them; `patient` ones say nothing new, and leave with what leaves next.
    """

    peer: str
    data: bytes
    bulk: bool = False
    patient: bool = False


class Ready(NamedTuple):
    """The work a replica asks for. Entries from `truncate_from` on are replaced first.

    `snapshots_needed` names peers that need the group's state, each once until `snapshot_sent`.
    """

    hard_state: HardState | None
    truncate_from: int | None
    entries: Sequence[LogEntry]
    messages: Sequence[Message]
    messages_after_sync: Sequence[Message]
    snapshots_needed: Sequence[str] = ()


class NotLeader(Exception):
    """A replica that does not lead was asked to. `leader` is its best guess, or ""."""

    def __init__(self, leader: str) -> None:
        super().__init__(f"not the leader; try {leader or 'later'}")
        self.leader = leader


class MembersRefused(Exception):
    """A change of members that must not be made, or not yet; nothing was appended."""


class EngineRefused(Exception):
    """What was found at start contradicts itself, or what the engine was built for: do not run."""


class LogReader(Protocol):
    """Entries already on disk, as the engine reads them back for a peer that is behind."""

    def first_index(self) -> int:
        """The oldest index still kept; 1 for a log never compacted."""

    def last_index(self) -> int:
        """The newest index on disk; first_index() - 1 when empty."""

    def term(self, index: int) -> int:
        """The term at `index`; also answers for first_index() - 1."""

    def read(self, start: int, stop: int, bytes_max: int) -> Sequence[LogEntry]:
        """Entries start <= index < stop, at least one if there is any, else up to `bytes_max`."""


class Engine(Protocol):
    """One replica of one group."""

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads, by what it knows."""

    @property
    def leader(self) -> str:
        """The leader's node name as far as known, or ""."""

    @property
    def term(self) -> int:
        """The current term."""

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""

    def propose(self, data: bytes) -> tuple[int, int]:
        """Append an entry as leader; its (index, term). Raises NotLeader, and Overloaded when too
        much is not yet committed.
        """

    def receive(self, peer: str, data: bytes) -> None:
        """Take a message of `peer`; malformed ones are counted and dropped."""

    def tick(self) -> None:
        """Let time pass: the engine reads its clock port."""

    def ready(self) -> Ready | None:
        """The work to do now, or None. The caller does it, then hands it to `synced`."""

    def synced(self, ready: Ready) -> None:
        """What `ready` asked to persist is on disk."""

    def take_committed(self) -> Sequence[LogEntry]:
        """Committed entries not handed on before, a bounded number: call until there are none."""

    def applied(self, index: int) -> None:
        """State now stands at `index`."""

    def read_barrier(self, done: Callable[[int | None], None]) -> None:
        """Call `done(index)`: a read at `index` applied is linearizable; `done(None)`: lost.

        Raises NotLeader.
        """

    def confirmed_by(self, peer: str, term: int) -> int | None:
        """The index of a read barrier, where that `peer` said it is in `term` settles one at once.

        The peer must have said so after whoever reads had asked. None: only `read_barrier` can
        tell. Raises NotLeader.
        """

    def transfer(self, peer: str) -> None:
        """Hand leadership to `peer`; `is_leader` turns false when it worked. Raises NotLeader."""


class ReplicatedEngine(Engine, Protocol):
    """What there is beyond `Engine` when a group has peers."""

    @property
    def members(self) -> Members:
        """Those in force: of the newest entry that set them, committed or not."""

    def propose_members(self, members: Members) -> tuple[int, int]:
        """Append a change of members; its (index, term). Raises NotLeader, MembersRefused.

        At most one voter comes or goes at a time, and the change before must be committed.
        """

    def peer_lost(self, peer: str) -> None:
        """The connection to `peer` broke. A hint that makes failover fast; it may be wrong."""

    def snapshot_sent(self, peer: str, index: int | None) -> None:
        """The state at `index` was installed at `peer`; None: it failed, name the peer again."""

    def snapshot_wanted(self, index: int, term: int) -> bool:
        """Whether a state at this place of the log must be installed; False: its own log leads
        there.

        Ask again in the very turn of the switch: what arrived meanwhile must not be lost to it.
        """

    def restore(self, index: int, term: int, members: Members) -> None:
        """A wanted state was installed, on disk: the log is empty and begins behind `index`."""

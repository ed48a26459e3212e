"""What must hold of every group of every node after every step, as `checker` says for one group.

`watched` lays this over the engine class under test, so that the checks see each step the
durability loop has an engine take; `WholeNode`'s database tells of each state. Each check looks
only at what changed.

- One leader a term and group. Log entries of equal index and term are equal, and so are their
  pasts.
- What a leader commits is synced on the disks of a majority, at that moment, and every later leader
  has it. No commit index goes back within a process.
- All replicas hand on the same entry at an index, and have equal states at equal applied indexes.
"""

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

import orjson

from mq9cluster.cluster.engine import LogEntry, Ready
from mq9cluster.cluster.meta import META_GROUP
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.machine.rows import Shard
from mq9cluster.storage import keyspace
from mq9cluster.storage.database import LOG_FAMILY, RAFT_FAMILY
from tests.simulation.checker import Violation

if TYPE_CHECKING:
    from tests.simulation.whole import World
    from tests.simulation.whole_node import WholeNode

_TERM_IN_ROW = Struct(">xxxxQ")  # behind a checksum
_MARK_IN_ROW = Struct(">xxxxQQ")
_GROUP = Struct(">H")


class GroupWatch:
    """One group, on all nodes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.leaders: dict[int, str] = {}
        self.committed = 0
        self.committed_in: dict[int, int] = {}  # how far, by the leader of which term
        self.terms: dict[int, int] = {0: 0}  # of committed entries, by index
        self.entries: dict[tuple[int, int], tuple[int, int]] = {}  # digest of data, term before
        self.handed_on: dict[int, tuple[int, int]] = {}  # term, digest of data
        self.states: dict[int, int] = {}


class Watch:
    """All groups of a run."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.groups: dict[int, GroupWatch] = {}
        self.states_compared = 0
        self.trace = 0  # a digest of all that happened, in order
        self._seen: dict[tuple[str, int], tuple[int, int, bool]] = {}

    def group(self, number: int) -> GroupWatch:
        """What is known of a group."""
        known = self.groups.get(number)
        if known is None:
            known = self.groups[number] = GroupWatch(number)
        return known

    def crashed(self, node: "WholeNode") -> None:
        """A process is gone: the next one begins at what is on disk."""
        for key in [key for key in self._seen if key[0] == node.name]:
            del self._seen[key]

    def broken(self, why: str) -> None:
        """A property does not hold: the run ends, whoever catches what is raised here."""
        self.world.violation = self.world.violation or why
        raise Violation(why)

    # --- steps of engines ------------------------------------------------------------------------

    def stepped(self, node: "WholeNode", number: int, engine: RaftEngine) -> None:
        """An engine of `node` took a step."""
        now = engine.term, engine.commit_index, engine.is_leader
        seen = self._seen.get((node.name, number), (0, 0, False))
        if now == seen:
            return
        self._seen[node.name, number] = now
        told = f"{self.world.scheduler.now_us} {node.name} {number} {now}"
        self.trace = crc32(told.encode(), self.trace)
        term, commit, leading = now
        group = self.group(number)
        if term < seen[0]:
            self.broken(f"{node.name}, group {number}: went back from term {seen[0]} to {term}")
        if commit < seen[1]:
            self.broken(f"{node.name}, group {number}: took back commit index {seen[1]}: {commit}")
        if leading and now[::2] != seen[::2]:
            self._elected(node, group, engine)
        if commit > seen[1]:
            self._commits(node, group, engine, commit, leading=leading or seen[2])

    def _elected(self, node: "WholeNode", group: GroupWatch, engine: RaftEngine) -> None:
        term = engine.term
        other = group.leaders.setdefault(term, node.name)
        if other != node.name:
            self.broken(f"group {group.number}: {other} and {node.name} both lead term {term}")
        last = max((at for past, at in group.committed_in.items() if past < term), default=0)
        log = engine._log
        if last >= log.first_index and (
            last > log.last_index or log.term(last) != group.terms[last]
        ):
            self.broken(
                f"group {group.number}: {node.name} leads term {term} without committed {last}"
            )

    def _commits(
        self,
        node: "WholeNode",
        group: GroupWatch,
        engine: RaftEngine,
        commit: int,
        *,
        leading: bool,
    ) -> None:
        log = engine._log
        where = f"group {group.number}: {node.name} commits {commit}"
        if commit > group.committed:
            if not leading:
                self.broken(f"{where}, which no leader has")
            term = log.term(commit)
            voters = engine.members.voters
            holders = [
                other.name
                for other in self.world.nodes
                if other.name in voters and _holds(other, group.number, commit, term)
            ]
            if 2 * len(holders) <= len(voters):
                self.broken(f"{where}, on disk only at {holders}")
            for index in range(group.committed + 1, commit + 1):
                group.terms[index] = log.term(index)
            group.committed = group.committed_in[engine.term] = commit
        elif log.first_index <= commit <= log.last_index and (
            log.term(commit) != group.terms[commit]
        ):
            self.broken(f"{where}, another one than others")

    def appended(self, node: "WholeNode", number: int, engine: RaftEngine, ready: Ready) -> None:
        """`node` is about to write entries."""
        group, before = self.group(number), -1
        for entry in ready.entries:
            if before < 0:
                before = engine._log.term(entry.index - 1)
            entry_is = crc32(entry.data), before
            if group.entries.setdefault((entry.index, entry.term), entry_is) != entry_is:
                self.broken(
                    f"group {number}: two entries at {entry.index} in term {entry.term}; "
                    f"one at {node.name}"
                )
            before = entry.term

    def handed_on(self, node: "WholeNode", number: int, entries: Sequence[LogEntry]) -> None:
        """`node` is about to apply entries."""
        group = self.group(number)
        for index, term, data in entries:
            if index > group.committed:
                self.broken(f"group {number}: {node.name} applies {index}, not committed")
            entry_is = term, crc32(data)
            if group.handed_on.setdefault(index, entry_is) != entry_is:
                self.broken(f"group {number}: {node.name} applies another {index} than others")

    # --- states ----------------------------------------------------------------------------------

    def state_moved(self, node: "WholeNode", prefix: bytes, row: bytes, digest: int) -> None:
        """A state of `node` stands where `row` says."""
        (number,) = _GROUP.unpack_from(prefix)
        index = _index_of(number, row)
        states = self.group(number).states
        known = states.setdefault(index, digest)
        if known != digest:
            self.broken(f"{node.name}: another state of group {number} at {index} than others")
        self.states_compared += 1


def _index_of(number: int, row: bytes) -> int:
    if number == META_GROUP:
        index: int = orjson.loads(row)["meta"]["applied_index"]
        return index
    return Shard.unpack(row).applied_index


def _holds(node: "WholeNode", group: int, index: int, term: int) -> bool:
    """Whether an entry, or a state that it is in, is on `node`'s disk for good."""
    row = node.disk.durable((LOG_FAMILY, keyspace.log_key(group, index)))
    if row is not None:
        return bool(_TERM_IN_ROW.unpack_from(row)[0] == term)
    mark = node.disk.durable((RAFT_FAMILY, keyspace.compacted_key(group)))
    return mark is not None and bool(_MARK_IN_ROW.unpack_from(mark)[0] >= index)


def watched(world: "World", engine_type: type[RaftEngine]) -> type[RaftEngine]:
    """`engine_type`, with each of its steps checked."""
    watch = world.watch

    class Watched(engine_type):  # type: ignore[valid-type, misc]
        """An engine somebody looks at."""

        def __init__(self, *, name: str, log: Any, **given: Any) -> None:
            self._node = next(node for node in world.nodes if node.name == name)
            self._number = log._group
            super().__init__(name=name, log=log, **given)
            watch.stepped(self._node, self._number, self)

        def ready(self) -> Ready | None:
            """As it is."""
            ready = super().ready()
            watch.stepped(self._node, self._number, self)
            if ready is not None and ready.entries:
                watch.appended(self._node, self._number, self, ready)
            found: Ready | None = ready
            return found

        def synced(self, ready: Ready) -> None:
            """As it is."""
            super().synced(ready)
            watch.stepped(self._node, self._number, self)

        def take_committed(self) -> Sequence[LogEntry]:
            """As it is."""
            entries: Sequence[LogEntry] = super().take_committed()
            if entries:
                watch.handed_on(self._node, self._number, entries)
            return entries

    return Watched

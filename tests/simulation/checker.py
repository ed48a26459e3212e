"""What must hold at every moment of a simulated group, checked step by step.

Told by `raft_node` of each thing a replica does. Each check looks only at what changed: that is
enough, since a property that held before a step can be broken only by that step.

- *Election safety*: one leader a term, with the votes of a majority on their disks.
- *Log matching*: entries of equal index and term have equal data and equal predecessors, hence
  equal pasts.
- *Durability*: what a leader commits is on the disks of a majority, at that moment, synced.
- *Leader completeness*: who becomes leader holds all that leaders of earlier terms committed. (One
  that was paused may learn late that it won a term long past, and lack what came after.)
- *State machine safety*: all replicas apply the same entries in the same order; states at an equal
  applied index are equal. Committed entries are never replaced.
- *Linearizable reads*: a read sees everything that was acknowledged before it was asked for.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

from mq9cluster.cluster.engine import LogEntry, Ready

if TYPE_CHECKING:
    from tests.simulation.raft_node import SimNode


class Violation(AssertionError):
    """A property does not hold."""


class Checker:
    """All replicas of one group."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.nodes: dict[str, SimNode] = {}
        self.acknowledged = 0  # highest index whose proposer was told
        self.committed = 0
        self.reads_by_word = 0
        self.reads_answered = 0
        self.reads_lost = 0
        self.states_installed = 0
        self.leaders: dict[int, str] = {}
        self.trace = 0  # a digest of all that happened, in order
        self._entries: dict[tuple[int, int], tuple[bytes, int]] = {}  # data, term before
        self._committed_in: dict[int, int] = {}  # how far, by the leader of which term
        self._terms: dict[int, int] = {0: 0}  # of committed entries, by index
        self._history: list[bytes] = []  # data of applied entries
        self._digests = [0]
        self._seen: dict[str, tuple[int, int, bool]] = {}  # term, commit index, leading

    def started(self, node: "SimNode") -> None:
        """`node` starts, perhaps again."""
        self._seen.pop(node.name, None)
        self.stepped(node)

    def stepped(self, node: "SimNode") -> None:
        """The engine of `node` took a step."""
        engine = node.engine
        assert engine is not None
        now = engine.term, engine.commit_index, engine.is_leader
        seen = self._seen.get(node.name, (0, 0, False))
        if now == seen:
            return
        self._seen[node.name] = now
        self.trace = crc32(f"{node.clock.monotonic_ms()} {node.name} {now}".encode(), self.trace)
        term, commit, leading = now
        if term < seen[0]:
            raise Violation(f"{node.name} went back from term {seen[0]} to {term}")
        if commit < seen[1]:
            raise Violation(f"{node.name} took back its commit index {seen[1]}: {commit}")
        if leading and now[::2] != seen[::2]:
            self._elected(node, term)
        if commit > seen[1]:
            led = seen[2]  # it may commit and step down in one step
            self._commits(node, commit, leading=leading or led)

    def appended(self, node: "SimNode", ready: Ready) -> None:
        """`node` is about to write `ready`."""
        start = ready.truncate_from
        if start is not None and start <= node.state.applied:
            raise Violation(f"{node.name} replaces {start}, which it has applied")
        before = 0
        for entry in ready.entries:
            before = before or node.log.term(entry.index - 1)
            seen = self._entries.setdefault((entry.index, entry.term), (entry.data, before))
            if seen != (entry.data, before):
                raise Violation(f"{node.name}: two entries at {entry.index} in term {entry.term}")
            before = entry.term

    def applied(self, node: "SimNode", entries: Sequence[LogEntry]) -> None:
        """`node` applies `entries`."""
        for index, term, data in entries:
            if self._terms.get(index) != term:
                raise Violation(f"{node.name} applies {index} of term {term}, not committed")
            if index == len(self._history) + 1:
                self._history.append(data)
                self._digests.append(crc32(data, self._digests[-1]))
            elif self._history[index - 1] != data:
                raise Violation(f"{node.name} applies another {index} than others")

    def restored(self, node: "SimNode", index: int, digest: int) -> None:
        """`node` installs a state."""
        self.states_installed += 1
        if self._digests[index] != digest:
            raise Violation(f"{node.name} installs a state at {index} that nobody had")

    def acknowledge(self, index: int) -> None:
        """A proposer is told that its entry at `index` is there to stay."""
        self.acknowledged = max(self.acknowledged, index)

    def read(self, name: str, floor: int, index: int | None) -> None:
        """A read asked for when `floor` was acknowledged goes on at `index`; None: it was lost."""
        if index is None:
            self.reads_lost += 1
            return
        self.reads_answered += 1
        if index < floor:
            raise Violation(f"{name} reads at {index}, but {floor} was acknowledged before")

    def states_equal(self) -> None:
        """Every state is what its applied index makes it."""
        for node in self.nodes.values():
            state = node.state
            if self._digests[state.applied] != state.digest:
                raise Violation(f"{node.name} has another state at {state.applied} than others")

    def _elected(self, node: "SimNode", term: int) -> None:
        assert node.engine is not None
        other = self.leaders.setdefault(term, node.name)
        if other != node.name:
            raise Violation(f"{other} and {node.name} both lead term {term}")
        voters = node.engine.members.voters
        votes = [name for name in voters if self._may_have_voted(self.nodes[name], term, node.name)]
        if 2 * len(votes) <= len(voters):
            raise Violation(f"{node.name} leads term {term} by the votes of {votes} alone")
        before = [index for past, index in self._committed_in.items() if past < term]
        log, last = node.engine._log, max(before, default=0)
        if last >= log.first_index and (
            last > log.last_index or log.term(last) != self._terms[last]
        ):
            raise Violation(f"{node.name} leads term {term} without committed entry {last}")

    def _commits(self, node: "SimNode", commit: int, *, leading: bool) -> None:
        engine = node.engine
        assert engine is not None
        log = engine._log  # what the engine believes, on its way to the disk or there
        if commit > self.committed:
            if not leading:
                raise Violation(f"{node.name} commits {commit}, which no leader has")
            term = log.term(commit)
            voters = engine.members.voters
            holders = [name for name in voters if self._holds(self.nodes[name], commit, term)]
            if 2 * len(holders) <= len(voters):
                raise Violation(f"{node.name} commits {commit}, on disk only at {holders}")
            for index in range(self.committed + 1, commit + 1):
                self._terms[index] = log.term(index)
            self.committed = self._committed_in[engine.term] = commit
        elif (
            log.first_index <= commit <= log.last_index and log.term(commit) != self._terms[commit]
        ):
            raise Violation(f"{node.name} commits another {commit} than others")

    def _may_have_voted(self, node: "SimNode", term: int, candidate: str) -> bool:
        vote = node.disk.durable("hard")
        return vote.term > term or vote == (term, candidate)

    def _holds(self, node: "SimNode", index: int, term: int) -> bool:
        base = node.disk.durable("base")
        if index <= base[0]:
            return True
        entry = node.disk.durable(index)
        return entry is not None and entry.term == term

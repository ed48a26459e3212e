"""One simulated replica: a real engine over a virtual disk and network, driven as a node drives it.

Owned by `raft_cluster`; calls the engine, and tells the checker of everything it does. State is a
digest of all applied entries, kept in the row its applied index is in.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from mq9cluster.cluster.engine import HardState, LogEntry, Members, NotLeader, Ready
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.cluster.raft_members import decode_members, sets_members
from mq9cluster.cluster.raft_rules import Timing
from mq9cluster.domain.errors import Overloaded
from tests.simulation.checker import Checker
from tests.simulation.clock import NodeClock, NodeRandom, Scheduler
from tests.simulation.disk import Disk
from tests.simulation.network import Network

TICK_US = 25_000
SNAPSHOT_TIMEOUT_US = 500_000


class State(NamedTuple):
    """The state machine: where it stands, and a digest of how it got there."""

    applied: int
    term: int
    digest: int
    members: Members


class Snapshot(NamedTuple):
    """A state on its way to a follower."""

    state: State


class SnapshotInstalled(NamedTuple):
    """A follower's answer."""

    index: int | None


class DiskLog:
    """The log as rows of a virtual disk. Port `LogReader`."""

    def __init__(self, disk: Disk) -> None:
        self._rows = disk.rows

    def first_index(self) -> int:
        """The oldest index kept."""
        return self._rows["base"][0] + 1

    def last_index(self) -> int:
        """The newest index written."""
        return self._rows["last"]

    def term(self, index: int) -> int:
        """The term at `index`."""
        base = self._rows["base"]
        return base[1] if index == base[0] else self._rows[index].term

    def read(self, start: int, stop: int, bytes_max: int) -> Sequence[LogEntry]:
        """Entries, by bytes."""
        found: list[LogEntry] = []
        size = 0
        for index in range(start, stop):
            entry = self._rows[index]
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found


class SimNode:
    """A node with one replica. It can be crashed, paused and started again."""

    def __init__(
        self,
        name: str,
        members: Members,
        scheduler: Scheduler,
        network: Network,
        checker: Checker,
        engine_type: type[RaftEngine],
        pipeline: int,
    ) -> None:
        """`pipeline`: how many Readys may be on their way to the disk at once."""
        self.name = name
        self.disk = Disk(scheduler)
        self.clock = NodeClock(scheduler, started_ms=1_000_000 * len(checker.nodes))
        self.engine: RaftEngine | None = None
        self.paused = False
        self.starts = 0
        self._scheduler = scheduler
        self._network = network
        self._checker = checker
        self._engine_type = engine_type
        self._pipeline = pipeline
        self._turn_due = False
        self._under_way: deque[tuple[Ready, list[bool]]] = deque()
        self._waiting: list[Callable[[], None]] = []  # what a pause holds up
        self._proposed: dict[int, int] = {}  # index: term
        state = State(0, 0, 0, members)
        self.disk.write({"base": (0, 0), "last": 0, "hard": HardState(0, ""), "state": state})
        self.disk.sync_now()

    @property
    def state(self) -> State:
        """The state machine."""
        return self.disk.rows["state"]

    @property
    def log(self) -> DiskLog:
        """The log."""
        return DiskLog(self.disk)

    def start(self) -> None:
        """Start from what is on the disk."""
        self.starts += 1
        state = self.state
        self.engine = self._engine_type(
            name=self.name,
            members=state.members,
            log=self.log,
            hard_state=self.disk.rows["hard"],
            applied=state.applied,
            clock=self.clock,
            random=NodeRandom(f"{self.name}/{self.starts}/{self._checker.seed}"),
            timing=Timing(heartbeat_ms=100, election_ms_min=400, election_ms_max=800),
        )
        self._checker.started(self)
        self._network.join(self.name, self._deliver)
        self._tick(self.starts)

    def crash(self, keep: int) -> None:
        """Lose the process, and all but the first `keep` unsynced batches of the disk."""
        self.engine = None
        self.paused = False
        self._network.leave(self.name)
        self._network.resume(self.name)
        self._waiting.clear()
        self._under_way.clear()
        self._proposed.clear()
        self.disk.crash(keep)

    def pause(self) -> None:
        """Stand still, as after SIGSTOP."""
        self.paused = True
        self._network.pause(self.name)

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()
        self._network.resume(self.name)

    # ------------------------------------------------------------------ what clients do

    def propose(self, data: bytes) -> None:
        """Propose, if this node thinks it leads."""
        if self.engine is None or self.paused or not self.engine.is_leader:
            return
        try:
            index, term = self.engine.propose(data)
        except (NotLeader, Overloaded):
            return
        self._proposed[index] = term
        self.wake()

    def read(self) -> None:
        """Ask for a linearizable read."""
        if self.engine is None or self.paused or not self.engine.is_leader:
            return
        floor = self._checker.acknowledged
        self.engine.read_barrier(lambda index: self._checker.read(self.name, floor, index))
        self.wake()

    def say_term(self) -> tuple[int, int] | None:
        """The term this node is in, and what was acknowledged when it said so."""
        if self.engine is None or self.paused:
            return None
        return self.engine.term, self._checker.acknowledged

    def read_by_word(self, peer: str, term: int, floor: int) -> None:
        """Read by what a peer said some time ago, if this node thinks it leads."""
        if self.engine is None or self.paused or not self.engine.is_leader:
            return
        index = self.engine.confirmed_by(peer, term)
        if index is not None:
            self._checker.reads_by_word += 1
            self._checker.read(self.name, floor, index)

    def compact(self, keep: int) -> None:
        """Forget log entries whose effect is in the state, but for the last `keep`."""
        base = self.disk.rows["base"][0]
        upto = self.state.applied - keep
        if self.engine is None or self.paused or upto <= base:
            return
        batch: dict[Any, Any] = {"base": (upto, self.log.term(upto))}
        batch.update(dict.fromkeys(range(base + 1, upto + 1)))
        self.disk.write(batch)

    def wake(self) -> None:
        """Have a turn soon."""
        if not self._turn_due:
            self._turn_due = True
            life = self.starts
            self._scheduler.after(0, lambda: self._guarded(life, self._turn))

    # ------------------------------------------------------------------ a turn

    def _guarded(self, life: int, call: Callable[[], None]) -> None:
        """Do `call` unless the process it belongs to is gone; a paused one does it later."""
        if life != self.starts or self.engine is None:
            self._turn_due = False
        elif self.paused:
            self._waiting.append(lambda: self._guarded(life, call))
        else:
            call()

    def _tick(self, life: int) -> None:
        if life != self.starts or self.engine is None:
            return
        if not self.paused:
            self.engine.tick()
            self._turn()
        self._scheduler.after(TICK_US, lambda: self._tick(life))

    def _deliver(self, peer: str, message: Any) -> None:
        engine = self.engine
        if engine is None:
            return
        if isinstance(message, bytes):
            engine.receive(peer, message)
        elif isinstance(message, Snapshot):
            self._install(peer, message.state)
        else:
            engine.snapshot_sent(peer, message.index)
        self._checker.stepped(self)
        self.wake()

    def _turn(self) -> None:
        self._turn_due = False
        engine = self.engine
        assert engine is not None
        while len(self._under_way) < self._pipeline:
            ready = engine.ready()
            self._checker.stepped(self)
            if ready is None:
                break
            self._perform(ready)
        self._apply()

    def _perform(self, ready: Ready) -> None:
        for message in ready.messages:
            self._network.send(self.name, message.peer, message.data)
        for peer in ready.snapshots_needed:
            self._send_snapshot(peer)
        done = [False]
        self._under_way.append((ready, done))
        life = self.starts

        def synced() -> None:
            done[0] = True
            self._finish()

        if ready.entries or ready.hard_state or ready.truncate_from is not None:
            self._write(ready)
            self.disk.sync(lambda: self._guarded(life, synced))
        else:
            synced()

    def _write(self, ready: Ready) -> None:
        batch: dict[Any, Any] = {}
        if ready.hard_state is not None:
            batch["hard"] = ready.hard_state
        last = self.disk.rows["last"]
        if ready.truncate_from is not None:
            batch.update(dict.fromkeys(range(ready.truncate_from, last + 1)))
            last = ready.truncate_from - 1
        for entry in ready.entries:
            batch[entry.index] = entry
            last = entry.index
        batch["last"] = last
        self._checker.appended(self, ready)
        self.disk.write(batch)

    def _finish(self) -> None:
        engine = self.engine
        assert engine is not None
        while self._under_way and self._under_way[0][1][0]:
            ready, _ = self._under_way.popleft()
            engine.synced(ready)
            self._checker.stepped(self)
            for message in ready.messages_after_sync:
                self._network.send(self.name, message.peer, message.data)
        self._apply()
        self.wake()

    def _apply(self) -> None:
        engine = self.engine
        assert engine is not None
        while entries := engine.take_committed():
            self._checker.applied(self, entries)
            applied, _, digest, members = self.state
            for entry in entries:
                assert entry.index == applied + 1, f"{self.name} applies {entry} after {applied}"
                applied = entry.index
                digest = crc32(entry.data, digest)
                if sets_members(entry.data):
                    members = decode_members(entry.data)
                if self._proposed.pop(applied, 0) == entry.term:
                    self._checker.acknowledge(applied)
            self.disk.write({"state": State(applied, entries[-1].term, digest, members)})
            engine.applied(applied)

    # ------------------------------------------------------------------ snapshots

    def _send_snapshot(self, peer: str) -> None:
        self._network.send(self.name, peer, Snapshot(self.state))
        life = self.starts

        def give_up() -> None:
            assert self.engine is not None
            self.engine.snapshot_sent(peer, None)
            self.wake()

        self._scheduler.after(SNAPSHOT_TIMEOUT_US, lambda: self._guarded(life, give_up))

    def _install(self, peer: str, state: State) -> None:
        engine = self.engine
        assert engine is not None
        if self._under_way:
            life = self.starts
            self._scheduler.after(
                1_000, lambda: self._guarded(life, lambda: self._install(peer, state))
            )
            return
        if engine.snapshot_wanted(state.applied, state.term):
            self._checker.restored(self, state.applied, state.digest)
            base, last = self.disk.rows["base"][0], self.disk.rows["last"]
            batch: dict[Any, Any] = dict.fromkeys(range(base + 1, last + 1))
            batch.update(
                {"base": (state.applied, state.term), "last": state.applied, "state": state}
            )
            self.disk.write(batch)
            self.disk.sync_now()
            engine.restore(state.applied, state.term, state.members)
            self._proposed.clear()
            self._checker.stepped(self)
        self._network.send(self.name, peer, SnapshotInstalled(state.applied))
        self.wake()

"""One replica under a test's hands: its engine, clock and log, and messages as values."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from mq9cluster.cluster.engine import HardState, LogEntry, Members, Ready
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.cluster.raft_rules import Timing
from mq9cluster.cluster.raft_wire import AppendReply, RaftMessage, VoteReply, decode, encode

TIMING = Timing(heartbeat_ms=100, election_ms_min=600, election_ms_max=1200)


class FakeClock:
    """Port `Clock`, moved by hand."""

    def __init__(self) -> None:
        self.ms = 1_000

    def monotonic_ms(self) -> int:
        return self.ms

    def wall_ms(self) -> int:
        return self.ms


class FakeRandom:
    """Port `Random`, seeded."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, length: int) -> bytes:
        return self._random.randbytes(length)


class MemoryLog:
    """Port `LogReader`, over a list. `base`: what was compacted away."""

    def __init__(self, terms: Sequence[int] = (), base: tuple[int, int] = (0, 0)) -> None:
        self.base = base
        self.entries = [entry(base[0] + 1 + place, term) for place, term in enumerate(terms)]

    def first_index(self) -> int:
        return self.base[0] + 1

    def last_index(self) -> int:
        return self.base[0] + len(self.entries)

    def term(self, index: int) -> int:
        return (
            self.base[1] if index == self.base[0] else self.entries[index - self.base[0] - 1].term
        )

    def read(self, start: int, stop: int, bytes_max: int) -> Sequence[LogEntry]:
        assert start >= self.first_index()
        return self.entries[start - self.base[0] - 1 : stop - self.base[0] - 1]

    def write(self, ready: Ready) -> None:
        if ready.truncate_from is not None:
            del self.entries[ready.truncate_from - self.base[0] - 1 :]
        assert all(one.index == self.last_index() + 1 + n for n, one in enumerate(ready.entries))
        self.entries += ready.entries

    def compact(self, upto: int) -> None:
        term = self.term(upto)
        del self.entries[: upto - self.base[0]]
        self.base = (upto, term)

    def reset(self, index: int, term: int) -> None:
        self.base, self.entries = (index, term), []


class Work(NamedTuple):
    """A Ready with its messages decoded."""

    hard_state: HardState | None
    truncate_from: int | None
    entries: list[LogEntry]
    now: list[tuple[str, RaftMessage]]
    after_sync: list[tuple[str, RaftMessage]]
    snapshots: list[str]


def entry(index: int, term: int, data: bytes | None = None) -> LogEntry:
    """An entry with data that tells it from others."""
    return LogEntry(index, term, b"%d@%d" % (index, term) if data is None else data)


def entries(first: int, *terms: int) -> list[LogEntry]:
    """Entries from `first` on, of these terms."""
    return [entry(first + place, term) for place, term in enumerate(terms)]


class Replica:
    """An engine and what it stands on."""

    def __init__(
        self,
        name: str = "a",
        voters: Sequence[str] = ("a", "b", "c"),
        *,
        learners: Sequence[str] = (),
        terms: Sequence[int] = (),
        base: tuple[int, int] = (0, 0),
        applied: int | None = None,
        hard_state: HardState | None = None,
    ) -> None:
        """`terms`: of the entries on its disk, all of which are as new as its term by default."""
        self.clock = FakeClock()
        self.log = MemoryLog(terms, base)
        self.name = name
        last_term = self.log.term(self.log.last_index())
        self.engine = RaftEngine(
            name=name,
            members=Members(tuple(voters), tuple(learners)),
            log=self.log,
            hard_state=hard_state or HardState(last_term, ""),
            applied=base[0] if applied is None else applied,
            clock=self.clock,
            random=FakeRandom(7),
            timing=TIMING,
        )
        self.begun: list[Ready] = []

    def hear(self, peer: str, *messages: RaftMessage) -> None:
        """`peer` said this."""
        for message in messages:
            self.engine.receive(peer, encode(message))

    def wait(self, ms: int) -> None:
        """Time passes."""
        self.clock.ms += ms
        self.engine.tick()

    def begin(self) -> Work:
        """Take the Ready and write it, without saying that it is synced."""
        ready = self.engine.ready() or Ready(None, None, (), (), ())
        self.log.write(ready)
        if ready != Ready(None, None, (), (), ()):
            self.begun.append(ready)
        return Work(
            ready.hard_state,
            ready.truncate_from,
            list(ready.entries),
            [(message.peer, decode(message.data)) for message in ready.messages],
            [(message.peer, decode(message.data)) for message in ready.messages_after_sync],
            list(ready.snapshots_needed),
        )

    def sync(self) -> None:
        """All that was begun is on disk."""
        begun, self.begun = self.begun, []
        for ready in begun:
            self.engine.synced(ready)

    def work(self) -> Work:
        """Take the Ready, write and sync it."""
        work = self.begin()
        self.sync()
        return work

    def lead(self) -> Work:
        """Be elected by everyone, and sync the no-op; what was said on taking office."""
        self.wait(2 * TIMING.election_ms_max)
        self.work()
        others = [peer for peer in self.engine.members.voters if peer != self.name]
        for peer in others:
            self.hear(peer, VoteReply(self.engine.term + 1, granted=True, pre=True))
        self.work()
        for peer in others:
            self.hear(peer, VoteReply(self.engine.term, granted=True, pre=False))
        assert self.engine.is_leader or not others
        return self.work()

    def committed(self) -> list[LogEntry]:
        """All that is handed on, applied at once."""
        found: list[LogEntry] = []
        while some := self.engine.take_committed():
            found += some
            self.engine.applied(some[-1].index)
        return found


def ok(term: int, index: int, round_: int = 0) -> AppendReply:
    return AppendReply(term, round_, ok=True, index=index, hint_index=0, hint_term=0)


def no(term: int, index: int, hint_index: int, hint_term: int) -> AppendReply:
    return AppendReply(term, 0, ok=False, index=index, hint_index=hint_index, hint_term=hint_term)


def leader_of(voters: str = "abc", **given: object) -> Replica:
    """A leader whose no-op everyone has acknowledged."""
    leader = Replica(voters=voters, **given)
    leader.lead()
    for peer in voters[1:]:
        leader.hear(peer, ok(leader.engine.term, leader.log.last_index()))
    leader.work()
    leader.committed()
    return leader

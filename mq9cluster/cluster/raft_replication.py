"""What the leader knows of each follower's log, and what it sends next.

Owned by `raft_engine`, its only caller, which makes it anew whenever it becomes leader; reads
`RaftLog`. Flow control is per follower and of three states, as in etcd's raft:

- *probe*: the place where the logs agree is not known; one append at a time.
- *stream*: appends leave one after the other without waiting, up to a window of messages and bytes;
  to a follower that is far behind, smaller ones and few at a time, so that clients do not wait
  behind them.
- *snapshot*: the follower needs entries that are gone; silent until the caller reports on the state
  it streams.
"""

from collections import deque
from collections.abc import Collection, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from mq9cluster.cluster.raft_log import RaftLog
from mq9cluster.cluster.raft_wire import Append, AppendReply, Heartbeat

if TYPE_CHECKING:
    from mq9cluster.cluster.engine import LogEntry

APPEND_BYTES_MAX = 4 * 1024 * 1024
"""Entries of one message, or one entry: a message must not hold a stream (and with it other groups)
for long.
"""

APPEND_ENTRIES_MAX = 256
"""Entries of one message: for a follower that is far behind each is a read from disk, and the loop
stands still meanwhile (some microseconds each).
"""

INFLIGHT_MESSAGES_MAX = 256
"""Appends a follower has not answered: a turn sends one, so this is a quarter of a second at a turn
a millisecond.
"""

INFLIGHT_BYTES_MAX = 16 * 1024 * 1024
"""Their bytes: what a dead follower's outbox may hold per group."""


BEHIND_ENTRIES = 128
"""A follower that was not sent so many entries catches up: what it is sent was not just proposed,
but is read back, and nobody waits for it.
"""

CATCH_UP_BYTES_MAX = 256 * 1024
"""Entries of one message then: about a millisecond of this loop, to read, copy and hand over; and
on the other side what is written and synced at once.
"""

CATCH_UP_MESSAGES_MAX = 8
"""Not answered then: 2 MiB at each round trip. At 100 ms, on a machine that is busy to the last,
that is still more than one shard takes in there (1,000 SENDs outstanding: some 10 MB/s).
"""


class Flow(Enum):
    """How a follower is being fed."""

    PROBE = "probe"
    STREAM = "stream"
    SNAPSHOT = "snapshot"


class Send(NamedTuple):
    """A message for a follower."""

    peer: str
    message: Append | Heartbeat


class Progress:
    """One follower, by what it has answered in this term."""

    __slots__ = (
        "_bytes",
        "_inflight",
        "_sent",
        "asked",
        "flow",
        "match",
        "next",
        "overdue",
        "paused",
        "prod",
    )

    def __init__(self, next_index: int) -> None:
        self.match = 0  # everything up to here is on the follower's disk
        self.next = next_index  # the first entry to send
        self.flow = Flow.PROBE
        self.paused = False  # probe: an append is under way
        self.prod = False  # stream: ask with an empty append whether something was lost on the way
        self.asked = False  # snapshot: the caller knows
        self._inflight: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._sent = 0  # the last entry that had left when the last heartbeat was due
        self.overdue = 0  # and when the one before it was

    @property
    def inflight(self) -> int:
        """Appends with entries that were not answered."""
        return len(self._inflight)

    def behind(self, last_index: int) -> bool:
        """Whether it is being brought up to date, rather than kept so."""
        return last_index - self.next >= BEHIND_ENTRIES

    def window_open(self, last_index: int) -> bool:
        """Whether more entries may be under way."""
        if self.behind(last_index):
            return len(self._inflight) < CATCH_UP_MESSAGES_MAX
        return len(self._inflight) < INFLIGHT_MESSAGES_MAX and self._bytes < INFLIGHT_BYTES_MAX

    def may_send(self, last_index: int) -> bool:
        """Whether an append should leave now."""
        if self.flow is Flow.PROBE:
            return not self.paused
        if self.flow is Flow.SNAPSHOT:
            return False
        return self.prod or (self.next <= last_index and self.window_open(last_index))

    def sent(self, last_index: int, size: int) -> None:
        """An append with entries up to `last_index` left (next - 1: an empty one)."""
        self.prod = False
        if self.flow is Flow.PROBE:
            self.paused = True
        elif last_index >= self.next:
            self._inflight.append((last_index, size))
            self._bytes += size
            self.next = last_index + 1

    def beat(self) -> None:
        """A heartbeat is due: what had left by the one before should have been answered."""
        self.overdue, self._sent = self._sent, self.next - 1

    def accepted(self, index: int) -> bool:
        """The follower holds everything up to `index`; whether that is news."""
        news = index > self.match
        self.match = max(self.match, index)
        while self._inflight and self._inflight[0][0] <= index:
            self._bytes -= self._inflight.popleft()[1]
        if self.flow is Flow.PROBE and index >= self.match:
            self._enter(Flow.STREAM, self.match + 1)
        elif self.flow is Flow.STREAM:
            self.next = max(self.next, self.match + 1)
        return news

    def rejected(self, index: int, agree: int) -> None:
        """The follower has no matching entry at `index`; the logs may agree at `agree`. Late
        refusals are ignored.
        """
        if self.flow is Flow.STREAM:
            if index > self.match:
                self._enter(Flow.PROBE, self.match + 1)
        elif self.flow is Flow.PROBE and index == self.next - 1:
            self._enter(Flow.PROBE, max(min(index, agree + 1), self.match + 1))

    def needs_snapshot(self) -> None:
        """The entries it needs are gone."""
        self._enter(Flow.SNAPSHOT, self.next)

    def probe(self, next_index: int) -> None:
        """Start over at `next_index`."""
        self._enter(Flow.PROBE, next_index)

    def _enter(self, flow: Flow, next_index: int) -> None:
        self.flow = flow
        self.next = next_index
        self.paused = self.prod = self.asked = False
        self._inflight.clear()
        self._bytes = self._sent = self.overdue = 0


class Replication:
    """All followers of one leadership."""

    __slots__ = ("_log", "_term", "more", "peers")

    def __init__(self, log: RaftLog, term: int, peers: Collection[str]) -> None:
        self._log = log
        self._term = term
        self.more = False  # somebody could be sent more at once
        self.peers: dict[str, Progress] = {}
        self.set_peers(peers)

    def set_peers(self, peers: Collection[str]) -> None:
        """Followers come and go with the members."""
        self.peers = {
            peer: self.peers.get(peer) or Progress(self._log.last_index + 1)
            for peer in sorted(peers)
        }

    def replied(self, peer: str, reply: AppendReply) -> bool:
        """A follower of this term answered an append; whether its match rose."""
        progress = self.peers[peer]
        if not reply.ok:
            agree = self._log.newest_not_above(reply.hint_index, reply.hint_term)
            progress.rejected(reply.index, agree)
            return False
        if reply.index > self._log.last_index:
            return False  # not from this leadership's log: nothing it could prove
        news = progress.accepted(reply.index)
        if progress.flow is Flow.SNAPSHOT and progress.match >= self._log.first_index - 1:
            progress.probe(progress.match + 1)
        return news

    def alive(self, peer: str) -> None:
        """A follower answered a heartbeat: if it owes an answer for longer than from one heartbeat
        to the next, find out whether something was lost on the way.
        """
        progress = self.peers[peer]
        progress.paused = False
        if progress.flow is Flow.STREAM and progress.match < progress.overdue:
            progress.prod = True

    def beat(self) -> None:
        """A heartbeat is due."""
        for progress in self.peers.values():
            progress.beat()

    def lost(self, peer: str) -> None:
        """What was under way to `peer` is gone: send again from what it has acknowledged."""
        progress = self.peers.get(peer)
        if progress is not None and progress.flow is not Flow.SNAPSHOT:
            progress.probe(progress.match + 1)
            progress.paused = True  # until it answers a heartbeat

    def snapshot_sent(self, peer: str, index: int | None) -> None:
        """The caller's report on a state it streamed."""
        progress = self.peers.get(peer)
        if progress is None or progress.flow is not Flow.SNAPSHOT:
            return
        progress.probe(max(progress.match, index or 0) + 1)
        progress.paused = (
            index is None
        )  # the next heartbeat's answer asks again, so that failures do not spin

    def sends(self, commit: int, round_: int, *, everyone: bool) -> list[Send]:
        """What leaves now; with `everyone` each follower hears at least a heartbeat.

        That something was committed is no news worth a message of its own: nobody reads at
        followers, so they hear of it with the next entries or the next heartbeat.

        One append a follower: if there is `more`, it is for the next turn, after other groups'.
        """
        self.more = False
        found: list[Send] = []
        made: dict[int, Append] = {}  # followers that stand at the same place share one message
        for peer, progress in self.peers.items():
            append = self._next_append(progress, made, commit, round_)
            if append is not None:
                found.append(Send(peer, append))
                self.more |= progress.may_send(self._log.last_index)
                continue
            if everyone:
                known = min(commit, progress.match)
                found.append(Send(peer, Heartbeat(self._term, known, round_)))
        return found

    def snapshots_needed(self) -> list[str]:
        """Followers that need the group's state and were not named before."""
        found = [
            peer for peer, one in self.peers.items() if one.flow is Flow.SNAPSHOT and not one.asked
        ]
        for peer in found:
            self.peers[peer].asked = True
        return found

    def _next_append(
        self, progress: Progress, made: dict[int, Append], commit: int, round_: int
    ) -> Append | None:
        log = self._log
        if not progress.may_send(log.last_index):
            return None
        start = progress.next
        if start < log.first_index:
            progress.needs_snapshot()
            return None
        append = made.get(start)
        window_open = progress.window_open(log.last_index)
        if append is None or not window_open:
            entries: Sequence[LogEntry] = ()
            if window_open:  # or it is only asked whether something was lost
                stop = min(log.last_index + 1, start + APPEND_ENTRIES_MAX)
                bytes_max = APPEND_BYTES_MAX
                if progress.behind(log.last_index):
                    stop, bytes_max = start + BEHIND_ENTRIES, CATCH_UP_BYTES_MAX
                entries = log.entries(start, stop, bytes_max)
            append = Append(self._term, start - 1, log.term(start - 1), commit, round_, entries)
            if window_open:
                made[start] = append
        last = start + len(append.entries) - 1
        progress.sent(last, sum(len(entry.data) for entry in append.entries))
        return append

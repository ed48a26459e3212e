"""Raft's rules where PySyncObj's are unsafe: elections asked for in advance, votes per node,
replication, members.

Owned by `raft_engine`, which lays `Rules` over PySyncObj's class, so that the methods named like
its own take their place; calls `raft_log`, `raft_replication`, `raft_reads` and `raft_members`. The
letters A to N are the failures of the plain class (tests/regression/test_raft_failures.py).
PySyncObj is not imported here.

Every method runs at one moment: `MOMENT`, which `RaftEngine` binds on entry. What is to be sent is
left in the outbox.
"""

# PySyncObj's methods keep its names.
# ruff: noqa: N802, N803

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mq9cluster.cluster.engine import LogEntry
from mq9cluster.cluster.raft_adapters import MOMENT, Outbox
from mq9cluster.cluster.raft_log import LogConflict, RaftLog
from mq9cluster.cluster.raft_members import MembersHistory
from mq9cluster.cluster.raft_reads import ReadRounds
from mq9cluster.cluster.raft_replication import Replication
from mq9cluster.cluster.raft_wire import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    RaftMessage,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)


class Timing(NamedTuple):
    """Raft's clockwork. Idle cost rises with the heartbeat's rate, time to a new leader with the
    election timeouts.
    """

    heartbeat_ms: int = 100
    election_ms_min: int = 600  # five heartbeats: a stall of 0.4 s keeps the leader
    election_ms_max: int = 1200  # spread over as much again, so that two rarely stand at once

    @property
    def quorum_ms(self) -> int:
        """A leader steps down when a majority was silent for so long (K).

        Not before followers begin to look for another, and within two of the shortest timeouts.
        """
        return (self.election_ms_min + self.election_ms_max) // 2


FOLLOWER, CANDIDATE, LEADER = 0, 1, 2  # PySyncObj's _RAFT_STATE

PREVOTE_HEARTBEATS = 2
"""A question without an answer is asked again after so many heartbeats: it changes nothing
anywhere, so soon is fine.
"""

LOST_LEADER_HEARTBEATS = 1.5
"""Within so many heartbeats a follower stands when its leader's process is known to be gone: soon,
but spread, so that two followers rarely stand at once.
"""


class Node:
    """The shape of PySyncObj's node."""

    id: str


if TYPE_CHECKING:

    class SyncObj:
        """The part of PySyncObj's class that is called, typed."""

        def _onTick(self, timeToWait: float = 0.0) -> None: ...
        def _SyncObj__onMessageReceived(self, node: Node, message: dict[str, object]) -> None: ...
        def _SyncObj__onBecomeLeader(self) -> None: ...
        def _SyncObj__setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None: ...
        def _SyncObj__setState(self, newState: int) -> None: ...
        def _SyncObj__generateRaftTimeout(self) -> float: ...
        def transferLeadership(self, node: Node) -> None: ...  # noqa: D102

else:
    SyncObj = object  # `raft_engine` puts the real one behind these rules


class State:
    """PySyncObj's private state that is read or set here. Each name is looked for at start."""

    _SyncObj__raftState: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__votedForNodeId: str | None
    _SyncObj__raftLeader: Node | None
    _SyncObj__raftElectionDeadline: float
    _SyncObj__transferInProgress: bool
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftLastApplied: int
    _SyncObj__raftMatchIndex: dict[Node, int]
    _SyncObj__lastResponseTime: dict[Node, float]
    _SyncObj__newAppendEntriesTime: float
    _SyncObj__noopIDx: int | None
    _SyncObj__otherNodes: set[Node]
    _SyncObj__readonlyNodes: set[Node]


class Rules(State, SyncObj):
    """One replica by Raft's rules."""

    def __init__(
        self,
        name: str,
        history: MembersHistory,
        log: RaftLog,
        outbox: Outbox,
        timing: Timing,
        node: Callable[[str], Node],
    ) -> None:
        self.name = name
        self.history = history
        self.log = log
        self.out = outbox
        self.timing = timing
        self.reads = ReadRounds()
        self.replication: Replication | None = None  # while leading
        self.may_lead = True
        self.everyone = False  # all followers are due a message
        self.transfer_to = ""
        self.elections = 0
        self.term_on_disk = 0  # the newest term whose vote a crash cannot take back
        self._transfer_until = 0.0
        self._transfer_sent = False
        self._make_node = node
        self._nodes: dict[str, Node] = {}
        self._heard_at = float("-inf")  # when the leader last spoke
        self._last_beat: tuple[str, int, int] | None = None  # leader, term, round
        self._votes: set[str] = set()
        self._prevotes: set[str] = set()
        self._prevote_term = 0  # the term whose election is being asked about; 0: none
        self._prevote_until = 0.0

    # What is known

    @property
    def role(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return self._SyncObj__raftState

    @property
    def term(self) -> int:
        """The current term."""
        return self._SyncObj__raftCurrentTerm

    @property
    def leader(self) -> str:
        """The leader's name as far as known, or ""."""
        node = self._SyncObj__raftLeader
        return node.id if node else ""

    @property
    def commit(self) -> int:
        """Highest index known to be committed."""
        return self._SyncObj__raftCommitIndex

    def other_voters(self) -> tuple[str, ...]:
        """The voters but for this replica."""
        return tuple(peer for peer in self.history.current.voters if peer != self.name)

    def own_term_committed(self) -> bool:
        """Whether the leader's no-op is committed: only then is its commit index up to date."""
        opened = self._SyncObj__noopIDx
        return opened is not None and self.commit >= opened

    def due(self) -> bool:
        """Whether `_onTick` has something to do for the time alone."""
        if self.role == LEADER:
            return MOMENT.now_s > self._SyncObj__newAppendEntriesTime
        return MOMENT.now_s > self._SyncObj__raftElectionDeadline

    def node(self, name: str) -> Node:
        """PySyncObj's node of that name."""
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = self._make_node(name)
        return node

    def _leader_alive(self) -> bool:
        quiet_s = MOMENT.now_s - self._heard_at
        return self.role == LEADER or (
            bool(self.leader) and quiet_s < self.timing.election_ms_min / 1000
        )

    # PySyncObj's own methods, replaced

    def _SyncObj__connectedToAnyone(self) -> bool:
        """PySyncObj asks this when its election deadline has passed: the place for PreVote (K).

        Only when a majority says that it would vote for this replica does an election begin, and
        with it a new term.
        """
        others = self.other_voters()
        if not self.may_lead or self.name not in self.history.current.voters:
            self._SyncObj__transferInProgress = False
            return False
        self.out.forced = self._SyncObj__transferInProgress
        if self.out.forced or not others:
            return True
        if self._prevote_term == self.term + 1:
            if 2 * (len(self._prevotes) + 1) > len(others) + 1:
                self._prevote_term = 0
                return True
            if MOMENT.now_s < self._prevote_until:
                return False
        else:
            self._prevote_term = self.term + 1
            self._prevotes.clear()
        self._prevote_until = MOMENT.now_s + PREVOTE_HEARTBEATS * self.timing.heartbeat_ms / 1000
        ask = VoteRequest(
            self._prevote_term, self.log.last_index, self.log.last_term, pre=True, transfer=False
        )
        self.out.now.extend((peer, ask) for peer in others)
        return False

    def _SyncObj__setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        if term != self.term:
            self._votes.clear()
            self.out.acks.clear()  # they speak of an older term's log
        super()._SyncObj__setCurrentTerm(term, votedForNodeId)

    def _SyncObj__onBecomeLeader(self) -> None:
        if self.term_on_disk < self.term:
            return  # a group of one has won before its vote is safe; `vote_synced` comes back here
        others = (*self.other_voters(), *self.history.current.learners)
        # Before the no-op is appended: that is the first entry to send.
        self.replication = Replication(self.log, self.term, others)
        self.elections += 1
        super()._SyncObj__onBecomeLeader()

    def _SyncObj__sendAppendEntries(self) -> None:
        """A heartbeat is due. `RaftEngine.ready` puts together what leaves, once a turn (M)."""
        self._SyncObj__newAppendEntriesTime = MOMENT.now_s + self.timing.heartbeat_ms / 1000
        self.everyone = True

    def _SyncObj__applyLogEntries(self) -> bool:
        """The caller applies, through `take_committed`: an error there is its own to handle (I)."""
        return False

    def _checkCommandsToApply(self) -> None:
        """Commands come through `RaftEngine.propose`; there is no queue."""

    def _SyncObj__tryLogCompaction(self) -> None:
        """The caller compacts, by what is durably applied; there are no dumps (D, N)."""

    def role_changed(self, old: int, new: int) -> None:
        """PySyncObj's callback."""
        if old == LEADER and new != LEADER:
            self.replication = None
            self.transfer_to = ""
            self._put_off_election()
            self.reads.lose()

    def _put_off_election(self) -> None:
        timeout_s = self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftElectionDeadline = MOMENT.now_s + timeout_s

    # What comes in

    def handle(self, peer: str, message: RaftMessage) -> None:
        """Take a message of `peer`."""
        handler: Callable[[str, Any], None] = getattr(self, HANDLERS[type(message)])
        handler(peer, message)

    def on_vote_request(self, peer: str, ask: VoteRequest) -> None:
        """Somebody stands for election, or asks whether to."""
        if ask.pre:
            own = self.log.last_term, self.log.last_index
            up_to_date = (ask.last_term, ask.last_index) >= own
            granted = ask.term > self.term and up_to_date and not self._leader_alive()
            reply = VoteReply(ask.term if granted else self.term, granted, pre=True)
            self.out.now.append((peer, reply))
            return
        if ask.term > self.term and not ask.transfer and self._leader_alive():
            return  # a leader that others hear is not deposed by one that does not (K)
        if self.term == ask.term and self._SyncObj__votedForNodeId == peer:  # the answer was lost
            self.out.after_sync.append((peer, VoteReply(ask.term, granted=True, pre=False)))
            return
        fields = {"type": "request_vote", "term": ask.term}
        places = {"last_log_term": ask.last_term, "last_log_index": ask.last_index}
        self._SyncObj__onMessageReceived(self.node(peer), {**fields, **places})
        if self._SyncObj__votedForNodeId != peer:
            self.out.now.append((peer, VoteReply(self.term, granted=False, pre=False)))

    def on_vote_reply(self, peer: str, reply: VoteReply) -> None:
        """A voter answered."""
        if not reply.granted:
            self._adopt(reply.term)
        elif peer not in self.history.current.voters:
            return
        elif reply.pre:
            if reply.term == self._prevote_term:
                self._prevotes.add(peer)
        elif reply.term == self.term and peer not in self._votes:  # G: a vote counts once
            self._votes.add(peer)
            self._SyncObj__onMessageReceived(
                self.node(peer), {"type": "response_vote", "term": reply.term}
            )

    def on_append(self, peer: str, append: Append) -> None:
        """The leader's log goes on."""
        if not self._follow(peer, append.term):
            self._refuse(peer, append, 0, 0)  # K: a leader that was deposed must learn it
            return
        prev_index, entries = append.prev_index, append.entries
        if prev_index < self.commit:  # what is committed is the same everywhere
            entries = entries[self.commit - prev_index :]
            prev_index = min(self.commit, prev_index + len(append.entries))
        elif not self.log.holds(prev_index, append.prev_term):
            hint = self.log.newest_not_above(prev_index, append.prev_term)
            self._refuse(peer, append, hint, self.log.term(hint))
            return
        self._accept(entries)
        verified = prev_index + len(entries)
        self.commit_up_to(min(append.commit, verified))  # A: only what this message has verified
        self._acknowledge(peer, append.round, verified)

    def _refuse(self, peer: str, append: Append, hint_index: int, hint_term: int) -> None:
        reply = AppendReply(
            self.term,
            append.round,
            ok=False,
            index=append.prev_index,
            hint_index=hint_index,
            hint_term=hint_term,
        )
        self.out.now.append((peer, reply))

    def _acknowledge(self, peer: str, round_: int, index: int) -> None:
        """The log equals the leader's up to `index`: said once a turn, when it is on disk (C)."""
        earlier = self.out.acks.get(peer)
        if earlier is not None:
            round_, index = max(round_, earlier.round), max(index, earlier.index)
        self.out.acks[peer] = AppendReply(
            self.term, round_, ok=True, index=index, hint_index=0, hint_term=0
        )

    def _accept(self, entries: Sequence[LogEntry]) -> None:
        fresh = self.log.last_index + 1
        replaced = self.log.accept(entries, self.commit)
        changed = False
        if replaced is not None:
            fresh = replaced
            changed = self.history.truncate(replaced)
        for entry in entries:
            if entry.index >= fresh:
                changed |= self.history.append(entry)
        if changed:
            self.members_changed()

    def on_append_reply(self, peer: str, reply: AppendReply) -> None:
        """A follower took entries, or could not."""
        if self._answered(peer, reply.term, reply.round) and self.replication:
            node = self.node(peer)
            if self.replication.replied(peer, reply):
                self._SyncObj__raftMatchIndex[node] = self.replication.peers[peer].match

    def on_heartbeat(self, peer: str, heartbeat: Heartbeat) -> None:
        """The leader is there. To a heartbeat for whose answer no reads wait, which would be in a
        new round, it can wait for company: a leader acts on the lack of many, and idle nodes write
        half the frames.
        """
        followed = self._follow(peer, heartbeat.term)
        if followed:
            self.commit_up_to(min(heartbeat.commit, self.log.last_index))
        beat = (peer, heartbeat.term, heartbeat.round) if followed else None
        answers = self.out.patient if beat and beat == self._last_beat else self.out.now
        answers.append((peer, HeartbeatReply(self.term, heartbeat.round)))
        self._last_beat = beat

    def on_heartbeat_reply(self, peer: str, reply: HeartbeatReply) -> None:
        """A follower is there."""
        if self._answered(peer, reply.term, reply.round) and self.replication:
            self.replication.alive(peer)

    def on_timeout_now(self, peer: str, order: TimeoutNow) -> None:
        """The leader wants this replica to lead."""
        if order.term == self.term and self.may_lead and self.name in self.history.current.voters:
            self._SyncObj__onMessageReceived(
                self.node(peer), {"type": "timeout_now", "term": order.term}
            )

    # Steps

    def settle(self) -> None:
        """Let PySyncObj do what is due: stand for election, commit, step down, note a heartbeat."""
        self._onTick(0.0)
        if self.transfer_to:
            self._go_on_with_transfer()

    def vote_synced(self, term: int) -> None:
        """The vote of `term` is on disk."""
        self.term_on_disk = term
        if self.role == CANDIDATE and term == self.term and not self.other_voters():
            self._SyncObj__onBecomeLeader()

    def peer_lost(self, peer: str) -> None:
        """The connection to `peer` broke: what was under way is gone, and if it led, it may be."""
        self._last_beat = None
        if self.replication is not None:
            self.replication.lost(peer)
        elif self.leader == peer:
            self._heard_at = float("-inf")
            soon_s = MOMENT.random() * LOST_LEADER_HEARTBEATS * self.timing.heartbeat_ms / 1000
            self._SyncObj__raftElectionDeadline = min(
                self._SyncObj__raftElectionDeadline, MOMENT.now_s + soon_s
            )

    def begin_transfer(self, peer: str) -> None:
        """Hand over to `peer` as soon as it has everything; give up after an election timeout."""
        self.transfer_to = peer
        self._transfer_sent = False
        self._transfer_until = MOMENT.now_s + self.timing.election_ms_max / 1000

    def _go_on_with_transfer(self) -> None:
        node = self.node(self.transfer_to)
        if MOMENT.now_s >= self._transfer_until or node not in self._SyncObj__otherNodes:
            self.transfer_to = ""
        elif not self._transfer_sent and self._SyncObj__raftMatchIndex[node] == self.log.last_index:
            self._transfer_sent = True
            self.transferLeadership(node)

    def members_changed(self) -> None:
        """Tell PySyncObj and the replication who takes part now."""
        members = self.history.current
        self._SyncObj__otherNodes = {self.node(peer) for peer in self.other_voters()}
        self._SyncObj__readonlyNodes = {
            self.node(peer) for peer in members.learners if peer != self.name
        }
        if self.replication is None:
            return
        peers = (*self.other_voters(), *members.learners)
        self.replication.set_peers(peers)
        for peer in peers:
            node = self.node(peer)
            self._SyncObj__raftMatchIndex[node] = self.replication.peers[peer].match
            self._SyncObj__lastResponseTime.setdefault(node, MOMENT.now_s)
        for node in set(self._SyncObj__lastResponseTime) - {self.node(peer) for peer in peers}:
            del self._SyncObj__lastResponseTime[node]

    def restored(self, index: int) -> None:
        """The state stands at `index` now, and the log begins behind it."""
        self.commit_up_to(index)
        self.members_changed()
        if self.leader and self.role == FOLLOWER:
            self._acknowledge(self.leader, 0, index)

    def commit_up_to(self, index: int) -> None:
        """Entries up to `index`, all here, are known to be committed."""
        self._SyncObj__raftCommitIndex = max(self.commit, index)

    def _adopt(self, term: int) -> None:
        """Somebody is in a later term: be a follower in it."""
        if term > self.term:
            self._SyncObj__setCurrentTerm(term, None)
            self._SyncObj__raftLeader = None
            self._SyncObj__setState(FOLLOWER)

    def _follow(self, peer: str, term: int) -> bool:
        """A leader of `term` spoke; False if it is one of the past."""
        if term < self.term:
            return False
        if self.role == LEADER and term == self.term:
            raise LogConflict(f"{peer} leads term {term}, as does {self.name}")
        self._adopt(term)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = self.node(peer)
        self._heard_at = MOMENT.now_s
        self._prevote_term = 0
        if not self._SyncObj__transferInProgress:  # a leader must not put off what it asked for
            self._put_off_election()
        return True

    def _answered(self, peer: str, term: int, round_: int) -> bool:
        """A follower answered; False if not in this leadership (J)."""
        self._adopt(term)
        if term != self.term or self.replication is None or peer not in self.replication.peers:
            return False
        self._SyncObj__lastResponseTime[self.node(peer)] = MOMENT.now_s
        self.reads.heard(peer, round_)
        return True


HANDLERS: dict[type[RaftMessage], str] = {
    VoteRequest: "on_vote_request",
    VoteReply: "on_vote_reply",
    Append: "on_append",
    AppendReply: "on_append_reply",
    Heartbeat: "on_heartbeat",
    HeartbeatReply: "on_heartbeat_reply",
    TimeoutNow: "on_timeout_now",
}

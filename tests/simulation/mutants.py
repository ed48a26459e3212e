"""Engines deliberately broken, most as the plain class is, to show that the simulation notices.

Those with a letter stand for a failure of docs/adr/0010-pysyncobj-as-raft-core.md: one cure is
undone.
`whole_mutants` breaks what is around the engines.
"""

from collections.abc import Callable
from typing import Any

from mq9cluster.cluster.engine import HardState, LogEntry, Members, Ready
from mq9cluster.cluster.raft_engine import Core, RaftEngine
from mq9cluster.cluster.raft_members import encode_members
from mq9cluster.cluster.raft_rules import LEADER
from mq9cluster.cluster.raft_wire import Append, VoteReply, VoteRequest


class _CommitsUnverified(Core):
    def on_append(self, peer: str, append: Append) -> None:
        super().on_append(peer, append)
        if append.term == self.term:
            self.commit_up_to(min(append.commit, self.log.last_index))


class CommitsUnverified(RaftEngine):
    """A: a follower commits by its own log's length, whatever the leader's message has verified."""

    core_type = _CommitsUnverified


class _Shortens(Core):
    def on_append(self, peer: str, append: Append) -> None:
        place = append.prev_index
        open_ = append.term >= self.term and self.commit <= place < self.log.last_index
        if open_ and self.log.holds(place, append.prev_term):
            self.log._truncate(place + 1)
        super().on_append(peer, append)


class Shortens(RaftEngine):
    """B: an append replaces everything behind its place, though it is only late or doubled."""

    core_type = _Shortens


class AnswersUnsynced(RaftEngine):
    """C: votes and acknowledgements leave before the disk has what they speak of."""

    def ready(self) -> Ready | None:
        """Everything at once."""
        ready = super().ready()
        if ready is None:
            return None
        eager = ready._replace(
            messages=(*ready.messages, *ready.messages_after_sync), messages_after_sync=()
        )
        _, last_index, conflicts = self._outstanding.pop()
        self._outstanding.append((eager, last_index, conflicts))
        return eager


class TrustsItsLog(RaftEngine):
    """E: after a restart everything in the log counts as committed."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._core.commit_up_to(self._log.last_index)


class _CountsVotes(Core):
    def on_vote_reply(self, peer: str, reply: VoteReply) -> None:
        self._votes.clear()
        super().on_vote_reply(peer, reply)


class CountsVotes(RaftEngine):
    """G: votes are counted, not collected by voter."""

    core_type = _CountsVotes


class ReadsAlone(RaftEngine):
    """K: a read is answered without asking anyone whether this is still the leader."""

    def read_barrier(self, done: Callable[[int | None], None]) -> None:
        """At once."""
        done(self.commit_index)


class BelievesAnyWord(RaftEngine):
    """A read is answered by a peer's word, whatever term that is in."""

    def confirmed_by(self, peer: str, term: int) -> int | None:
        """As if it were in ours."""
        return super().confirmed_by(peer, self.term)


class _TakesHalf(Core):
    needed = 0  # how many fewer than a majority

    def settle(self) -> None:
        super().settle()
        if self.role == LEADER and self.replication is not None:
            matches = [peer.match for peer in self.replication.peers.values()]
            matches = sorted([self.log.synced_index, *matches], reverse=True)
            self.count(matches, len(matches) // 2)

    def count(self, matches: list[int], others: int) -> None:
        index = matches[max(0, others - 1)]
        if index > self.commit and self.log.term(index) == self.term:
            self.commit_up_to(index)


class TakesHalf(RaftEngine):
    """Half of the replicas are a majority."""

    core_type = _TakesHalf


class _CountsOlderTerms(_TakesHalf):
    def count(self, matches: list[int], others: int) -> None:
        if matches[others] > self.commit:
            self.commit_up_to(matches[others])


class CountsOlderTerms(RaftEngine):
    """An entry of an earlier term is committed by being on a majority."""

    core_type = _CountsOlderTerms


class ForgetsVotes(RaftEngine):
    """The term is written down, the vote is not."""

    def ready(self) -> Ready | None:
        """Without the vote."""
        ready = super().ready()
        if ready is None or ready.hard_state is None:
            return ready
        forgetful = ready._replace(hard_state=HardState(ready.hard_state.term, ""))
        _, last_index, conflicts = self._outstanding.pop()
        self._outstanding.append((forgetful, last_index, conflicts))
        return forgetful


class _TakesAnyTermsReply(Core):
    def _answered(self, peer: str, term: int, round_: int) -> bool:
        return super()._answered(peer, max(term, self.term) if term <= self.term else term, round_)


class TakesAnyTermsReply(RaftEngine):
    """J: an answer of an earlier term counts in this one."""

    core_type = _TakesAnyTermsReply


class _VotesForAnybody(Core):
    def on_vote_request(self, peer: str, ask: VoteRequest) -> None:
        super().on_vote_request(peer, ask._replace(last_term=10**6))


class VotesForAnybody(RaftEngine):
    """A vote is given whatever the candidate's log lacks."""

    core_type = _VotesForAnybody


class ChangesMembersAtOnce(RaftEngine):
    """H: a change of members while the one before is open, of any size."""

    def propose_members(self, members: Members) -> tuple[int, int]:
        """At once."""
        self._must_lead()
        core = self._core
        self._enter()
        index, term = self._append(encode_members(members))
        core.history.append(LogEntry(index, term, encode_members(members)))
        core.members_changed()
        return index, term


MUTANTS: dict[str, type[RaftEngine]] = {
    "A": CommitsUnverified,
    "B": Shortens,
    "C": AnswersUnsynced,
    "E": TrustsItsLog,
    "G": CountsVotes,
    "H": ChangesMembersAtOnce,
    "J": TakesAnyTermsReply,
    "K": ReadsAlone,
    "any word is believed": BelievesAnyWord,
    "half is a majority": TakesHalf,
    "older terms are counted": CountsOlderTerms,
    "votes are forgotten": ForgetsVotes,
    "votes for anybody": VotesForAnybody,
}

"""Engines deliberately broken as the plain class is, to show that the simulation would notice.

Each stands for a failure of docs/adr/0010-pysyncobj-as-raft-core.md and undoes one cure.
"""

from collections.abc import Callable
from typing import Any

from mq9cluster.cluster.engine import Ready
from mq9cluster.cluster.raft_engine import Core, RaftEngine
from mq9cluster.cluster.raft_wire import Append, VoteReply


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


MUTANTS: dict[str, type[RaftEngine]] = {
    "A": CommitsUnverified,
    "B": Shortens,
    "C": AnswersUnsynced,
    "E": TrustsItsLog,
    "G": CountsVotes,
    "K": ReadsAlone,
}

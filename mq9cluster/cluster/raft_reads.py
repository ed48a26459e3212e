"""Linearizable reads without a log entry: ReadIndex, batched (Ongaro's thesis, 6.4).

Owned by `raft_engine`, its only caller; calls back the readers. All reads that wait when the leader
prepares its messages share one *round*, a number every message of the leader carries and every
answer repeats. A round is opened only when the leader has committed an entry of its own term, and
notes the commit index of that moment. Once a majority has repeated the number, nobody else had been
elected when the round was opened, and the index is good for all reads of the round.

There is no leader lease: a lease stands on a bound for clock drift and pauses, and nobody vouches
for one in a container. A round costs one round trip of messages that never wait for a disk.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import NamedTuple

Reader = Callable[[int | None], None]


class Round(NamedTuple):
    """Reads that were let in together."""

    number: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    readers: list[Reader]


class ReadRounds:
    """The reads of one leader."""

    __slots__ = ("_heard", "_open", "_waiting", "number")

    def __init__(self) -> None:
        self.number = 0  # of the newest round; never falls, or old answers would confirm new rounds
        self._waiting: list[Reader] = []
        self._open: deque[Round] = deque()
        self._heard: dict[str, int] = {}

    @property
    def waiting(self) -> bool:
        """Whether reads wait for a round to be opened."""
        return bool(self._waiting)

    def ask(self, reader: Reader) -> None:
        """Let `reader` into the next round."""
        self._waiting.append(reader)

    def open_round(self, commit_index: int) -> None:
        """Open a round for all that wait."""
        self.number += 1
        self._open.append(Round(self.number, commit_index, self._waiting))
        self._waiting = []

    def heard(self, peer: str, number: int) -> None:
        """`peer` repeated `number` in this leader's term."""
        if number <= self.number:
            self._heard[peer] = max(self._heard.get(peer, 0), number)

    def confirm(self, other_voters: Collection[str], own_vote: int = 1) -> None:
        """Answer the rounds that a majority has confirmed."""
        majority = (len(other_voters) + 1) // 2 + 1
        while self._open:
            oldest = self._open[0]
            votes = own_vote + sum(
                self._heard.get(peer, 0) >= oldest.number for peer in other_voters
            )
            if votes < majority:
                return
            self._open.popleft()
            for reader in oldest.readers:
                reader(oldest.index)

    def lose(self) -> None:
        """Leadership is gone: no read can be let in any more."""
        lost = [reader for one in self._open for reader in one.readers] + self._waiting
        self._open.clear()
        self._waiting = []
        self._heard.clear()
        for reader in lost:
            reader(None)

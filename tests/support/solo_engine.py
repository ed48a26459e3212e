"""The engine port for a group of one: leader from the start, and commits what is on disk.

Not a shortcut: `durability` drives it exactly as it drives Raft, and an entry commits only once its
own write is synced. Each start opens a new term with an empty entry, as Raft does, so that a log
can later be handed to Raft as it is.
"""

from collections.abc import Callable, Sequence
from typing import Final

from mq9cluster.cluster.engine import HardState, LogEntry, LogReader, Ready

REPLAY_BYTES_MAX: Final = (
    4 << 20
)  # entries handed on at once after a start: other groups get their turn between


class SoloEngine:
    """The one replica of its group. Implements `cluster.engine.Engine`."""

    def __init__(self, name: str, log: LogReader, hard_state: HardState, applied: int) -> None:
        last = log.last_index()
        self._name = name
        self._log = log
        self.term = max(hard_state.term, log.term(last)) + 1
        self.is_leader = True
        self.leader = name
        self.commit_index = last  # what a group of one has on disk, it has agreed on
        self._handed_on = applied  # of what was there at the start
        self._replay_until = last
        self._hard_state: HardState | None = HardState(self.term, name)
        self._last = last
        self._appended: list[LogEntry] = []  # not yet taken by ready()
        self._unsynced: list[LogEntry] = []  # taken, not yet on disk
        self._synced: list[LogEntry] = []  # on disk, not yet handed on
        self.propose(b"")

    def propose(self, data: bytes) -> tuple[int, int]:
        """Append an entry; its (index, term)."""
        self._last += 1
        self._appended.append(LogEntry(self._last, self.term, data))
        return self._last, self.term

    def receive(self, peer: str, data: bytes) -> None:
        """There are no peers: dropped."""

    def tick(self) -> None:
        """Nothing here depends on time."""

    def ready(self) -> Ready | None:
        """What to persist, or None; one Ready at a time is under way."""
        if self._unsynced or not (self._appended or self._hard_state):
            return None
        self._unsynced, self._appended = self._appended, []
        state, self._hard_state = self._hard_state, None
        return Ready(state, None, self._unsynced, (), ())

    def synced(self, ready: Ready) -> None:
        """What `ready` holds is on disk, and with that agreed on."""
        if self._unsynced:
            self.commit_index = self._unsynced[-1].index
            self._synced += self._unsynced
            self._unsynced = []

    def take_committed(self) -> Sequence[LogEntry]:
        """Committed entries not handed on before; after a start, first those the state has not seen
        yet.
        """
        if self._handed_on < self._replay_until:
            entries = self._log.read(self._handed_on + 1, self._replay_until + 1, REPLAY_BYTES_MAX)
            self._handed_on = entries[-1].index
            return entries
        fresh, self._synced = self._synced, []
        return fresh

    def applied(self, index: int) -> None:
        """State stands at `index`: reads that waited for it may go."""

    def read_barrier(self, done: Callable[[int | None], None]) -> None:
        """A group of one is always its own majority: what is committed now is all there is to wait
        for.
        """
        done(self.commit_index)

    def confirmed_by(self, peer: str, term: int) -> int | None:
        """There is nobody else to say anything."""
        return None

    def transfer(self, peer: str) -> None:
        """There is nobody to hand over to: stays leader."""

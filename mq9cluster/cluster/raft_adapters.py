"""What PySyncObj is given in place of the world: clock, random source, journal, transport, and
stand-ins that refuse.

Owned by `raft_engine`, the only door to PySyncObj; calls `raft_log`. PySyncObj itself is not
imported here: these have the shape it asks for. Names in camel case are its, not ours.
"""

# PySyncObj calls these by its own names, and says what they mean.
# ruff: noqa: D102, N802, N815

from typing import Any

from mq9cluster.cluster.engine import EngineRefused, HardState
from mq9cluster.cluster.raft_log import RaftLog
from mq9cluster.cluster.raft_wire import (
    AppendReply,
    RaftMessage,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from mq9cluster.domain.ports import Random


class Moment:
    """The clock and random source PySyncObj sees: bound to the engine that is being called."""

    __slots__ = ("now_s", "source")

    now_s: float
    source: Random

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_s

    def random(self) -> float:
        """Uniform in [0, 1), as `random.random`."""
        return int.from_bytes(self.source.token(6)) / 2**48


MOMENT = Moment()
"""One for the process, since PySyncObj reads clock and random source from its module: `RaftEngine`
binds it on entry.
"""


class Nothing:
    """Stands for PySyncObj's collaborators that must not act; whatever it is asked, it does
    nothing.
    """

    def __init__(self, *_: object) -> None:
        pass

    def setTimeouts(self, *_: object) -> None:
        pass

    def setPreferredAddrFamily(self, *_: object) -> None:
        pass

    def poll(self, *_: object) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class Refused:
    """Stands for modules PySyncObj must not use: any use is an error."""

    def __init__(self, name: str, **allowed: object) -> None:
        self._name = name
        self.__dict__.update(allowed)

    def __getattr__(self, what: str) -> Any:
        raise EngineRefused(f"PySyncObj reached for {self._name}.{what}")


class Journal:
    """The log as PySyncObj wants to see it: by position, with the place before the first entry at
    0.

    PySyncObj counts itself for every entry that a slice shows, so slices show only what is on disk
    (failure C). It needs places and terms, never contents. The commit index is not kept: at start
    only what is applied counts as committed (E).
    """

    __slots__ = ("_applied", "_log", "hard_state", "unsaved")

    def __init__(self, log: RaftLog, hard_state: HardState, applied: int) -> None:
        self._log = log
        self._applied = applied
        self.hard_state = hard_state
        self.unsaved = False

    def __len__(self) -> int:
        return self._log.last_index - self._log.first_index + 2

    def __getitem__(self, item: Any) -> Any:
        log = self._log
        if item == -1:
            return b"", log.last_index, log.last_term
        base = log.first_index - 1
        if item == 0:
            return b"", base, None  # asked for its index alone: the term could cost a read
        stop = min(base + item.stop, log.synced_index + 1)
        return [(b"", index, log.term(index)) for index in range(base + item.start, stop)]

    def add(self, _command: bytes, _index: int, term: int) -> None:
        """The no-op of a new term: nothing else comes this way."""
        self._log.append(term, b"")

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        self.hard_state = HardState(term, voted_for or "")
        self.unsaved = True

    def getCurrentTerm(self) -> int:
        return self.hard_state.term

    def getVotedForNodeId(self) -> str | None:
        return self.hard_state.voted_for or None

    def getRaftCommitIndex(self) -> int:
        return self._applied

    def setRaftCommitIndex(self, _index: int) -> None:
        pass

    def onOneSecondTimer(self) -> None:
        pass


class Outbox:
    """What is to be sent, sorted into what may leave at once and what waits for the disk."""

    ready = True

    def __init__(self) -> None:
        self.now: list[tuple[str, RaftMessage]] = []
        self.patient: list[tuple[str, RaftMessage]] = []  # nobody acts on them soon
        self.after_sync: list[tuple[str, RaftMessage]] = []
        self.acks: dict[str, AppendReply] = {}  # the newest of a turn says it all
        self.forced = False  # the leader asked for the election that is being started

    def send(self, node: Any, message: dict[str, Any]) -> None:
        """What PySyncObj sends. Its sets have no order, so votes are sorted by peer when they
        leave.
        """
        kind, term = message["type"], message["term"]
        if kind == "request_vote":
            last = message["last_log_index"], message["last_log_term"]
            self.after_sync.append(
                (node.id, VoteRequest(term, *last, pre=False, transfer=self.forced))
            )
        elif kind == "response_vote":
            self.after_sync.append((node.id, VoteReply(term, granted=True, pre=False)))
        elif kind == "timeout_now":
            self.now.append((node.id, TimeoutNow(term)))
        else:
            raise EngineRefused(f"PySyncObj sent {kind}")

    def _ignore(self, *_: object) -> None:
        """Callbacks for a transport that calls back: messages come through `RaftEngine.receive`
        alone.
        """

    setOnNodeConnectedCallback = setOnNodeDisconnectedCallback = setOnMessageReceivedCallback = (
        _ignore
    )
    setOnReadonlyNodeConnectedCallback = setOnReadonlyNodeDisconnectedCallback = _ignore
    setOnUtilityMessageCallback = _ignore

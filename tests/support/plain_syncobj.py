"""PySyncObj's class as it is, over a transport and a clock in a test's hands."""

from typing import Any

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport


class Recorder(Transport):  # type: ignore[misc]  # PySyncObj ships no types
    """Keeps what is sent; delivers what a test says."""

    ready = True

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        return True

    def addNode(self, node: Node) -> None:  # noqa: N802
        pass

    def dropNode(self, node: Node) -> None:  # noqa: N802
        pass

    def destroy(self) -> None:
        pass

    def take(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """What was sent of `kind` since the last call of whatever kind."""
        found, self.sent = [one for one in self.sent if one[1]["type"] == kind], []
        return found


class Time:
    """The clock PySyncObj sees."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s


class Plain:
    """A plain replica, connected to all its peers."""

    def __init__(
        self, time: Time, voters: str = "abc", cls: type[SyncObj] = SyncObj, **conf: Any
    ) -> None:
        self.time = time
        self.wire = Recorder()
        name, *others = voters
        settings = {"autoTick": False, "commandsWaitLeader": False, **conf}
        self.obj = cls(
            Node(name),
            [Node(peer) for peer in others],
            SyncObjConf(**settings),
            transport=self.wire,
        )
        for peer in others:
            self.wire._onNodeConnected(Node(peer))

    def hear(self, peer: str, **message: Any) -> None:
        """`peer` said this."""
        self.wire._onMessageReceived(Node(peer), message)

    def append(
        self, peer: str, term: int, prev: tuple[int, int], *terms: int, commit: int = 1
    ) -> None:
        """`peer`, leading `term`, sends entries of `terms` behind `prev`."""
        first = prev[0] + 1
        new = [(b"\x01", first + place, one) for place, one in enumerate(terms)]
        self.hear(
            peer,
            type="append_entries",
            term=term,
            commit_index=commit,
            entries=new,
            prevLogIdx=prev[0],
            prevLogTerm=prev[1],
        )

    def tick(self, seconds: float = 0.0) -> None:
        """Time passes, and the class does what is due."""
        self.time.s += seconds
        self.obj._onTick(0)

    def lead(self) -> None:
        """Be elected by everyone."""
        self.tick(10.0)
        for peer in sorted(node.id for node in self.obj.otherNodes):
            self.hear(peer, type="response_vote", term=self.obj.raftCurrentTerm)
        assert self.obj._isLeader()

    def close(self) -> None:
        """Close its files."""
        self.obj._doDestroy()

    def private(self, name: str) -> Any:
        """A private attribute of the class."""
        return getattr(self.obj, f"_SyncObj__{name}")

    @property
    def log(self) -> list[tuple[int, int]]:
        """(index, term) of its entries."""
        return [(index, term) for _, index, term in self.private("raftLog")[:]]


@pytest.fixture
def plain_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Puts the clock of the plain class into the test's hands."""
    time = Time()
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", time)
    return time

"""What is true of the cluster: its id, its nodes and their runs, which node holds which shard. One
small group on all nodes.

The first leader founds the cluster; every start of a node is a *run*, which it announces here and
which is over when the node starts anew or has been silent for longer than its lease. `cluster`
watches for changes; commands are JSON, few and small.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Protocol

import orjson

from mq9cluster.cluster.durability import Durability, Group
from mq9cluster.cluster.embedders import Announced, Embedders
from mq9cluster.cluster.engine import MEMBERS_MARK, Engine, LogEntry, Message, NotLeader
from mq9cluster.domain.errors import Overloaded
from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.ports import Family, StateView, Writes

META_GROUP: Final = 0xFFFF
FORMAT: Final = 1
RETRY_S: Final = 0.1
_ROW: Final = b"meta"
_MARK: Final = b"\x01"  # an entry never begins with MEMBERS_MARK


@dataclass(frozen=True, slots=True)
class Run:
    """A node's present run. `ended`: it is over, and another has not begun."""

    node_id: int
    incarnation: int
    listen: str
    ended: bool = False
    features: int = 1


@dataclass(slots=True)
class Meta:
    """The cluster, as of `applied_index`."""

    applied_index: int = 0
    cluster_id: str = ""
    members: list[str] = field(default_factory=list)
    shards: int = 0
    placement: list[list[str]] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    features: int = 1  # what every member understands; see features
    embedders: Embedders = field(default_factory=Embedders)

    def pack(self) -> bytes:
        """The row."""
        return orjson.dumps({"format": FORMAT, "meta": self})

    @classmethod
    def unpack(cls, row: bytes) -> "Meta":
        """The cluster a row says."""
        fields: dict[str, Any] = orjson.loads(row)["meta"]
        fields["runs"] = {name: Run(**run) for name, run in fields["runs"].items()}
        if "embedders" in fields:
            fields["embedders"] = Embedders.unpack(fields["embedders"])
        return cls(**fields)

    def alive(self) -> list[str]:
        """Members whose run goes on."""
        runs = ((name, self.runs.get(name)) for name in self.members)
        return [name for name, run in runs if run and not run.ended]

    def features_of_all(self) -> int:
        """The level that every member has reached with its newest run."""
        runs = [self.runs.get(name) for name in self.members]
        return min((run.features if run else 1 for run in runs), default=1)

    def apply(self, command: dict[str, Any]) -> None:
        """Carry out a command; one that comes too late changes nothing."""
        _WORK[command["do"]](self, command)


def _found(meta: Meta, command: dict[str, Any]) -> None:
    if not meta.cluster_id:
        meta.cluster_id = command["cluster_id"]
        meta.members = command["members"]
        meta.shards = command["shards"]
        meta.placement = command["placement"]
        meta.features = command.get("features", 1)


def _begin(meta: Meta, command: dict[str, Any]) -> None:
    known = meta.runs.get(command["name"])
    features = command.get("features", 1)
    run = Run(command["node_id"], command["incarnation"], command["listen"], features=features)
    newer = known is None or (known.node_id == run.node_id and known.incarnation < run.incarnation)
    if newer and features >= meta.features:
        meta.runs[command["name"]] = run


def _end(meta: Meta, command: dict[str, Any]) -> None:
    run = meta.runs.get(command["name"])
    if run and run.incarnation == command["incarnation"]:
        meta.runs[command["name"]] = replace(run, ended=True)
        meta.embedders.agree(meta.alive())


def _raise(meta: Meta, command: dict[str, Any]) -> None:
    if meta.features < command["features"] <= meta.features_of_all():
        meta.features = command["features"]


def _announce(meta: Meta, command: dict[str, Any]) -> None:
    if command["name"] in meta.members:
        meta.embedders.announce(command["name"], command["embedders"], meta.alive())


def _embedded(meta: Meta, command: dict[str, Any]) -> None:
    meta.embedders.embedded(command["embedder"], command["shard"], meta.shards)


_WORK: Final = {
    "found": _found,
    "begin": _begin,
    "end": _end,
    "raise": _raise,
    "announce": _announce,
    "embedded": _embedded,
}


def found(
    cluster_id: str,
    members: Sequence[str],
    shards: int,
    placement: Sequence[Sequence[str]],
    features: int = 1,
) -> bytes:
    """The command that founds the cluster; the first one counts.

    A new cluster has the founder's level: there are no nodes yet that it could be too high for.
    """
    return _command(
        do="found",
        cluster_id=cluster_id,
        members=members,
        shards=shards,
        placement=placement,
        features=features,
    )


def begin_run(name: str, run: Run, question: str = "") -> bytes:
    """The command that announces a node's run; it ends the ones before.

    Of a run that is known it changes nothing. A `question` is told when it is applied, and with it
    everything that was before it.
    """
    fields = asdict(run)
    del fields["ended"]
    return _command(do="begin", name=name, question=question, **fields)


def end_run(name: str, incarnation: int) -> bytes:
    """The command that ends a node's run."""
    return _command(do="end", name=name, incarnation=incarnation)


def raise_features(level: int) -> bytes:
    """The command that lets nodes propose what is new in this level; never taken back."""
    return _command(do="raise", features=level)


def announce_embedders(name: str, announced: Announced) -> bytes:
    """The command that says what a node can embed with."""
    return _command(do="announce", name=name, embedders=announced)


def embedded(embedder: str, shard: int) -> bytes:
    """The command that says that no agent of a shard lacks a code of an embedder to come."""
    return _command(do="embedded", embedder=embedder, shard=shard)


def _command(**fields: object) -> bytes:
    return _MARK + orjson.dumps(fields)


class State(StateView, Protocol):
    """What the replica needs of `storage.state.ShardState`."""

    def commit(self, writes: Writes) -> None:
        """Make `writes` visible, all or nothing."""


class MetaReplica:
    """This node's replica of `meta`."""

    def __init__(
        self,
        state: State,
        send: Callable[[Sequence[Message]], None],
        send_state: Callable[[Sequence[str]], None],
        changed: Callable[[], None],
    ) -> None:
        self.meta = _read(state)
        self.engine: Engine
        self.send = send
        self.send_state = send_state
        self.told: Callable[[str, str], None] = _nobody_asked  # (name, question)
        self._state = state
        self._changed = changed
        self._durability: Durability | None = None
        self._group: Group | None = None

    def start(self, engine: Engine, durability: Durability, group: Group) -> None:
        """Begin to take part; called once the group is registered."""
        self.engine, self._durability, self._group = engine, durability, group

    def wake(self) -> None:
        """Have the durability loop look at this group."""
        if self._durability and self._group:
            self._durability.wake(self._group)

    def propose(self, command: bytes) -> None:
        """As leader, have a command applied: commands may be repeated, so nobody is told.

        Raises NotLeader, Overloaded.
        """
        self.engine.propose(command)
        self.wake()

    # --- the durability loop's callbacks ---------------------------------------------------------

    def prepare(self) -> None:
        """Nothing gathers here."""

    @failpoint("meta.apply")
    def on_committed(self, entries: Sequence[LogEntry]) -> None:
        """Apply entries, in order."""
        for entry in entries:
            if entry.data and entry.data[0] != MEMBERS_MARK:
                self._apply(orjson.loads(entry.data[1:]))
            self.meta.applied_index = entry.index
            writes = Writes()
            writes.rows[Family.SHARDS][_ROW] = self.meta.pack()
            self._state.commit(writes)
        self._changed()

    def _apply(self, command: dict[str, Any]) -> None:
        self.meta.apply(command)
        if question := command.get("question"):
            self.told(command["name"], question)

    # --- another state, from the leader ----------------------------------------------------------

    def flush(self) -> None:
        """Its rows say everything."""

    @staticmethod
    def place_of(state: State) -> int:
        """The last entry that is in `state`."""
        return _read(state).applied_index

    def restore(self, state: State) -> None:
        """Go on from another state."""
        self._state = state
        self.meta = _read(state)
        self._changed()


def _nobody_asked(name: str, question: str) -> None:
    """Before there are runs."""


def _read(state: StateView) -> Meta:
    row = state.get(Family.SHARDS, _ROW)
    return Meta.unpack(row) if row else Meta()


async def propose_until(
    replica: MetaReplica,
    forward: Callable[[bytes], None],
    command: bytes,
    holds: Callable[[Meta], bool],
) -> None:
    """Propose, here or through `forward` at the leader, until what the command is for holds."""
    while not holds(replica.meta):
        try:
            replica.propose(command)
        except NotLeader:
            forward(command)
        except Overloaded:
            pass
        await asyncio.sleep(RETRY_S)

"""The machine: one shard's state, changed only by applying committed entries in order.

Called by the shard's group (cluster/shards.py) for every committed entry, on every replica alike.
It returns what to write and what each command came to; the caller writes both state and applied
index in one batch before it applies the next entry or answers anybody.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mq9cluster.domain.command import (
    AckMessages,
    Command,
    CreateMailbox,
    DeleteMessage,
    DropEmbedder,
    EndConnection,
    EndIncarnation,
    Expire,
    FetchMessages,
    NackMessage,
    RegisterAgent,
    ReportAgent,
    ReportAgents,
    SendMessage,
    SetAgentCode,
    UnregisterAgent,
    UnregisterAgents,
)
from mq9cluster.domain.errors import Mq9Error
from mq9cluster.domain.outcome import Done, Outcome, refused
from mq9cluster.domain.ports import StateView, Writes
from mq9cluster.domain.registry import Changes
from mq9cluster.machine import consumer_group, due, ends, registry
from mq9cluster.machine import mailbox as mailboxes
from mq9cluster.machine.codec import is_plain_send, open_parcel
from mq9cluster.machine.plain_report import note_reports
from mq9cluster.machine.plain_send import PlainSends
from mq9cluster.machine.sessions import Sessions
from mq9cluster.machine.unwritten import recall
from mq9cluster.machine.workspace import Workspace


class Applied(NamedTuple):
    """What one entry came to.

    `changed` names mailboxes in which something may have become readable; `agents` is what
    happened to the registry, in order.
    """

    writes: Writes
    outcomes: list[Outcome]
    changed: set[bytes]
    agents: Changes


class AppliedParcels(NamedTuple):
    """The same for an entry as it stands in the log: outcomes by parcel."""

    writes: Writes
    outcomes: list[list[Outcome]]
    changed: set[bytes]
    agents: Changes


class Machine:
    """One shard's state machine over a view of its committed rows."""

    def __init__(self, view: StateView, shards: int = 1) -> None:
        """One of so many shards."""
        self.workspace = Workspace(view, shards)
        self._sessions = Sessions(self.workspace)

    @property
    def applied_index(self) -> int:
        """The last entry that is in the state."""
        return self.workspace.shard.applied_index

    @property
    def now_ms(self) -> int:
        """Shard time, Unix ms: the stamp of the last entry."""
        return self.workspace.shard.now_ms

    @property
    def next_due_ms(self) -> int:
        """When to propose Expire if nothing else comes; may be too early, never too late."""
        return self.workspace.next_due_ms

    def ended_run(self, node: int) -> int:
        """The last run of `node` that was ended here; 0 for none."""
        return self.workspace.ended_run(node)

    @property
    def heard_from(self) -> int:
        """The first applied entry of which the log alone says some heartbeats; 0 for none."""
        return self.workspace.shard.heard_from

    @property
    def needed_from(self) -> int:
        """The first applied entry that the log must keep; 0 for none."""
        return self.workspace.needed_from

    def recall(self, entries: Iterable[tuple[int, bytes]]) -> None:
        """Before anything else, where `heard_from` is not 0: entries from there to the applied
        one, as (index, data); those that are not the machine's without data.
        """
        recall(self.workspace, entries)

    def flush(self) -> Writes:
        """Between two entries: what the rows do not say yet, to be written."""
        return self.workspace.flush()

    def apply(self, index: int, stamp_ms: int, commands: Sequence[Command]) -> Applied:
        """Apply entry `index` of the log. An entry that is in the state already changes nothing."""
        ws = self.workspace
        if index <= ws.shard.applied_index:
            return Applied(Writes(), [], set(), [])
        ws.begin(index, stamp_ms)
        due.run(ws)
        outcomes = self._carry_out(commands)
        return Applied(ws.finish(), outcomes, ws.changed, ws.agents)

    def apply_parcels(self, index: int, stamp_ms: int, parcels: Sequence[bytes]) -> AppliedParcels:
        """Apply entry `index` as it stands in the log.

        A parcel seen before is answered, not applied.
        """
        ws = self.workspace
        if index <= ws.shard.applied_index:
            return AppliedParcels(Writes(), [], set(), [])
        ws.begin(index, stamp_ms)
        due.run(ws)
        outcomes: list[list[Outcome]] = []
        for data in parcels:
            parcel, commands = open_parcel(data)
            known = self._sessions.known(parcel, len(commands))
            if known is None:
                known = self._carry_out(commands)
                self._sessions.keep(parcel, known)
            else:
                ws.unwritten.write_all = True
            outcomes.append(known)
        return AppliedParcels(ws.finish(sum(map(len, parcels))), outcomes, ws.changed, ws.agents)

    def _carry_out(self, commands: Sequence[Command | bytes]) -> list[Outcome]:
        """Carry out commands; those that are bytes are plain SENDs and REPORTs by name."""
        ws = self.workspace
        plain = PlainSends(ws)
        outcomes: list[Outcome] = []
        at, end = 0, len(commands)
        while at < end:
            command = commands[at]
            if isinstance(command, bytes) and not is_plain_send(command):
                at = note_reports(ws, commands, at, outcomes)
                continue
            at += 1
            if isinstance(command, bytes):
                outcomes.append(plain.store(command))
                continue
            plain.forget()
            try:
                outcomes.append(_WORK[type(command)](ws, command))
            except Mq9Error as refusal:
                outcomes.append(refused(refusal))
        return outcomes


def _end_connection(ws: Workspace, command: EndConnection) -> Done:
    return ends.end_connection(ws, command.owner)


def _end_incarnation(ws: Workspace, command: EndIncarnation) -> Done:
    return ends.end_incarnation(ws, command.node, command.incarnation)


def _expire(_: Workspace, __: Expire) -> Done:
    return Done()


_WORK: dict[type, Callable[[Workspace, Any], Outcome]] = {
    CreateMailbox: mailboxes.create,
    SendMessage: mailboxes.send,
    DeleteMessage: mailboxes.delete,
    FetchMessages: consumer_group.fetch,
    AckMessages: consumer_group.ack,
    NackMessage: consumer_group.nack,
    RegisterAgent: registry.register,
    UnregisterAgent: registry.unregister,
    ReportAgent: registry.report,
    UnregisterAgents: registry.unregister_all,
    ReportAgents: registry.report_all,
    SetAgentCode: registry.set_code,
    DropEmbedder: registry.drop_embedder,
    EndConnection: _end_connection,
    EndIncarnation: _end_incarnation,
    Expire: _expire,
}

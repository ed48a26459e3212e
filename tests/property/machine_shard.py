"""The machine over rows in memory, behind the same calls as the model."""

from collections.abc import Iterable, Iterator, Sequence

from mq9cluster.domain import command as c
from mq9cluster.domain import errors, limits, outcome
from mq9cluster.domain.message import Message
from mq9cluster.domain.ports import Writes
from mq9cluster.domain.read import Browse, Follow, Query
from mq9cluster.domain.registry import AgentFound, AgentRow, Changes
from mq9cluster.machine import agents_read, reads
from mq9cluster.machine.apply import Machine
from mq9cluster.machine.codec import (
    PARCEL_OF_NOBODY,
    decode_entry,
    encode_command,
    encode_entry,
    encode_parcel,
)
from tests.property.agents_model import Follower, Known
from tests.property.memory_view import MemoryView


class MachineShard:
    """One replica: its rows, its machine, and the index of the last entry."""

    def __init__(
        self,
        store: MemoryView | None = None,
        log: list[bytes] | None = None,
        *,
        shards: int = 1,
    ) -> None:
        self.shards = shards
        self.store = store or MemoryView()
        self.log = log or []  # entries, from 1 on
        self.machine = Machine(self.store, self.shards)
        self._recall()
        self.index = self.machine.applied_index
        self.writes = Writes()  # of the last entry
        self.changed: set[bytes] = set()  # likewise
        self.changes: Changes = []  # likewise, of agents
        self.follower = Follower(self.all_agents())

    def restart(self) -> None:
        """Start anew from the rows, and what the log says beyond them."""
        self.machine = Machine(self.store, self.shards)
        self._recall()

    def _recall(self) -> None:
        start, end = self.machine.heard_from, self.machine.applied_index
        if start:
            self.machine.recall([(at, self.log[at - 1]) for at in range(start, end + 1)])
        for index in range(end + 1, len(self.log) + 1):
            self.store.write(
                self.machine.apply_parcels(index, *decode_entry(self.log[index - 1])).writes
            )

    def flush(self) -> None:
        """Have the rows say everything."""
        writes = self.machine.flush()
        if writes:
            self.store.write(writes)

    def all_agents(self) -> Iterator[AgentRow]:
        """All agents, as an index is built of them."""
        lately = self.machine.workspace.heard_lately.values()
        unwritten = {heard.who: heard.expires_ms for heard in lately if heard.old_since}
        for agent in agents_read.all_agents(self.store):
            who = agent.account, agent.name
            yield agent._replace(expires_ms=unwritten.get(who, agent.expires_ms))

    def copy(self) -> "MachineShard":
        """Another replica with the same rows."""
        return MachineShard(self.store.copy(), self.log[:])

    def entry(self, now_ms: int, commands: Sequence[c.Command]) -> list[outcome.Outcome]:
        """Apply one entry, as it stands in a log, and perform its writes."""
        self.index += 1
        parcel = encode_parcel(PARCEL_OF_NOBODY, [encode_command(command) for command in commands])
        self.log.append(encode_entry(now_ms, [parcel]))
        applied = self.machine.apply_parcels(self.index, now_ms, [parcel])
        self.writes, self.changed = applied.writes, applied.changed
        self.changes = applied.agents
        self.follower.follow(applied.agents)
        for command in commands:
            if isinstance(command, c.DropEmbedder):
                self.follower.drop(command.embedder)
        self.store.write(applied.writes)
        (outcomes,) = applied.outcomes
        return outcomes

    def apply(self, now_ms: int, command: c.Command) -> outcome.Outcome:
        """Apply an entry of one command."""
        (result,) = self.entry(now_ms, [command])
        return result

    def known_agents(self) -> Known:
        """All agents, as an index built now would know them."""
        return Follower(self.all_agents()).agents

    def agents_at(self, account: str, names: Iterable[str]) -> list[AgentFound]:
        """A page of agents."""
        return agents_read.agents_at(self.machine.workspace, account, names)

    def query(
        self,
        ref: bytes,
        key: bytes = b"",
        tags: Iterable[str] = (),
        since_s: int = 0,
        limit: int = limits.RESULTS_DEFAULT,
    ) -> list[Message] | outcome.Refused:
        """QUERY."""
        request = Query(ref, key, tuple(tags), since_s, limit)
        found = self._read(reads.query(self.machine.workspace, request))
        return found if isinstance(found, outcome.Refused) else found[::-1]

    def peek(
        self,
        ref: bytes,
        deliver: int = c.Deliver.LATEST,
        from_value: int = 0,
        tags: Iterable[str] = (),
        num_msgs: int = limits.RESULTS_DEFAULT,
    ) -> list[Message] | outcome.Refused:
        """FETCH without a group."""
        request = Browse(ref, deliver, from_value, tuple(tags), num_msgs)
        return self._read(reads.browse(self.machine.workspace, request))

    def behind(self, ref: bytes, starts: Sequence[int], priorities: int) -> list[Message]:
        """What a push subscription is given."""
        workspace = self.machine.workspace
        number, _ = reads.position(workspace, ref)
        found = reads.follow(workspace, Follow(ref, number, tuple(starts), priorities))
        return [message for message in found if message]

    @staticmethod
    def _read(found: Iterator[Message | None]) -> list[Message] | outcome.Refused:
        try:
            return [message for message in found if message]
        except errors.Mq9Error as error:
            return outcome.Refused(error)

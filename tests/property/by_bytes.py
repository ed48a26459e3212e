"""A machine that is given commands beside one that is given them as they stand in a log."""

from collections.abc import Iterable, Sequence

from mq9cluster.domain.command import Command
from mq9cluster.domain.registry import AgentChange, AgentsSeen, Changes
from mq9cluster.machine.apply import Machine
from mq9cluster.machine.codec import PARCEL_OF_NOBODY, encode_command, encode_parcel
from tests.property.memory_view import MemoryView


def assert_same_by_bytes(entries: Iterable[tuple[int, Sequence[Command]]]) -> None:
    """Both come to the same, tell the same, and leave the same rows. An entry: ms since the one
    before, and its commands.
    """
    one, other = MemoryView(), MemoryView()
    by_command, by_bytes = Machine(one), Machine(other)
    now_ms = 1_000_000
    for index, (passed_ms, said) in enumerate(entries, 1):
        now_ms += passed_ms
        expected = by_command.apply(index, now_ms, said)
        parcel = encode_parcel(PARCEL_OF_NOBODY, [encode_command(command) for command in said])
        found = by_bytes.apply_parcels(index, now_ms, [parcel])
        assert list(map(repr, found.outcomes[0])) == list(map(repr, expected.outcomes))
        assert found.changed == expected.changed
        assert one_by_one(found.agents) == one_by_one(expected.agents)
        one.write(expected.writes)
        other.write(found.writes)
        for machine, view in ((by_command, one), (by_bytes, other)):
            if writes := machine.flush():
                view.write(writes)
        assert one.rows == other.rows


def one_by_one(changes: Changes) -> list[AgentChange | tuple[int, tuple[str, str]]]:
    """Changes with those who were seen together told one by one, in their order by when they
    expire: in which order they were seen makes no difference.
    """
    told: list[AgentChange | tuple[int, tuple[str, str]]] = []
    seen: list[tuple[int, tuple[str, str]]] = []
    for change in changes:
        if isinstance(change, AgentsSeen):
            seen += [(change.expires_ms, agent) for agent in change.agents]
        else:
            told += (*sorted(seen), change)
            seen = []
    return [*told, *sorted(seen)]

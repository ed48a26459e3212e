"""A replica that starts takes from its log the heartbeats that its rows do not say."""

from types import SimpleNamespace
from typing import Any

import pytest

from mq9cluster.cluster.engine import MEMBERS_MARK, LogEntry
from mq9cluster.cluster.replica import Replica
from mq9cluster.domain.address import agent_ref
from mq9cluster.domain.command import RegisterAgent, ReportAgent
from mq9cluster.machine.agents_read import agents_at
from mq9cluster.machine.codec import (
    PARCEL_OF_NOBODY,
    encode_command,
    encode_entry,
    encode_parcel,
)
from mq9cluster.storage.errors import StorageCorrupt
from tests.property.memory_view import MemoryView

A = agent_ref("$G", "a")
NOW_MS = 1_700_000_000_000


class Log:
    """Entries from `first` on, handed out two at a time."""

    def __init__(self, entries: list[LogEntry]) -> None:
        self.entries = entries

    def first_index(self) -> int:
        return self.entries[0].index

    def last_index(self) -> int:
        return self.entries[-1].index

    def read(self, start: int, stop: int, bytes_max: int) -> list[LogEntry]:
        return [entry for entry in self.entries if start <= entry.index < stop][:2]


def replica(store: MemoryView) -> Any:
    clock: Any = SimpleNamespace(monotonic_ms=lambda: 0, wall_ms=lambda: NOW_MS)
    hold: Any = None
    store.commit = store.write  # type: ignore[attr-defined]
    return Replica(0, store, clock, hold, print)  # type: ignore[arg-type]


@pytest.fixture
async def log_and_store():
    """A crash behind entry 6: the agent's row says entry 1, the log more."""
    store = MemoryView()
    one = replica(store)
    said = [
        RegisterAgent(A, "m", 60, b"{}", ()),
        *(ReportAgent(A, b'{"load":%d}' % load) for load in range(3)),
    ]
    entries = [
        LogEntry(number, 1, encode_entry(NOW_MS + number, [parcel]))
        for number, parcel in enumerate(
            (encode_parcel(PARCEL_OF_NOBODY, [encode_command(each)]) for each in said), 1
        )
    ]
    entries += [LogEntry(5, 2, b""), LogEntry(6, 2, bytes((MEMBERS_MARK,)) + b"{}")]
    for entry in entries:
        parcels = (
            []
            if entry.index > 4
            else [encode_parcel(PARCEL_OF_NOBODY, [encode_command(said[entry.index - 1])])]
        )
        stamp_ms = NOW_MS + entry.index if parcels else 0
        store.write(one.machine.apply_parcels(entry.index, stamp_ms, parcels).writes)
    return Log(entries), store


def load_of(one: Any) -> bytes:
    (found,) = agents_at(one.machine.workspace, "$G", ["a"])
    return found.report_info


async def test_heartbeats_are_recalled_whatever_else_the_log_holds(log_and_store):
    log, store = log_and_store
    one = replica(store)
    assert one.machine.heard_from == 2
    assert load_of(one) == b""
    one.recall(log)
    assert load_of(one) == b'{"load":2}'
    one.flush()
    again = replica(store)
    again.recall(log)
    assert load_of(again) == b'{"load":2}'
    assert again.machine.heard_from == 0


@pytest.mark.parametrize(("first", "last"), [(3, 6), (1, 5)])
async def test_a_log_that_does_not_hold_them_is_refused(log_and_store, first, last):
    log, store = log_and_store
    log.entries = [entry for entry in log.entries if first <= entry.index <= last]
    with pytest.raises(StorageCorrupt, match=f"entries 2 to 6, its log holds {first}..{last}"):
        replica(store).recall(log)


async def test_a_log_that_begins_there_is_enough(log_and_store):
    log, store = log_and_store
    log.entries = log.entries[1:]
    one = replica(store)
    one.recall(log)
    assert load_of(one) == b'{"load":2}'

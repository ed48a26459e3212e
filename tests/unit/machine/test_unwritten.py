"""Heartbeats that only the log says: when their rows are written, and that none is lost."""

import struct
from functools import partial

import pytest

from mq9cluster.domain.address import agent_ref, slot_of
from mq9cluster.domain.command import (
    RegisterAgent,
    ReportAgent,
    ReportAgents,
    SendMessage,
    UnregisterAgent,
)
from mq9cluster.domain.ports import Family
from mq9cluster.domain.registry import AgentFound
from mq9cluster.machine import keys, unwritten, workspace
from mq9cluster.machine.agent_rows import unpack_seen
from mq9cluster.machine.apply import Machine
from mq9cluster.machine.codec import Parcel, encode_command, encode_entry, encode_parcel
from mq9cluster.machine.rows import UnknownRowFormat
from mq9cluster.machine.unwritten import LAG_ENTRIES
from mq9cluster.machine.workspace import ROWS_EVERY
from tests.property.machine_shard import MachineShard

START_MS = 1_700_000_000_000
A, B = agent_ref("$G", "a"), agent_ref("$G", "b")
NOTHING = SendMessage(b"$G\0nowhere", b"x")  # refused


def register(ref: bytes, ttl_s: int = 3_600) -> RegisterAgent:
    return RegisterAgent(ref, "m", ttl_s, b"{}", ())


def report(ref: bytes, load: int) -> ReportAgent:
    return ReportAgent(ref, b'{"load":%d}' % load)


class Replica(MachineShard):
    """A shard whose clock goes on by a second with each entry."""

    def say(self, *commands):
        return self.entry(START_MS + 1_000 * self.index, commands)

    def idle(self, entries: int) -> None:
        for _ in range(entries):
            self.say(NOTHING)

    def row(self, ref: bytes) -> bytes:
        """What its row says that it reported."""
        row = self.store.get(Family.AGENTS, keys.agent_seen(slot_of(ref), ref))
        assert row is not None
        return unpack_seen(row).report_info

    def found(self) -> list[AgentFound]:
        return self.agents_at("$G", ["a", "b"])

    def crash(self) -> None:
        """Start from the rows and the log; what is known is what was."""
        before = self.found()
        self.restart()
        assert self.found() == before


@pytest.fixture
def shard() -> Replica:
    shard = Replica()
    shard.say(register(A), register(B))
    return shard


def test_a_row_is_written_when_the_log_behind_it_has_become_long_enough(shard):
    shard.say(report(A, 1))
    first = shard.index
    shard.idle(LAG_ENTRIES - 1)
    assert shard.row(A) == b""
    assert shard.machine.heard_from == first
    shard.idle(1)
    assert shard.row(A) == b'{"load":1}'
    assert shard.machine.heard_from == 0


def test_many_reports_are_one_row(shard):
    shard.say(report(A, 1))
    for load in range(LAG_ENTRIES - 1):
        shard.say(report(A, load))
    assert shard.row(A) == b""
    shard.say(report(A, 7))
    assert shard.row(A) == b'{"load":7}'
    assert shard.machine.heard_from == 0


def test_a_row_is_written_when_so_many_bytes_of_the_log_lie_behind_it(shard, monkeypatch):
    shard.say(report(A, 1))
    parcel = len(encode_parcel(Parcel(0, 0, 0, 0), [encode_command(NOTHING)]))
    last = len(encode_parcel(Parcel(0, 0, 0, 0), [encode_command(report(A, 1))]))
    monkeypatch.setattr(unwritten, "LAG_BYTES", last + 2 * parcel)
    shard.idle(2)
    assert shard.row(A) == b""
    shard.idle(1)
    assert shard.row(A) == b'{"load":1}'


def test_what_waits_is_written_in_portions(shard, monkeypatch):
    monkeypatch.setattr(unwritten, "LAG_ENTRIES", 8)
    monkeypatch.setattr(unwritten, "WRITTEN_PART", 4)
    shard.say(report(A, 1))
    shard.idle(1)
    shard.say(report(B, 2))
    shard.idle(5)
    assert (shard.row(A), shard.row(B)) == (b"", b"")
    shard.idle(1)
    assert (shard.row(A), shard.row(B)) == (b'{"load":1}', b'{"load":2}')


def test_a_row_is_written_when_too_many_wait(shard, monkeypatch):
    monkeypatch.setattr(shard.machine.workspace.unwritten, "_agents_max", 1)
    shard.say(report(A, 1))
    assert shard.row(A) == b""
    shard.say(report(B, 2))
    assert (shard.row(A), shard.row(B)) == (b'{"load":1}', b"")
    shard.crash()


def test_a_portion_holds_so_many_agents_and_no_more(shard, monkeypatch):
    monkeypatch.setattr(unwritten, "LAG_ENTRIES", 8)
    monkeypatch.setattr(unwritten, "WRITTEN_PART", 2)
    shard.say(report(A, 1))
    shard.say(report(B, 2))
    shard.idle(6)
    monkeypatch.setattr(unwritten, "WRITTEN_AGENTS_MAX", 1)
    shard.idle(1)
    assert (shard.row(A), shard.row(B)) == (b'{"load":1}', b"")
    shard.say(report(A, 3))
    assert shard.row(B) == b'{"load":2}'
    monkeypatch.setattr(unwritten, "WRITTEN_AGENTS_MAX", 2)
    shard.say(report(B, 4))
    shard.idle(7)
    assert (shard.row(A), shard.row(B)) == (b'{"load":3}', b'{"load":4}')


@pytest.mark.parametrize(("shards", "waiting"), [(1, 4), (2, 2), (3, 1)])
def test_the_shards_of_a_cluster_share_what_may_wait_and_be_remembered(
    monkeypatch, shards, waiting
):
    monkeypatch.setattr(unwritten, "UNWRITTEN_MAX", 4)
    monkeypatch.setattr(workspace, "HEARD_CACHED_MAX", 8)
    agents = [agent_ref("$G", f"{letter}") for letter in "abcde"]
    shard = Replica(shards=shards)
    shard.say(*map(register, agents))
    for waits, agent in enumerate(agents, 1):
        shard.say(report(agent, 1))
        rows = [shard.row(one) for one in agents[:waits]]
        assert rows.count(b"") == min(waits, waiting)
    assert len(shard.machine.workspace.heard_lately) <= 8 // shards
    shard.crash()


def test_what_only_the_log_says_is_there_after_a_crash(shard):
    shard.say(report(A, 1))
    shard.idle(3)
    shard.say(report(B, 2), report(A, 3), report(A, 4))
    assert (shard.row(A), shard.row(B)) == (b"", b"")
    shard.crash()
    assert [agent.report_info for agent in shard.found()] == [b'{"load":4}', b'{"load":2}']
    shard.crash()


def test_what_is_recalled_is_written_when_it_would_have_been(shard):
    shard.say(report(A, 1))
    shard.idle(LAG_ENTRIES - 1)
    shard.crash()
    assert shard.row(A) == b""
    shard.idle(1)
    assert shard.row(A) == b'{"load":1}'


@pytest.mark.parametrize(
    "between",
    [
        pytest.param([[register(A, 120)]], id="another entry"),
        pytest.param([[UnregisterAgent(A)], [register(A, 120)]], id="gone and back"),
        pytest.param([[ReportAgents(b"$G\0m", b'{"load":9}')]], id="by mailbox"),
        pytest.param([[UnregisterAgent(A)]], id="gone"),
    ],
)
def test_a_row_that_was_written_since_is_not_overwritten_by_what_was_before(shard, between):
    shard.say(report(A, 1))
    shard.say(report(B, 2))
    for commands in between:
        shard.say(*commands)
    shard.crash()
    shard.say(report(A, 3))
    shard.crash()


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param([report(A, 1), register(A, 120)], id="before"),
        pytest.param([register(A, 120), report(A, 1)], id="behind"),
        pytest.param([report(A, 1), register(A, 120), report(A, 2)], id="around"),
        pytest.param([UnregisterAgent(A), report(A, 1), register(A), report(A, 2)], id="anew"),
    ],
)
def test_a_report_in_the_entry_that_writes_the_row_counts(shard, commands):
    shard.say(report(B, 1))
    shard.say(*commands)
    shard.crash()
    shard.say(report(A, 5))
    shard.crash()


def test_a_report_that_was_refused_is_refused_when_it_is_recalled(shard):
    shard.say(register(A, 2), report(B, 1))
    shard.idle(3)
    (refused,) = shard.say(report(A, 1))
    assert refused.error.code == "agent_not_found"
    shard.crash()
    assert [agent.report_info for agent in shard.found()] == [b"", b'{"load":1}']


def test_a_parcel_that_comes_twice_is_recalled_once(shard):
    def say(*parcels: bytes) -> None:
        shard.index += 1
        now_ms = START_MS + 1_000 * shard.index
        shard.log.append(encode_entry(now_ms, parcels))
        shard.store.write(shard.machine.apply_parcels(shard.index, now_ms, parcels).writes)

    once = encode_parcel(Parcel(1, 1, 1, 0), [encode_command(report(A, 1))])
    say(once)
    shard.say(report(A, 2))
    seen_ms = shard.found()[0].seen_ms
    say(once, encode_parcel(Parcel(2, 1, 1, 0), [encode_command(report(B, 3))]))
    assert shard.machine.heard_from == 0, "the log alone does not say that it came twice"
    assert shard.found()[0].seen_ms == seen_ms
    shard.crash()
    assert [agent.report_info for agent in shard.found()] == [b'{"load":2}', b'{"load":3}']


def test_whoever_needs_all_rows_has_them_written(shard):
    shard.say(report(A, 1))
    shard.flush()
    assert shard.row(A) == b'{"load":1}'
    assert shard.machine.heard_from == 0
    shard.restart()
    assert shard.found()[0].report_info == b'{"load":1}'
    shard.say(report(A, 2))
    assert shard.row(A) == b'{"load":1}'
    shard.crash()
    assert shard.machine.flush()
    assert not shard.machine.flush()


def test_a_row_of_the_format_before_is_read():
    row = struct.pack(">BIQQQ", 1, 60, START_MS, START_MS + 60_000, START_MS + 70_000) + b"{}"
    assert unpack_seen(row) == (60, START_MS, START_MS + 60_000, START_MS + 70_000, 0, b"{}")
    with pytest.raises(UnknownRowFormat, match="seen row has format 3"):
        unpack_seen(b"\3" + row[1:])


def test_shard_time_that_went_on_without_its_clock_is_recalled(shard):
    """The stamps of a leader whose clock is behind do not turn time back, then and now."""
    shard.say(report(B, 1))
    shard.entry(START_MS - 60_000, [report(A, 1)])
    seen_ms = shard.found()[0].seen_ms
    assert seen_ms > START_MS - 60_000
    shard.crash()
    assert shard.found()[0].seen_ms == seen_ms


def test_an_agent_whose_row_is_not_written_is_not_forgotten(shard, monkeypatch):
    monkeypatch.setattr(shard.machine.workspace, "_heard_max", 8)
    shard.say(report(A, 1))
    others = [agent_ref("$G", f"other-{number}") for number in range(9)]
    shard.say(*map(register, others))
    assert A in shard.machine.workspace.heard_lately
    assert len(shard.machine.workspace.heard_lately) < len(others)
    shard.crash()


# --- entries of heartbeats alone ------------------------------------------------------------------


def heartbeats_until(shard: Replica, remainder: int) -> None:
    """Entries of heartbeats alone, up to one whose index leaves that remainder."""
    shard.say(report(A, 1))
    while shard.index % ROWS_EVERY != remainder:
        shard.say(report(A, shard.index))


def rows_at(shard: Replica) -> int:
    """The entry at which the rows stand."""
    return Machine(shard.store).applied_index


def test_entries_of_heartbeats_alone_are_written_together(shard):
    first = shard.index
    heartbeats_until(shard, ROWS_EVERY - 1)
    assert rows_at(shard) == first
    assert shard.machine.needed_from == first + 1
    shard.say(report(B, 1))
    assert rows_at(shard) == shard.index == ROWS_EVERY


@pytest.mark.parametrize(
    "command", [NOTHING, register(A), ReportAgents(b"$G\0m", b""), report(agent_ref("$G", "x"), 1)]
)
def test_whatever_else_is_in_an_entry_has_the_rows_written(shard, command):
    heartbeats_until(shard, ROWS_EVERY - 2)
    shard.say(command)
    assert rows_at(shard) == shard.index


def test_entries_that_no_row_says_are_applied_again_at_a_start(shard):
    heartbeats_until(shard, ROWS_EVERY - 1)
    heard, rows = shard.found(), rows_at(shard)
    shard.crash()
    assert shard.machine.applied_index == shard.index > rows
    assert shard.found() == heard


def say_in_parcel(shard: Replica, run: int, sequence: int, confirmed: int) -> list[object]:
    shard.index += 1
    now_ms = START_MS + 1_000 * shard.index
    commands = [encode_command(report(A, sequence))]
    parcel = encode_parcel(Parcel(1, run, sequence, confirmed), commands)
    shard.log.append(encode_entry(now_ms, [parcel]))
    applied = shard.machine.apply_parcels(shard.index, now_ms, [parcel])
    shard.store.write(applied.writes)
    return applied.outcomes


def test_what_parcels_came_to_is_known_before_and_after_it_is_written(shard):
    say = partial(say_in_parcel, shard, 1)

    def outcomes() -> int:
        return sum(key.startswith(b"outcome") for key in shard.store.rows[Family.SHARDS])

    start = shard.index
    for sequence in range(1, 10):
        told = say(sequence, sequence - 1)
    assert rows_at(shard) == start
    pending = shard.machine.workspace.writes.rows[Family.SHARDS]
    assert len(pending) == 2, "a session and an outcome; of those confirmed there is nothing to say"
    shard.crash()
    assert say(9, 8) == told
    assert outcomes() == 1
    shard.crash()
    assert say(9, 8) == told
    say(10, 9)
    shard.flush()
    assert outcomes() == 1, "an outcome that was written is deleted"


def test_a_run_deletes_what_is_written_of_the_one_before_it(shard):
    """Also where its own parcel of that number was confirmed before any row was written."""
    for sequence in (1, 2):
        say_in_parcel(shard, 1, sequence, 0)
    shard.flush()
    for sequence in (1, 2, 3):
        say_in_parcel(shard, 2, sequence, sequence - 1)
    shard.flush()
    outcomes = [key for key in shard.store.rows[Family.SHARDS] if key.startswith(b"outcome")]
    assert [key[-1] for key in outcomes] == [3]


def test_rows_are_the_same_however_many_entries_were_written_together(shard):
    other = Replica()
    other.say(register(A), register(B))
    for index in range(3 * ROWS_EVERY):
        for one in (shard, other):
            one.say(NOTHING if index % 20 == 19 else report((A, B)[index % 2], index))
        other.flush()
    for one in (shard, other):
        one.flush()
    assert shard.store.rows == other.store.rows


def test_nothing_is_needed_of_the_log_once_all_is_flushed(shard):
    heartbeats_until(shard, 5)
    assert shard.machine.needed_from == shard.machine.heard_from > 0
    shard.flush()
    assert shard.machine.needed_from == 0
    assert rows_at(shard) == shard.index

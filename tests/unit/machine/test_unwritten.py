"""Heartbeats that only the log says: when their rows are written, and that none is lost."""

import struct

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
from mq9cluster.machine import keys, unwritten
from mq9cluster.machine.agent_rows import unpack_seen
from mq9cluster.machine.codec import Parcel, encode_command, encode_entry, encode_parcel
from mq9cluster.machine.rows import UnknownRowFormat
from mq9cluster.machine.unwritten import LAG_ENTRIES
from tests.property.machine_shard import MachineShard

START_MS = 1_700_000_000_000
A, B = agent_ref("$G", "a"), agent_ref("$G", "b")
NOTHING = SendMessage(b"$G\0nowhere", b"x")  # refused


def register(ref: bytes, ttl_s: int = 60) -> RegisterAgent:
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


def test_a_row_is_written_when_too_many_wait(shard, monkeypatch):
    monkeypatch.setattr(unwritten, "UNWRITTEN_MAX", 1)
    shard.say(report(A, 1))
    assert shard.row(A) == b""
    shard.say(report(B, 2))
    assert (shard.row(A), shard.row(B)) == (b'{"load":1}', b"")
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
    shard.write_heard()
    assert shard.row(A) == b'{"load":1}'
    assert shard.machine.heard_from == 0
    shard.restart()
    assert shard.found()[0].report_info == b'{"load":1}'
    shard.say(report(A, 2))
    assert shard.row(A) == b'{"load":1}'
    shard.crash()
    assert shard.machine.write_heard() is not None
    assert shard.machine.write_heard() is None


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
    monkeypatch.setattr("mq9cluster.machine.workspace.HEARD_CACHED_MAX", 8)
    shard.say(report(A, 1))
    others = [agent_ref("$G", f"other-{number}") for number in range(9)]
    shard.say(*map(register, others))
    assert A in shard.machine.workspace.heard_lately
    assert len(shard.machine.workspace.heard_lately) < len(others)
    shard.crash()

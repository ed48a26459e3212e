"""Entries: determinism, replay, refusals and shard time (docs/architecture.md)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.errors import MailboxNotFound
from mq9cluster.domain.outcome import Done, HandedOut, MessageStored, Refused
from mq9cluster.domain.ports import Family
from mq9cluster.machine.due import DUE_WORK_MAX
from tests.property import workload
from tests.property.machine_shard import MachineShard
from tests.property.memory_view import MemoryView
from tests.unit.machine.entries import BOX, drain
from tests.unit.machine.harness import START_MS, ids, owner, why

ROOT = Path(__file__).parents[3]


# --- the same everywhere --------------------------------------------------------------------------


def test_every_process_writes_the_same_bytes() -> None:
    """Hashes of bytes and strings differ between processes: nothing may depend on their order."""
    script = "from tests.property.workload import digest; print(digest(5, 400))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_machine_started_anew_before_every_entry_ends_with_the_same_rows(seed: int) -> None:
    steady, forgetful = MachineShard(), MachineShard()
    both = zip(workload.run(steady, seed, 300), workload.run(forgetful, seed, 300), strict=True)
    for says, says_too in both:
        assert says == says_too
        forgetful.restart()
    assert steady.store.rows == forgetful.store.rows


@pytest.mark.parametrize(
    "give_back", [c.EndConnection(owner(2)), c.NackMessage(BOX, "g", 2, owner(2))]
)
def test_what_was_done_while_it_was_held_stays_taken_when_it_comes_back(
    give_back: c.Command,
) -> None:
    def fetch(by: int, num_msgs: int = 1) -> c.Command:
        return c.FetchMessages(BOX, "g", owner(by), num_msgs=num_msgs, deliver=c.Deliver.EARLIEST)

    steady, forgetful = MachineShard(), MachineShard()
    history = [
        c.CreateMailbox(BOX),
        *[c.SendMessage(BOX, b"x")] * 4,
        *[fetch(by) for by in (1, 2, 3)],
        c.EndConnection(owner(1)),
        *[c.DeleteMessage(BOX, msg_id) for msg_id in (1, 2)],
        fetch(4, 5),  # sees that 1 and 2, which 2 holds, are not there
        give_back,
        c.DeleteMessage(BOX, 3),
        c.SendMessage(BOX, b"x"),
        fetch(5, 5),
    ]
    for command in history:
        forgetful.restart()
        says = steady.apply(START_MS, command)
        assert says == forgetful.apply(START_MS, command)
        assert not isinstance(says, Refused)
        assert steady.store.rows == forgetful.store.rows


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_left_of_what_has_expired_and_ended(seed: int) -> None:
    machine = MachineShard()
    for _ in workload.run(machine, seed, 300, ttl_s_of=(1, 5, 90_000)):
        pass
    later_ms = machine.machine.now_ms + 10**9
    machine.entry(later_ms, [c.EndIncarnation(1, 9), c.EndIncarnation(2, 9)])
    drain(machine, later_ms, 5 * DUE_WORK_MAX)
    left = {family.name: len(rows) for family, rows in machine.store.rows.items() if rows}
    assert left == {"SHARDS": 1, "GROUPS": 2}  # the two runs that are refused


# --- replay and refusal ---------------------------------------------------------------------------


def test_an_entry_that_is_in_the_state_changes_nothing(machine: MachineShard) -> None:
    entries = [(1, START_MS, [c.CreateMailbox(BOX)]), (2, START_MS, [c.SendMessage(BOX, b"x")])]
    for index, stamp_ms, commands in entries:
        machine.store.write(machine.machine.apply(index, stamp_ms, commands).writes)
    before = machine.store.copy().rows
    for replica in (machine.machine, MachineShard(machine.store).machine):
        for index, stamp_ms, commands in entries:
            applied = replica.apply(index, stamp_ms, commands)
            machine.store.write(applied.writes)
            assert applied.outcomes == []
    assert machine.store.rows == before


def test_an_empty_entry_moves_the_applied_index(machine: MachineShard) -> None:
    machine.entry(START_MS, [])
    assert MachineShard(machine.store).machine.applied_index == 1
    assert machine.machine.now_ms == START_MS


REFUSED = [
    c.CreateMailbox(BOX),
    c.SendMessage(BOX, b"too much", dedupe_id=b"d", key=b"other"),
    c.SendMessage(mailbox_ref("$G", "none"), b""),
    c.DeleteMessage(BOX, 9),
    c.FetchMessages(mailbox_ref("$G", "none"), "g", owner(1)),
    c.FetchMessages(BOX, "new", owner(1, node=9)),
    c.AckMessages(BOX, "g", 9, owner(1)),
    c.AckMessages(BOX, "g", 2, owner(1)),
    c.AckMessages(BOX, "g", 1, owner(1), "unknown"),
    c.AckMessages(BOX, "g", 2, owner(1), "", c.AckScope.PROGRESS),
    c.AckMessages(BOX, "none", 1, owner(1)),
    c.AckMessages(BOX, "g", 1, owner(1, node=9)),
    c.NackMessage(BOX, "g", 2, owner(1)),
    c.NackMessage(BOX, "none", 1, owner(1)),
    c.NackMessage(BOX, "g", 1, owner(1, node=9)),
]


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: type(command).__name__)
def test_a_refused_command_writes_nothing(machine: MachineShard, command: c.Command) -> None:
    machine.entry(
        START_MS,
        [
            c.CreateMailbox(BOX, max_msgs=2, max_deliver=1),
            c.SendMessage(BOX, b"", key=b"k"),
            c.SendMessage(BOX, b""),
            c.EndIncarnation(9, 1),
            c.FetchMessages(BOX, "g", owner(1), num_msgs=1, deliver=c.Deliver.EARLIEST),
        ],
    )
    assert isinstance(machine.apply(START_MS, command), Refused)
    assert {family: rows for family, rows in machine.writes.rows.items() if rows} == {
        Family.SHARDS: machine.store.rows[Family.SHARDS]
    }
    assert machine.writes.ranges == []


def test_a_refusal_leaves_the_other_commands_of_its_entry_alone(machine: MachineShard) -> None:
    outcomes = machine.entry(
        START_MS,
        [
            c.SendMessage(BOX, b""),
            c.CreateMailbox(BOX),
            c.CreateMailbox(BOX),
            c.SendMessage(BOX, b"", dedupe_id=b"d"),
            c.SendMessage(BOX, b"", dedupe_id=b"d"),
            c.DeleteMessage(BOX, 1),
            c.SendMessage(BOX, b""),
        ],
    )
    assert [why(outcome) is not None for outcome in outcomes] == [True, False, True] + [False] * 4
    assert outcomes[3:] == [MessageStored(1), MessageStored(1, True), Done(), MessageStored(2)]


def test_commands_of_one_entry_see_one_another(machine: MachineShard) -> None:
    outcomes = machine.entry(
        START_MS,
        [
            c.CreateMailbox(BOX, max_deliver=1),
            c.SendMessage(BOX, b"", key=b"k"),
            c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST),
            c.SendMessage(BOX, b"", key=b"k"),
            c.NackMessage(BOX, "g", 1, owner(1)),
            c.FetchMessages(BOX, "g", owner(1)),
            c.EndConnection(owner(1)),
            c.FetchMessages(BOX, "g", owner(2)),
        ],
    )
    assert [ids(outcome) for outcome in outcomes if isinstance(outcome, HandedOut)] == [
        [1],
        [2],
        [],
    ]
    (letter,) = machine.query(mailbox_ref("$G", "box.dlq"))
    assert letter.msg_id == 1


# --- shard time -----------------------------------------------------------------------------------


def test_shard_time_never_goes_back(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX, ttl_s=10)])
    machine.entry(START_MS + 10_000, [])
    assert machine.apply(START_MS, c.SendMessage(BOX, b"")) == Refused(MailboxNotFound("box"))
    assert machine.machine.now_ms == START_MS + 10_000
    assert MachineShard(machine.store).machine.now_ms == START_MS + 10_000


def test_a_machine_says_when_the_next_thing_is_due(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX), c.SendMessage(BOX, b"", ttl_s=60)])
    assert machine.machine.next_due_ms <= START_MS + 60_000
    machine.entry(START_MS, [])
    assert machine.machine.next_due_ms == START_MS + 60_000
    machine.entry(START_MS, [c.SendMessage(BOX, b"", delay_s=5)])
    assert machine.machine.next_due_ms == START_MS + 5_000
    fresh = MachineShard(machine.store)
    assert fresh.machine.next_due_ms <= START_MS + 5_000
    fresh.entry(START_MS, [])
    assert fresh.machine.next_due_ms == START_MS + 5_000


def test_what_becomes_readable_is_announced(machine: MachineShard) -> None:
    def changed(now_ms: int, *commands: c.Command) -> set[bytes]:
        machine.index += 1
        applied = machine.machine.apply(machine.index, now_ms, commands)
        machine.store.write(applied.writes)
        return applied.changed

    fetch = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST, ack_wait_ms=1_000)
    plain = fetch._replace(ack_wait_ms=0)
    changed(START_MS, c.CreateMailbox(BOX, max_deliver=9))
    assert BOX in changed(START_MS, c.SendMessage(BOX, b""))
    assert changed(START_MS, c.SendMessage(BOX, b"", delay_s=1)) == set()
    assert BOX in changed(START_MS + 1_000)
    changed(START_MS + 1_000, fetch)
    assert BOX in changed(START_MS + 2_000)
    changed(START_MS + 2_000, plain)
    assert BOX in changed(START_MS + 2_000, c.EndConnection(owner(1)))
    changed(START_MS + 2_000, plain)
    assert BOX in changed(START_MS + 2_000, c.NackMessage(BOX, "g", 1, owner(1)))
    changed(START_MS + 2_000, plain)
    changed(START_MS + 2_000, c.NackMessage(BOX, "g", 1, owner(1), delay_s=3))
    assert BOX in changed(START_MS + 5_000)


# --- bounded work ---------------------------------------------------------------------------------


def test_a_store_in_memory_keeps_copies_apart() -> None:
    machine = MachineShard(MemoryView())
    machine.apply(START_MS, c.CreateMailbox(BOX))
    copy = machine.copy()
    copy.apply(START_MS, c.SendMessage(BOX, b""))
    assert machine.query(BOX) == []
    assert ids(copy.query(BOX)) == [1]

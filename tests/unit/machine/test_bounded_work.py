"""What is due is done in steps of bounded work, and is invisible before it is gone."""

import pytest

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.errors import Unavailable
from mq9cluster.domain.outcome import MailboxCreated, MessageStored, Refused
from mq9cluster.domain.ports import Family
from mq9cluster.machine import due, keys, retention
from mq9cluster.machine.due import DUE_WORK_MAX
from tests.property.machine_shard import MachineShard
from tests.unit.machine.entries import BOX, drain
from tests.unit.machine.harness import START_MS, ids, owner


def test_expired_mailboxes_are_invisible_at_once_and_purged_in_steps(machine: MachineShard) -> None:
    boxes = [mailbox_ref("$G", f"box.{number}") for number in range(100)]
    machine.entry(START_MS, [c.CreateMailbox(box, ttl_s=1) for box in boxes])
    for box in boxes:
        machine.entry(START_MS, [c.SendMessage(box, b"", key=b"%d" % i) for i in range(200)])
    later_ms = START_MS + 1_000
    machine.entry(later_ms, [c.Expire()])
    assert all(isinstance(machine.query(box), Refused) for box in boxes)
    entries = drain(machine, later_ms, 2 * DUE_WORK_MAX)
    assert entries > 100 * 300 // DUE_WORK_MAX
    for family in (Family.MESSAGES, Family.INDEX, Family.MAILBOXES, Family.SCHEDULE):
        assert machine.store.rows[family] == {}


def test_expired_messages_are_invisible_at_once_and_swept_in_steps(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"", ttl_s=1)] * 7_000)
    later_ms = START_MS + 1_000
    machine.entry(later_ms, [c.Expire()])
    assert machine.query(BOX) == []
    assert 3 <= drain(machine, later_ms, 3 * DUE_WORK_MAX) <= 6
    assert machine.store.rows[Family.MESSAGES] == {}


def test_what_an_entry_left_over_is_done_before_anything_newer(
    machine: MachineShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "DUE_WORK_MAX", 2)
    machine.entry(START_MS, [c.CreateMailbox(BOX)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"%d" % i, delay_s=1 + i) for i in range(4)])
    machine.entry(START_MS + 10_000, [c.SendMessage(BOX, b"new")])
    machine.entry(START_MS + 10_001, [])
    found = machine.query(BOX)
    assert [(message.payload, message.created_ms - START_MS) for message in found] == [
        (b"0", 1_000),
        (b"1", 2_000),
        (b"new", 10_000),
        (b"2", 10_000),
        (b"3", 10_000),
    ]


def test_a_mailbox_that_waits_to_be_swept_does_not_hold_its_name(
    machine: MachineShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "DUE_WORK_MAX", 1)
    others = [mailbox_ref("$G", f"a{number}") for number in range(5)]
    machine.entry(START_MS, [c.CreateMailbox(box, ttl_s=1) for box in others])
    machine.entry(START_MS, [c.CreateMailbox(BOX, ttl_s=1), c.SendMessage(BOX, b"old")])
    later_ms = START_MS + 1_000
    outcomes = machine.entry(later_ms, [c.CreateMailbox(BOX), c.SendMessage(BOX, b"new")])
    assert outcomes == [MailboxCreated(BOX), MessageStored(1)]
    drain(machine, later_ms, 20)
    assert [message.payload for message in machine.query(BOX)] == [b"new"]
    assert list(machine.store.rows[Family.MAILBOXES]) == [
        key for key in machine.store.rows[Family.MAILBOXES] if key.endswith(BOX)
    ]
    assert len(machine.store.rows[Family.MESSAGES]) == 1


def test_what_is_done_leaves_no_rows_behind(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX, max_deliver=5)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 3)
    fetch = c.FetchMessages(
        BOX, "g", owner(1), deliver=c.Deliver.EARLIEST, ack_wait_ms=60_000, num_msgs=2
    )
    machine.apply(START_MS, fetch)
    machine.apply(START_MS, c.NackMessage(BOX, "g", 1, owner(1), delay_s=9))
    machine.apply(START_MS, fetch)
    machine.apply(START_MS, c.AckMessages(BOX, "g", 3, owner(1)))
    machine.apply(START_MS + 9_000, fetch)
    assert ids(machine.apply(START_MS + 9_000, fetch)) == [1]
    machine.apply(START_MS + 9_000, c.AckMessages(BOX, "g", 1, owner(1)))
    kinds = {keys.due_of(key)[1] for key in machine.store.rows[Family.SCHEDULE]}
    assert kinds == {keys.Due.GROUP_IDLE}
    prefix_bytes = keys.PREFIX_BYTES + len(b"g\0")
    kinds_of_group = {key[prefix_bytes:][:1] for key in machine.store.rows[Family.GROUPS]}
    assert kinds_of_group == {b"A", b"H"}


def test_delayed_messages_become_visible_in_steps_and_in_order(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"%d" % i, delay_s=1) for i in range(5_000)])
    later_ms = START_MS + 1_000
    drain(machine, later_ms, 5 * DUE_WORK_MAX)
    found = machine.query(BOX, limit=5_000)
    assert isinstance(found, list)
    assert [message.payload for message in found] == [b"%d" % i for i in range(5_000)]


def test_the_end_of_a_run_releases_in_steps_and_refuses_at_once(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 1_000)
    groups = [f"g{number}" for number in range(30)]
    for group in groups:
        fetch = c.FetchMessages(BOX, group, owner(1), deliver=c.Deliver.EARLIEST, num_msgs=1_000)
        machine.apply(START_MS, fetch)
    machine.apply(START_MS, c.EndIncarnation(1, 1))
    assert machine.machine.next_due_ms <= START_MS
    late = c.FetchMessages(BOX, "g0", owner(1))
    assert isinstance(machine.copy().apply(START_MS, late).error, Unavailable)
    drain(machine, START_MS, DUE_WORK_MAX)
    for group in groups:
        again = c.FetchMessages(BOX, group, owner(1, node=2), num_msgs=1_000)
        assert len(machine.apply(START_MS, again).places) == 1_000


def test_a_sweep_after_a_group_came_goes_in_steps(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX, retain_acked=True)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 5_000)
    machine.apply(START_MS, c.FetchMessages(BOX, "g", owner(1)))
    assert len(machine.writes.rows[Family.MESSAGES]) == 1_000
    drain(machine, START_MS, 2 * DUE_WORK_MAX)
    assert ids(machine.query(BOX)) == [5_000]


def test_a_sweep_that_finds_little_goes_in_steps_too(
    machine: MachineShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "RETAIN_CHECKS_MAX", 200)
    machine.entry(START_MS, [c.CreateMailbox(BOX, retain_acked=True)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 1_000)
    machine.apply(START_MS, c.FetchMessages(BOX, "all", owner(1), deliver=c.Deliver.EARLIEST))
    machine.apply(START_MS, c.AckMessages(BOX, "all", 1, owner(1)))
    before = machine.store.rows_read
    machine.apply(START_MS, c.FetchMessages(BOX, "latest", owner(1)))
    assert machine.store.rows_read - before < 300
    drain(machine, START_MS, DUE_WORK_MAX)
    assert ids(machine.query(BOX, limit=1_000)) == list(range(2, 1_001))
    machine.apply(START_MS, c.AckMessages(BOX, "all", 100, owner(1)))
    assert len(machine.query(BOX, limit=1_000)) == 900

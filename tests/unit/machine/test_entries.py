"""Entries: determinism, replay, refusals, shard time and bounded work (docs/architecture.md)."""

import gc
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.errors import MailboxNotFound, Unavailable
from mq9cluster.domain.limits import GROUPS_PER_MAILBOX_MAX, HANDOUTS_REMEMBERED_MAX
from mq9cluster.domain.message import Priority
from mq9cluster.domain.outcome import Done, HandedOut, MailboxCreated, MessageStored, Refused
from mq9cluster.domain.ports import Family
from mq9cluster.machine import due, keys, retention, search
from mq9cluster.machine.due import DUE_WORK_MAX
from mq9cluster.machine.rows import Group, Mailbox
from tests.property import workload
from tests.property.machine_shard import MachineShard
from tests.property.memory_view import MemoryView
from tests.unit.machine.harness import START_MS, ids, meta, owner, why

BOX = mailbox_ref("$G", "box")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def machine() -> MachineShard:
    """A machine with nothing in it."""
    return MachineShard()


def written(machine: MachineShard) -> int:
    """How many rows and ranges the last entry changed."""
    return sum(map(len, machine.writes.rows.values())) + len(machine.writes.ranges)


# --- the same everywhere -------------------------------------------------------------------------


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


# --- replay and refusal --------------------------------------------------------------------------


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


# --- shard time ----------------------------------------------------------------------------------


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


# --- bounded work --------------------------------------------------------------------------------


def drain(machine: MachineShard, now_ms: int, written_max: int) -> int:
    """Let the machine do what is due, entry by entry, each of them small; how many it took."""
    for count in range(1, 1_000):
        machine.entry(now_ms, [c.Expire()])
        assert written(machine) <= written_max
        if machine.machine.next_due_ms > now_ms:
            return count
    raise AssertionError("it never ends")


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


def test_a_search_for_a_rare_tag_goes_in_steps(
    machine: MachineShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SEARCH_ROWS_MAX", 100)
    machine.entry(START_MS, [c.CreateMailbox(BOX)])
    common = c.SendMessage(BOX, b"", meta=meta(["common"]))
    machine.entry(START_MS, [common] * 350)
    machine.entry(START_MS, [c.SendMessage(BOX, b"", Priority.NORMAL, meta=meta(["rare"]))])
    fetch = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST, tags=("rare",))
    steps = 0
    while True:
        before = machine.store.rows_read
        outcome = machine.apply(START_MS, fetch)
        assert machine.store.rows_read - before < 120
        steps += 1
        if outcome.resume is None:
            break
        assert outcome.places == ()
        fetch = fetch._replace(resume=outcome.resume)
    assert (ids(outcome), steps) == ([351], 4)


def test_what_was_acknowledged_costs_a_fetch_nothing(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX)])
    for _ in range(20):
        machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 1_000)
    fetch = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST, num_msgs=1_000)
    for last in range(1_000, 21_000, 1_000):
        assert len(machine.apply(START_MS, fetch).places) == 1_000
        assert machine.apply(START_MS, c.AckMessages(BOX, "g", last, owner(1))) == Done()
    machine.restart()
    before = machine.store.rows_read
    assert machine.apply(START_MS, fetch).places == ()
    assert machine.store.rows_read - before < 40
    assert len(machine.store.rows[Family.GROUPS]) < 40


def test_a_store_in_memory_keeps_copies_apart() -> None:
    machine = MachineShard(MemoryView())
    machine.apply(START_MS, c.CreateMailbox(BOX))
    copy = machine.copy()
    copy.apply(START_MS, c.SendMessage(BOX, b""))
    assert machine.query(BOX) == []
    assert ids(copy.query(BOX)) == [1]


def test_an_ack_in_a_retaining_mailbox_looks_for_its_groups_once(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX, retain_acked=True)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"", i % 2) for i in range(200)])
    groups = [f"g{number}" for number in range(20)]
    for group in groups:
        fetch = c.FetchMessages(BOX, group, owner(1), deliver=c.Deliver.EARLIEST)
        machine.apply(START_MS, fetch._replace(num_msgs=200))
    before = machine.store.rows_read
    machine.apply(START_MS, c.AckMessages(BOX, groups[0], 200, owner(1)))
    assert machine.store.rows_read - before < 50
    for group in groups[1:]:
        assert len(machine.query(BOX, limit=200)) == 200
        machine.apply(START_MS, c.AckMessages(BOX, group, 200, owner(1)))
    assert machine.query(BOX) == []


def _acking(machine: MachineShard, groups: list[str], last: int) -> int:
    """Each group acknowledges up to `last`, in this order; how often groups were looked at."""
    ws, looked_at = machine.machine.workspace, 0
    group_of = ws.group

    def counted(mailbox: Mailbox, name: str) -> Group | None:
        nonlocal looked_at
        looked_at += 1
        return group_of(mailbox, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ws, "group", counted)
        for group in groups:
            machine.apply(START_MS, c.AckMessages(BOX, group, last, owner(1)))
    return looked_at


@pytest.mark.parametrize("order", ["in order", "backwards", "shuffled"])
def test_an_ack_in_a_retaining_mailbox_looks_at_few_of_a_thousand_groups(
    machine: MachineShard, order: str
) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX, retain_acked=True)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 3)
    groups = [f"g{number}" for number in range(GROUPS_PER_MAILBOX_MAX)]
    fetch = c.FetchMessages(BOX, "", owner(1), deliver=c.Deliver.EARLIEST)
    before = machine.store.rows_read
    for group in groups:
        machine.apply(START_MS, fetch._replace(group=group))
    assert machine.store.rows_read - before < 15 * len(groups)  # what a FETCH reads in any mailbox
    if order == "backwards":
        groups.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(groups)
    for last in (1, 2, 3):
        assert ids(machine.query(BOX)) == list(range(last, 4))
        before = machine.store.rows_read
        looked_at = _acking(machine, groups[:-1], last)
        assert ids(machine.query(BOX)) == list(range(last, 4))
        looked_at += _acking(machine, groups[-1:], last)
        assert looked_at < 30 * len(groups)  # log2 of a thousand, twice, and some
        assert machine.store.rows_read - before < 10 * len(groups)
    assert machine.query(BOX) == []


def test_what_is_known_of_groups_behind_is_forgotten_when_one_comes_or_begins_anew(
    machine: MachineShard,
) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX, retain_acked=True)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 4)
    fetch = c.FetchMessages(BOX, "a", owner(1), deliver=c.Deliver.EARLIEST)
    machine.entry(START_MS, [fetch, fetch._replace(group="b")])
    machine.apply(START_MS, c.AckMessages(BOX, "a", 4, owner(1)))
    machine.apply(START_MS, c.AckMessages(BOX, "b", 1, owner(1)))
    assert ids(machine.query(BOX)) == [2, 3, 4]
    machine.apply(START_MS, fetch._replace(group="c"))
    machine.apply(START_MS, c.AckMessages(BOX, "b", 2, owner(1)))
    assert ids(machine.query(BOX)) == [2, 3, 4]
    machine.apply(START_MS, c.AckMessages(BOX, "c", 4, owner(1)))
    assert ids(machine.query(BOX)) == [3, 4]
    machine.apply(START_MS, fetch._replace(force=True))
    machine.apply(START_MS, c.AckMessages(BOX, "b", 4, owner(1)))
    assert ids(machine.query(BOX)) == [3, 4]
    machine.apply(START_MS, c.AckMessages(BOX, "a", 4, owner(1)))
    assert machine.query(BOX) == []


def test_a_handout_is_written_once_however_many_acks_an_entry_has(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 100)
    fetch = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST)
    handed = machine.apply(START_MS, fetch)
    acks = [c.AckMessages(BOX, "g", i, owner(1), "", c.AckScope.MESSAGE) for i in range(1, 101, 2)]
    machine.entry(START_MS, acks)
    machine.restart()
    again = machine.apply(START_MS, fetch)
    assert ids(again) == list(range(2, 101, 2))
    ack = c.AckMessages(BOX, "g", 100, owner(2), handed.handout)
    assert machine.entry(START_MS, [ack, fetch]) == [Done(), HandedOut("", ())]


def test_handouts_that_come_and_go_within_an_entry_leave_no_rows(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX), c.SendMessage(BOX, b"")])
    fetch = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST)
    machine.entry(START_MS, [fetch] * 300)
    prefix_bytes = keys.PREFIX_BYTES + len(b"g\0")
    handouts = [key for key in machine.store.rows[Family.GROUPS] if key[prefix_bytes:][:1] == b"H"]
    assert len(handouts) == HANDOUTS_REMEMBERED_MAX + 1


def test_a_group_that_came_in_an_entry_counts_in_it(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX, retain_acked=True)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 3)
    fetch = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST)
    machine.entry(
        START_MS,
        [
            fetch,
            c.AckMessages(BOX, "g", 1, owner(1)),
            fetch._replace(group="h"),
            c.AckMessages(BOX, "g", 2, owner(1)),
        ],
    )
    assert ids(machine.query(BOX)) == [2, 3]


def test_a_search_reads_past_what_others_hold_in_one_scan(
    machine: MachineShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX)])
    tagged = [c.SendMessage(BOX, b"", meta=meta([tag])) for tag in "ab" * 300]
    machine.entry(START_MS, tagged)
    fetch = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST, num_msgs=300)
    assert len(machine.apply(START_MS, fetch._replace(tags=("a",))).places) == 300
    scans = 0
    scan = MemoryView.scan

    def counted(*args: object, **options: object) -> object:
        nonlocal scans
        scans += 1
        return scan(*args, **options)

    monkeypatch.setattr(MemoryView, "scan", counted)
    other = fetch._replace(owner=owner(2), tags=("b",))
    assert len(machine.apply(START_MS, other).places) == 300
    assert scans < 10


def test_a_search_seeks_behind_what_is_done(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.CreateMailbox(BOX)])
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 1_000)
    fetch = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST, num_msgs=1_000)
    machine.apply(START_MS, fetch)
    machine.apply(START_MS, c.NackMessage(BOX, "g", 1, owner(1)))
    machine.apply(START_MS, c.AckMessages(BOX, "g", 900, owner(1)))
    before = machine.store.rows_read
    assert len(machine.apply(START_MS, fetch).places) == 101
    assert machine.store.rows_read - before < 130


def test_refusals_leave_nothing_for_the_collector(machine: MachineShard) -> None:
    """A refusal that remembers where it was raised holds the whole batch in a cycle."""
    nowhere = mailbox_ref("$G", "nowhere")
    commands = [c.SendMessage(nowhere, b"x"), c.DeleteMessage(nowhere, 1)] * 50
    gc.disable()
    try:
        gc.collect()
        outcomes = machine.entry(START_MS, commands)
        assert {why(outcome) for outcome in outcomes} == {MailboxNotFound}
        del outcomes
        assert gc.collect() < len(commands)
    finally:
        gc.enable()

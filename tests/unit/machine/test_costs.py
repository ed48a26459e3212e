"""What commands read and write: no more than they must, however much is around."""

import gc
import random

import pytest

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.errors import MailboxNotFound
from mq9cluster.domain.limits import (
    GROUPS_PER_MAILBOX_MAX,
    HANDOUTS_REMEMBERED_MAX,
    HANDOUTS_UNSETTLED_MAX,
)
from mq9cluster.domain.message import Priority
from mq9cluster.domain.outcome import Done, HandedOut
from mq9cluster.domain.ports import Family
from mq9cluster.machine import keys, search
from mq9cluster.machine.rows import Group, Mailbox
from tests.property.machine_shard import MachineShard
from tests.property.memory_view import MemoryView
from tests.unit.machine.entries import BOX
from tests.unit.machine.harness import START_MS, ids, meta, owner, why


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
    machine.entry(START_MS, [fetch] * 600)
    prefix_bytes = keys.PREFIX_BYTES + len(b"g\0")
    handouts = [key for key in machine.store.rows[Family.GROUPS] if key[prefix_bytes:][:1] == b"H"]
    assert len(handouts) == HANDOUTS_REMEMBERED_MAX + HANDOUTS_UNSETTLED_MAX + 1


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

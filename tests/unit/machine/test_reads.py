"""Reads of a shard's state: what is worth an entry, what a reply holds, and how searches pause."""

import pytest

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.errors import MailboxNotFound
from mq9cluster.domain.limits import GROUP_TOUCH_MS
from mq9cluster.domain.message import Priority
from mq9cluster.domain.read import Browse, Query
from mq9cluster.machine import reads
from tests.property.machine_shard import MachineShard
from tests.unit.machine.harness import START_MS, ids, meta, owner

BOX = mailbox_ref("$G", "box")
FETCH = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST)


@pytest.fixture
def machine() -> MachineShard:
    """A machine whose mailbox has a group that has done message 1 and holds nothing."""
    machine = MachineShard()
    machine.entry(START_MS, [c.CreateMailbox(BOX), c.SendMessage(BOX, b"1"), FETCH])
    machine.entry(START_MS, [c.AckMessages(BOX, "g", 1, owner(1))])
    return machine


def worth_it(machine: MachineShard, fetch: c.FetchMessages) -> bool:
    return reads.would_change(machine.machine.workspace, fetch)


def test_a_fetch_that_would_find_nothing_is_not_worth_an_entry(machine: MachineShard) -> None:
    assert not worth_it(machine, FETCH)
    assert not worth_it(machine, FETCH._replace(deliver=c.Deliver.LATEST, owner=owner(2)))


def test_a_fetch_that_would_find_something_is_worth_one(machine: MachineShard) -> None:
    machine.apply(START_MS, c.SendMessage(BOX, b"2", meta=meta(["t"])))
    assert worth_it(machine, FETCH)
    assert worth_it(machine, FETCH._replace(tags=("t",)))
    assert not worth_it(machine, FETCH._replace(tags=("u",)))


def test_what_others_hold_is_not_worth_an_entry_and_what_oneself_holds_is(
    machine: MachineShard,
) -> None:
    machine.apply(START_MS, c.SendMessage(BOX, b"2"))
    machine.apply(START_MS, FETCH)
    assert not worth_it(machine, FETCH._replace(owner=owner(2)))
    assert worth_it(machine, FETCH)


def test_a_new_group_and_one_begun_anew_are_worth_an_entry(machine: MachineShard) -> None:
    assert worth_it(machine, FETCH._replace(group="new"))
    assert worth_it(machine, FETCH._replace(force=True))


def test_the_use_of_a_group_is_worth_an_entry_now_and_then(machine: MachineShard) -> None:
    machine.entry(START_MS + GROUP_TOUCH_MS, [])
    assert not worth_it(machine, FETCH)
    machine.entry(START_MS + GROUP_TOUCH_MS + 1, [])
    assert worth_it(machine, FETCH)
    machine.apply(START_MS + GROUP_TOUCH_MS + 1, FETCH)
    assert not worth_it(machine, FETCH)


def test_a_fetch_on_a_missing_mailbox_is_refused_without_an_entry(machine: MachineShard) -> None:
    with pytest.raises(MailboxNotFound):
        worth_it(machine, FETCH._replace(mailbox=mailbox_ref("$G", "none")))


def test_a_look_changes_nothing(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.SendMessage(BOX, b"")] * 3 + [c.DeleteMessage(BOX, 2)])
    before = machine.store.copy()
    for fetch in (FETCH, FETCH._replace(group="new"), FETCH._replace(force=True)):
        worth_it(machine, fetch)
    assert machine.store.rows == before.rows
    assert ids(machine.apply(START_MS, FETCH)) == [3, 4]


def test_messages_are_read_where_they_were_handed_out_and_gone_ones_left_out(
    machine: MachineShard,
) -> None:
    machine.entry(
        START_MS,
        [
            c.SendMessage(BOX, b"2"),
            c.SendMessage(BOX, b"3", Priority.CRITICAL),
            c.SendMessage(BOX, b"4", ttl_s=1),
            c.SendMessage(BOX, b"5"),
        ],
    )
    places = machine.apply(START_MS, FETCH).places
    machine.apply(START_MS + 1_000, c.DeleteMessage(BOX, 5))
    ws = machine.machine.workspace
    assert [m.payload for m in reads.messages_at(ws, BOX, places)] == [b"3", b"2"]
    assert reads.messages_at(ws, mailbox_ref("$G", "none"), places) == []


def test_long_searches_pause(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.SendMessage(BOX, b"", meta=meta(["x"]))] * 2_500)
    machine.entry(START_MS, [c.SendMessage(BOX, b"", meta=meta(["rare"]))])
    ws = machine.machine.workspace
    for search in (
        reads.query(ws, Query(BOX, tags=("none",))),
        reads.browse(ws, Browse(BOX, c.Deliver.EARLIEST, tags=("none",))),
    ):
        assert list(search) == [None, None]


def test_a_reply_stops_at_its_size_but_holds_at_least_one_message(machine: MachineShard) -> None:
    machine.entry(START_MS, [c.SendMessage(BOX, b"x" * (3 << 20))] * 3)
    machine.entry(START_MS, [c.SendMessage(BOX, b"x" * (8 << 20))])
    assert ids(machine.query(BOX)) == [5]
    assert ids(machine.peek(BOX, c.Deliver.EARLIEST)) == [1, 2]
    assert ids(machine.peek(BOX, c.Deliver.FROM_ID, 5)) == [5]

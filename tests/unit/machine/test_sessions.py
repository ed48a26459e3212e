"""Parcels apply once, however often they are sent (mq9cluster/machine/sessions.py)."""

import pytest

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.errors import MailboxExists, OutcomeUnknown
from mq9cluster.domain.outcome import (
    Done,
    HandedOut,
    MailboxCreated,
    MessageStored,
    Outcome,
    Refused,
)
from mq9cluster.domain.ports import Family
from mq9cluster.machine import sessions
from mq9cluster.machine.apply import Machine
from mq9cluster.machine.codec import PARCEL_OF_NOBODY, Parcel, encode_command, encode_parcel
from tests.property.memory_view import MemoryView
from tests.unit.machine.harness import START_MS, ids, owner, why

BOX = mailbox_ref("$G", "box")
SEND = c.SendMessage(BOX, b"")
CREATE = c.CreateMailbox(BOX)


class Log:
    """Entries of one parcel each, applied as they stand in the log."""

    def __init__(self) -> None:
        self.store = MemoryView()
        self.machine = Machine(self.store)
        self.index = 0

    def apply(self, parcel: Parcel, *commands: c.Command) -> list[Outcome]:
        self.index += 1
        data = encode_parcel(parcel, [encode_command(command) for command in commands])
        applied = self.machine.apply_parcels(self.index, START_MS, [data])
        self.store.write(applied.writes)
        return applied.outcomes[0]


@pytest.fixture(params=["steady", "started anew"])
def log(request: pytest.FixtureRequest) -> Log:
    """A log whose machine keeps running, and one whose machine starts anew before every entry."""
    log = Log()
    if request.param == "started anew":
        apply = log.apply

        def apply_anew(parcel: Parcel, *commands: c.Command) -> list[Outcome]:
            log.machine = Machine(log.store)
            return apply(parcel, *commands)

        log.apply = apply_anew  # type: ignore[method-assign]
    log.apply(PARCEL_OF_NOBODY, CREATE)
    return log


def test_a_parcel_sent_again_is_answered_and_not_applied(log: Log) -> None:
    parcel = Parcel(1, 1, 1, 0)
    assert log.apply(parcel, SEND, SEND) == [MessageStored(1), MessageStored(2)]
    assert log.apply(parcel, SEND, SEND) == [MessageStored(1), MessageStored(2)]
    assert log.apply(Parcel(1, 1, 2, 0), SEND) == [MessageStored(3)]


def test_every_kind_of_outcome_is_answered_again(log: Log) -> None:
    other = c.CreateMailbox(mailbox_ref("$G", "other"))
    fetch = c.FetchMessages(BOX, "g", owner(1), deliver=c.Deliver.EARLIEST)
    commands = (CREATE, other, SEND, fetch, c.DeleteMessage(BOX, 1))
    first = log.apply(Parcel(1, 1, 1, 0), *commands)
    assert first[:3] == [
        Refused(MailboxExists("box")),
        MailboxCreated(other.mailbox),
        MessageStored(1),
    ]
    assert isinstance(first[3], HandedOut)
    assert ids(first[3]) == [1]
    assert first[4] == Done()
    assert log.apply(Parcel(1, 1, 1, 0), *commands) == first


def test_parcels_may_arrive_out_of_order(log: Log) -> None:
    assert log.apply(Parcel(1, 1, 3, 0), SEND) == [MessageStored(1)]
    assert log.apply(Parcel(1, 1, 1, 0), SEND) == [MessageStored(2)]
    assert log.apply(Parcel(1, 1, 2, 0), SEND) == [MessageStored(3)]
    assert log.apply(Parcel(1, 1, 1, 0), SEND) == [MessageStored(2)]


def test_nodes_count_for_themselves(log: Log) -> None:
    assert log.apply(Parcel(1, 1, 1, 0), SEND) == [MessageStored(1)]
    assert log.apply(Parcel(2, 1, 1, 0), SEND) == [MessageStored(2)]


def test_a_confirmed_parcel_is_forgotten_and_never_applied_again(log: Log) -> None:
    log.apply(Parcel(1, 1, 1, 0), SEND)
    log.apply(Parcel(1, 1, 2, 1), SEND)
    assert [why(outcome) for outcome in log.apply(Parcel(1, 1, 1, 0), SEND, SEND)] == [
        OutcomeUnknown,
        OutcomeUnknown,
    ]
    assert log.apply(Parcel(1, 1, 2, 1), SEND) == [MessageStored(2)]
    assert len(log.store.rows[Family.SHARDS]) == 3  # shard, session, one outcome


def test_an_older_confirmation_takes_nothing_back(log: Log) -> None:
    log.apply(Parcel(1, 1, 1, 0), SEND)
    log.apply(Parcel(1, 1, 3, 2), SEND)
    log.apply(Parcel(1, 1, 4, 1), SEND)
    assert [why(o) for o in log.apply(Parcel(1, 1, 2, 0), SEND)] == [OutcomeUnknown]


def test_a_new_run_forgets_the_old_one_and_what_is_late_of_it_is_not_applied(log: Log) -> None:
    log.apply(Parcel(1, 1, 1, 0), SEND)
    assert log.apply(Parcel(1, 2, 1, 0), SEND) == [MessageStored(2)]
    for sequence in (1, 2):
        assert [why(o) for o in log.apply(Parcel(1, 1, sequence, 0), SEND)] == [OutcomeUnknown]
    assert log.apply(Parcel(1, 2, 2, 0), SEND) == [MessageStored(3)]
    assert len(log.store.rows[Family.SHARDS]) == 4


def test_parcels_of_an_ended_run_are_not_applied(log: Log) -> None:
    log.apply(Parcel(1, 1, 1, 0), SEND)
    log.apply(PARCEL_OF_NOBODY, c.EndIncarnation(1, 1))
    assert [why(o) for o in log.apply(Parcel(1, 1, 2, 0), SEND)] == [OutcomeUnknown]
    assert log.apply(Parcel(1, 2, 1, 0), SEND) == [MessageStored(2)]


def test_what_nobody_sent_is_applied_every_time(log: Log) -> None:
    assert log.apply(PARCEL_OF_NOBODY, SEND) == [MessageStored(1)]
    assert log.apply(PARCEL_OF_NOBODY, SEND) == [MessageStored(2)]


def test_unconfirmed_parcels_are_bounded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "UNCONFIRMED_MAX", 2)
    log.apply(Parcel(1, 1, 1, 0), SEND)
    log.apply(Parcel(1, 1, 2, 0), SEND)
    assert [why(o) for o in log.apply(Parcel(1, 1, 3, 0), SEND)] == [OutcomeUnknown]
    assert log.apply(Parcel(1, 1, 2, 0), SEND) == [MessageStored(2)]
    assert log.apply(Parcel(1, 1, 4, 1), SEND) == [MessageStored(3)]

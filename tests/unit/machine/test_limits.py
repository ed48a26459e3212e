"""Both sides of the limits that live in the machine (mq9cluster/domain/limits.py)."""

import pytest

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.errors import InvalidField, Overloaded
from mq9cluster.domain.limits import (
    GROUPS_PER_MAILBOX_MAX,
    HELD_PER_GROUP_MAX,
    MAILBOX_COUNT_MAX,
    REPLY_JSON_BYTES_MAX,
    RESULTS_MAX,
    TTL_SECONDS_MAX,
)
from mq9cluster.domain.outcome import Done, HandedOut, MailboxCreated, MessageStored
from mq9cluster.machine.search import json_bytes
from tests.property.machine_shard import MachineShard
from tests.unit.machine.harness import DAY_MS, START_MS, Shard, ids, owner, why

BOX = mailbox_ref("$G", "box")


@pytest.fixture
def shard() -> Shard:
    """A machine with one mailbox; the plain model is too slow for what comes here."""
    shard = Shard(MachineShard())
    shard.create()
    return shard


def fill(shard: Shard, messages: int) -> None:
    """Send that many messages, a thousand an entry."""
    machine = shard.backend
    assert isinstance(machine, MachineShard)
    for _ in range(messages // 1_000):
        machine.entry(shard.now_ms, [c.SendMessage(BOX, b"")] * 1_000)


def test_the_thousandth_group_is_created_and_the_next_refused(shard: Shard) -> None:
    for number in range(GROUPS_PER_MAILBOX_MAX):
        assert isinstance(shard.fetch(f"g{number}"), HandedOut)
    refused = shard.fetch("one too many")
    assert why(refused) is InvalidField
    assert str(refused.error).startswith("invalid group_name: ")
    assert isinstance(shard.fetch("g0", force=True), HandedOut)


def test_a_forgotten_group_makes_room_for_another(shard: Shard) -> None:
    for number in range(GROUPS_PER_MAILBOX_MAX):
        shard.fetch(f"g{number}")
    shard.wait(DAY_MS)
    shard.fetch("g0")
    shard.wait(days=6)
    for number in range(GROUPS_PER_MAILBOX_MAX - 1):
        assert isinstance(shard.fetch(f"new{number}"), HandedOut)
    assert why(shard.fetch("one too many")) is InvalidField


def test_groups_are_counted_per_mailbox(shard: Shard) -> None:
    shard.create("other")
    for number in range(GROUPS_PER_MAILBOX_MAX):
        shard.fetch(f"g{number}")
    assert isinstance(shard.fetch("g", box="other"), HandedOut)


def test_a_group_holds_a_hundred_thousand_messages_and_no_more(shard: Shard) -> None:
    fill(shard, HELD_PER_GROUP_MAX + 1_000)
    full = HELD_PER_GROUP_MAX // RESULTS_MAX
    for by in range(full - 1):
        assert len(shard.fetch(by=by, num_msgs=RESULTS_MAX).places) == RESULTS_MAX
    assert len(shard.fetch(by=full, num_msgs=RESULTS_MAX - 1).places) == RESULTS_MAX - 1
    assert len(shard.fetch(by=full + 1, num_msgs=RESULTS_MAX).places) == 1
    assert why(shard.fetch(by=full + 2)) is Overloaded
    assert ids(shard.fetch("other", by=full + 2, num_msgs=1)) == [1]
    assert len(shard.fetch(by=0, num_msgs=RESULTS_MAX).places) == RESULTS_MAX
    assert shard.ack(1, by=0) == Done()
    assert ids(shard.fetch(by=full + 2)) == [HELD_PER_GROUP_MAX + 1]
    assert why(shard.fetch(by=full + 3)) is Overloaded
    shard.end(owner(full))
    assert len(shard.fetch(by=full + 3, num_msgs=RESULTS_MAX).places) == RESULTS_MAX - 1


def test_force_frees_a_group_that_holds_all_it_may(shard: Shard) -> None:
    fill(shard, HELD_PER_GROUP_MAX)
    for by in range(HELD_PER_GROUP_MAX // RESULTS_MAX):
        shard.fetch(by=by, num_msgs=RESULTS_MAX)
    assert why(shard.fetch(by=999)) is Overloaded
    assert ids(shard.fetch(by=999, force=True, num_msgs=2)) == [1, 2]


def test_a_handout_fits_one_reply_and_holds_at_least_one_message(shard: Shard) -> None:
    big = b"x" * (3 << 20)
    for _ in range(3):
        shard.send(big)
    assert json_bytes(big) < REPLY_JSON_BYTES_MAX < 2 * json_bytes(big) + 2
    assert ids(shard.fetch()) == [1]
    assert ids(shard.fetch(by=2)) == [2]
    shard.send(b"y" * (8 << 20))
    assert json_bytes(b"y" * (8 << 20)) > REPLY_JSON_BYTES_MAX
    assert ids(shard.fetch(by=3)) == [3]
    assert ids(shard.fetch(by=4)) == [4]


def test_the_largest_numbers_of_a_mailbox_are_kept(bare: Shard) -> None:
    largest = {"max_msgs": MAILBOX_COUNT_MAX, "max_bytes": MAILBOX_COUNT_MAX}
    created = bare.create(ttl_s=TTL_SECONDS_MAX, max_deliver=1_000, desc="ü" * 512, **largest)
    assert created == MailboxCreated(BOX)
    assert bare.send(ttl_s=TTL_SECONDS_MAX, delay_s=TTL_SECONDS_MAX - 1) == MessageStored(-1)
    assert bare.send(b"", key=b"k" * 256, dedupe_id=b"d" * 256) == MessageStored(1)
    bare.wait(s=TTL_SECONDS_MAX - 1)
    assert ids(bare.query()) == [1, 2]
    assert [message.key for message in bare.query()] == ["k" * 256, ""]
    bare.wait(s=1)
    assert why(bare.query()) is not None


def test_a_start_beyond_all_ids_is_kept(bare: Shard) -> None:
    bare.create()
    for number, ahead in enumerate((2**53, 2**63, 2**64 - 1)):
        bare.fetch(f"g{number}", deliver=c.Deliver.FROM_ID, from_value=ahead)
        bare.send()
        assert ids(bare.fetch(f"g{number}")) == []


@pytest.mark.parametrize("times", [1, 2, 1_000])
def test_a_message_is_dead_after_exactly_max_deliver_times(bare: Shard, times: int) -> None:
    bare.create(max_deliver=times)
    bare.send()
    for _ in range(times):
        assert ids(bare.fetch()) == [1]
        bare.nack(1)
    assert ids(bare.fetch()) == []
    assert ids(bare.query("box.dlq")) == [1]


@pytest.mark.parametrize("ack_wait_ms", [1_000, DAY_MS])
def test_the_ack_wait_ends_to_the_millisecond(bare: Shard, ack_wait_ms: int) -> None:
    bare.create()
    bare.send()
    bare.fetch(ack_wait_ms=ack_wait_ms)
    bare.wait(ack_wait_ms - 1)
    assert ids(bare.fetch(by=2)) == []
    bare.wait(1)
    assert ids(bare.fetch(by=2)) == [1]


def test_names_of_any_characters_are_kept_apart(bare: Shard) -> None:
    bare.create()
    bare.send()
    names = ["g", "g ", "gg", "é", "é", "日本", "g\x7f", "A", "B", "H", "\U0001f600" * 64]
    for name in names:
        assert ids(bare.fetch(name, consumer=name)) == [1]
    for name in names:
        assert ids(bare.fetch(name, consumer=name, by=2)) == [1]
        assert ids(bare.fetch(name, by=3)) == []


def test_shard_time_may_be_any_that_a_clock_says(bare: Shard) -> None:
    bare.now_ms = 4_000_000_000_000  # the year 2096
    bare.create(ttl_s=TTL_SECONDS_MAX)
    bare.send(delay_s=1)
    bare.wait(s=1)
    assert [message.created_ms for message in bare.query()] == [bare.now_ms]
    assert bare.now_ms > START_MS

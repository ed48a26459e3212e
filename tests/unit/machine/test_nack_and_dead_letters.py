"""NACK, max_deliver and dead letters (docs/protocol.md, section 3, FETCH 6)."""

import json

import pytest

from mq9cluster.domain.errors import MailboxNotFound, MessageNotFound
from mq9cluster.domain.message import Priority
from mq9cluster.domain.outcome import Done, MessageStored
from tests.unit.machine.harness import DAY_MS, START_MS, Shard, ids, meta, owner, why

DLQ = "box.dlq"


@pytest.fixture
def three(shard: Shard) -> Shard:
    """A shard whose mailbox holds the messages 1, 2 and 3."""
    for _ in range(3):
        shard.send()
    return shard


@pytest.fixture
def twice(bare: Shard) -> Shard:
    """A shard whose mailbox gives up on a message that came back twice; it holds one."""
    bare.create(max_deliver=2)
    bare.send(b"poison", priority=Priority.URGENT, key=b"k", meta=meta(["t"], h="v"))
    return bare


def test_nack_gives_one_message_back_in_its_old_place(three: Shard) -> None:
    three.fetch()
    assert three.nack(2) == Done()
    assert ids(three.fetch(by=2)) == [2]


def test_nack_with_a_delay_opens_the_message_later(three: Shard) -> None:
    three.fetch()
    three.nack(2, delay_s=10)
    three.wait(9_999)
    assert ids(three.fetch(by=2)) == []
    assert ids(three.fetch()) == [1, 3]
    three.wait(1)
    assert ids(three.fetch(by=2)) == [2]


def test_a_message_given_back_is_not_confirmed_by_the_batch(three: Shard) -> None:
    three.fetch()
    three.nack(2, delay_s=1)
    assert three.ack(3) == Done()
    three.wait(s=1)
    assert ids(three.fetch(by=2)) == [2]


def test_a_message_given_back_and_open_cannot_be_acknowledged(three: Shard) -> None:
    three.fetch()
    three.nack(2)
    assert why(three.ack(2)) is MessageNotFound
    three.nack(3, delay_s=60)
    assert why(three.ack(3)) is MessageNotFound


def test_nack_of_what_is_not_held_is_refused(three: Shard) -> None:
    assert why(three.nack(1)) is MessageNotFound
    three.fetch(num_msgs=1)
    assert why(three.nack(2)) is MessageNotFound
    assert why(three.nack(4)) is MessageNotFound
    three.ack(1)
    assert why(three.nack(1)) is MessageNotFound


def test_nack_twice_is_refused_the_second_time(three: Shard) -> None:
    three.fetch()
    three.nack(2, delay_s=60)
    assert why(three.nack(2)) is MessageNotFound


def test_nack_may_come_over_another_connection(three: Shard) -> None:
    three.fetch()
    assert three.nack(2, by=2) == Done()
    assert ids(three.fetch(by=3)) == [2]


def test_a_late_nack_of_what_another_member_now_holds_is_refused(three: Shard) -> None:
    three.fetch(ack_wait_ms=1_000)
    three.wait(1_000)
    three.fetch(by=2)
    assert why(three.nack(2)) is MessageNotFound
    assert ids(three.fetch(by=3)) == []


def test_a_refused_nack_leaves_the_message_in_the_list_that_an_ack_confirms(three: Shard) -> None:
    three.fetch(ack_wait_ms=1_000)
    three.wait(1_000)
    assert why(three.nack(1)) is MessageNotFound  # it is open: given back already
    assert three.ack(2) == Done()
    assert ids(three.fetch(by=3)) == [3]


def test_a_nack_by_the_first_connection_of_a_named_consumer_counts(three: Shard) -> None:
    three.fetch(consumer="c")
    three.fetch(consumer="c", by=2)
    assert three.nack(2) == Done()
    assert ids(three.fetch(by=3)) == [2]


def test_nack_of_a_message_that_is_gone_is_harmless(three: Shard) -> None:
    three.fetch()
    three.delete(2)
    assert three.nack(2) == Done()
    assert why(three.nack(2)) is MessageNotFound
    assert ids(three.fetch()) == [1, 3]


def test_without_max_deliver_a_message_comes_back_for_ever(three: Shard) -> None:
    for _ in range(50):
        assert ids(three.fetch(num_msgs=1)) == [1]
        three.nack(1)
    assert why(three.query(DLQ)) is MailboxNotFound


def test_a_message_that_came_back_max_deliver_times_is_dead(twice: Shard) -> None:
    twice.fetch()
    twice.nack(1)
    assert ids(twice.fetch()) == [1]
    assert why(twice.query(DLQ)) is MailboxNotFound
    twice.nack(1)
    assert ids(twice.fetch()) == []
    assert ids(twice.query(DLQ)) == [1]


def test_a_dead_letter_says_where_it_came_from_and_why(twice: Shard) -> None:
    for _ in range(2):
        twice.fetch()
        twice.nack(1)
    (letter,) = twice.query(DLQ)
    assert letter.payload == b"poison"
    assert letter.priority == Priority.URGENT
    assert letter.key == ""
    assert json.loads(letter.meta) == {
        "tags": ["t"],
        "header": {
            "h": "v",
            "mq9-dlq-from": "box",
            "mq9-dlq-group": "g",
            "mq9-dlq-count": "2",
            "mq9-dlq-reason": "nack",
        },
    }


def test_a_message_without_header_gets_one_as_a_dead_letter(bare: Shard) -> None:
    bare.create(max_deliver=1)
    bare.send()
    bare.fetch("grüppe")
    bare.nack(1, "grüppe")
    (letter,) = bare.query(DLQ)
    assert json.loads(letter.meta)["header"]["mq9-dlq-group"] == "grüppe"
    assert not json.loads(letter.meta).get("tags")


def test_a_dead_letter_stays_in_its_mailbox_for_query_and_other_groups(twice: Shard) -> None:
    twice.fetch("other")
    for _ in range(2):
        twice.fetch()
        twice.nack(1)
    assert ids(twice.query()) == [1]
    assert ids(twice.fetch("other")) == [1]
    assert twice.ack(1) == Done()


def test_deliveries_are_counted_per_group(twice: Shard) -> None:
    for group in ("a", "b"):
        twice.fetch(group)
        twice.nack(1, group)
        assert ids(twice.fetch(group)) == [1]
    assert why(twice.query(DLQ)) is MailboxNotFound


def test_the_consumers_own_new_fetch_is_not_counted(twice: Shard) -> None:
    for _ in range(10):
        assert ids(twice.fetch()) == [1]


def test_the_end_of_a_connection_counts(twice: Shard) -> None:
    twice.fetch()
    twice.end()
    twice.fetch(by=2)
    twice.end(2)
    assert ids(twice.fetch(by=3)) == []
    assert _reasons(twice) == ["connection"]


def test_the_end_of_a_run_counts_as_a_connections(twice: Shard) -> None:
    twice.fetch()
    twice.nack(1)
    twice.fetch()
    twice.end_incarnation(1, 1)
    assert _reasons(twice) == ["connection"]


def test_the_ack_wait_counts(twice: Shard) -> None:
    twice.fetch(ack_wait_ms=1_000)
    twice.wait(1_000)
    twice.fetch(by=2, ack_wait_ms=1_000)
    twice.wait(1_000)
    assert ids(twice.fetch(by=3)) == []
    assert _reasons(twice) == ["ack_wait"]


def test_a_dead_letter_is_created_when_the_ack_wait_ends(bare: Shard) -> None:
    bare.create(max_deliver=1, ttl_s=100)
    bare.send()
    bare.fetch(ack_wait_ms=1_000)
    bare.wait(s=50)
    assert [letter.created_ms for letter in bare.query(DLQ)] == [START_MS + 1_000]
    bare.wait(50_999)
    assert ids(bare.query(DLQ)) == [1]
    bare.wait(1)
    assert why(bare.query(DLQ)) is MailboxNotFound


def test_only_what_is_still_held_comes_back(bare: Shard) -> None:
    bare.create(max_deliver=1)
    for _ in range(4):
        bare.send()
    bare.fetch(num_msgs=3)
    bare.ack(1)
    bare.end()
    assert ids(bare.fetch(by=2)) == [4]
    assert ids(bare.query(DLQ)) == [1, 2]


def test_what_is_gone_is_not_dead_lettered(bare: Shard) -> None:
    bare.create(max_deliver=1)
    bare.send()
    bare.send(ttl_s=5)
    bare.send(key=b"k")
    bare.fetch()
    bare.delete(1)
    bare.send(key=b"k")
    bare.wait(s=5)
    bare.end()
    assert why(bare.query(DLQ)) is MailboxNotFound
    assert ids(bare.fetch(by=2)) == [4]


def test_a_message_that_expires_with_its_ack_wait_is_not_dead_lettered(bare: Shard) -> None:
    bare.create(max_deliver=1)
    bare.send(ttl_s=2)
    bare.send(ttl_s=3)
    bare.fetch(ack_wait_ms=2_000)
    bare.wait(s=2)
    assert [letter.expires_ms for letter in bare.query(DLQ)] == [START_MS + 3_000]


def test_a_dead_letter_keeps_the_rest_of_its_own_ttl(bare: Shard) -> None:
    bare.create(max_deliver=1)
    bare.send(ttl_s=10)
    bare.wait(s=4)
    bare.fetch()
    bare.nack(1)
    bare.wait(5_999)
    assert ids(bare.query(DLQ)) == [1]
    bare.wait(1)
    assert bare.query(DLQ) == []


def test_the_dead_letter_mailbox_has_the_ttl_of_its_source_from_its_own_creation(
    bare: Shard,
) -> None:
    bare.create(max_deliver=1, ttl_s=10)
    bare.send()
    bare.wait(s=4)
    bare.fetch()
    bare.nack(1)
    bare.wait(9_999)
    assert why(bare.query()) is MailboxNotFound
    assert ids(bare.query(DLQ)) == [1]
    bare.wait(1)
    assert why(bare.query(DLQ)) is MailboxNotFound


def test_the_dead_letter_mailbox_of_a_lasting_mailbox_lasts(twice: Shard) -> None:
    for _ in range(2):
        twice.fetch()
        twice.nack(1)
    twice.wait(days=100)
    assert ids(twice.query(DLQ)) == [1]


def test_dead_letters_are_an_ordinary_mailbox(twice: Shard) -> None:
    for _ in range(2):
        twice.fetch()
        twice.nack(1)
    assert twice.send(box=DLQ) == MessageStored(2)
    assert ids(twice.fetch(box=DLQ)) == [1, 2]
    assert twice.ack(2, box=DLQ) == Done()
    assert why(twice.create(DLQ)) is not None


def test_dead_letters_of_dead_letters_go_one_further(bare: Shard) -> None:
    bare.create(DLQ, max_deliver=1)
    bare.create(max_deliver=1)
    bare.send()
    bare.fetch()
    bare.nack(1)
    bare.fetch(box=DLQ)
    bare.nack(1, box=DLQ)
    (letter,) = bare.query("box.dlq.dlq")
    assert json.loads(letter.meta)["header"]["mq9-dlq-from"] == "box.dlq"


def test_dead_letters_of_one_handout_keep_its_order(bare: Shard) -> None:
    bare.create(max_deliver=1)
    bare.send(b"normal")
    bare.send(b"critical", priority=Priority.CRITICAL)
    bare.fetch()
    bare.end()
    assert [letter.payload for letter in bare.query(DLQ)] == [b"critical", b"normal"]


def test_a_message_confirmed_is_no_longer_counted(twice: Shard) -> None:
    twice.fetch()
    twice.ack(1)
    twice.end()
    twice.wait(DAY_MS)
    assert why(twice.query(DLQ)) is MailboxNotFound


def test_an_ended_connection_counts_once_whatever_ends_it(twice: Shard) -> None:
    twice.fetch()
    twice.end()
    twice.end()
    twice.end_incarnation(1, 1)
    assert ids(twice.fetch(by=owner(1, node=2))) == [1]


def _reasons(shard: Shard) -> list[str]:
    letters = shard.query(DLQ)
    assert isinstance(letters, list)
    return [json.loads(letter.meta)["header"]["mq9-dlq-reason"] for letter in letters]

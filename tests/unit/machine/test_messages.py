"""Messages: ids, keys, delay, ttl, duplicates, QUERY and DELETE (docs/protocol.md, section 3)."""

import pytest

from mq9cluster.domain.command import Deliver
from mq9cluster.domain.errors import MailboxFull, MessageNotFound
from mq9cluster.domain.message import Priority
from mq9cluster.domain.outcome import Done, MessageStored
from tests.unit.machine.harness import START_MS, Shard, ids, meta, why


def test_ids_count_up_from_one_in_each_mailbox(shard: Shard) -> None:
    shard.create("other")
    assert [shard.send().msg_id for _ in range(3)] == [1, 2, 3]
    assert shard.send(box="other") == MessageStored(1)


def test_ids_are_shared_by_all_priorities(shard: Shard) -> None:
    assert shard.send(priority=Priority.NORMAL) == MessageStored(1)
    assert shard.send(priority=Priority.CRITICAL) == MessageStored(2)
    assert shard.send(priority=Priority.LOW) == MessageStored(3)


def test_a_message_is_read_as_it_was_sent(shard: Shard) -> None:
    shard.send(b"\x00\xff", priority=Priority.URGENT, key=b"k", meta=meta(["t"], h="v"), ttl_s=60)
    (message,) = shard.query()
    assert message.msg_id == 1
    assert message.priority == Priority.URGENT
    assert message.created_ms == START_MS
    assert message.expires_ms == START_MS + 60_000
    assert message.key == "k"
    assert message.meta == meta(["t"], h="v")
    assert message.payload == b"\x00\xff"


def test_an_empty_payload_is_a_message(shard: Shard) -> None:
    shard.send(b"")
    assert [message.payload for message in shard.query()] == [b""]


def test_the_newest_message_with_a_key_replaces_the_older(shard: Shard) -> None:
    shard.send(b"1", key=b"a", priority=Priority.CRITICAL)
    shard.send(b"2", key=b"b")
    assert shard.send(b"3", key=b"a") == MessageStored(3)
    assert ids(shard.query()) == [2, 3]
    assert ids(shard.query(key=b"a")) == [3]


def test_messages_without_a_key_replace_nothing(shard: Shard) -> None:
    shard.send()
    shard.send()
    assert ids(shard.query()) == [1, 2]


def test_a_deleted_or_expired_message_gives_its_key_free(shard: Shard) -> None:
    shard.send(key=b"a")
    shard.delete(1)
    assert shard.query(key=b"a") == []
    shard.send(key=b"a", ttl_s=1)
    shard.wait(s=1)
    assert shard.query(key=b"a") == []
    shard.send(key=b"a")
    assert ids(shard.query(key=b"a")) == [3]


def test_the_expiry_of_a_replaced_message_does_not_touch_its_successor(shard: Shard) -> None:
    shard.send(key=b"a", ttl_s=1)
    shard.send(key=b"a")
    shard.wait(s=1)
    assert ids(shard.query(key=b"a")) == [2]


def test_a_delayed_message_has_no_id_until_it_becomes_visible(shard: Shard) -> None:
    assert shard.send(b"late", delay_s=2) == MessageStored(-1)
    assert shard.send(b"now") == MessageStored(1)
    shard.wait(1_999)
    assert ids(shard.query()) == [1]
    shard.wait(1)
    assert [(m.msg_id, m.payload) for m in shard.query()] == [(1, b"now"), (2, b"late")]


def test_a_delayed_message_is_created_when_it_becomes_visible(shard: Shard) -> None:
    shard.send(delay_s=2)
    shard.wait(s=5)
    assert [message.created_ms for message in shard.query()] == [START_MS + 2_000]


def test_delayed_messages_get_their_ids_in_the_order_in_which_they_become_visible(
    shard: Shard,
) -> None:
    shard.send(b"b", delay_s=3)
    shard.send(b"a", delay_s=2)
    shard.send(b"c", delay_s=3)
    shard.wait(s=10)
    assert shard.send(b"d") == MessageStored(4)
    assert [message.payload for message in shard.query()] == [b"a", b"b", b"c", b"d"]


def test_a_delayed_message_expires_by_the_time_of_its_sending(shard: Shard) -> None:
    shard.send(delay_s=2, ttl_s=5)
    shard.wait(4_999)
    assert ids(shard.query()) == [1]
    shard.wait(1)
    assert shard.query() == []


def test_a_delayed_message_that_expires_first_never_appears_and_takes_no_id(shard: Shard) -> None:
    shard.send(delay_s=5, ttl_s=2)
    shard.send(delay_s=5, ttl_s=5)
    shard.wait(s=5)
    assert shard.query() == []
    assert shard.send() == MessageStored(1)


def test_a_message_whose_visible_time_passed_unseen_still_took_its_id(shard: Shard) -> None:
    shard.send(key=b"k")
    shard.send(key=b"k", delay_s=2, ttl_s=4)
    shard.wait(s=60)
    assert shard.query() == []
    assert shard.send() == MessageStored(3)


def test_a_delayed_keyed_message_replaces_when_it_becomes_visible(shard: Shard) -> None:
    shard.send(b"old", key=b"k")
    shard.send(b"delayed", key=b"k", delay_s=2)
    assert [m.payload for m in shard.query()] == [b"old"]
    shard.send(b"newer", key=b"k")
    assert [m.payload for m in shard.query()] == [b"newer"]
    shard.wait(s=2)
    assert [m.payload for m in shard.query()] == [b"delayed"]


def test_a_message_lives_until_the_last_millisecond_of_its_ttl(shard: Shard) -> None:
    shard.send(ttl_s=1)
    shard.wait(999)
    assert ids(shard.query()) == [1]
    shard.wait(1)
    assert shard.query() == []
    assert ids(shard.fetch()) == []
    assert shard.peek(deliver=Deliver.EARLIEST) == []


def test_a_repeated_sender_id_stores_nothing_and_answers_with_the_first(shard: Shard) -> None:
    assert shard.send(b"1", dedupe_id=b"d") == MessageStored(1)
    assert shard.send(b"2", dedupe_id=b"d", key=b"k") == MessageStored(1, duplicate=True)
    assert [m.payload for m in shard.query()] == [b"1"]
    assert shard.send(b"3", dedupe_id=b"e") == MessageStored(2)


def test_the_duplicate_window_ends_at_two_minutes_after_the_first(shard: Shard) -> None:
    shard.send(dedupe_id=b"d")
    shard.wait(60_000)
    shard.send(dedupe_id=b"d")
    shard.wait(59_999)
    assert shard.send(dedupe_id=b"d") == MessageStored(1, duplicate=True)
    shard.wait(1)
    assert shard.send(dedupe_id=b"d") == MessageStored(2)
    shard.wait(119_999)
    assert shard.send(dedupe_id=b"d") == MessageStored(2, duplicate=True)


def test_the_duplicate_window_is_the_one_of_the_first_message(shard: Shard) -> None:
    shard.send(dedupe_id=b"d", duplicate_window_ms=1_000)
    shard.wait(999)
    assert shard.send(dedupe_id=b"d") == MessageStored(1, duplicate=True)
    shard.wait(1)
    assert shard.send(dedupe_id=b"d") == MessageStored(2)


def test_sender_ids_belong_to_their_mailbox(shard: Shard) -> None:
    shard.create("other")
    shard.send(dedupe_id=b"d")
    assert shard.send(box="other", dedupe_id=b"d") == MessageStored(1)


def test_a_sender_id_is_remembered_although_the_message_is_gone(shard: Shard) -> None:
    shard.send(dedupe_id=b"d")
    shard.delete(1)
    assert shard.send(dedupe_id=b"d") == MessageStored(1, duplicate=True)
    assert shard.query() == []


def test_the_duplicate_of_a_delayed_message_has_no_id_either(shard: Shard) -> None:
    shard.send(dedupe_id=b"d", delay_s=1)
    assert shard.send(dedupe_id=b"d") == MessageStored(-1, duplicate=True)
    shard.wait(s=5)
    assert shard.send(dedupe_id=b"d") == MessageStored(-1, duplicate=True)
    assert ids(shard.query()) == [1]


def test_a_refused_message_leaves_its_sender_id_free(bare: Shard) -> None:
    bare.create(max_msgs=1)
    bare.send()
    assert why(bare.send(dedupe_id=b"d")) is MailboxFull
    bare.delete(1)
    assert bare.send(dedupe_id=b"d") == MessageStored(2)


def test_a_duplicate_is_recognised_in_a_full_mailbox(bare: Shard) -> None:
    bare.create(max_msgs=1)
    bare.send(dedupe_id=b"d")
    assert bare.send(dedupe_id=b"d") == MessageStored(1, duplicate=True)


def test_delete_removes_one_message_once(shard: Shard) -> None:
    shard.send()
    shard.send(priority=Priority.CRITICAL)
    shard.send()
    assert shard.delete(2) == Done()
    assert ids(shard.query()) == [1, 3]
    assert why(shard.delete(2)) is MessageNotFound


@pytest.mark.parametrize("msg_id", [0, 4, 2**63])
def test_delete_of_an_id_that_was_never_given_is_refused(shard: Shard, msg_id: int) -> None:
    shard.send()
    assert why(shard.delete(msg_id)) is MessageNotFound


def test_delete_of_an_expired_message_is_refused(shard: Shard) -> None:
    shard.send(ttl_s=1)
    shard.wait(s=1)
    assert why(shard.delete(1)) is MessageNotFound


def test_query_answers_by_id_whatever_the_priority(shard: Shard) -> None:
    for priority in (Priority.NORMAL, Priority.CRITICAL, Priority.URGENT):
        shard.send(priority=priority)
    assert ids(shard.query()) == [1, 2, 3]


def test_query_with_a_limit_keeps_the_most_recent(shard: Shard) -> None:
    for _ in range(4):
        shard.send()
    assert ids(shard.query(limit=2)) == [3, 4]


def test_query_filters_combine_with_and_and_tags_match_any(shard: Shard) -> None:
    shard.send(meta=meta(["a"]))
    shard.wait(s=10)
    shard.send(meta=meta(["b", "c"]))
    shard.send(meta=meta(["c"]), key=b"k")
    shard.send()
    since_s = (START_MS + 10_000) // 1000
    assert ids(shard.query(tags=("a", "b"))) == [1, 2]
    assert ids(shard.query(tags=("c",))) == [2, 3]
    assert ids(shard.query(tags=("c",), key=b"k")) == [3]
    assert ids(shard.query(since_s=since_s)) == [2, 3, 4]
    assert ids(shard.query(since_s=since_s, tags=("a",))) == []
    assert ids(shard.query(since_s=since_s + 1)) == []


def test_query_hands_nothing_out(shard: Shard) -> None:
    shard.send()
    shard.query()
    assert ids(shard.fetch()) == [1]
    assert ids(shard.query()) == [1]


def test_reading_without_a_group_records_nothing(shard: Shard) -> None:
    for priority in (Priority.NORMAL, Priority.CRITICAL, Priority.NORMAL):
        shard.send(priority=priority)
    for _ in range(2):
        assert ids(shard.peek(deliver=Deliver.EARLIEST)) == [2, 1, 3]
    assert ids(shard.fetch()) == [2, 1, 3]
    assert ids(shard.peek(deliver=Deliver.EARLIEST)) == [2, 1, 3]


def test_reading_without_a_group_starts_where_it_is_told(shard: Shard) -> None:
    shard.send()
    shard.wait(s=5)
    shard.send(priority=Priority.CRITICAL)
    shard.send()
    at_s = (START_MS + 5_000) // 1000
    assert ids(shard.peek()) == [3]
    assert ids(shard.peek(deliver=Deliver.FROM_ID, from_value=2)) == [2, 3]
    assert ids(shard.peek(deliver=Deliver.FROM_TIME, from_value=at_s)) == [2, 3]
    assert ids(shard.peek(deliver=Deliver.FROM_TIME, from_value=at_s + 1)) == []
    assert ids(shard.peek(deliver=Deliver.EARLIEST, num_msgs=2)) == [2, 1]

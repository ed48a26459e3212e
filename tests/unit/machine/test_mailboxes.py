"""Mailboxes: creation, expiry and their limits (docs/protocol.md, section 2)."""

from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.command import CreateMailbox, Deliver
from mq9cluster.domain.errors import MailboxExists, MailboxFull, MailboxNotFound
from mq9cluster.domain.outcome import Done, MailboxCreated, MessageStored, Refused
from tests.unit.machine.harness import Shard, ids, owner, why

MISSING = Refused(MailboxNotFound("box"))


def test_a_mailbox_is_created_once(bare: Shard) -> None:
    assert bare.create() == MailboxCreated(mailbox_ref("$G", "box"))
    assert bare.create() == Refused(MailboxExists("box"))


def test_the_same_address_in_another_account_is_another_mailbox(bare: Shard) -> None:
    bare.create()
    other = mailbox_ref("other", "box")
    assert bare.apply(CreateMailbox(other)) == MailboxCreated(other)


def test_every_command_on_a_missing_mailbox_is_refused(bare: Shard) -> None:
    assert bare.send() == MISSING
    assert bare.fetch() == MISSING
    assert bare.ack(1) == MISSING
    assert bare.nack(1) == MISSING
    assert bare.delete(1) == MISSING
    assert bare.query() == MISSING
    assert bare.peek() == MISSING


def test_a_missing_mailbox_is_noticed_before_an_ended_run(bare: Shard) -> None:
    bare.end_incarnation(1, 1)
    assert bare.fetch() == MISSING


def test_a_mailbox_without_ttl_stays(bare: Shard) -> None:
    bare.create()
    bare.send()
    bare.wait(days=3650)
    assert ids(bare.query()) == [1]


def test_a_mailbox_lives_until_the_last_millisecond_of_its_ttl(bare: Shard) -> None:
    bare.create(ttl_s=10)
    bare.wait(9_999)
    assert bare.send() == MessageStored(1)
    bare.wait(1)
    assert bare.send() == MISSING


def test_sending_does_not_prolong_a_mailbox(bare: Shard) -> None:
    bare.create(ttl_s=10)
    bare.wait(s=6)
    bare.send()
    bare.wait(s=4)
    assert bare.query() == MISSING


def test_an_expired_name_is_free_and_its_successor_empty(bare: Shard) -> None:
    bare.create(ttl_s=1)
    bare.send(key=b"k", dedupe_id=b"d")
    bare.send(delay_s=5)
    bare.fetch()
    bare.wait(s=1)
    assert bare.create() == MailboxCreated(mailbox_ref("$G", "box"))
    assert bare.query() == []
    assert bare.send(key=b"k", dedupe_id=b"d") == MessageStored(1)
    assert ids(bare.fetch(by=2)) == [1]
    bare.wait(s=10)
    assert ids(bare.query()) == [1]


def test_the_successor_of_an_expired_mailbox_may_come_in_the_instant_of_its_expiry(
    bare: Shard,
) -> None:
    bare.create(ttl_s=1)
    bare.send(ttl_s=1)
    bare.wait(s=1)
    bare.create(ttl_s=2)
    bare.send()
    bare.wait(1_999)
    assert ids(bare.query()) == [1]
    bare.wait(1)
    assert bare.query() == MISSING


def test_what_was_to_happen_in_an_expired_mailbox_does_not_happen_in_its_successor(
    bare: Shard,
) -> None:
    bare.create(ttl_s=5)
    bare.send(delay_s=20)
    bare.send(ttl_s=20)
    bare.fetch(ack_wait_ms=20_000)
    bare.wait(s=5)
    bare.create(max_deliver=1)
    bare.send(b"1", delay_s=60)
    bare.send(b"2")
    bare.fetch(ack_wait_ms=30_000)
    bare.wait(s=15)
    assert [message.payload for message in bare.query()] == [b"2"]
    assert ids(bare.fetch(by=2)) == []
    bare.wait(s=15)
    assert ids(bare.query("box.dlq")) == [1]
    bare.wait(s=30)
    assert [message.payload for message in bare.query()] == [b"2", b"1"]


def test_the_end_of_a_connection_after_its_mailbox_expired_is_harmless(bare: Shard) -> None:
    bare.create(ttl_s=1, max_deliver=1)
    bare.send()
    bare.fetch()
    bare.wait(s=1)
    bare.create()
    bare.send()
    assert ids(bare.fetch(by=2)) == [1]
    assert bare.end(1) == Done()
    assert bare.fetch(by=3).places == ()


def test_max_msgs_refuses_the_message_that_would_exceed_it(bare: Shard) -> None:
    bare.create(max_msgs=2)
    assert bare.send() == MessageStored(1)
    assert bare.send() == MessageStored(2)
    assert bare.send() == Refused(MailboxFull("max_msgs 2 reached"))
    assert ids(bare.query()) == [1, 2]


def test_a_deleted_or_expired_message_makes_room(bare: Shard) -> None:
    bare.create(max_msgs=2)
    bare.send(ttl_s=1)
    bare.send()
    bare.delete(2)
    assert bare.send() == MessageStored(3)
    assert why(bare.send()) is MailboxFull
    bare.wait(s=1)
    assert bare.send() == MessageStored(4)
    assert why(bare.send()) is MailboxFull


def test_delayed_messages_count_towards_max_msgs(bare: Shard) -> None:
    bare.create(max_msgs=2)
    bare.send(delay_s=10)
    bare.send(delay_s=20)
    assert why(bare.send()) is MailboxFull
    assert why(bare.send(delay_s=1)) is MailboxFull
    bare.wait(s=20)
    assert why(bare.send()) is MailboxFull


def test_a_delayed_message_that_expires_unseen_makes_room_when_it_expires(bare: Shard) -> None:
    bare.create(max_msgs=1)
    bare.send(delay_s=100, ttl_s=10)
    bare.wait(9_999)
    assert why(bare.send()) is MailboxFull
    bare.wait(1)
    assert bare.send() == MessageStored(1)


def test_max_bytes_counts_payloads_only(bare: Shard) -> None:
    bare.create(max_bytes=10)
    assert bare.send(b"12345", key=b"a long key", meta=b'{"tags":["t"]}') == MessageStored(1)
    assert bare.send(b"12345") == MessageStored(2)
    assert bare.send(b"1") == Refused(MailboxFull("max_bytes 10 reached"))
    assert bare.send(b"") == MessageStored(3)


def test_delayed_payloads_count_towards_max_bytes(bare: Shard) -> None:
    bare.create(max_bytes=10)
    bare.send(b"123456", delay_s=10)
    assert why(bare.send(b"12345")) is MailboxFull
    assert bare.send(b"1234") == MessageStored(1)


def test_max_msgs_is_named_when_both_limits_are_reached(bare: Shard) -> None:
    bare.create(max_msgs=1, max_bytes=1)
    bare.send(b"1")
    assert bare.send(b"1") == Refused(MailboxFull("max_msgs 1 reached"))


def test_a_keyed_replacement_is_allowed_in_a_full_mailbox(bare: Shard) -> None:
    bare.create(max_msgs=2, max_bytes=10)
    bare.send(b"12345", key=b"k")
    bare.send(b"12345")
    assert bare.send(b"54321", key=b"k") == MessageStored(3)
    assert bare.send(b"5432", key=b"k") == MessageStored(4)
    assert why(bare.send(b"12345678", key=b"k")) is MailboxFull
    assert why(bare.send(b"", key=b"other")) is MailboxFull


def test_a_keyed_replacement_may_grow_up_to_max_bytes(bare: Shard) -> None:
    bare.create(max_bytes=10)
    bare.send(b"12345", key=b"k")
    assert why(bare.send(b"12345678901", key=b"k")) is MailboxFull
    assert bare.send(b"1234567890", key=b"k") == MessageStored(2)


def test_a_delayed_replacement_counts_in_full_until_it_replaces(bare: Shard) -> None:
    bare.create(max_msgs=2)
    bare.send(key=b"k")
    assert bare.send(key=b"k", delay_s=1) == MessageStored(-1)
    assert why(bare.send()) is MailboxFull
    bare.wait(s=1)
    assert bare.send() == MessageStored(3)


def test_dead_letters_go_into_a_full_mailbox(bare: Shard) -> None:
    bare.create("box.dlq", max_msgs=1)
    bare.send(box="box.dlq")
    bare.create(max_deliver=1)
    bare.send()
    bare.fetch()
    bare.nack(1)
    assert ids(bare.query("box.dlq")) == [1, 2]
    assert why(bare.send(box="box.dlq")) is MailboxFull


def test_a_mailbox_that_dead_letters_overfilled_takes_what_does_not_grow_it(bare: Shard) -> None:
    bare.create("box.dlq", max_bytes=4)
    bare.send(b"1234", box="box.dlq", key=b"k")
    bare.create(max_deliver=1)
    bare.send(b"dead")
    bare.fetch()
    bare.nack(1)
    assert bare.send(b"4321", box="box.dlq", key=b"k") == MessageStored(3)
    assert bare.send(b"", box="box.dlq") == MessageStored(4)
    assert why(bare.send(b"54321", box="box.dlq", key=b"k")) is MailboxFull
    assert why(bare.send(b"1", box="box.dlq")) is MailboxFull


def test_retain_acked_removes_what_every_group_has_done(bare: Shard) -> None:
    bare.create(retain_acked=True)
    for _ in range(3):
        bare.send()
    bare.fetch("a")
    bare.fetch("b", by=2)
    bare.ack(2, "a")
    assert ids(bare.query()) == [1, 2, 3]
    bare.ack(3, "b", by=2)
    assert ids(bare.query()) == [3]
    bare.ack(3, "a")
    assert bare.query() == []


def test_retain_acked_keeps_what_a_late_ack_left_to_another_consumer(bare: Shard) -> None:
    bare.create(retain_acked=True)
    bare.send()
    bare.send()
    bare.fetch(ack_wait_ms=1_000)
    bare.wait(s=1)
    bare.fetch(by=2, num_msgs=1)
    assert bare.ack(2) == Done()
    assert ids(bare.query()) == [1]


def test_retain_acked_keeps_messages_while_there_is_no_group(bare: Shard) -> None:
    bare.create(retain_acked=True)
    bare.send()
    bare.wait(days=30)
    assert ids(bare.query()) == [1]


def test_retain_acked_counts_what_stands_before_a_groups_start_as_done(bare: Shard) -> None:
    bare.create(retain_acked=True)
    for _ in range(3):
        bare.send()
    assert ids(bare.fetch(deliver=Deliver.LATEST)) == [3]
    assert ids(bare.query()) == [3]


def test_retain_acked_stops_waiting_for_a_group_that_is_forgotten(bare: Shard) -> None:
    bare.create(retain_acked=True)
    bare.send()
    bare.fetch("idle", by=2)
    bare.wait(days=1)
    bare.fetch("busy")
    bare.ack(1, "busy")
    assert ids(bare.query()) == [1]
    bare.wait(days=6)
    assert bare.query() == []


def test_retain_acked_counts_a_dead_letter_as_done(bare: Shard) -> None:
    bare.create(retain_acked=True, max_deliver=1)
    bare.send()
    bare.fetch()
    bare.nack(1)
    assert bare.query() == []
    assert ids(bare.query("box.dlq")) == [1]


def test_retain_ttl_keeps_what_is_done(bare: Shard) -> None:
    bare.create()
    bare.send()
    bare.fetch()
    bare.ack(1)
    assert ids(bare.query()) == [1]


def test_mailboxes_do_not_touch_one_another(bare: Shard) -> None:
    bare.create("a")
    bare.create("a.b")
    bare.send(box="a")
    bare.send(box="a")
    bare.send(box="a.b")
    bare.fetch(box="a")
    assert bare.ack(1, box="a.b") is not None
    assert ids(bare.fetch(box="a.b", by=2)) == [1]
    assert ids(bare.fetch(box="a", by=2)) == []
    bare.end(owner(2))
    assert ids(bare.fetch(box="a.b")) == [1]

"""ACK: what it confirms, and what it never does (docs/protocol.md, section 3, FETCH 5)."""

import pytest

from mq9cluster.domain.command import AckScope, Deliver
from mq9cluster.domain.errors import MessageNotFound
from mq9cluster.domain.message import Priority
from mq9cluster.domain.outcome import Done
from tests.unit.machine.harness import START_MS, Shard, ids, meta, owner, why

CRITICAL, NORMAL = Priority.CRITICAL, Priority.NORMAL
MESSAGE, PROGRESS = AckScope.MESSAGE, AckScope.PROGRESS


@pytest.fixture
def five(shard: Shard) -> Shard:
    """A shard whose mailbox holds 1 to 5; 4 is critical, so that the order is 4 1 2 3 5."""
    for priority in (NORMAL, NORMAL, NORMAL, CRITICAL, NORMAL):
        shard.send(priority=priority)
    return shard


def test_ack_of_the_last_message_confirms_the_batch(five: Shard) -> None:
    five.fetch()
    assert five.ack(5) == Done()
    assert ids(five.fetch()) == []


def test_ack_confirms_up_to_the_message_in_delivery_order(five: Shard) -> None:
    five.fetch()
    five.ack(1)
    assert ids(five.fetch()) == [2, 3, 5]


def test_ack_of_a_critical_message_never_skips_a_normal_one(five: Shard) -> None:
    five.fetch()
    five.ack(4)
    assert ids(five.fetch()) == [1, 2, 3, 5]


def test_ack_never_confirms_what_another_member_holds(five: Shard) -> None:
    five.fetch(num_msgs=2)
    five.fetch(by=2)
    five.ack(5, by=2)
    five.end(1)
    assert ids(five.fetch(by=3)) == [4, 1]


def test_a_new_best_message_is_not_confirmed_by_the_ack_of_an_older_batch(five: Shard) -> None:
    five.fetch(num_msgs=3)
    five.send(priority=CRITICAL)
    five.ack(2)
    assert ids(five.fetch()) == [6, 3, 5]


def test_ack_may_come_over_another_connection(five: Shard) -> None:
    five.fetch()
    assert five.ack(2, by=2) == Done()
    assert ids(five.fetch()) == [3, 5]


def test_repeating_an_ack_is_harmless(five: Shard) -> None:
    five.fetch()
    assert five.ack(2) == Done()
    assert five.ack(2) == Done()
    assert five.ack(1) == Done()
    assert ids(five.fetch()) == [3, 5]
    assert five.ack(5) == Done()
    assert five.ack(5) == Done()
    assert five.ack(1) == Done()


def test_ack_after_the_connection_ended_still_counts(five: Shard) -> None:
    five.fetch()
    five.end()
    assert five.ack(2) == Done()
    assert ids(five.fetch(by=2)) == [3, 5]


def test_ack_over_a_new_connection_after_the_old_one_ended_still_counts(five: Shard) -> None:
    five.fetch()
    five.end()
    assert five.ack(2, by=2) == Done()
    assert ids(five.fetch(by=2)) == [3, 5]


def test_ack_after_the_ack_wait_still_counts(five: Shard) -> None:
    five.fetch(ack_wait_ms=1_000)
    five.wait(5_000)
    assert five.ack(5) == Done()
    assert ids(five.fetch(by=2)) == []


def test_a_late_ack_of_what_another_member_now_holds_is_refused_and_changes_nothing(
    five: Shard,
) -> None:
    five.fetch(ack_wait_ms=1_000)
    five.wait(1_000)
    five.fetch(by=2)
    assert why(five.ack(5)) is MessageNotFound
    five.end(2)
    assert ids(five.fetch(by=3)) == [4, 1, 2, 3, 5]


def test_a_late_ack_skips_what_another_member_holds_by_then(five: Shard) -> None:
    five.fetch(ack_wait_ms=1_000)
    five.wait(1_000)
    five.fetch(by=2, num_msgs=2)
    assert five.ack(5) == Done()
    five.end(2)
    assert ids(five.fetch(by=3)) == [4, 1]


def test_a_late_ack_of_what_the_other_member_already_did_confirms_the_rest(five: Shard) -> None:
    five.fetch(ack_wait_ms=1_000)
    five.wait(1_000)
    five.fetch(by=2, num_msgs=1)
    five.ack(4, by=2)
    assert five.ack(2) == Done()
    assert ids(five.fetch(by=3)) == [3, 5]


def test_an_ack_by_the_first_connection_of_a_named_consumer_confirms_what_it_was_given(
    five: Shard,
) -> None:
    five.fetch(consumer="c", num_msgs=3)
    five.send(priority=CRITICAL)
    five.fetch(consumer="c", by=2)
    assert five.ack(2) == Done()
    assert ids(five.fetch(consumer="c", by=2)) == [6, 3, 5]


def test_ack_of_an_id_above_the_last_is_refused(five: Shard) -> None:
    five.fetch()
    assert why(five.ack(6)) is MessageNotFound
    assert why(five.ack(0)) is MessageNotFound
    assert why(five.ack(2**62)) is MessageNotFound
    assert ids(five.fetch(by=2)) == []


def test_ack_of_a_message_that_is_open_is_refused(five: Shard) -> None:
    five.fetch(num_msgs=1)
    assert why(five.ack(2)) is MessageNotFound
    assert ids(five.fetch(by=2)) == [1, 2, 3, 5]


def test_ack_in_a_group_that_does_not_exist_is_refused(five: Shard) -> None:
    assert why(five.ack(1)) is MessageNotFound
    assert ids(five.fetch()) == [4, 1, 2, 3, 5]


def test_ack_of_a_message_before_the_groups_start_is_harmless(five: Shard) -> None:
    five.fetch(deliver=Deliver.LATEST)
    assert five.ack(1) == Done()
    assert ids(five.fetch()) == [5]


def test_ack_of_a_deleted_message_confirms_those_before_it(five: Shard) -> None:
    five.fetch()
    five.delete(2)
    assert five.ack(2) == Done()
    assert ids(five.fetch()) == [3, 5]


def test_ack_of_a_replaced_message_confirms_those_before_it(shard: Shard) -> None:
    shard.send()
    shard.send(key=b"k")
    shard.fetch()
    shard.send(key=b"k")
    assert shard.ack(2) == Done()
    assert ids(shard.fetch()) == [3]


def test_ack_of_an_expired_message_confirms_those_before_it(shard: Shard) -> None:
    shard.send()
    shard.send(ttl_s=1)
    shard.send()
    shard.fetch()
    shard.wait(s=1)
    assert shard.ack(2) == Done()
    assert ids(shard.fetch()) == [3]


def test_ack_of_a_message_that_was_gone_before_it_was_handed_out_is_harmless(five: Shard) -> None:
    five.delete(3)
    five.fetch()
    assert five.ack(3) == Done()
    assert ids(five.fetch()) == [4, 1, 2, 5]


def test_acks_around_a_deleted_message_work(five: Shard) -> None:
    five.fetch()
    five.delete(1)
    five.delete(5)
    assert five.ack(3) == Done()
    assert five.ack(5) == Done()
    assert ids(five.fetch()) == []


def test_a_connection_that_was_given_a_message_twice_means_what_it_was_given_last(
    shard: Shard,
) -> None:
    shard.send()
    shard.send()
    shard.fetch(num_msgs=2)
    shard.send(priority=CRITICAL)
    shard.fetch(num_msgs=2)
    shard.end()
    assert shard.ack(1) == Done()
    assert ids(shard.fetch(by=2)) == [2]


def test_a_stranger_confirms_only_what_all_it_may_speak_for_were_given(five: Shard) -> None:
    five.fetch(ack_wait_ms=1_000, num_msgs=3)
    five.wait(1_000)
    five.send(priority=CRITICAL)
    five.fetch(by=2, num_msgs=3)
    assert five.ack(1, by=3) == Done()  # one of the two over a new connection: which?
    five.end(2)
    assert ids(five.fetch(by=3)) == [6, 2, 3, 5]


def test_a_stranger_confirms_the_batch_where_all_were_given_the_same(five: Shard) -> None:
    five.fetch(ack_wait_ms=1_000)
    five.wait(1_000)
    five.fetch(by=2)
    five.end(2)
    assert five.ack(3, by=3) == Done()
    assert ids(five.fetch(by=3)) == [5]


def test_of_one_consumers_lists_a_stranger_means_the_last(five: Shard) -> None:
    five.fetch(consumer="c", num_msgs=3)
    five.send(priority=CRITICAL)
    five.fetch(consumer="c", by=2)
    assert five.ack(2, by=3) == Done()
    assert ids(five.fetch(consumer="c", by=3)) == [3, 5]


def test_a_late_ack_of_what_another_member_gave_back_confirms_it_for_good(five: Shard) -> None:
    five.fetch(ack_wait_ms=1_000)
    five.wait(1_000)
    five.fetch(by=2, num_msgs=2)
    five.nack(4, by=2, delay_s=5)
    five.nack(1, by=2)
    assert five.ack(1) == Done()
    five.wait(s=60)
    assert ids(five.fetch(by=3)) == [2, 3, 5]


def test_ack_before_a_start_that_lies_ahead_is_harmless(shard: Shard) -> None:
    ahead_s = START_MS // 1000 + 10
    shard.fetch(deliver=Deliver.FROM_TIME, from_value=ahead_s)
    shard.send()
    assert shard.ack(1) == Done()
    shard.wait(s=10)
    assert ids(shard.fetch()) == []


# scope message.


def test_scope_message_confirms_that_one_alone(five: Shard) -> None:
    five.fetch()
    assert five.ack(2, scope=MESSAGE) == Done()
    assert ids(five.fetch()) == [4, 1, 3, 5]


def test_a_batch_ack_of_a_message_confirmed_alone_confirms_those_before_it(five: Shard) -> None:
    five.fetch()
    five.ack(3, scope=MESSAGE)
    assert five.ack(3) == Done()
    assert ids(five.fetch()) == [5]


def test_scope_message_after_the_handout_ended_confirms_it_unless_another_holds_it(
    five: Shard,
) -> None:
    five.fetch()
    five.end()
    five.fetch(by=2, num_msgs=1)
    assert why(five.ack(4, scope=MESSAGE)) is MessageNotFound
    assert five.ack(3, scope=MESSAGE) == Done()
    five.end(2)
    assert ids(five.fetch(by=2)) == [4, 1, 2, 5]


def test_scope_message_of_an_open_message_is_refused(five: Shard) -> None:
    five.fetch(num_msgs=1)
    assert why(five.ack(1, scope=MESSAGE)) is MessageNotFound


# scope progress.


def test_progress_renews_the_ack_wait_and_confirms_nothing(five: Shard) -> None:
    five.fetch(ack_wait_ms=2_000)
    five.wait(1_500)
    assert five.ack(2, scope=PROGRESS) == Done()
    five.wait(1_999)
    assert ids(five.fetch(by=2)) == []
    five.wait(1)
    assert ids(five.fetch(by=2)) == [4, 1, 2, 3, 5]


def test_progress_renews_the_whole_handout_and_no_other(five: Shard) -> None:
    five.fetch(ack_wait_ms=2_000, num_msgs=2)
    five.fetch(ack_wait_ms=2_000, by=2)
    five.wait(1_000)
    five.ack(1, scope=PROGRESS)
    five.wait(1_000)
    assert ids(five.fetch(by=3)) == [2, 3, 5]


def test_progress_of_a_handout_bound_to_its_connection_is_harmless(five: Shard) -> None:
    five.fetch()
    assert five.ack(2, scope=PROGRESS) == Done()
    five.wait(s=600)
    assert ids(five.fetch(by=2)) == []
    five.end()
    assert ids(five.fetch(by=2)) == [4, 1, 2, 3, 5]


def test_progress_of_what_is_not_held_is_refused(five: Shard) -> None:
    five.fetch(ack_wait_ms=2_000, num_msgs=2)
    five.ack(4)
    assert why(five.ack(4, scope=PROGRESS)) is MessageNotFound
    assert why(five.ack(2, scope=PROGRESS)) is MessageNotFound
    five.wait(2_000)
    assert why(five.ack(1, scope=PROGRESS)) is MessageNotFound
    assert why(five.ack(9, scope=PROGRESS)) is MessageNotFound


def test_progress_by_the_loser_of_a_handout_does_not_renew_the_winners(five: Shard) -> None:
    five.fetch(ack_wait_ms=1_000)
    five.wait(1_000)
    five.fetch(ack_wait_ms=2_000, by=2)
    five.wait(1_000)
    assert why(five.ack(1, scope=PROGRESS)) is MessageNotFound
    five.wait(1_000)
    assert ids(five.fetch(by=3)) == [4, 1, 2, 3, 5]


# With the id of the hand-out.


def test_ack_with_a_handout_confirms_messages_of_that_reply_only(five: Shard) -> None:
    first = five.fetch(num_msgs=2).handout
    five.send(priority=CRITICAL)
    five.fetch()
    assert five.ack(1, handout=first) == Done()
    assert ids(five.fetch()) == [6, 2, 3, 5]


def test_ack_with_an_unknown_handout_is_refused(five: Shard) -> None:
    five.fetch()
    for handout in ("nonsense", "1-", "-1", "1-999", "99-1", "1-1-1", "é", "0"):
        assert why(five.ack(1, handout=handout)) is MessageNotFound
    assert ids(five.fetch()) == [4, 1, 2, 3, 5]


def test_ack_with_a_handout_of_another_group_is_refused(five: Shard) -> None:
    other = five.fetch("other").handout
    five.fetch()
    assert why(five.ack(1, handout=other)) is MessageNotFound


def test_ack_with_a_handout_that_does_not_hold_the_message_is_refused(five: Shard) -> None:
    first = five.fetch(num_msgs=2).handout
    five.fetch(by=2)
    assert why(five.ack(2, handout=first)) is MessageNotFound


def test_ack_with_a_finished_handout_is_harmless(five: Shard) -> None:
    handout = five.fetch().handout
    five.ack(5)
    assert five.ack(5, handout=handout) == Done()
    assert five.ack(1, handout=handout) == Done()


def test_ack_with_an_ended_handout_confirms_what_no_other_member_holds(five: Shard) -> None:
    handout = five.fetch().handout
    five.end()
    five.fetch(by=2, num_msgs=2)
    assert why(five.ack(1, handout=handout)) is MessageNotFound
    assert five.ack(2, handout=handout, by=7) == Done()
    five.end(2)
    assert ids(five.fetch(by=3)) == [4, 1, 3, 5]


def test_ack_with_a_handout_and_scope_message_confirms_one(five: Shard) -> None:
    handout = five.fetch().handout
    assert five.ack(3, handout=handout, scope=MESSAGE) == Done()
    assert ids(five.fetch()) == [4, 1, 2, 5]


def test_progress_with_a_handout_renews_it(five: Shard) -> None:
    handout = five.fetch(ack_wait_ms=2_000).handout
    five.wait(1_000)
    assert five.ack(3, handout=handout, scope=PROGRESS, by=2) == Done()
    five.wait(1_999)
    assert ids(five.fetch(by=2)) == []


def test_a_handout_id_of_a_forgotten_group_is_unknown(five: Shard) -> None:
    handout = five.fetch().handout
    five.wait(days=7)
    five.fetch(by=2)
    assert why(five.ack(1, handout=handout)) is MessageNotFound


# How long hand-outs are remembered.


def finish_one(shard: Shard, by: int = 9) -> str:
    """A message of its own is sent, handed out and confirmed; the hand-out's name."""
    msg_id = shard.send(priority=CRITICAL).msg_id
    handout = shard.fetch(by=by, num_msgs=1).handout
    assert shard.ack(msg_id, by=by) == Done()
    return handout


def test_the_last_256_finished_handouts_are_remembered(shard: Shard) -> None:
    names = [finish_one(shard) for _ in range(257)]
    assert why(shard.ack(1, handout=names[0])) is MessageNotFound
    assert shard.ack(2, handout=names[1]) == Done()


def test_of_older_handouts_256_are_remembered_that_are_not_done(shard: Shard) -> None:
    for _ in range(2):
        shard.send()
    names = [shard.fetch().handout for _ in range(513)]
    assert shard.ack(1, handout=names[0], scope=MESSAGE) == Done()
    shard.fetch()
    assert why(shard.ack(2, handout=names[0])) is MessageNotFound
    assert shard.ack(1, handout=names[1], scope=MESSAGE) == Done()
    assert shard.ack(2, handout=names[1]) == Done()


def test_a_late_worker_is_known_however_many_handouts_ended_since(five: Shard) -> None:
    five.fetch(ack_wait_ms=1_000, num_msgs=3)
    five.wait(1_000)
    five.send(priority=CRITICAL)
    five.fetch(by=2)
    for _ in range(300):
        finish_one(five)
    assert why(five.ack(2)) is MessageNotFound
    five.end(2)
    assert ids(five.fetch(by=3)) == [4, 6, 1, 2, 3, 5]


def test_what_was_given_to_who_is_forgotten_is_confirmed_alone(five: Shard) -> None:
    five.fetch(ack_wait_ms=1_000, num_msgs=3)
    five.wait(1_000)
    for _ in range(513):
        five.fetch(by=2)  # and is not done
    assert five.ack(2) == Done()
    five.end(2)
    assert ids(five.fetch(by=3)) == [4, 1, 3, 5]


def test_what_came_after_who_is_forgotten_is_confirmed_with_its_batch(five: Shard) -> None:
    for _ in range(514):
        five.fetch(by=2)
    five.ack(5, by=2)
    for _ in range(3):
        five.send()
    five.fetch(by=2)
    assert five.ack(8) == Done()
    assert ids(five.fetch(by=3)) == []


def test_a_group_begun_anew_forgets_whose_the_finished_were(five: Shard) -> None:
    five.fetch(num_msgs=2)
    five.ack(1)
    for _ in range(256):
        finish_one(five, by=2)
    five.send(priority=CRITICAL)
    given = ids(five.fetch(by=3, force=True, num_msgs=1_000))
    assert five.ack(1) == Done()  # once more; what is critical came since, and is another's
    five.end(3)
    assert ids(five.fetch(by=4, num_msgs=1_000)) == [each for each in given if each != 1]


def test_what_ended_last_is_remembered_longest(shard: Shard) -> None:
    shard.send()
    shard.send()
    first = shard.fetch(num_msgs=1, by=2).handout
    for _ in range(257):
        shard.fetch()
    shard.end(2)
    shard.fetch()
    shard.end(1)
    assert shard.ack(1, handout=first) == Done()
    assert ids(shard.fetch()) == [2]


def test_current_handouts_are_known_whatever_was_remembered_since(five: Shard) -> None:
    old = five.fetch(num_msgs=1, by=2).handout
    for _ in range(300):
        five.fetch()
    assert five.ack(4, handout=old, by=3) == Done()
    assert ids(five.fetch()) == [1, 2, 3, 5]


def test_tags_leave_no_trace_in_what_an_ack_confirms(shard: Shard) -> None:
    for tag in "abab":
        shard.send(meta=meta([tag]))
    shard.fetch(tags=("b",))
    shard.ack(4)
    assert ids(shard.fetch(by=owner(2))) == [1, 3]

"""FETCH with a group: order, start, hand-outs and who holds what (docs/protocol.md, section 3)."""

import pytest

from mq9cluster.domain.command import Deliver
from mq9cluster.domain.errors import MessageNotFound, Unavailable
from mq9cluster.domain.message import Priority
from mq9cluster.domain.outcome import Done, HandedOut
from tests.unit.machine.harness import START_MS, Shard, ids, meta, owner, why

CRITICAL, URGENT, NORMAL, LOW = Priority


@pytest.fixture
def three(shard: Shard) -> Shard:
    """A shard whose mailbox holds the messages 1, 2 and 3."""
    for _ in range(3):
        shard.send()
    return shard


def test_messages_are_handed_out_best_first_and_by_id_within_a_priority(shard: Shard) -> None:
    for priority in (NORMAL, LOW, CRITICAL, URGENT, NORMAL, CRITICAL):
        shard.send(priority=priority)
    assert shard.fetch().places == ((0, 3), (0, 6), (1, 4), (2, 1), (2, 5), (3, 2))


def test_num_msgs_bounds_a_handout_to_the_best(three: Shard) -> None:
    three.send(priority=CRITICAL)
    assert ids(three.fetch(num_msgs=2)) == [4, 1]
    assert ids(three.fetch(num_msgs=1, by=2)) == [2]


def test_a_fetch_that_finds_nothing_makes_no_handout(shard: Shard) -> None:
    assert shard.fetch() == HandedOut("", ())
    shard.send()
    assert ids(shard.fetch()) == [1]


def test_handout_ids_are_never_used_twice(three: Shard) -> None:
    names = [three.fetch(by=by).handout for by in (1, 1)]
    names += [three.fetch("other").handout, three.fetch(force=True).handout]
    three.wait(days=8)
    names += [three.fetch().handout, three.fetch("other", by=2).handout]
    assert len(set(names)) == 6
    assert "" not in names


def test_what_one_consumer_holds_no_other_is_given(three: Shard) -> None:
    assert ids(three.fetch(num_msgs=2)) == [1, 2]
    assert ids(three.fetch(by=2)) == [3]
    assert ids(three.fetch(by=3)) == []


def test_groups_do_not_see_one_anothers_handouts(three: Shard) -> None:
    three.fetch("a")
    three.ack(3, "a")
    assert ids(three.fetch("b")) == [1, 2, 3]


def test_fetching_again_without_ack_gives_the_same_messages(three: Shard) -> None:
    first = three.fetch()
    second = three.fetch()
    assert first.places == second.places
    assert first.handout != second.handout


def test_fetching_again_adds_new_messages_in_their_place(three: Shard) -> None:
    three.fetch(num_msgs=2)
    three.send(priority=CRITICAL)
    assert ids(three.fetch()) == [4, 1, 2, 3]


def test_fetching_resumes_after_the_ack(three: Shard) -> None:
    three.fetch()
    three.ack(2)
    assert ids(three.fetch()) == [3]


def test_own_messages_that_no_longer_fit_become_open(three: Shard) -> None:
    three.fetch()
    three.send(priority=CRITICAL)
    assert ids(three.fetch(num_msgs=2)) == [4, 1]
    assert ids(three.fetch(by=2)) == [2, 3]


def test_own_messages_that_do_not_match_the_tags_become_open(shard: Shard) -> None:
    shard.send(meta=meta(["a"]))
    shard.send(meta=meta(["b"]))
    shard.fetch()
    assert ids(shard.fetch(tags=("b",))) == [2]
    assert ids(shard.fetch(by=2)) == [1]


def test_a_fetch_that_finds_nothing_still_gives_back_what_the_consumer_held(shard: Shard) -> None:
    shard.send(meta=meta(["a"]))
    shard.fetch()
    assert shard.fetch(tags=("b",)) == HandedOut("", ())
    assert ids(shard.fetch(by=2)) == [1]


def test_tags_match_any_and_untagged_messages_match_none(shard: Shard) -> None:
    shard.send(meta=meta(["a", "x"]))
    shard.send()
    shard.send(meta=meta(["b"]))
    shard.send(meta=meta([], header="only"))
    assert ids(shard.fetch(tags=("a", "b"))) == [1, 3]
    assert ids(shard.fetch(tags=("c",), by=2)) == []
    assert ids(shard.fetch(by=2)) == [2, 4]


def test_a_tag_is_not_matched_by_a_part_of_another_or_by_a_header(shard: Shard) -> None:
    shard.send(meta=meta(["abc"], tags="b"))
    assert ids(shard.fetch(tags=("b",))) == []


def test_a_handout_by_tags_leaves_gaps_that_others_fill(shard: Shard) -> None:
    for tag in "abab":
        shard.send(meta=meta([tag]))
    shard.fetch(tags=("a",))
    shard.ack(3)
    assert ids(shard.fetch(by=2)) == [2, 4]


def test_a_delayed_message_is_handed_out_once_it_is_visible(shard: Shard) -> None:
    shard.send(delay_s=2)
    assert ids(shard.fetch()) == []
    shard.wait(1_999)
    assert ids(shard.fetch()) == []
    shard.wait(1)
    assert ids(shard.fetch()) == [1]


def test_deleted_replaced_and_expired_messages_are_not_handed_out(shard: Shard) -> None:
    shard.send()
    shard.send(key=b"k")
    shard.send(key=b"k")
    shard.send(ttl_s=1)
    shard.delete(1)
    shard.wait(s=1)
    assert ids(shard.fetch()) == [3]


# Where a new group starts.


@pytest.mark.parametrize(
    ("deliver", "value", "found"),
    [
        (Deliver.EARLIEST, 0, [3, 1, 2, 4]),
        (Deliver.LATEST, 0, [4]),
        (Deliver.FROM_ID, 0, [3, 1, 2, 4]),
        (Deliver.FROM_ID, 2, [3, 2, 4]),
        (Deliver.FROM_ID, 4, [4]),
        (Deliver.FROM_ID, 5, []),
        (Deliver.FROM_TIME, START_MS // 1000, [3, 1, 2, 4]),
        (Deliver.FROM_TIME, START_MS // 1000 + 1, [3, 2, 4]),
        (Deliver.FROM_TIME, START_MS // 1000 + 2, [3, 4]),
        (Deliver.FROM_TIME, START_MS // 1000 + 4, []),
        (Deliver.FROM_TIME, 0, [3, 1, 2, 4]),
    ],
)
def test_a_new_group_starts_where_it_is_told(
    shard: Shard, deliver: int, value: int, found: list[int]
) -> None:
    for priority in (NORMAL, NORMAL, CRITICAL, NORMAL):
        shard.send(priority=priority)
        shard.wait(s=1)
    assert ids(shard.fetch(deliver=deliver, from_value=value)) == found
    shard.send(priority=URGENT)
    new = [] if deliver == Deliver.FROM_TIME and value * 1000 > shard.now_ms else [5]
    assert ids(shard.fetch(by=2)) == new


def test_latest_is_the_newest_message_whatever_its_priority(shard: Shard) -> None:
    shard.send(priority=NORMAL)
    shard.send(priority=CRITICAL)
    shard.send(priority=LOW)
    assert ids(shard.fetch(deliver=Deliver.LATEST)) == [3]


def test_latest_is_the_newest_that_is_still_there(shard: Shard) -> None:
    for _ in range(3):
        shard.send()
    shard.delete(3)
    assert ids(shard.fetch(deliver=Deliver.LATEST)) == [2]


def test_latest_in_an_empty_mailbox_is_what_comes_next(shard: Shard) -> None:
    shard.send()
    shard.delete(1)
    assert ids(shard.fetch(deliver=Deliver.LATEST)) == []
    shard.send()
    shard.send(priority=CRITICAL)
    assert ids(shard.fetch()) == [3, 2]


def test_a_start_ahead_of_the_mailbox_skips_what_comes_before_it(shard: Shard) -> None:
    shard.fetch("id", deliver=Deliver.FROM_ID, from_value=3)
    shard.fetch("time", deliver=Deliver.FROM_TIME, from_value=START_MS // 1000 + 10)
    shard.send()
    shard.send(priority=CRITICAL)
    assert ids(shard.fetch("id")) == []
    assert ids(shard.fetch("time")) == []
    shard.wait(s=10)
    shard.send(priority=LOW)
    shard.send(priority=CRITICAL)
    assert ids(shard.fetch("id")) == [4, 3]
    assert ids(shard.fetch("time")) == [4, 3]


def test_the_start_counts_for_a_new_group_only(three: Shard) -> None:
    three.fetch(deliver=Deliver.LATEST)
    three.ack(3)
    assert ids(three.fetch(deliver=Deliver.EARLIEST)) == []


def test_a_group_is_new_even_when_its_first_fetch_finds_nothing(shard: Shard) -> None:
    shard.send()
    shard.fetch(deliver=Deliver.FROM_ID, from_value=2)
    assert ids(shard.fetch(deliver=Deliver.EARLIEST)) == []


# force_deliver.


def test_force_starts_anew_for_the_whole_group(three: Shard) -> None:
    three.fetch(num_msgs=2)
    three.ack(1)
    assert ids(three.fetch(by=2, force=True, deliver=Deliver.EARLIEST)) == [1, 2, 3]
    assert ids(three.fetch()) == []


def test_force_may_start_later_too(three: Shard) -> None:
    three.fetch(force=True, deliver=Deliver.LATEST)
    three.end()
    assert ids(three.fetch(by=2)) == [3]


def test_force_ends_the_handouts_of_all_others(three: Shard) -> None:
    three.fetch(num_msgs=1)
    three.fetch(num_msgs=1, by=2, ack_wait_ms=60_000)
    three.fetch(num_msgs=1, by=3, force=True)
    assert ids(three.fetch(by=4)) == [2, 3]


def test_force_forgets_nack_delays(three: Shard) -> None:
    three.fetch()
    three.nack(1, delay_s=3600)
    assert ids(three.fetch(by=2, force=True)) == [1, 2, 3]


def test_force_forgets_how_often_messages_came_back_and_does_not_count_itself(bare: Shard) -> None:
    bare.create(max_deliver=2)
    bare.send()
    bare.fetch()
    bare.nack(1)
    bare.fetch()
    bare.fetch(by=2, force=True)
    bare.nack(1, by=2)
    assert ids(bare.fetch()) == [1]
    bare.nack(1)
    assert ids(bare.fetch()) == []
    assert ids(bare.query("box.dlq")) == [1]


def test_force_brings_dead_letters_back_to_their_group(bare: Shard) -> None:
    bare.create(max_deliver=1)
    bare.send()
    bare.fetch()
    bare.nack(1)
    assert ids(bare.fetch()) == []
    assert ids(bare.fetch(force=True)) == [1]


def test_force_on_a_new_group_is_no_different(three: Shard) -> None:
    assert ids(three.fetch(force=True)) == [1, 2, 3]


def test_a_late_ack_after_force_confirms_nothing_that_another_holds(three: Shard) -> None:
    old = three.fetch().handout
    three.fetch(by=2, force=True)
    assert why(three.ack(3)) is MessageNotFound
    assert why(three.ack(3, handout=old)) is MessageNotFound
    three.end(owner(2))
    assert ids(three.fetch(by=2)) == [1, 2, 3]


# Consumers.


def test_a_named_consumer_is_the_same_over_another_connection(three: Shard) -> None:
    three.fetch(consumer="c", num_msgs=2)
    assert ids(three.fetch(consumer="c", by=2)) == [1, 2, 3]
    assert ids(three.fetch(by=2)) == []


def test_two_named_consumers_on_one_connection_are_two(three: Shard) -> None:
    assert ids(three.fetch(consumer="a", num_msgs=2)) == [1, 2]
    assert ids(three.fetch(consumer="b")) == [3]
    assert ids(three.fetch()) == []


def test_a_named_consumers_handout_belongs_to_the_connection_that_fetched_last(
    three: Shard,
) -> None:
    three.fetch(consumer="c")
    three.fetch(consumer="c", by=2)
    three.end(1)
    assert ids(three.fetch(by=3)) == []
    three.end(2)
    assert ids(three.fetch(by=3)) == [1, 2, 3]


def test_connections_of_other_nodes_and_runs_are_other_consumers(three: Shard) -> None:
    assert ids(three.fetch(by=owner(1, node=1), num_msgs=1)) == [1]
    assert ids(three.fetch(by=owner(1, node=2), num_msgs=1)) == [2]
    assert ids(three.fetch(by=owner(1, node=1, incarnation=2), num_msgs=1)) == [3]


# The end of connections.


def test_what_a_connection_held_is_open_at_once_when_it_ends(three: Shard) -> None:
    three.fetch(num_msgs=2)
    assert three.end() == Done()
    assert ids(three.fetch(by=2)) == [1, 2, 3]


def test_what_was_done_stays_done_when_the_connection_ends(three: Shard) -> None:
    three.fetch()
    three.ack(2)
    three.end()
    assert ids(three.fetch(by=2)) == [3]


def test_the_end_of_a_connection_releases_every_group_and_mailbox(three: Shard) -> None:
    three.create("other")
    three.send(box="other")
    three.fetch("a")
    three.fetch("b", consumer="c")
    three.fetch("a", box="other")
    three.end()
    assert ids(three.fetch("a", by=2)) == [1, 2, 3]
    assert ids(three.fetch("b", by=2)) == [1, 2, 3]
    assert ids(three.fetch("a", box="other", by=2)) == [1]


def test_the_end_of_a_connection_leaves_other_connections_alone(three: Shard) -> None:
    three.fetch(num_msgs=1)
    three.fetch(num_msgs=1, by=owner(1, node=2))
    three.fetch(num_msgs=1, by=owner(1, incarnation=2))
    three.end(owner(1))
    assert ids(three.fetch(by=9)) == [1]


def test_a_handout_with_ack_wait_outlives_its_connection(three: Shard) -> None:
    three.fetch(ack_wait_ms=5_000)
    three.end()
    assert ids(three.fetch(by=2)) == []
    three.wait(4_999)
    assert ids(three.fetch(by=2)) == []
    three.wait(1)
    assert ids(three.fetch(by=2)) == [1, 2, 3]


def test_the_ack_wait_counts_from_the_last_fetch(three: Shard) -> None:
    three.fetch(ack_wait_ms=5_000)
    three.wait(4_000)
    three.fetch(ack_wait_ms=5_000)
    three.wait(4_000)
    assert ids(three.fetch(by=2)) == []
    three.wait(1_000)
    assert ids(three.fetch(by=2)) == [1, 2, 3]


def test_a_consumer_may_change_between_ack_wait_and_its_connection(three: Shard) -> None:
    three.fetch(ack_wait_ms=5_000)
    three.fetch()
    three.wait(10_000)
    assert ids(three.fetch(by=2)) == []
    three.fetch(ack_wait_ms=5_000)
    three.end()
    assert ids(three.fetch(by=2)) == []


def test_an_ended_connection_that_ends_again_changes_nothing(three: Shard) -> None:
    three.fetch()
    three.end()
    three.fetch(by=2)
    assert three.end() == Done()
    assert ids(three.fetch(by=3)) == []


def test_the_end_of_a_run_releases_all_its_connections_and_those_of_older_runs(
    three: Shard,
) -> None:
    three.fetch(num_msgs=1, by=owner(1, incarnation=1))
    three.fetch(num_msgs=1, by=owner(7, incarnation=2))
    three.fetch(num_msgs=1, by=owner(7, incarnation=3))
    assert three.end_incarnation(1, 2) == Done()
    assert ids(three.fetch(by=owner(1, node=2))) == [1, 2]


def test_commands_of_an_ended_run_are_refused(three: Shard) -> None:
    three.fetch(by=owner(1, incarnation=3))
    three.end_incarnation(1, 2)
    for incarnation in (1, 2):
        late = owner(1, incarnation=incarnation)
        assert why(three.fetch(by=late)) is Unavailable
        assert why(three.ack(1, by=late)) is Unavailable
        assert why(three.nack(1, by=late)) is Unavailable
    assert three.ack(1, by=owner(1, incarnation=3)) == Done()
    assert ids(three.fetch(by=owner(1, node=2, incarnation=1))) == []


def test_ending_an_older_run_does_not_readmit_a_newer_one(three: Shard) -> None:
    three.end_incarnation(1, 5)
    three.end_incarnation(1, 2)
    assert why(three.fetch(by=owner(1, incarnation=5))) is Unavailable
    assert why(three.fetch(by=owner(1, incarnation=3))) is Unavailable


def test_the_end_of_a_run_leaves_ack_wait_handouts_to_their_time(three: Shard) -> None:
    three.fetch(ack_wait_ms=5_000)
    three.end_incarnation(1, 1)
    late = owner(1, node=2)
    assert ids(three.fetch(by=late)) == []
    three.wait(5_000)
    assert ids(three.fetch(by=late)) == [1, 2, 3]


# Idle groups.


def test_a_group_idle_for_seven_days_is_forgotten(three: Shard) -> None:
    three.fetch(num_msgs=1)
    three.ack(1)
    three.wait(days=7, ms=-1)
    assert ids(three.fetch(by=2)) == [2, 3]
    three.wait(days=7)
    assert ids(three.fetch(by=3)) == [1, 2, 3]


def test_a_forgotten_group_starts_where_the_next_fetch_says(three: Shard) -> None:
    three.fetch()
    three.wait(days=7)
    assert ids(three.fetch(by=2, deliver=Deliver.LATEST)) == [3]


def test_fetch_ack_nack_and_progress_keep_a_group_alive(three: Shard) -> None:
    three.fetch()
    for use in (lambda: three.ack(1), lambda: three.nack(2), lambda: three.fetch(num_msgs=1)):
        three.wait(days=6)
        use()
    three.wait(days=6)
    assert ids(three.fetch(by=2)) == [3]


def test_refused_commands_do_not_keep_a_group_alive(three: Shard) -> None:
    three.fetch()
    three.ack(3)
    three.wait(days=6)
    assert why(three.ack(9)) is MessageNotFound
    assert why(three.nack(1)) is MessageNotFound
    three.wait(days=1)
    assert ids(three.fetch()) == [1, 2, 3]


def test_ack_of_a_forgotten_group_is_refused(three: Shard) -> None:
    three.fetch()
    three.wait(days=7)
    assert why(three.ack(1)) is MessageNotFound
    assert why(three.nack(1)) is MessageNotFound

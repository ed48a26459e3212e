"""Who stands, who is voted for, how leadership is handed on: each as the Ready it returns."""

import pytest

from mq9cluster.cluster.engine import (
    HardState,
    LogEntry,
    NotLeader,
)
from mq9cluster.cluster.raft_wire import (
    Append,
    Heartbeat,
    HeartbeatReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from tests.support.raft import TIMING, Replica, entries, leader_of, ok

# elections


def test_a_replica_that_hears_no_leader_asks_before_it_stands() -> None:
    replica = Replica(terms=(1, 2))
    replica.wait(TIMING.election_ms_max + 1)
    ask = VoteRequest(3, 2, 2, pre=True, transfer=False)
    assert replica.work() == (None, None, [], [("b", ask), ("c", ask)], [], [])
    assert replica.engine.term == 2


def test_before_the_shortest_timeout_nobody_asks() -> None:
    replica = Replica()
    replica.wait(TIMING.election_ms_min)
    assert replica.work().now == []


def test_election_timeouts_are_spread() -> None:
    waits = []
    for _ in range(20):
        replica = Replica()
        replica.engine._random._random.seed(len(waits))
        replica.hear("b", Heartbeat(1, 0, 0))
        replica.work()
        start = replica.clock.ms
        while not replica.work().now:
            replica.wait(10)
        waits.append(replica.clock.ms - start)
    assert min(waits) >= TIMING.election_ms_min
    assert max(waits) <= TIMING.election_ms_max + 10
    assert len(set(waits)) > 10


def test_a_follower_says_to_the_millisecond_when_it_stands_and_a_leader_does_not() -> None:
    replica = Replica()
    replica.hear("b", Heartbeat(1, 0, 0))
    replica.work()
    stands_in_s = replica.engine.stands_in_s()
    assert stands_in_s is not None
    assert TIMING.election_ms_min <= 1000 * stands_in_s <= TIMING.election_ms_max
    replica.wait(int(1000 * stands_in_s))
    assert replica.work().now == []
    replica.wait(1)
    assert replica.work().now
    assert leader_of().engine.stands_in_s() is None


def test_with_the_word_of_a_majority_it_stands_and_its_vote_is_synced_first() -> None:
    replica = Replica(terms=(1, 2))
    replica.wait(2_000)
    replica.work()
    replica.hear("c", VoteReply(3, granted=True, pre=True))
    ask = VoteRequest(3, 2, 2, pre=False, transfer=False)
    assert replica.work() == (HardState(3, "a"), None, [], [], [("b", ask), ("c", ask)], [])


def test_a_leader_opens_its_term_with_an_empty_entry_and_sends_it_before_its_own_sync() -> None:
    replica = Replica(terms=(1, 2))
    work = replica.lead()
    append = Append(3, 2, 2, 0, 0, [LogEntry(3, 3, b"")])
    assert work.entries == [LogEntry(3, 3, b"")]
    assert work.now == [("b", append), ("c", append)]


def test_a_question_without_answer_is_repeated_and_answers_are_kept() -> None:
    replica = Replica(voters="abcde")
    replica.wait(2_000)
    replica.work()
    replica.hear("b", VoteReply(1, granted=True, pre=True))
    replica.wait(2 * TIMING.heartbeat_ms)
    assert [peer for peer, _ in replica.work().now] == ["b", "c", "d", "e"]
    replica.hear("c", VoteReply(1, granted=True, pre=True))
    assert replica.work().hard_state == HardState(1, "a")


def test_a_vote_is_asked_in_advance_of_those_whose_log_is_no_newer() -> None:
    replica = Replica(terms=(1, 2))
    asked = [(3, 2, 2), (3, 1, 2), (3, 9, 1), (3, 1, 3), (2, 2, 2)]
    for term, index, of in asked:
        replica.hear("b", VoteRequest(term, index, of, pre=True, transfer=False))
    answers = [(answer.term, answer.granted) for _, answer in replica.work().now]
    assert answers == [(3, True), (2, False), (2, False), (3, True), (2, False)]
    assert replica.engine.term == 2


def test_who_hears_a_leader_does_not_vote_unless_the_leader_asked_for_it() -> None:
    replica = Replica()
    replica.hear("b", Heartbeat(1, 0, 0))
    replica.work()
    replica.hear("c", VoteRequest(2, 5, 1, pre=False, transfer=False))
    assert (replica.work(), replica.engine.term) == ((None, None, [], [], [], []), 1)
    replica.hear("c", VoteRequest(2, 5, 1, pre=False, transfer=True))
    assert replica.work().hard_state == HardState(2, "c")


def test_one_vote_a_term_and_the_same_again_to_who_lost_it() -> None:
    replica = Replica()
    replica.hear("b", VoteRequest(1, 0, 0, pre=False, transfer=False))
    replica.work()
    replica.hear("c", VoteRequest(1, 0, 0, pre=False, transfer=False))
    replica.hear("b", VoteRequest(1, 0, 0, pre=False, transfer=False))
    work = replica.work()
    assert work.now == [("c", VoteReply(1, granted=False, pre=False))]
    assert work.after_sync == [("b", VoteReply(1, granted=True, pre=False))]


def test_a_vote_survives_a_restart() -> None:
    replica = Replica(hard_state=HardState(4, "b"))
    replica.hear("c", VoteRequest(4, 9, 3, pre=False, transfer=False))
    assert replica.work().now == [("c", VoteReply(4, granted=False, pre=False))]


def test_no_vote_for_a_log_that_is_behind() -> None:
    replica = Replica(terms=(1, 2))
    replica.hear("b", VoteRequest(3, 5, 1, pre=False, transfer=False))
    work = replica.work()
    assert (work.hard_state, work.after_sync) == (HardState(3, ""), [])
    assert work.now == [("b", VoteReply(3, granted=False, pre=False))]


def test_votes_of_another_term_or_of_strangers_do_not_count() -> None:
    replica = Replica()
    replica.wait(2_000)
    replica.work()
    replica.hear("b", VoteReply(1, granted=True, pre=True))
    replica.work()
    replica.hear("x", VoteReply(1, granted=True, pre=False))
    replica.hear("b", VoteReply(0, granted=True, pre=False))
    assert not replica.engine.is_leader


def test_a_candidate_follows_who_won() -> None:
    replica = Replica()
    replica.wait(2_000)
    replica.work()
    replica.hear("b", VoteReply(1, granted=True, pre=True))
    replica.work()
    replica.hear("c", Heartbeat(1, 0, 0))
    assert (replica.engine.leader, replica.engine.is_leader) == ("c", False)


def test_a_refusal_from_a_later_term_is_learnt_from() -> None:
    replica = Replica()
    replica.wait(2_000)
    replica.work()
    replica.hear("b", VoteReply(7, granted=False, pre=True))
    assert replica.work().hard_state == HardState(7, "")


def test_who_may_not_lead_does_not_stand_but_votes() -> None:
    replica = Replica()
    replica.engine.may_lead = False
    replica.wait(5_000)
    assert replica.work().now == []
    replica.hear("b", VoteRequest(1, 0, 0, pre=False, transfer=False))
    assert replica.work().hard_state == HardState(1, "b")


def test_learners_and_strangers_do_not_stand() -> None:
    for given in ({"voters": "bc", "learners": "a"}, {"voters": "bc"}, {"voters": ""}):
        replica = Replica(**given)
        replica.wait(5_000)
        assert replica.work().now == []


def test_a_group_of_one_leads_once_its_vote_is_synced() -> None:
    replica = Replica(voters="a")
    replica.engine.tick()
    assert replica.begin().hard_state == HardState(1, "a")
    assert not replica.engine.is_leader
    replica.sync()
    assert replica.engine.is_leader
    assert replica.work().entries == [LogEntry(1, 1, b"")]


def test_a_leader_known_to_be_gone_is_replaced_within_a_heartbeat_or_two() -> None:
    replica = Replica()
    replica.hear("b", Heartbeat(1, 0, 0))
    replica.work()
    replica.engine.peer_lost("c")  # not the leader
    replica.wait(151)
    assert replica.work().now == []
    replica.engine.peer_lost("b")
    replica.wait(151)
    assert [type(message) for _, message in replica.work().now] == [VoteRequest, VoteRequest]


def test_who_lost_the_leader_is_not_elected_by_those_who_hear_it() -> None:
    replica = Replica()
    replica.hear("b", Heartbeat(1, 0, 0), VoteRequest(2, 9, 9, pre=True, transfer=False))
    assert replica.work().now[1] == ("b", VoteReply(1, granted=False, pre=True))
    replica.engine.peer_lost("b")
    replica.hear("c", VoteRequest(2, 9, 9, pre=True, transfer=False))
    assert replica.work().now == [("c", VoteReply(2, granted=True, pre=True))]


# transfer


def test_leadership_is_handed_to_who_has_everything() -> None:
    leader = leader_of()
    leader.engine.transfer("c")
    assert leader.work().now == [("c", TimeoutNow(1))]
    with pytest.raises(NotLeader) as refusal:
        leader.engine.propose(b"x")
    assert refusal.value.leader == "c"


def test_who_is_behind_is_brought_up_to_date_first() -> None:
    leader = leader_of()
    leader.engine.propose(b"x")
    leader.engine.transfer("c")
    assert [type(message) for _, message in leader.work().now] == [Append, Append]
    leader.hear("c", ok(1, 2))
    assert ("c", TimeoutNow(1)) in leader.work().now


def test_a_transfer_that_fails_is_given_up() -> None:
    leader = leader_of()
    leader.engine.transfer("c")
    leader.work()
    for _ in range(13):
        leader.wait(TIMING.heartbeat_ms + 1)
        leader.hear("b", HeartbeatReply(1, 0))
        leader.work()
    assert leader.engine.propose(b"x") == (2, 1)


def test_leadership_is_not_handed_to_strangers_or_oneself() -> None:
    leader = leader_of()
    for name in ("x", "a"):
        with pytest.raises(ValueError, match="no other voter"):
            leader.engine.transfer(name)


def test_who_is_asked_to_lead_stands_at_once_and_says_why() -> None:
    follower = Replica()
    follower.hear("b", Append(1, 0, 0, 0, 0, entries(1, 1)))
    follower.work()
    follower.hear("c", TimeoutNow(1))  # no leader
    assert follower.work().hard_state is None
    follower.hear("b", TimeoutNow(1))
    work = follower.work()
    ask = VoteRequest(2, 1, 1, pre=False, transfer=True)
    assert (work.hard_state, work.after_sync) == (HardState(2, "a"), [("b", ask), ("c", ask)])


def test_an_order_to_lead_is_forgotten_by_who_may_not() -> None:
    follower = Replica()
    follower.hear("b", Heartbeat(1, 0, 0), TimeoutNow(1))
    follower.engine.may_lead = False
    follower.work()
    follower.engine.may_lead = True
    follower.hear("b", Heartbeat(1, 0, 0))
    follower.wait(TIMING.election_ms_min)
    assert (follower.work().hard_state, follower.engine.leader) == (None, "b")


def test_an_order_to_lead_of_an_older_term_is_ignored() -> None:
    follower = Replica()
    follower.hear("b", Heartbeat(2, 0, 0), TimeoutNow(1))
    assert follower.work().hard_state == HardState(2, "")

"""The engine's rules, each as the Ready it returns. What the plain class gets wrong is in
tests/regression/test_raft_failures.py, elections in test_raft_elections.py.
"""

import pytest

from mq9cluster.cluster import raft_engine
from mq9cluster.cluster.engine import (
    EngineRefused,
    HardState,
    LogEntry,
    Members,
    NotLeader,
    Ready,
)
from mq9cluster.cluster.raft_engine import check_pysyncobj
from mq9cluster.cluster.raft_log import LogConflict
from mq9cluster.cluster.raft_members import encode_members
from mq9cluster.cluster.raft_wire import (
    Append,
    Heartbeat,
    HeartbeatReply,
    VoteRequest,
    encode,
)
from mq9cluster.domain.errors import Overloaded
from tests.support.raft import TIMING, Replica, entries, entry, leader_of, no, ok

# replication


def test_a_follower_takes_entries_and_acknowledges_once_a_turn() -> None:
    follower = Replica()
    follower.hear("b", Append(1, 0, 0, 0, 3, entries(1, 1)), Append(1, 1, 1, 1, 4, entries(2, 1)))
    work = follower.work()
    assert (work.hard_state, work.entries) == (HardState(1, ""), entries(1, 1, 1))
    assert (work.now, work.after_sync) == ([], [("b", ok(1, 2, 4))])
    assert (follower.engine.leader, follower.engine.commit_index) == ("b", 1)


def test_a_follower_refuses_what_does_not_fit_and_says_where_the_logs_may_agree() -> None:
    follower = Replica(terms=(1, 1, 2, 2, 3))
    follower.hear("b", Append(4, 5, 2, 0, 0, []), Append(4, 9, 4, 0, 0, []))
    assert follower.work().now == [("b", no(4, 5, 4, 2)), ("b", no(4, 9, 5, 3))]


def test_a_new_leader_replaces_what_was_never_committed() -> None:
    follower = Replica(terms=(1, 1, 1), applied=1)
    follower.hear("b", Append(2, 1, 1, 1, 0, entries(2, 2)))
    work = follower.work()
    assert (work.truncate_from, work.entries) == (2, entries(2, 2))


def test_an_acknowledgement_of_an_older_term_does_not_leave_after_its_entries_were_replaced() -> (
    None
):
    follower = Replica()
    follower.hear("b", Append(1, 0, 0, 0, 0, entries(1, 1, 1)))
    follower.hear("c", Append(2, 0, 0, 0, 0, entries(1, 2)))
    assert follower.work().after_sync == [("c", ok(2, 1))]


def test_entries_below_the_commit_index_are_acknowledged_without_a_look() -> None:
    follower = Replica(terms=(1, 1, 1), base=(10, 1), applied=13)
    follower.hear("b", Append(2, 5, 1, 13, 0, entries(6, 1, 1)))
    assert follower.work().after_sync == [("b", ok(2, 7))]


def test_two_leaders_of_a_term_stop_the_replica() -> None:
    leader = leader_of()
    with pytest.raises(LogConflict, match="b leads term 1, as does a"):
        leader.hear("b", Heartbeat(1, 0, 0))


def test_a_leader_commits_what_a_majority_has_synced() -> None:
    leader = leader_of("abcde")
    leader.engine.propose(b"x")
    leader.work()
    leader.hear("b", ok(1, 2))
    leader.work()
    assert leader.engine.commit_index == 1
    leader.hear("b", ok(1, 2))  # again
    leader.hear("c", ok(1, 2))
    leader.work()
    assert (leader.engine.commit_index, leader.committed()) == (2, [LogEntry(2, 1, b"x")])


def test_entries_of_older_terms_are_committed_only_with_one_of_its_own() -> None:
    leader = Replica(terms=(1, 1))
    leader.lead()
    leader.hear("b", ok(2, 2))
    leader.work()
    assert leader.engine.commit_index == 0
    leader.hear("b", ok(2, 3))
    leader.work()
    assert leader.engine.commit_index == 3


def test_all_proposals_of_a_turn_leave_in_one_message() -> None:
    leader = leader_of()
    for data in (b"x", b"y"):
        leader.engine.propose(data)
    new = [LogEntry(2, 1, b"x"), LogEntry(3, 1, b"y")]
    work = leader.begin()
    assert work.entries == new
    assert work.now == [(peer, Append(1, 1, 1, 1, 0, new)) for peer in "bc"]


def test_followers_at_the_same_place_are_sent_the_same_bytes_and_entries_are_bulk() -> None:
    leader = leader_of()
    leader.engine.propose(b"x")
    ready = leader.engine.ready()
    assert ready is not None
    one, two = ready.messages
    assert one.data is two.data
    assert (one.bulk, two.bulk) == (True, True)


def test_heartbeats_are_not_bulk_and_leave_on_time() -> None:
    leader = leader_of()
    leader.wait(TIMING.heartbeat_ms - 1)
    assert leader.engine.ready() is None
    leader.wait(2)
    ready = leader.engine.ready()
    assert ready is not None
    assert [(message.peer, message.bulk) for message in ready.messages] == [
        ("b", False),
        ("c", False),
    ]


def test_a_heartbeat_is_answered_at_once() -> None:
    follower = Replica()
    follower.hear("b", Heartbeat(3, 0, 8))
    work = follower.begin()
    assert (work.now, work.after_sync) == ([("b", HeartbeatReply(3, 8))], [])


@pytest.mark.parametrize(
    ("then", "patient"),
    [
        (Heartbeat(3, 1, 8), True),
        (Heartbeat(3, 2, 8), True),  # more is committed: the answer says nothing of it
        (Heartbeat(3, 1, 9), False),  # reads wait for the answer
        (Heartbeat(4, 1, 8), False),
        (Heartbeat(2, 1, 8), False),  # of a leader that must learn that it is none
    ],
)
def test_the_answer_to_a_heartbeat_can_wait_for_company_if_nobody_waits_for_it(
    then: Heartbeat, patient: bool
) -> None:
    follower = Replica(terms=(1, 1))
    assert _patience(follower, "b", Heartbeat(3, 1, 8)) == [False]
    assert _patience(follower, "b", then) == [patient]


def test_a_heartbeat_after_a_broken_connection_or_of_another_leader_is_answered_at_once() -> None:
    follower = Replica()
    beat = Heartbeat(3, 0, 8)
    assert _patience(follower, "b", beat, beat) == [False, True]
    follower.engine.peer_lost("b")
    assert _patience(follower, "b", beat) == [False]
    assert _patience(follower, "c", beat) == [False]


def _patience(follower: Replica, leader: str, *beats: Heartbeat) -> list[bool]:
    follower.hear(leader, *beats)
    ready = follower.engine.ready()
    assert ready is not None
    follower.engine.synced(ready)
    return [message.patient for message in ready.messages]


def test_a_follower_hands_on_only_what_is_on_its_own_disk() -> None:
    follower = Replica()
    follower.hear("b", Append(1, 0, 0, 2, 0, entries(1, 1, 1)))
    follower.begin()
    assert (follower.engine.commit_index, follower.committed()) == (2, [])
    follower.sync()
    assert follower.committed() == entries(1, 1, 1)


def test_a_sync_begun_before_entries_were_replaced_proves_nothing_about_those_that_came() -> None:
    follower = Replica()
    follower.hear("b", Append(1, 0, 0, 0, 0, entries(1, 1, 1)))
    first = follower.engine.ready()
    follower.hear("c", Append(2, 0, 0, 2, 0, entries(1, 2, 2)))
    second = follower.engine.ready()
    assert first is not None
    assert second is not None
    assert second.truncate_from == 1
    follower.log.write(first)
    follower.log.write(second)
    follower.engine.synced(first)
    assert follower.committed() == []
    follower.engine.synced(second)
    assert follower.committed() == entries(1, 2, 2)


def test_readys_are_reported_in_order() -> None:
    leader = leader_of()
    leader.engine.propose(b"x")
    leader.engine.ready()
    leader.engine.propose(b"y")
    second = leader.engine.ready()
    assert second is not None
    with pytest.raises(ValueError, match="order"):
        leader.engine.synced(second)


def test_nothing_to_do_is_no_ready() -> None:
    leader = leader_of()
    assert leader.engine.ready() is None


def test_a_restarted_replica_replays_from_its_state() -> None:
    replica = Replica(terms=(1, 1, 1), applied=1)
    assert replica.committed() == []
    replica.hear("b", Append(1, 3, 1, 3, 0, []))
    assert replica.committed() == entries(2, 1, 1)


# proposals


def test_who_does_not_lead_says_who_does() -> None:
    follower = Replica()
    with pytest.raises(NotLeader) as refusal:
        follower.engine.propose(b"x")
    assert refusal.value.leader == ""
    follower.hear("b", Heartbeat(1, 0, 0))
    for ask in (
        lambda: follower.engine.propose(b"x"),
        lambda: follower.engine.read_barrier(print),
        lambda: follower.engine.transfer("c"),
        lambda: follower.engine.propose_members(Members(("a",))),
    ):
        with pytest.raises(NotLeader) as refusal:
            ask()
        assert refusal.value.leader == "b"


def test_a_deposed_leader_knows_it() -> None:
    leader = leader_of()
    leader.hear("b", HeartbeatReply(9, 0))
    assert (leader.engine.is_leader, leader.engine.term) == (False, 9)
    assert leader.work().hard_state == HardState(9, "")


@pytest.mark.parametrize("data", [b"", b"\x00members", b"x" * (raft_engine.ENTRY_BYTES_MAX + 1)])
def test_entries_the_engine_keeps_for_itself_or_cannot_carry_are_refused(data: bytes) -> None:
    leader = leader_of()
    with pytest.raises(ValueError, match="entry"):
        leader.engine.propose(data)


def test_a_leader_without_a_majority_refuses_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raft_engine, "OPEN_BYTES_MAX", 100)
    leader = leader_of()
    leader.engine.propose(b"x" * 60)
    with pytest.raises(Overloaded):
        leader.engine.propose(b"x" * 60)
    leader.work()
    leader.hear("b", ok(1, 2))
    leader.work()
    assert leader.engine.propose(b"x" * 60) == (3, 1)


# reads


def test_a_read_waits_until_the_leader_has_committed_in_its_own_term() -> None:
    leader = Replica(terms=(1, 1))
    leader.lead()
    reads: list[int | None] = []
    leader.engine.read_barrier(reads.append)
    leader.work()
    leader.hear("b", HeartbeatReply(2, 0), ok(2, 2))
    leader.work()
    assert (leader.engine.term, reads) == (2, [])
    leader.hear("b", ok(2, 3))
    assert [message.round for _, message in leader.work().now] == [1, 1]
    leader.hear("b", HeartbeatReply(2, 1))
    leader.work()
    assert reads == [3]


def test_reads_of_a_turn_share_the_message_with_its_entries() -> None:
    leader = leader_of()
    reads: list[int | None] = []
    for _ in range(3):
        leader.engine.read_barrier(reads.append)
    leader.engine.propose(b"x")
    sent = leader.work().now
    assert sent == [(peer, Append(1, 1, 1, 1, 1, [LogEntry(2, 1, b"x")])) for peer in "bc"]
    leader.hear("b", ok(1, 2, 1))
    leader.work()
    assert reads == [1, 1, 1]


def test_reads_are_lost_with_leadership() -> None:
    leader = leader_of()
    reads: list[int | None] = []
    leader.engine.read_barrier(reads.append)
    leader.hear("b", VoteRequest(2, 9, 2, pre=False, transfer=True))
    assert reads == [None]


def test_a_voters_word_settles_a_read_where_two_are_a_majority() -> None:
    leader = leader_of()
    assert leader.engine.confirmed_by("b", 1) == 1
    assert leader.engine.confirmed_by("b", 2) is None  # it may have voted for another
    assert leader.engine.confirmed_by("b", 0) is None
    assert leader.engine.confirmed_by("x", 1) is None
    assert leader.engine.confirmed_by("a", 1) is None  # its own word is no other


def test_a_voters_word_is_not_enough_of_five_nor_before_the_own_term_is_committed() -> None:
    five = leader_of("abcde")
    assert five.engine.confirmed_by("b", 1) is None
    fresh = Replica(terms=(1, 1))
    fresh.lead()
    assert fresh.engine.confirmed_by("b", fresh.engine.term) is None


# members


def test_a_new_voter_counts_from_the_entry_that_names_it() -> None:
    leader = leader_of()
    index, _ = leader.engine.propose_members(Members(("d", "a", "b", "c")))
    work = leader.work()
    assert work.entries == [LogEntry(2, 1, encode_members(Members(("a", "b", "c", "d"))))]
    assert [peer for peer, _ in work.now] == ["b", "c", "d"]
    leader.hear("b", ok(1, index))
    leader.work()
    assert leader.engine.commit_index == 1  # two of four
    leader.hear("d", no(1, 1, 0, 0))
    leader.work()
    leader.hear("d", ok(1, index))
    leader.work()
    assert leader.engine.commit_index == index


def test_a_learner_is_fed_and_never_counted() -> None:
    leader = leader_of()
    index, _ = leader.engine.propose_members(Members(("a", "b", "c"), ("d",)))
    leader.work()
    leader.hear("d", ok(1, index))
    leader.work()
    assert leader.engine.commit_index == 1
    leader.hear("c", ok(1, index))
    leader.work()
    assert leader.engine.commit_index == index


def test_a_change_that_is_replaced_is_taken_back() -> None:
    follower = Replica()
    change = entry(1, 1, encode_members(Members(("a", "b", "c", "d"))))
    follower.hear("b", Append(1, 0, 0, 0, 0, [change]))
    assert follower.engine.members == Members(("a", "b", "c", "d"))
    follower.work()
    follower.hear("c", Append(2, 0, 0, 0, 0, entries(1, 2)))
    assert follower.engine.members == Members(("a", "b", "c"))


def test_changes_in_the_log_are_in_force_after_a_restart() -> None:
    replica = Replica(terms=(1, 1))
    data = encode_members(Members(("a", "b", "c", "d")))
    log = replica.log
    log.entries[1] = entry(2, 1, data)
    again = raft_engine.RaftEngine(
        name="a",
        members=Members(("a", "b", "c")),
        log=log,
        hard_state=HardState(1, ""),
        applied=0,
        clock=replica.clock,
        random=replica.engine._random,
    )
    assert again.members == Members(("a", "b", "c", "d"))


def test_who_left_is_neither_fed_nor_heard() -> None:
    leader = leader_of("abcd")
    leader.engine.propose_members(Members(("a", "b", "c")))
    assert [peer for peer, _ in leader.work().now] == ["b", "c"]
    leader.hear("d", ok(1, 2), HeartbeatReply(1, 0))
    leader.work()
    assert leader.engine.commit_index == 1


# installed states


def test_a_state_is_wanted_only_beyond_what_the_log_leads_to() -> None:
    follower = Replica(terms=(1, 1, 2), applied=1)
    asked = [follower.engine.snapshot_wanted(*place) for place in ((1, 1), (9, 3), (3, 1), (2, 1))]
    assert asked == [False, True, True, False]
    assert follower.engine.commit_index == 2  # a state at (2, 1) proves that 2 is committed
    assert follower.committed() == entries(2, 1)


def test_after_an_installed_state_the_log_goes_on_behind_it() -> None:
    follower = Replica(terms=(1, 1))
    follower.hear("b", Heartbeat(2, 0, 0))
    follower.work()
    follower.log.reset(9, 2)
    follower.engine.restore(9, 2, Members(("a", "b", "d")))
    follower.work()
    assert (follower.engine.commit_index, follower.committed()) == (9, [])
    assert follower.engine.members == Members(("a", "b", "d"))
    follower.hear("b", Append(2, 9, 2, 10, 0, entries(10, 2)))
    work = follower.work()
    assert (work.truncate_from, work.entries) == (None, entries(10, 2))
    assert follower.committed() == entries(10, 2)


def test_a_state_is_not_installed_under_a_write_of_the_old_log() -> None:
    follower = Replica()
    follower.hear("b", Append(1, 0, 0, 0, 0, entries(1, 1)))
    follower.begin()
    with pytest.raises(ValueError, match="under way"):
        follower.engine.restore(9, 2, Members(("a", "b", "c")))


# the door


def test_another_pysyncobj_is_refused() -> None:
    core = Replica().engine._core
    with pytest.raises(
        EngineRefused, match=r"0\.3\.18 is installed, the engine is built for 0\.3\.17"
    ):
        check_pysyncobj("0.3.18", raft_engine.SyncObj, core)


@pytest.mark.parametrize("name", raft_engine.OVERRIDDEN)
def test_a_pysyncobj_without_a_method_that_is_replaced_is_refused(name: str) -> None:
    base = type("Base", (), {n: v for n, v in vars(raft_engine.SyncObj).items() if n != name})
    with pytest.raises(EngineRefused, match=f"lacks {name}$"):
        check_pysyncobj("0.3.17", base, Replica().engine._core)


def test_a_pysyncobj_without_an_attribute_that_is_read_is_refused() -> None:
    core = Replica().engine._core
    del core._SyncObj__noopIDx
    with pytest.raises(EngineRefused, match="lacks _SyncObj__noopIDx"):
        check_pysyncobj("0.3.17", raft_engine.SyncObj, core)


def test_malformed_messages_are_counted_and_dropped() -> None:
    replica = Replica()
    replica.engine.receive("b", b"\x80\x04")
    replica.engine.receive("b", encode(Heartbeat(1, 0, 0))[:-1])
    assert (replica.engine.malformed, replica.engine.ready()) == (2, None)


def test_two_engines_with_clocks_of_their_own_do_not_disturb_each_other() -> None:
    early, late = Replica(), Replica()
    late.clock.ms = 10_000_000
    late.hear("b", Heartbeat(1, 0, 0))
    early.hear("b", Heartbeat(1, 0, 0))
    for replica in (early, late):
        replica.work()
        replica.wait(TIMING.election_ms_min)
        assert replica.engine.ready() is None
        replica.wait(TIMING.election_ms_max)
        assert isinstance(replica.engine.ready(), Ready)


def test_the_status_tells_where_a_replica_stands() -> None:
    leader = leader_of()
    leader.engine.propose(b"x")
    leader.work()
    status = leader.engine.status()
    assert (status.role, status.term, status.leader) == ("leader", 1, "a")
    assert (status.commit_index, status.last_index, status.synced_index) == (1, 2, 2)
    assert {name: (one.match, one.inflight) for name, one in status.peers.items()} == {
        "b": (1, 1),
        "c": (1, 1),
    }

"""The failures A to N of PySyncObj 0.3.17, each shown on the plain class and shown cured in ours.

The first test of each pair is evidence: should a later PySyncObj fail it, that cure is no longer
needed (docs/adr/0010-pysyncobj-as-raft-core.md).
"""

import os
import pickle
from pathlib import Path
from typing import Any

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj, replicated
from pysyncobj.journal import FileJournal

from mq9cluster.cluster import raft_engine
from mq9cluster.cluster.engine import EngineRefused, HardState, Members, MembersRefused
from mq9cluster.cluster.raft_wire import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    VoteReply,
    VoteRequest,
    encode,
)
from tests.support.plain_syncobj import Plain, Time, plain_time
from tests.support.raft import TIMING, Replica, entries, entry

__all__ = ["plain_time"]

# PySyncObj reads its files without closing them.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def ok(term: int, index: int, round_: int = 0) -> AppendReply:
    return AppendReply(term, round_, ok=True, index=index, hint_index=0, hint_term=0)


# A: commits what no message has verified


def test_a_plain_commits_its_own_unverified_log_on_a_piece_of_a_snapshot(plain_time: Time) -> None:
    plain = Plain(plain_time)
    plain.append("b", 1, (1, 0), 1, 1, 1)  # entries 2..4 of a leader that will be deposed
    piece = (b"not the last piece", True, False)
    plain.hear("c", type="append_entries", term=2, commit_index=4, serialized=piece)
    assert plain.obj.raftCommitIndex == 4  # though c's entries 2..4 are others


def test_a_commits_only_what_the_message_has_verified() -> None:
    replica = Replica(terms=(1, 1, 1))
    replica.hear("c", Append(2, 1, 1, 3, 0, ()))
    assert replica.engine.commit_index == 1


def test_a_a_leader_tells_each_follower_no_commit_index_beyond_what_it_acknowledged() -> None:
    leader = Replica()
    leader.lead()
    leader.hear("b", ok(1, 1))
    leader.work()
    leader.wait(TIMING.heartbeat_ms + 1)
    sent = dict(leader.work().now)
    assert leader.engine.commit_index == 1
    assert (sent["b"], sent["c"]) == (Heartbeat(1, 1, 0), Heartbeat(1, 0, 0))


# B: a late message shortens the log


def test_b_plain_loses_entries_to_a_doubled_message(plain_time: Time) -> None:
    plain = Plain(plain_time)
    plain.append("b", 1, (1, 0), 1, 1)
    plain.append("b", 1, (3, 1), 1, 1)
    plain.append("b", 1, (1, 0), 1, 1)  # the first one again
    assert plain.log == [(1, 0), (2, 1), (3, 1)]  # 4 and 5 were acknowledged


def test_b_a_doubled_message_changes_nothing() -> None:
    replica = Replica()
    first = Append(1, 0, 0, 0, 0, entries(1, 1, 1))
    replica.hear("b", first, Append(1, 2, 1, 0, 0, entries(3, 1, 1)))
    replica.work()
    replica.hear("b", first)
    work = replica.work()
    assert (work.truncate_from, work.entries) == (None, [])
    assert [one.index for one in replica.log.entries] == [1, 2, 3, 4]


# C: nothing is on disk when it is acknowledged


def test_c_plain_acknowledges_without_a_single_sync(
    plain_time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[Any] = []
    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(os, name, lambda *args: syncs.append(args))
    monkeypatch.setattr(pysyncobj.journal.ResizableFile, "flush", lambda _: syncs.append("mmap"))
    plain = Plain(plain_time, journalFile=str(tmp_path / "journal"))
    plain.append("b", 1, (1, 0), 1, 1)
    assert [kind["success"] for _, kind in plain.wire.take("next_node_idx")] == [True]
    assert syncs == []
    monkeypatch.undo()
    plain.close()


def test_c_an_acknowledgement_waits_for_the_disk() -> None:
    replica = Replica()
    replica.hear("b", Append(1, 0, 0, 0, 0, entries(1, 1, 1)))
    work = replica.begin()
    assert work.now == []
    assert work.after_sync == [("b", ok(1, 2))]


def test_c_a_vote_waits_for_the_disk() -> None:
    replica = Replica()
    replica.hear("b", VoteRequest(1, 0, 0, pre=False, transfer=False))
    work = replica.begin()
    assert work.hard_state == HardState(1, "b")
    assert (work.now, work.after_sync) == ([], [("b", VoteReply(1, granted=True, pre=False))])


def test_c_a_leader_counts_itself_only_when_its_own_entry_is_synced() -> None:
    leader = Replica()
    leader.lead()
    leader.engine.propose(b"x")
    leader.begin()
    leader.hear("b", ok(1, 2))
    leader.begin()
    assert leader.engine.commit_index == 1  # the no-op, which is synced
    leader.sync()
    assert leader.engine.commit_index == 2


# D: compaction rewrites the journal in place


def test_d_plain_loses_the_whole_journal_when_compaction_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = FileJournal(str(tmp_path / "journal"))
    for index in range(1, 101):
        journal.add(b"command", index, 1)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FileJournal, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        journal.deleteEntriesTo(10)
    monkeypatch.undo()
    journal._destroy()
    journal = FileJournal(str(tmp_path / "journal"))
    assert len(journal) == 0
    journal._destroy()


def test_d_the_engine_never_asks_to_rewrite_what_is_kept() -> None:
    leader = Replica(voters=("a",))
    leader.lead()
    for number in range(100):
        leader.engine.propose(b"%d" % (number + 1))
    leader.work()
    assert len(leader.committed()) == 101
    leader.log.compact(90)
    leader.engine.propose(b"more")
    work = leader.work()
    assert (work.truncate_from, [one.index for one in work.entries]) == (None, [102])


# E: the persisted commit index is trusted


def test_e_plain_acknowledges_what_was_never_replicated(plain_time: Time, tmp_path: Path) -> None:
    file = str(tmp_path / "journal")
    journal = FileJournal(file)
    for index in range(1, 51):
        journal.add(b"\x01", index, 1)
    journal.setRaftCommitIndex(50)  # the disk kept this, and lost the entries it spoke of
    journal.setCurrentTerm(1, None)
    journal._destroy()
    plain = Plain(plain_time, journalFile=file)
    plain.tick()
    assert plain.obj.raftLastApplied == 50  # with nobody else heard
    plain.close()


def test_e_after_a_restart_only_what_is_applied_counts_as_committed() -> None:
    replica = Replica(terms=[1] * 50, applied=20)
    assert (replica.engine.commit_index, replica.committed()) == (20, [])


# F: a log whose state is missing is accepted


def test_f_plain_starts_from_a_journal_whose_past_is_gone(plain_time: Time, tmp_path: Path) -> None:
    file = str(tmp_path / "journal")
    journal = FileJournal(file)
    for index in range(5_000, 5_010):
        journal.add(b"\x01", index, 1)
    journal._destroy()
    plain = Plain(plain_time, journalFile=file, fullDumpFile=str(tmp_path / "dump"))
    plain.tick()
    assert plain.log[0] == (5_000, 1)  # and state is empty
    plain.close()


def test_f_a_log_whose_state_is_missing_is_refused() -> None:
    with pytest.raises(EngineRefused, match="state stands at 10, but the log begins at 5000"):
        Replica(terms=[1] * 10, base=(4_999, 1), applied=10)


def test_f_a_state_whose_log_is_missing_is_refused() -> None:
    with pytest.raises(EngineRefused, match="state stands at 11, but the log ends at 10"):
        Replica(terms=[1] * 10, applied=11)


def test_f_a_log_whose_vote_is_missing_is_refused() -> None:
    with pytest.raises(EngineRefused, match="a vote is missing"):
        Replica(terms=[3], hard_state=HardState(2, ""))


# G: votes are counted


def test_g_plain_is_elected_by_one_vote_heard_twice(plain_time: Time) -> None:
    plain = Plain(plain_time, voters="abcde")
    plain.tick(10.0)
    for _ in range(2):
        plain.hear("b", type="response_vote", term=1)
    assert plain.obj._isLeader()


def test_g_a_vote_heard_twice_counts_once() -> None:
    replica = Replica(voters="abcde")
    replica.wait(2_000)
    replica.work()
    replica.hear("b", VoteReply(1, granted=True, pre=True))
    replica.hear("b", VoteReply(1, granted=True, pre=True))
    assert replica.work().hard_state is None  # not even in advance
    replica.hear("c", VoteReply(1, granted=True, pre=True))
    assert replica.work().hard_state == HardState(1, "a")
    for _ in range(3):
        replica.hear("b", VoteReply(1, granted=True, pre=False))
    assert not replica.engine.is_leader
    replica.hear("c", VoteReply(1, granted=True, pre=False))
    assert replica.engine.is_leader


# H: several changes of members at once


def test_h_plain_accepts_three_uncommitted_changes(plain_time: Time) -> None:
    plain = Plain(plain_time, dynamicMembershipChange=True)
    plain.lead()
    noop = plain.private("noopIDx")
    for peer in "bc":
        plain.hear(peer, type="next_node_idx", next_node_idx=noop + 1, reset=False, success=True)
    plain.tick()
    for peer in "def":
        plain.obj.addNodeToCluster(pysyncobj.node.Node(peer))
    plain.tick()
    assert plain.obj.raftCommitIndex == noop
    assert {node.id for node in plain.obj.otherNodes} == {"b", "c", "d", "e", "f"}


def test_h_one_change_at_a_time() -> None:
    leader = Replica()
    leader.lead()
    with pytest.raises(MembersRefused, match="not committed anything"):
        leader.engine.propose_members(Members(("a", "b", "c", "d")))
    leader.hear("b", ok(1, 1))
    leader.work()
    assert leader.engine.propose_members(Members(("a", "b", "c", "d"))) == (2, 1)
    with pytest.raises(MembersRefused, match="the change before is not committed"):
        leader.engine.propose_members(Members(("a", "b", "c", "d", "e")))
    leader.work()
    leader.hear("b", ok(1, 2))
    leader.hear("c", ok(1, 2))
    leader.work()
    assert leader.engine.propose_members(Members(("a", "b", "c", "d", "e"))) == (3, 1)


# I: an error while applying stops the group


class Failing(SyncObj):  # type: ignore[misc]
    """A plain state machine with a bad command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.done: list[str] = []
        super().__init__(*args, **kwargs)

    @replicated  # type: ignore[untyped-decorator]
    def run(self, what: str) -> None:
        if what == "bad":
            raise ValueError(what)
        self.done.append(what)


def test_i_plain_tries_a_failing_command_for_ever(plain_time: Time) -> None:
    plain = Plain(plain_time, voters="a", cls=Failing)
    plain.tick(10.0)
    for what in ("bad", "good"):
        plain.obj.run(what)
    plain.tick()
    for _ in range(5):
        with pytest.raises(ValueError, match="bad"):
            plain.tick(1.0)
    assert plain.obj.done == []


def test_i_an_entry_is_handed_on_once_whatever_becomes_of_it() -> None:
    leader = Replica(voters=("a",))
    leader.lead()
    leader.engine.propose(b"bad")
    leader.engine.propose(b"good")
    leader.work()
    assert [one.data for one in leader.engine.take_committed()] == [b"", b"bad", b"good"]
    assert leader.engine.take_committed() == ()
    leader.engine.propose(b"later")  # `applied` was never said: the group goes on
    leader.work()
    assert [one.data for one in leader.engine.take_committed()] == [b"later"]


# J: an acknowledgement without a term


def test_j_plain_counts_an_acknowledgement_of_another_term(plain_time: Time) -> None:
    plain = Plain(plain_time)
    plain.lead()
    # c acknowledged place 2 to this node's earlier leadership, and has replaced the entry since.
    plain.hear("c", type="next_node_idx", next_node_idx=3, reset=False, success=True)
    plain.tick()
    assert plain.obj.raftCommitIndex == 2


def test_j_an_acknowledgement_of_another_term_does_not_count() -> None:
    leader = Replica(terms=(1,))
    leader.lead()
    leader.hear("c", ok(1, 2))
    leader.work()
    assert (leader.engine.term, leader.engine.commit_index) == (2, 0)


# K: stale leaders, disruptive candidates, lost majorities, stale reads


def test_k_plain_leaves_a_stale_leader_without_an_answer(plain_time: Time) -> None:
    plain = Plain(plain_time)
    plain.append("b", 5, (1, 0), 5)
    plain.wire.sent.clear()
    plain.append("c", 4, (1, 0), 4)
    assert plain.wire.sent == []


def test_k_a_stale_leader_is_told_the_term() -> None:
    replica = Replica(hard_state=HardState(5, ""))
    replica.hear("c", Append(4, 0, 0, 0, 0, entries(1, 4)), Heartbeat(4, 0, 9))
    answers = replica.work().now
    assert [(peer, answer.term) for peer, answer in answers] == [("c", 5), ("c", 5)]


def test_k_plain_is_deposed_by_a_node_that_was_away(plain_time: Time) -> None:
    plain = Plain(plain_time)
    plain.lead()
    plain.hear("c", type="request_vote", term=99, last_log_index=1, last_log_term=0)
    assert not plain.obj._isLeader()


def test_k_a_node_that_was_away_does_not_disturb() -> None:
    leader = Replica()
    leader.lead()
    leader.hear("c", VoteRequest(99, 0, 0, pre=False, transfer=False))
    leader.hear("c", VoteRequest(99, 0, 0, pre=True, transfer=False))
    assert leader.work().now == [("c", VoteReply(1, granted=False, pre=True))]
    assert (leader.engine.is_leader, leader.engine.term) == (True, 1)


def test_k_plain_leads_for_half_a_minute_without_anyone(plain_time: Time) -> None:
    plain = Plain(plain_time)
    plain.lead()
    plain.tick(29.0)
    assert plain.obj._isLeader()


def test_k_a_leader_without_a_majority_steps_down_within_two_election_timeouts() -> None:
    leader = Replica()
    leader.lead()
    reads: list[int | None] = []
    leader.engine.read_barrier(reads.append)
    for _ in range(2 * TIMING.election_ms_min // 50):
        leader.wait(50)
        leader.work()
    assert (leader.engine.is_leader, leader.engine.leader, reads) == (False, "", [None])


def test_k_plain_has_no_way_to_read_from_a_confirmed_leader() -> None:
    assert not [name for name in dir(SyncObj) if "read" in name.lower() and "index" in name.lower()]


def test_k_a_read_waits_for_a_majority_to_confirm_the_leader() -> None:
    leader = Replica()
    leader.lead()
    leader.hear("b", ok(1, 1))
    leader.work()
    reads: list[int | None] = []
    leader.engine.read_barrier(reads.append)
    sent = dict(leader.work().now)
    assert (sent["b"], reads) == (Heartbeat(1, 1, 1), [])
    leader.hear("b", HeartbeatReply(1, 0))  # to a heartbeat before the read
    leader.work()
    assert reads == []
    leader.hear("c", HeartbeatReply(1, 1))
    leader.work()
    assert reads == [1]


# L, pickle


class Payload:
    """Runs a command of its choice when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (os.environ["MQ9_TEST_PICKLED"],)


def test_l_plain_runs_what_a_peer_puts_into_an_entry(
    plain_time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQ9_TEST_PICKLED", str(tmp_path / "owned"))
    plain = Plain(plain_time)
    plain.hear(
        "b",
        type="append_entries",
        term=1,
        commit_index=2,
        entries=[(b"\x00" + pickle.dumps(Payload()), 2, 1)],
        prevLogIdx=1,
        prevLogTerm=0,
    )
    with pytest.raises(KeyError):  # its result is not a command
        plain.tick()
    assert (tmp_path / "owned").exists()


def test_l_bytes_of_a_peer_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQ9_TEST_PICKLED", str(tmp_path / "owned"))
    evil = pickle.dumps(Payload())
    replica = Replica()
    for data in (evil, b"\x00" + evil, b"\x01" + evil, b"\x01\x03" + evil):
        replica.engine.receive("b", data)
    assert replica.engine.malformed == 4
    replica.engine.receive("b", encode(Append(1, 0, 0, 1, 0, [entry(1, 1, b"\x01" + evil)])))
    replica.work()
    assert [one.data for one in replica.committed()] == [b"\x01" + evil]
    assert not (tmp_path / "owned").exists()


def test_l_pysyncobj_in_the_engine_cannot_reach_pickle_threads_files_or_sleep() -> None:
    module = raft_engine.Core.__mro__[3]._onTick.__globals__
    for name in ("pickle", "os", "time"):
        with pytest.raises(EngineRefused, match=name):
            module[name].anything()
    with pytest.raises(EngineRefused, match=r"threading\.Thread"):
        module["threading"].Thread()
    assert pysyncobj.syncobj.pickle.dumps  # the installed module is left as it is


# M: entries wait for the heartbeat


def test_m_plain_keeps_an_entry_until_the_next_heartbeat(plain_time: Time) -> None:
    plain = Plain(plain_time)
    plain.lead()
    plain.tick(0.11)
    plain.wire.sent.clear()
    plain.obj._applyCommand(b"x", None, 1)
    plain.tick(0.001)
    plain.tick(0.001)
    assert plain.wire.take("append_entries") == []


def test_m_an_entry_leaves_in_the_turn_it_came_in() -> None:
    leader = Replica()
    leader.lead()
    for peer in "bc":
        leader.hear(peer, ok(1, 1))
    leader.work()
    leader.engine.propose(b"x")
    expected = Append(1, 1, 1, 1, 0, [entry(2, 1, b"x")])
    assert leader.work().now == [("b", expected), ("c", expected)]


# N, dumps


def test_n_plain_acknowledges_a_dump_it_could_not_load(plain_time: Time) -> None:
    plain = Plain(plain_time)
    for piece in ((b"damaged", True, False), (b"", False, True)):
        plain.hear("b", type="append_entries", term=1, commit_index=1, serialized=piece)
    assert [one["success"] for _, one in plain.wire.take("next_node_idx")] == [True]


def test_n_a_follower_too_far_behind_is_named_to_the_caller_and_success_is_the_callers_word() -> (
    None
):
    leader = Replica(terms=[1] * 5, base=(10, 1), applied=15)
    leader.lead()
    refusal = AppendReply(2, 0, ok=False, index=15, hint_index=3, hint_term=1)
    leader.hear("b", refusal)
    assert leader.work().snapshots == ["b"]
    leader.engine.snapshot_sent("b", None)
    leader.hear("b", HeartbeatReply(2, 0))
    assert leader.work().snapshots == ["b"]  # asked again
    leader.engine.snapshot_sent("b", 15)
    assert [message.prev_index for peer, message in leader.work().now if peer == "b"] == [15]


def test_n_a_state_is_acknowledged_only_when_it_was_installed() -> None:
    follower = Replica(terms=(1, 1))
    follower.hear("b", Heartbeat(2, 0, 0))
    follower.work()
    assert follower.engine.snapshot_wanted(9, 2)
    assert follower.work().after_sync == []
    follower.log.reset(9, 2)
    follower.engine.restore(9, 2, Members(("a", "b", "c")))
    assert follower.work().after_sync == [("b", ok(2, 9))]

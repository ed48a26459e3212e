import pytest

from mq9cluster.cluster import raft_replication
from mq9cluster.cluster.raft_log import RaftLog
from mq9cluster.cluster.raft_replication import Flow, Replication, Send
from mq9cluster.cluster.raft_wire import Append, AppendReply, Heartbeat
from tests.support.raft import MemoryLog


def ok(index: int) -> AppendReply:
    return AppendReply(5, 0, ok=True, index=index, hint_index=0, hint_term=0)


def refused(index: int, hint_index: int, hint_term: int) -> AppendReply:
    return AppendReply(5, 0, ok=False, index=index, hint_index=hint_index, hint_term=hint_term)


def leading(
    *terms: int, peers: str = "b", base: tuple[int, int] = (0, 0)
) -> tuple[RaftLog, Replication]:
    log = RaftLog(MemoryLog(terms, base), applied=base[0])
    replication = Replication(log, 5, peers)
    log.append(5, b"no-op")
    return log, replication


def heard() -> tuple[RaftLog, Replication]:
    """Leading, and "b" has all there is: what comes leaves without waiting."""
    log, replication = leading()
    sends(replication)
    replication.replied("b", ok(1))
    return log, replication


def sends(replication: Replication, commit: int = 0, *, everyone: bool = False) -> list[Send]:
    return replication.sends(commit, 0, everyone=everyone)


def test_a_follower_is_first_asked_with_the_entry_that_opens_the_term() -> None:
    log, replication = leading(1, 1)
    expected = Append(5, 2, 1, 0, 0, log.entries(3, 4, 1))
    assert sends(replication) == [Send("b", expected)]
    assert sends(replication) == []  # one at a time, while the place is not known


def test_a_refusal_moves_the_question_to_where_the_logs_may_agree() -> None:
    _, replication = leading(1, 1, 1, 4, 4)
    sends(replication)
    replication.replied("b", refused(5, hint_index=5, hint_term=3))  # its log: 1 1 1 3 3
    assert [(one.message.prev_index, one.message.prev_term) for one in sends(replication)] == [
        (3, 1)
    ]


def test_a_late_refusal_is_ignored() -> None:
    _, replication = leading(1, 1, 1, 4, 4)
    sends(replication)
    replication.replied("b", refused(2, hint_index=1, hint_term=1))
    assert replication.peers["b"].next == 6


def test_once_the_place_is_known_appends_leave_without_waiting() -> None:
    log, replication = leading(1)
    sends(replication)
    replication.replied("b", ok(2))
    for number in range(3):
        log.append(5, b"%d" % number)
        assert [one.message.prev_index for one in sends(replication)] == [2 + number]
    assert replication.peers["b"].inflight == 3
    replication.replied("b", ok(4))
    assert replication.peers["b"].inflight == 1


def test_a_follower_that_stops_answering_is_sent_a_bounded_number_of_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raft_replication, "INFLIGHT_MESSAGES_MAX", 2)
    log, replication = heard()
    sent = []
    for _ in range(5):
        log.append(5, b"x")
        sent.append(len(sends(replication)))
    assert sent == [1, 1, 0, 0, 0]
    replication.replied("b", ok(2))
    assert [len(one.message.entries) for one in sends(replication)] == [3]


def test_a_follower_that_stops_answering_is_sent_a_bounded_number_of_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raft_replication, "INFLIGHT_BYTES_MAX", 100)
    log, replication = heard()
    sent = []
    for _ in range(4):
        log.append(5, b"x" * 60)
        sent.append(len(sends(replication)))
    assert sent == [1, 1, 0, 0]


def test_a_message_holds_so_many_bytes_or_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_replication, "APPEND_BYTES_MAX", 100)
    log, replication = heard()
    for size in (40, 40, 40, 300, 10):
        log.append(5, b"x" * size)
    sizes = []
    while found := sends(replication):
        sizes += [[len(one.data) for one in send.message.entries] for send in found]
        assert replication.more == (len(sizes) < 4)
    assert sizes == [[40, 40], [40], [300], [10]]


def beats(replication: Replication, count: int = 1) -> None:
    """Heartbeats fall due and are answered."""
    for _ in range(count):
        replication.beat()
        replication.alive("b")


def test_an_answered_heartbeat_asks_nothing_while_the_answer_to_an_append_is_not_overdue() -> None:
    log, replication = heard()
    for _ in range(3):  # each leaves before a heartbeat, and is answered before the next but one
        log.append(5, b"x")
        assert len(sends(replication)) == 1
        beats(replication)
        assert sends(replication) == []
        replication.replied("b", ok(log.last_index))


def test_an_answered_heartbeat_finds_out_what_was_lost_on_the_way() -> None:
    log, replication = heard()
    log.append(5, b"x")
    sends(replication)  # lost
    beats(replication, 2)
    (question,) = sends(replication)
    assert question.message == Append(5, 2, 5, 0, 0, [])
    replication.replied("b", refused(2, hint_index=1, hint_term=5))
    assert [one.message.prev_index for one in sends(replication)] == [1]


def test_the_question_after_a_heartbeat_does_not_widen_a_full_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raft_replication, "INFLIGHT_MESSAGES_MAX", 1)
    log, replication = heard()
    for _ in range(2):
        log.append(5, b"x")
        sends(replication)
    beats(replication, 2)
    assert [len(one.message.entries) for one in sends(replication)] == [0]
    assert replication.peers["b"].inflight == 1


def test_what_was_under_way_when_a_connection_broke_is_sent_again_once_the_follower_answers() -> (
    None
):
    log, replication = heard()
    for _ in range(2):
        log.append(5, b"x")
        sends(replication)
    replication.lost("b")
    assert sends(replication) == []
    replication.alive("b")
    (again,) = sends(replication)
    assert (again.message.prev_index, len(again.message.entries)) == (1, 2)


def test_a_message_holds_so_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_replication, "APPEND_ENTRIES_MAX", 2)
    log, replication = heard()
    for _ in range(3):
        log.append(5, b"x")
    assert [len(send.message.entries) for _ in range(3) for send in sends(replication)] == [2, 1]


def test_a_follower_far_behind_is_sent_little_at_a_time_until_it_is_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raft_replication, "BEHIND_ENTRIES", 4)
    monkeypatch.setattr(raft_replication, "CATCH_UP_BYTES_MAX", 150)
    monkeypatch.setattr(raft_replication, "CATCH_UP_MESSAGES_MAX", 2)
    log, replication = heard()
    for _ in range(9):
        log.append(5, b"x" * 60)
    assert _entries_sent(replication) == [2, 2]  # the other five wait for an answer
    assert replication.peers["b"].behind(log.last_index)
    replication.replied("b", ok(3))
    assert _entries_sent(replication) == [2, 3]  # it is close now


def test_a_follower_almost_far_behind_is_sent_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_replication, "BEHIND_ENTRIES", 4)
    monkeypatch.setattr(raft_replication, "CATCH_UP_BYTES_MAX", 150)
    log, replication = heard()
    for _ in range(4):
        log.append(5, b"x" * 60)
    assert _entries_sent(replication) == [4]


def _entries_sent(replication: Replication) -> list[int]:
    sizes = []
    while found := sends(replication):
        sizes += [len(send.message.entries) for send in found]
    return sizes


def test_a_follower_whose_entries_are_gone_gets_nothing_until_its_state_was_sent() -> None:
    _, replication = leading(1, 1, base=(10, 1))
    sends(replication)
    replication.replied("b", refused(12, hint_index=4, hint_term=1))
    assert (sends(replication), replication.snapshots_needed()) == ([], ["b"])
    assert replication.snapshots_needed() == []
    assert sends(replication, everyone=True) == [Send("b", Heartbeat(5, 0, 0))]
    replication.snapshot_sent("b", 11)
    assert [one.message.prev_index for one in sends(replication)] == [11]


def test_a_follower_that_has_the_state_by_its_own_word_goes_on() -> None:
    _, replication = leading(1, 1, base=(10, 1))
    sends(replication)
    replication.replied("b", refused(12, hint_index=4, hint_term=1))
    sends(replication)
    replication.replied("b", ok(11))
    assert (replication.peers["b"].flow, replication.peers["b"].next) == (Flow.PROBE, 12)


def test_an_acknowledgement_beyond_the_log_proves_nothing() -> None:
    _, replication = leading(1)
    sends(replication)
    assert not replication.replied("b", ok(99))
    assert replication.peers["b"].match == 0


def test_a_commit_alone_is_told_with_the_next_heartbeat() -> None:
    _, replication = heard()
    assert sends(replication, commit=1) == []
    assert sends(replication, commit=1, everyone=True) == [Send("b", Heartbeat(5, 1, 0))]


def test_a_commit_travels_with_entries_if_there_are_any() -> None:
    log, replication = heard()
    new = log.append(5, b"x")
    assert sends(replication, commit=1) == [Send("b", Append(5, 1, 5, 1, 0, [new]))]


def test_followers_at_the_same_place_share_one_message() -> None:
    _, replication = leading(1, peers="bcd")
    one, two, three = (send.message for send in sends(replication))
    assert one is two is three


def test_followers_come_and_go_with_the_members() -> None:
    _, replication = leading(1, 1, peers="bc")
    sends(replication)
    replication.replied("b", ok(3))
    replication.set_peers("bd")
    assert {name: one.match for name, one in replication.peers.items()} == {"b": 3, "d": 0}

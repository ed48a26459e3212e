import pytest

from mq9cluster.cluster.engine import EngineRefused, Ready
from mq9cluster.cluster.raft_log import LogConflict, RaftLog, Unsaved
from tests.support.raft import MemoryLog, entries, entry


def save(log: RaftLog, disk: MemoryLog) -> Unsaved:
    unsaved = log.take_unsaved()
    disk.write(Ready(None, unsaved.truncate_from, unsaved.entries, (), ()))
    return unsaved


def test_a_log_begins_with_what_is_on_disk() -> None:
    log = RaftLog(MemoryLog((1, 1, 2), base=(10, 1)), applied=12)
    assert (log.first_index, log.last_index, log.last_term, log.synced_index) == (11, 13, 2, 13)
    assert [log.term(index) for index in (10, 11, 12, 13)] == [1, 1, 1, 2]


def test_an_empty_log_ends_before_its_first_entry() -> None:
    log = RaftLog(MemoryLog(), applied=0)
    assert (log.first_index, log.last_index, log.last_term) == (1, 0, 0)


@pytest.mark.parametrize("applied", [9, 14])
def test_a_state_that_does_not_join_the_log_is_refused(applied: int) -> None:
    with pytest.raises(EngineRefused):
        RaftLog(MemoryLog((1, 1, 2), base=(10, 1)), applied)


def test_appended_entries_are_handed_out_for_writing_once() -> None:
    log = RaftLog(MemoryLog(), applied=0)
    log.append(1, b"a")
    log.append(1, b"b")
    assert log.take_unsaved() == Unsaved(None, [entry(1, 1, b"a"), entry(2, 1, b"b")])
    assert log.take_unsaved() == Unsaved(None, ())
    log.append(1, b"c")
    assert log.take_unsaved() == Unsaved(None, [entry(3, 1, b"c")])


def test_entries_already_there_are_left_alone() -> None:
    log = RaftLog(MemoryLog((1, 1, 1)), applied=0)
    assert log.accept(entries(1, 1, 1), committed=0) is None
    assert (log.last_index, log.take_unsaved()) == (3, Unsaved(None, ()))


def test_entries_behind_those_already_there_are_added() -> None:
    log = RaftLog(MemoryLog((1, 1)), applied=0)
    assert log.accept(entries(2, 1, 1, 1), committed=0) is None
    assert log.take_unsaved() == Unsaved(None, entries(3, 1, 1))


def test_a_conflicting_entry_and_all_behind_it_are_replaced() -> None:
    disk = MemoryLog((1, 1, 1, 1))
    log = RaftLog(disk, applied=0)
    assert log.accept(entries(3, 2), committed=2) == 3
    assert (log.last_index, log.last_term, log.synced_index) == (3, 2, 2)
    assert save(log, disk) == Unsaved(3, entries(3, 2))
    assert [one.term for one in disk.entries] == [1, 1, 2]


def test_entries_replaced_before_they_were_written_leave_no_trace() -> None:
    log = RaftLog(MemoryLog((1,)), applied=0)
    log.accept(entries(2, 1, 1), committed=0)
    log.accept(entries(3, 2), committed=0)
    assert log.take_unsaved() == Unsaved(None, [entry(2, 1), entry(3, 2)])


def test_two_replacements_before_a_write_count_from_the_earlier() -> None:
    disk = MemoryLog((1, 1, 1, 1))
    log = RaftLog(disk, applied=0)
    log.accept(entries(2, 2, 2, 2), committed=0)
    log.accept(entries(4, 3), committed=0)
    assert save(log, disk) == Unsaved(2, [entry(2, 2), entry(3, 2), entry(4, 3)])


def test_a_committed_entry_is_never_replaced() -> None:
    log = RaftLog(MemoryLog((1, 1)), applied=0)
    with pytest.raises(LogConflict):
        log.accept(entries(2, 2), committed=2)


def test_entries_are_read_from_disk_and_memory_by_bytes() -> None:
    disk = MemoryLog((1, 1))
    log = RaftLog(disk, applied=0)
    log.accept(entries(3, 1, 1), committed=0)
    assert log.entries(1, 5, 1_000) == entries(1, 1, 1)
    assert log.entries(3, 5, 1_000) == entries(3, 1, 1)
    assert log.entries(3, 5, 1) == entries(3, 1)  # one at least
    assert log.entries(5, 5, 1_000) == []


def test_what_is_applied_and_on_disk_is_no_longer_held() -> None:
    disk = MemoryLog()
    log = RaftLog(disk, applied=0)
    log.accept(entries(1, 1, 1, 1), committed=0)
    save(log, disk)
    log.saved(2)
    log.trim(3)
    disk.entries[0] = entry(1, 1, b"read from disk")
    assert log.entries(1, 3, 1_000)[0].data == b"read from disk"
    assert log.entries(3, 4, 1_000) == entries(3, 1)


def test_places_are_found_by_term() -> None:
    log = RaftLog(MemoryLog((1, 1, 3, 3, 6), base=(10, 1)), applied=10)
    found = [
        log.newest_not_above(index, term) for index, term in ((15, 6), (15, 5), (15, 2), (13, 3))
    ]
    assert found == [15, 14, 12, 13]
    assert (log.newest_not_above(15, 0), log.newest_not_above(3, 9)) == (10, 3)


def test_a_place_is_held_if_its_term_is_the_same() -> None:
    log = RaftLog(MemoryLog((1, 3), base=(10, 1)), applied=10)
    asked = ((9, 1), (10, 1), (11, 1), (11, 2), (12, 3), (13, 3))
    assert [log.holds(*place) for place in asked] == [False, True, True, False, True, False]


def test_a_restarted_log_begins_behind_the_installed_state() -> None:
    disk = MemoryLog((1, 1, 1))
    log = RaftLog(disk, applied=1)
    log.accept(entries(4, 1), committed=0)
    disk.reset(20, 5)
    log.restart(20, 5)
    assert (log.first_index, log.last_index, log.synced_index) == (21, 20, 20)
    assert (log.holds(20, 5), log.take_unsaved()) == (True, Unsaved(None, ()))

"""One group's log: an unbroken, checksummed chain."""

from pathlib import Path

import pytest

from mq9cluster.domain.log import HardState, LogEntry
from mq9cluster.storage import keyspace
from mq9cluster.storage.database import LOG_FAMILY, RAFT_FAMILY, Database
from mq9cluster.storage.errors import StorageCorrupt
from mq9cluster.storage.log import GroupLog


@pytest.fixture
def database(tmp_path: Path):
    opened = Database.open(tmp_path / "db", create=True)
    yield opened
    opened.close()


def entries(first: int, last: int, term: int = 1, size: int = 1) -> list[LogEntry]:
    return [LogEntry(n, term, b"%d" % n * size) for n in range(first, last + 1)]


def filled(database: Database, last: int, tail_bytes_max: int = 1 << 20, size: int = 1) -> GroupLog:
    log = GroupLog(database, 1, tail_bytes_max)
    append(database, log, entries(1, last, size=size))
    return log


def append(database: Database, log: GroupLog, more, truncate_from=None) -> None:
    batch = database.batch()
    log.append(batch, more, truncate_from)
    database.write(batch)


def compact(database: Database, log: GroupLog, upto: int) -> None:
    batch = database.batch()
    log.compact(batch, upto)
    database.write(batch)


def shape(log: GroupLog):
    first, last = log.first_index(), log.last_index()
    read = log.read(first, last + 1, 1 << 30)
    return first, last, log.term(first - 1), log.entries_kept, log.bytes_kept, read


def test_an_empty_log_begins_at_one_with_term_zero(database):
    assert shape(GroupLog(database, 1)) == (1, 0, 0, 0, 0, [])


@pytest.mark.parametrize("tail_bytes_max", [0, 10, 1 << 20])
def test_entries_are_read_back_from_the_tail_from_disk_and_after_a_restart(
    database, tail_bytes_max
):
    log = filled(database, 20, tail_bytes_max)
    for opened in (log, GroupLog(database, 1, tail_bytes_max)):
        assert shape(opened) == (1, 20, 0, 20, 31, entries(1, 20))
        assert [opened.term(n) for n in (0, 1, 20)] == [0, 1, 1]
        assert opened.read(5, 8, 1 << 20) == entries(5, 7)


def test_reading_stops_at_the_byte_limit_but_gives_at_least_one(database):
    log = filled(database, 20, size=100)
    assert log.read(1, 21, 250) == entries(1, 2, size=100)
    assert log.read(1, 21, 1) == entries(1, 1, size=100)
    assert log.read(21, 30, 1000) == []


def test_groups_do_not_see_each_other(database):
    filled(database, 3)
    assert shape(GroupLog(database, 0)) == shape(GroupLog(database, 2)) == (1, 0, 0, 0, 0, [])


@pytest.mark.parametrize("tail_bytes_max", [0, 10, 1 << 20])
@pytest.mark.parametrize("last", [20, 3000])
def test_truncation_replaces_the_rest_of_the_log(database, last, tail_bytes_max):
    log = filled(database, last, tail_bytes_max)
    append(database, log, entries(5, 6, term=2), truncate_from=5)
    expected = (1, 6, 0, 6, 6, entries(1, 4) + entries(5, 6, term=2))
    assert shape(log) == expected
    append(database, log, entries(7, 9, term=3))
    assert shape(log) == shape(GroupLog(database, 1))
    assert log.read(7, 10, 1000) == entries(7, 9, term=3)


def test_an_entry_that_does_not_follow_is_refused(database):
    log = filled(database, 3)
    with pytest.raises(ValueError, match="entry 5 of group 1 cannot follow 3"):
        append(database, log, entries(5, 5))


@pytest.mark.parametrize("tail_bytes_max", [0, 10, 1 << 20])
def test_compaction_removes_the_front_and_remembers_its_term(database, tail_bytes_max):
    log = filled(database, 10, tail_bytes_max)
    append(database, log, entries(11, 20, term=2))
    compact(database, log, 10)
    for opened in (log, GroupLog(database, 1, tail_bytes_max)):
        assert shape(opened) == (11, 20, 1, 10, 20, entries(11, 20, term=2))
    compact(database, log, 20)
    assert shape(log) == shape(GroupLog(database, 1)) == (21, 20, 2, 0, 0, [])
    append(database, log, entries(21, 22, term=3))
    assert shape(log) == shape(GroupLog(database, 1)) == (21, 22, 2, 2, 4, entries(21, 22, term=3))
    with pytest.raises(IndexError, match="compacted"):
        log.read(20, 22, 100)
    with pytest.raises(ValueError, match="compacted"):
        append(database, log, [], truncate_from=20)


def test_compaction_is_due_by_count_and_by_bytes_and_never_beyond_what_is_applied(database):
    log = filled(database, 10, size=10)
    assert log.compactable(10, 4, 1 << 20) == 6
    assert log.compactable(3, 4, 1 << 20) == 3
    assert log.compactable(10, 100, 40) == 7  # 8, 9 and 10 stay: 10, 10 and 20 bytes
    assert log.compactable(10, 100, 1 << 20) == 0
    assert log.compactable(10, 0, 0) == 10


def test_a_snapshot_stands_for_the_whole_log(database):
    log = filled(database, 10)
    batch = database.batch()
    log.reset(batch, 50, 7)
    database.write(batch)
    assert shape(log) == shape(GroupLog(database, 1)) == (51, 50, 7, 0, 0, [])
    append(database, log, entries(51, 52, term=8))
    assert shape(log) == shape(GroupLog(database, 1))


def test_term_and_vote_survive(database):
    log = GroupLog(database, 1)
    assert log.hard_state == HardState(0, "")
    batch = database.batch()
    log.put_hard_state(batch, HardState(4, "nöde-2"))
    database.write(batch)
    assert log.hard_state == GroupLog(database, 1).hard_state == HardState(4, "nöde-2")
    assert GroupLog(database, 2).hard_state == HardState(0, "")


def damage(database: Database, table: str, key: bytes, change) -> None:
    rows = database.table(table)
    value = change(rows.get(key))
    batch = database.batch()
    if value is None:
        batch.delete(key, rows.handle)
    else:
        batch.put(key, value, rows.handle)
    database.write(batch)


def flipped(at: int):
    return lambda value: value[:at] + bytes((value[at] ^ 1,)) + value[at + 1 :]


@pytest.mark.parametrize("at", [0, 4, 11, 12, -1])
def test_a_flipped_bit_in_an_entry_is_found_on_opening_and_on_reading(database, at):
    log = filled(database, 10, tail_bytes_max=0, size=5)
    damage(database, LOG_FAMILY, keyspace.log_key(1, 4), flipped(at % 17))
    with pytest.raises(StorageCorrupt, match="group 1: entry 4 does not match its checksum"):
        log.read(1, 11, 1 << 20)
    with pytest.raises(StorageCorrupt, match="group 1: entry 4 does not match its checksum"):
        GroupLog(database, 1)


@pytest.mark.parametrize("index", [1, 4])
def test_a_gap_is_found_on_opening_and_on_reading(database, index):
    log = filled(database, 10, tail_bytes_max=0)
    damage(database, LOG_FAMILY, keyspace.log_key(1, index), lambda _: None)
    with pytest.raises(StorageCorrupt, match=f"group 1: entry {index} is missing"):
        log.read(1, 11, 1 << 20)
    with pytest.raises(StorageCorrupt, match=f"group 1: entry {index} is missing before"):
        GroupLog(database, 1)


def test_an_entry_is_good_only_in_its_place(database):
    filled(database, 3)
    moved = database.table(LOG_FAMILY).get(keyspace.log_key(1, 2))
    damage(database, LOG_FAMILY, keyspace.log_key(1, 3), lambda _: moved)
    with pytest.raises(StorageCorrupt, match="group 1: entry 3 does not match its checksum"):
        GroupLog(database, 1)


@pytest.mark.parametrize("row", [keyspace.hard_state_key, keyspace.compacted_key])
def test_a_flipped_bit_in_vote_or_compaction_mark_is_found(database, row):
    log = filled(database, 3)
    batch = database.batch()
    log.put_hard_state(batch, HardState(4, "a"))
    log.compact(batch, 2)
    database.write(batch)
    damage(database, RAFT_FAMILY, row(1), flipped(-1 % 12))
    with pytest.raises(StorageCorrupt, match="of group 1 does not match its checksum"):
        GroupLog(database, 1)

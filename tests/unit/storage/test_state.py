"""One shard's rows: relative keys, epochs, and Writes turned into batches."""

from pathlib import Path

import pytest

from mq9cluster.domain.ports import Family, Writes
from mq9cluster.storage.database import Database
from mq9cluster.storage.state import ShardState, current_epoch, switch_epoch


@pytest.fixture
def database(tmp_path: Path):
    opened = Database.open(tmp_path / "db", create=True)
    yield opened
    opened.close()


def writes(rows=(), ranges=()) -> Writes:
    made = Writes()
    for family, key, value in rows:
        made.rows[family][key] = value
    made.ranges.extend(ranges)
    return made


def test_what_is_committed_is_read_back_by_key_and_by_scan(database):
    state = ShardState(database, 3)
    state.commit(writes([(Family.MESSAGES, b"b", b"2"), (Family.MESSAGES, b"a", b"1")]))
    assert state.get(Family.MESSAGES, b"a") == b"1"
    assert state.get(Family.MAILBOXES, b"a") is None
    assert list(state.scan(Family.MESSAGES, b"", b"\xff")) == [(b"a", b"1"), (b"b", b"2")]
    assert list(state.scan(Family.MESSAGES, b"", b"b", reverse=True)) == [(b"a", b"1")]


def test_shards_and_epochs_do_not_see_each_other(database):
    places = [(0, 0), (0, 1), (1, 0), (0xFFFF, 0xFFFFFFFE)]
    for shard, epoch in places:
        name = b"%d.%d" % (shard, epoch)
        ShardState(database, shard, epoch).commit(writes([(Family.INDEX, b"\xff\xff", name)]))
    seen = [list(ShardState(database, *p).scan_all(Family.INDEX)) for p in places]
    assert seen == [[(b"\xff\xff", b"%d.%d" % place)] for place in places]


def test_a_range_is_dropped_before_the_rows_of_the_same_entry_are_put(database):
    state = ShardState(database, 0)
    state.commit(writes([(Family.GROUPS, b"%d" % n, b"old") for n in range(5)]))
    state.commit(
        writes(
            [(Family.GROUPS, b"2", b"new")],
            [(Family.GROUPS, b"1", b"4"), (Family.GROUPS, b"9", b"8")],
        )
    )
    assert list(state.scan(Family.GROUPS, b"", b"\xff")) == [
        (b"0", b"old"),
        (b"2", b"new"),
        (b"4", b"old"),
    ]


def test_a_none_deletes_the_row(database):
    state = ShardState(database, 0)
    state.commit(writes([(Family.AGENTS, b"a", b"1"), (Family.AGENTS, b"b", b"2")]))
    state.commit(writes([(Family.AGENTS, b"a", None), (Family.AGENTS, b"c", None)]))
    assert list(state.scan_all(Family.AGENTS)) == [(b"b", b"2")]


def test_switching_the_epoch_is_one_row_and_dropping_the_old_one_leaves_the_new(database):
    old = ShardState(database, 7)
    old.commit(writes([(Family.SHARDS, b"", b"old")]))
    new = ShardState(database, 7, old.epoch + 1)
    new.commit(writes([(Family.SHARDS, b"", b"new")]))
    assert current_epoch(database, 7) == 0
    batch = database.batch()
    switch_epoch(database, 7, new.epoch, batch)
    old.drop(batch)
    database.write(batch)
    assert ShardState(database, 7).get(Family.SHARDS, b"") == b"new"
    assert old.get(Family.SHARDS, b"") is None


def test_empty_writes_write_nothing(database):
    before = database.sequence()
    ShardState(database, 0).commit(Writes())
    assert database.sequence() == before


def test_a_range_alone_is_written(database):
    before = database.sequence()
    ShardState(database, 0).commit(writes(ranges=[(Family.INDEX, b"a", b"b")]))
    assert database.sequence() > before

"""Rows, batches and scans through the one door to RocksDB."""

from pathlib import Path

import pytest

from mq9cluster.domain.ports import Family
from mq9cluster.storage.database import FAMILIES, META_FAMILY, Database
from mq9cluster.storage.errors import StorageFailed


@pytest.fixture
def database(tmp_path: Path):
    opened = Database.open(tmp_path / "db", create=True)
    yield opened
    opened.close()


def put(database: Database, rows: dict[bytes, bytes], table: str = META_FAMILY) -> None:
    batch = database.batch()
    for key, value in rows.items():
        batch.put(key, value, database.table(table).handle)
    database.write(batch)


def test_every_family_of_the_state_machine_has_a_table_of_its_own(database):
    for family in Family:
        put(database, {b"k": family.name.encode()}, database.family(family).name)
    assert [database.family(f).get(b"k") for f in Family] == [f.name.encode() for f in Family]
    assert len(FAMILIES) == len(Family) + 3


def test_a_written_batch_is_visible_at_once_and_there_again_after_a_restart(tmp_path):
    database = Database.open(tmp_path / "db", create=True)
    put(database, {b"a": b"1", b"b": b""})
    assert database.table(META_FAMILY).get(b"a") == b"1"
    database.close()
    database = Database.open(tmp_path / "db", create=False)
    assert list(database.table(META_FAMILY).scan(b"", b"\xff")) == [(b"a", b"1"), (b"b", b"")]
    assert database.table(META_FAMILY).get(b"c") is None
    database.close()


def test_a_scan_is_bounded_ordered_and_of_one_moment_in_both_directions(database):
    put(database, {bytes((n,)): bytes((n, n)) for n in range(10)})
    table = database.table(META_FAMILY)
    rows = table.scan(b"\x03", b"\x06")
    put(database, {b"\x04": b"later", b"\x05\x01": b"later"})
    assert list(rows) == [(bytes((n,)), bytes((n, n))) for n in (3, 4, 5)]
    backwards = list(table.scan(b"\x07", b"\x09", reverse=True))
    assert backwards == [(b"\x08", b"\x08\x08"), (b"\x07", b"\x07\x07")]
    assert list(table.scan(b"\x06", b"\x06")) == []
    assert list(table.scan(b"\x08", b"\x03", reverse=True)) == []


def test_a_scan_strips_the_prefix_it_is_told_to(database):
    put(database, {b"shard-a": b"1", b"shard-b": b"2"})
    rows = database.table(META_FAMILY).scan(b"shard-", b"shard.", strip=6, keep_cache=False)
    assert list(rows) == [(b"a", b"1"), (b"b", b"2")]


def test_the_sequence_counts_every_row_and_comes_back_after_a_restart(tmp_path):
    heard: list[int] = []
    database = Database.open(tmp_path / "db", create=True, on_synced=heard.append)
    before = database.sequence()
    put(database, {b"a": b"1", b"b": b"2"})
    batch = database.batch()
    batch.delete(b"a", database.table(META_FAMILY).handle)
    batch.delete_range(b"b", b"c", database.table(META_FAMILY).handle)
    database.write(batch)
    assert database.sequence() == before + 4
    assert heard == []
    database.sync()
    assert heard == [before + 4]
    database.close()
    database = Database.open(tmp_path / "db", create=False)
    assert database.sequence() >= before + 4
    assert list(database.table(META_FAMILY).scan(b"", b"\xff")) == []
    database.close()


def test_without_syncing_nobody_is_told_that_anything_is_on_disk(tmp_path):
    heard: list[int] = []
    database = Database.open(tmp_path / "db", create=True, on_synced=heard.append)
    database.stop_syncing()
    put(database, {b"a": b"1"})
    database.sync()
    database.close()
    assert heard == []


def test_a_missing_database_is_not_made_unless_asked(tmp_path):
    with pytest.raises(StorageFailed, match=r"^storage: cannot open .*/db: .*does not exist"):
        Database.open(tmp_path / "db", create=False)


def test_a_database_in_use_is_one_clear_line(tmp_path, database):
    with pytest.raises(StorageFailed, match=r"^storage: cannot open .*/db: .*lock") as caught:
        Database.open(tmp_path / "db", create=False)
    assert "\n" not in str(caught.value)


def test_what_rocksdict_has_no_setter_for_is_in_force(tmp_path, database):
    options = "".join(path.read_text() for path in (tmp_path / "db").glob("OPTIONS-*"))
    for line in (
        "manual_wal_flush=true",
        "track_and_verify_wals_in_manifest=true",
        "wal_recovery_mode=kTolerateCorruptedTailRecords",
        "paranoid_checks=true",
        "skip_checking_sst_file_sizes_on_db_open=false",
    ):
        assert f"\n  {line}\n" in options


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match=r"^storage: cannot open .*/file/db: .*Not a directory"):
        Database.open(tmp_path / "file" / "db", create=True)


def test_nothing_is_left_beside_the_database(tmp_path, database):
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


def test_checking_goes_through_a_family_in_slices(database):
    put(database, {b"%02d" % n: b"v" for n in range(25)})
    database.flush()
    assert database.rows_in_files() == 25
    position, seen = b"", []
    while position is not None:
        position = database.table(META_FAMILY).check(position, 10)
        seen.append(position)
    assert seen == [b"10", b"20", None]
    assert database.memory_bytes()["block_cache"] >= 0

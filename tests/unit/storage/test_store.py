"""A data directory opens whole or not at all: fresh, ours, foreign, in use, or incomplete."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mq9cluster.storage.database import META_FAMILY
from mq9cluster.storage.errors import StorageCorrupt, StorageFailed, StorageRefused
from mq9cluster.storage.sentinel import IDENTITY_FILE, MARK_FILE
from mq9cluster.storage.store import UNSAFE_VARIABLE, Store, open_store


def opened(directory: Path, name: str = "a", node_id: str = "id-1") -> Store:
    return open_store(directory, name, lambda: node_id)


def write(store: Store, count: int, first: int = 0) -> None:
    for n in range(first, first + count):
        batch = store.database.batch()
        batch.put(b"row-%d" % n, b"v" * 100, store.database.table(META_FAMILY).handle)
        store.database.write(batch)
        store.database.sync()


def test_a_fresh_node_gets_an_id_and_every_start_a_new_incarnation(tmp_path):
    seen = []
    for start in range(3):
        store = opened(tmp_path / "data", node_id=f"id-{start}")
        seen.append((store.node_id, store.incarnation, store.cluster_id))
        store.close()
    assert seen == [("id-0", 1, ""), ("id-0", 2, ""), ("id-0", 3, "")]


def test_an_incarnation_counts_even_when_the_start_before_it_was_killed(tmp_path):
    script = (
        "import os, pathlib; from mq9cluster.storage.store import open_store\n"
        f"open_store(pathlib.Path({str(tmp_path)!r}), 'a', lambda: 'x'); os._exit(9)"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    store = opened(tmp_path)
    assert store.incarnation == 3
    store.close()


def test_a_start_that_failed_before_there_was_a_database_is_simply_done_again(tmp_path):
    store = opened(tmp_path)
    store.close()
    identity = tmp_path / IDENTITY_FILE
    shutil.rmtree(tmp_path / "db")
    identity.unlink()
    (tmp_path / MARK_FILE).unlink()
    again = opened(tmp_path, node_id="id-2")
    assert (again.node_id, again.incarnation) == ("id-2", 1)
    again.close()


def test_the_cluster_is_bound_once(tmp_path):
    store = opened(tmp_path)
    store.set_cluster("c-1")
    store.set_cluster("c-1")
    with pytest.raises(StorageRefused, match="belongs to cluster c-1, not c-2"):
        store.set_cluster("c-2")
    store.close()
    store = opened(tmp_path)
    assert store.cluster_id == "c-1"
    store.close()


def test_a_directory_in_use_is_refused(tmp_path):
    store = opened(tmp_path)
    with pytest.raises(StorageRefused, match="is in use by another process"):
        opened(tmp_path)
    store.close()
    opened(tmp_path).close()


def test_another_nodes_directory_is_refused(tmp_path):
    opened(tmp_path, "a").close()
    with pytest.raises(StorageRefused, match="belongs to node a, not b"):
        opened(tmp_path, "b")


def test_another_nodes_database_is_refused(tmp_path):
    for name in ("ours", "theirs"):
        opened(tmp_path / name, "a", node_id=name).close()
    shutil.rmtree(tmp_path / "ours" / "db")
    shutil.copytree(tmp_path / "theirs" / "db", tmp_path / "ours" / "db")
    with pytest.raises(StorageRefused, match=r"ours/db is another node's"):
        opened(tmp_path / "ours")


def test_another_clusters_database_is_refused(tmp_path):
    store = opened(tmp_path / "ours")
    store.set_cluster("c-1")
    store.close()
    store = opened(tmp_path / "theirs")
    store.set_cluster("c-2")
    store.close()
    shutil.rmtree(tmp_path / "ours" / "db")
    shutil.copytree(tmp_path / "theirs" / "db", tmp_path / "ours" / "db")
    with pytest.raises(StorageRefused, match="is another node's"):
        opened(tmp_path / "ours")


def test_a_missing_database_is_never_started_over(tmp_path):
    opened(tmp_path).close()
    shutil.rmtree(tmp_path / "db")
    for _ in range(2):
        with pytest.raises(StorageCorrupt, match="db is gone; a node never starts over"):
            opened(tmp_path)


@pytest.mark.parametrize(
    ("file", "line"),
    [(IDENTITY_FILE, "node.identity is missing"), (MARK_FILE, "node.mark is gone")],
)
def test_a_database_without_its_witness_is_refused(tmp_path, file, line):
    opened(tmp_path).close()
    (tmp_path / file).unlink()
    for _ in range(2):
        with pytest.raises(StorageCorrupt, match=line):
            opened(tmp_path)


def test_a_directory_that_cannot_be_used_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match=r"cannot use .*/file/data"):
        opened(tmp_path / "file" / "data")


def test_an_older_copy_of_the_database_is_refused(tmp_path):
    store = opened(tmp_path)
    write(store, 10)
    store.close()
    shutil.copytree(tmp_path / "db", tmp_path / "old")
    store = opened(tmp_path)
    write(store, 10, first=10)
    store.close()
    shutil.rmtree(tmp_path / "db")
    (tmp_path / "old").rename(tmp_path / "db")
    for _ in range(2):
        with pytest.raises(StorageCorrupt, match=r"set back|synced writes are missing"):
            opened(tmp_path)


def test_a_torn_mark_falls_back_to_the_one_before(tmp_path):
    store = opened(tmp_path)
    write(store, 3)
    mark = store.sentinel.mark
    store.close()
    path = tmp_path / MARK_FILE
    raw = bytearray(path.read_bytes())
    raw[(mark.counter & 1) * 4096 + 9] ^= 1
    path.write_bytes(raw)
    store = opened(tmp_path)
    assert store.sentinel.mark.counter == mark.counter - 1
    store.close()


def test_the_variable_for_crash_tests_turns_syncing_off_loudly(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(UNSAFE_VARIABLE, "1")
    store = opened(tmp_path)
    known = store.sentinel.mark.sequence
    write(store, 3)
    assert store.sentinel.mark.sequence == known
    assert "NOTHING IS SYNCED" in caplog.text
    store.close()

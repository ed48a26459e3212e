"""Damaged files: a store refuses to open, with one clear line, or holds everything it acknowledged.

The image that every case damages is that of a killed process: SST files, a closed WAL that is still
needed, a live WAL, and everything in them synced.
"""

import random
import shutil
from pathlib import Path

import pytest

from mq9cluster.storage.database import DatabaseLimits
from mq9cluster.storage.errors import StorageCorrupt, StorageFailed
from mq9cluster.storage.store import Store, open_store

FAMILIES = ("messages", "index", "log")
FLIPS = 8  # places spread over each file, its first and last bytes always among them


def opened(directory: Path) -> Store:
    return open_store(directory, "a", lambda: "id-1")


def write(store: Store, family: str, first: int, count: int) -> None:
    noise = random.Random(first)
    for n in range(first, first + count):
        batch = store.database.batch()
        batch.put(b"%06d" % n, noise.randbytes(120), store.database.table(family).handle)
        store.database.write(batch)
        store.database.sync()


def contents(store: Store) -> dict[str, dict[bytes, bytes]]:
    found = {}
    for family in FAMILIES:
        table = store.database.table(family)
        found[family] = dict(table.scan(b"", b"\xff"))
        assert {key: table.get(key) for key in found[family]} == found[family]
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> tuple[Path, dict[str, dict[bytes, bytes]]]:
    """A data directory as a killed process leaves it, and what was acknowledged in it."""
    live, image = tmp_path_factory.mktemp("live"), tmp_path_factory.mktemp("image") / "data"
    store = opened(live / "data")
    shutil.copy(live / "data" / "node.mark", image.parent / "old.mark")
    for family in FAMILIES:
        write(store, family, 0, 200)
    store.database.flush()
    write(store, "messages", 1000, 60)  # in the first WAL still needed
    write(store, "index", 1000, 60)
    store.database.table("index").flush()  # begins the next WAL
    write(store, "messages", 2000, 60)
    write(store, "log", 2000, 60)
    store.database.table("log").flush()  # and the live one
    write(store, "messages", 3000, 60)
    write(store, "index", 3000, 60)
    store.checkpoint()
    write(store, "log", 3000, 60)
    shutil.copytree(live / "data", image)
    expected = contents(store)
    store.close()
    return image, expected


@pytest.fixture
def damaged(image, tmp_path) -> tuple[Path, dict[str, dict[bytes, bytes]]]:
    shutil.copytree(image[0], tmp_path / "data")
    return tmp_path / "data", image[1]


def refusal(directory: Path, expected) -> str | None:
    """The one line of the refusal; None if it opened, whole."""
    try:
        store = opened(directory)
        list(store.database.table("log").scan(b"", b"\xff"))  # as each group's log does first
    except StorageFailed as error:
        line = str(error)
        assert line.startswith("storage: ")
        assert "\n" not in line
        return line
    found = contents(store)
    store.close()
    assert found == expected
    return None


def files(directory: Path, pattern: str) -> list[Path]:
    return sorted((directory / "db").glob(pattern))


def test_the_image_has_every_kind_of_file_and_opens_whole(damaged):
    directory, expected = damaged
    assert len(files(directory, "*.log")) == 3
    assert len(files(directory, "*.sst")) >= 5
    assert refusal(directory, expected) is None
    assert refusal(directory, expected) is None


@pytest.mark.parametrize("pattern", ["*.log", "*.sst", "MANIFEST-*", "CURRENT"])
def test_a_flipped_bit_refuses_to_open(damaged, tmp_path, pattern):
    directory, expected = damaged
    for path in files(directory, pattern):
        raw = path.read_bytes()
        places = {0, 6, len(raw) - 1, *(len(raw) * n // FLIPS for n in range(FLIPS))}
        for place in sorted(places):
            case = tmp_path / "case"
            shutil.copytree(directory, case)
            flipped = bytearray(raw)
            flipped[place] ^= 1 << (place % 8)
            (case / "db" / path.name).write_bytes(flipped)
            line = refusal(case, expected)  # whole, if it opens
            # An SST file's properties, about a kilobyte near its end, are of no consequence.
            if pattern != "*.sst" or place < len(raw) - 1500:
                assert line is not None, (path.name, place)
                assert refusal(case, expected) is not None, "forgotten by trying"
            shutil.rmtree(case)


def test_a_flipped_bit_in_a_wal_refuses_to_open_even_where_the_mark_lags(damaged, image, tmp_path):
    directory, expected = damaged
    shutil.copy(image[0].parent / "old.mark", directory / "node.mark")
    for path in files(directory, "*.log"):
        raw = path.read_bytes()
        for place in (0, 20, len(raw) // 2, len(raw) - 600):
            case = tmp_path / "case"
            shutil.copytree(directory, case)
            flipped = bytearray(raw)
            flipped[place] ^= 1
            (case / "db" / path.name).write_bytes(flipped)
            assert refusal(case, expected) is not None, (path.name, place)
            shutil.rmtree(case)


@pytest.mark.parametrize("pattern", ["*.log", "*.sst", "MANIFEST-*", "CURRENT"])
@pytest.mark.parametrize("which", [0, 1, 2, -1])
def test_a_removed_file_refuses_to_open(damaged, pattern, which):
    directory, expected = damaged
    found = files(directory, pattern)
    found[which % len(found)].unlink()
    assert refusal(directory, expected) is not None
    assert refusal(directory, expected) is not None


@pytest.mark.parametrize("pattern", ["*.log", "*.sst", "MANIFEST-*", "CURRENT"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_a_cut_file_refuses_to_open(damaged, tmp_path, pattern, part):
    directory, expected = damaged
    for path in files(directory, pattern):
        case = tmp_path / "case"
        shutil.copytree(directory, case)
        (case / "db" / path.name).write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        assert refusal(case, expected) is not None, path.name
        assert refusal(case, expected) is not None, path.name
        shutil.rmtree(case)


def wal_records(raw: bytes) -> list[int]:
    """Where each record of a WAL ends (32 KiB blocks of checksum, length, type)."""
    ends, at = [], 0
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        at += 7 + length
        if kind in {1, 4}:  # a full record, or the last part of one
            ends.append(at)
    return ends


def test_a_wal_cut_exactly_between_two_records_refuses_to_open(damaged, tmp_path):
    directory, expected = damaged
    for path in files(directory, "*.log"):
        raw = path.read_bytes()
        ends = wal_records(raw)
        assert ends[-1] == len(raw)
        for end in (ends[0], ends[len(ends) // 2], ends[-2]):
            case = tmp_path / "case"
            shutil.copytree(directory, case)
            (case / "db" / path.name).write_bytes(raw[:end])
            assert refusal(case, expected) is not None, (path.name, end)
            shutil.rmtree(case)


def test_a_manifest_cut_exactly_between_two_records_refuses_to_open(damaged, tmp_path):
    directory, expected = damaged
    [path] = files(directory, "MANIFEST-*")
    raw = path.read_bytes()
    for end in wal_records(raw)[1:-1]:
        case = tmp_path / "case"
        shutil.copytree(directory, case)
        (case / "db" / path.name).write_bytes(raw[:end])
        assert refusal(case, expected) is not None, end
        shutil.rmtree(case)


@pytest.mark.parametrize(
    "tail", [b"\0" * 5000, b"\0" * 3, b"half a record"], ids=["zeros", "few zeros", "half a record"]
)
def test_a_torn_tail_that_was_never_synced_is_dropped_and_nothing_else(damaged, tail):
    directory, expected = damaged
    path = files(directory, "*.log")[-1]
    raw = path.read_bytes()
    ends = wal_records(raw)
    if tail == b"half a record":
        tail = raw[ends[-2] : ends[-1] - 5]
    path.write_bytes(raw + tail)
    assert refusal(directory, expected) is None


@pytest.mark.parametrize("place", [0, 1, 10, 60, -20, -3])
def test_a_flipped_bit_in_the_identity_refuses_to_open(damaged, place):
    directory, expected = damaged
    path = directory / "node.identity"
    raw = bytearray(path.read_bytes())
    raw[place] ^= 4
    path.write_bytes(raw)
    assert refusal(directory, expected) is not None


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"rubbish"])
def test_a_mark_without_a_good_slot_refuses_to_open(damaged, content):
    directory, expected = damaged
    (directory / "node.mark").write_bytes(content)
    assert refusal(directory, expected) is not None


@pytest.mark.parametrize("name", ["LOG", "IDENTITY", "OPTIONS-*", "rocksdict-config.json"])
@pytest.mark.parametrize("how", ["flip", "remove", "empty"])
def test_files_that_hold_no_data_are_not_needed(damaged, name, how):
    directory, expected = damaged
    for path in files(directory, name):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        if how == "remove":
            path.unlink()
        else:
            path.write_bytes(raw if how == "flip" else b"")
    assert refusal(directory, expected) is None


def test_a_large_database_is_scrubbed_while_it_runs_and_damage_is_found(tmp_path):
    limits = DatabaseLimits(block_cache_bytes=1 << 20)
    store = open_store(tmp_path, "a", lambda: "id-1", limits)
    write(store, "messages", 0, 300)
    store.database.flush()
    scrub = store.scrub()
    while not scrub.step(100):
        pass
    largest = max(files(tmp_path, "*.sst"), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")

    def again() -> None:
        while not scrub.step(100):
            pass

    with pytest.raises(StorageFailed, match=r"^storage: Corruption: block checksum mismatch"):
        again()
    with pytest.raises(StorageFailed, match=r"^storage: Corruption"):
        list(store.database.table("messages").scan(b"", b"\xff"))
    store.close()


def rot(directory: Path) -> None:
    """Flip a bit in the first block of each SST file, in place, under whoever has it open."""
    for path in files(directory, "*.sst"):
        with path.open("r+b") as file:
            file.seek(30)
            (byte,) = file.read(1)
            file.seek(30)
            file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    "read",
    [
        lambda table: table.get(b"000000"),
        lambda table: list(table.scan(b"", b"\xff")),
        lambda table: list(table.scan(b"", b"\xff", reverse=True)),
        lambda table: table.check(b"", 1_000),
    ],
    ids=["get", "scan", "scan backwards", "check"],
)
def test_the_node_hears_of_damage_whoever_reads_it(tmp_path, read):
    store = opened(tmp_path)
    write(store, "messages", 0, 200)
    store.database.flush()
    told: list[StorageFailed] = []
    store.database.on_read_failed = told.append
    rot(tmp_path)
    with pytest.raises(StorageCorrupt) as raised:
        read(store.database.table("messages"))
    assert told == [raised.value]
    store.close()

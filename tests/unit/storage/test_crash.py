"""A process killed while it writes, with and without the power: nothing acknowledged is lost."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.cluster.power import RECORDING, WITHOUT_SYNC, FragileDisk, cut_copy
from mq9cluster.storage.errors import StorageFailed
from tests.support.solo_writer import read

ROUNDS = 4


def acknowledged_until(
    directory: Path, count: int, kill: Callable[[subprocess.Popen], None], **environment: str
) -> dict[int, int]:
    """Run the writer until it acknowledged `count` entries, `kill` it; the last of each group."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.solo_writer", str(directory)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment},
    )
    with process:
        lines = [process.stdout.readline() for _ in range(count)]
        kill(process)
        lines += process.stdout.readlines()
    acknowledged: dict[int, int] = {}
    for line in lines:
        if line.endswith(b"\n"):
            group, index = map(int, line.split())
            acknowledged[group] = index
    return acknowledged


def test_a_killed_process_loses_nothing_acknowledged(tmp_path):
    chance = random.Random(1)
    for _ in range(ROUNDS):
        count = chance.randrange(200, 2000)
        acknowledged = acknowledged_until(tmp_path, count, subprocess.Popen.kill)
        found = read(tmp_path)
        assert {g: min(found[g], n) for g, n in acknowledged.items()} == acknowledged


def test_a_power_cut_loses_nothing_acknowledged(tmp_path):
    chance = random.Random(2)
    here = tmp_path / "0"
    for turn in range(ROUNDS):
        count = chance.randrange(200, 2000)
        acknowledged = acknowledged_until(here, count, subprocess.Popen.kill, **RECORDING)
        there = tmp_path / f"{turn + 1}"
        cut_copy(here, there)
        found = read(there)
        assert {g: min(found[g], n) for g, n in acknowledged.items()} == acknowledged
        here = there


def test_without_syncing_a_power_cut_does_lose(tmp_path):
    environment = {**RECORDING, **WITHOUT_SYNC}
    lost = []
    # Once may be in vain: a WAL is synced when it is closed, and the next may be empty yet.
    for turn in range(ROUNDS):
        here, there = tmp_path / f"{turn}a", tmp_path / f"{turn}b"
        acknowledged = acknowledged_until(here, 300, subprocess.Popen.kill, **environment)
        cut_copy(here, there)
        found = read(there)
        lost += [group for group, last in acknowledged.items() if found[group] < last]
    assert lost


@pytest.fixture
def disk(tmp_path):
    if not FragileDisk.works(tmp_path):
        pytest.skip("no loop-mounted file system here; cut_copy stands in for it")
    with FragileDisk(tmp_path) as made:
        yield made


def test_a_real_power_cut_loses_nothing_acknowledged(disk):
    chance = random.Random(3)
    data = disk.path / "data"
    for _ in range(ROUNDS):
        count = chance.randrange(200, 2000)
        acknowledged = acknowledged_until(data, count, lambda process: disk.cut(process.pid))
        found = read(data)
        assert {g: min(found[g], n) for g, n in acknowledged.items()} == acknowledged


def test_without_syncing_a_real_power_cut_does_lose(disk):
    data = disk.path / "data"
    acknowledged_until(data, 10, lambda process: process.kill())
    acknowledged = acknowledged_until(
        data, 1000, lambda process: disk.cut(process.pid), **WITHOUT_SYNC
    )
    try:
        found = read(data)
    except StorageFailed:
        return  # so much is gone that the rest is refused
    assert any(found[group] < last for group, last in acknowledged.items())


def test_a_full_disk_is_said_in_one_line_and_loses_nothing_acknowledged(tmp_path):
    if not FragileDisk.works(tmp_path):
        pytest.skip("no loop-mounted file system here")
    with FragileDisk(tmp_path, 40) as disk:
        ballast = disk.path / "ballast"
        ballast.write_bytes(b"x" * (28 << 20))  # there is room for thousands of entries
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.solo_writer", str(disk.path / "data")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, line = process.communicate(timeout=60)
        acknowledged = {int(g): int(n) for g, n in (row.split() for row in out.splitlines())}
        ballast.unlink()
        found = read(disk.path / "data")
    assert process.returncode == 1
    assert line.startswith(b"storage: ")
    assert b"No space left on device" in line
    assert line.count(b"\n") == 1
    assert {g: min(found[g], n) for g, n in acknowledged.items()} == acknowledged

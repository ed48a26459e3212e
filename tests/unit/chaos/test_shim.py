"""The library that is loaded into nodes: a process under it sees what it is told to see."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos import machine
from chaos.cluster.shim import IO_ERROR, NO_SPACE, Shim, build

pytestmark = pytest.mark.skipif(machine.SHIM in machine.lacking(), reason="no C compiler")

CLOCKS = "import time; print(time.time(), time.monotonic())"
WRITES = """
import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
try:
    os.write(file, b"x"); os.fsync(file); print("fine")
except OSError as error:
    print(error.errno)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def shim(tmp_path: Path, data: Path) -> Shim:
    return Shim(build(tmp_path), tmp_path / "told", data)


def under(shim: Shim, code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, **shim.environment}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def clocks(shim: Shim) -> tuple[float, float]:
    """How far wall and steady clock of a process are from ours, about."""
    wall, steady = map(float, under(shim, CLOCKS).split())
    return wall - time.time(), steady - time.monotonic()


def test_untold_it_changes_nothing(shim: Shim, data: Path) -> None:
    wall, steady = clocks(shim)
    assert (round(wall / 60), round(steady / 60)) == (0, 0)
    assert under(shim, WRITES, str(data / "f")) == "fine"


def test_the_wall_clock_jumps_and_the_steady_one_does_not(shim: Shim) -> None:
    shim.tell(wall_offset_ns=3600 * 10**9)
    wall, steady = clocks(shim)
    assert (round(wall / 60), round(steady / 60)) == (60, 0)
    shim.heal()
    assert round(clocks(shim)[0] / 60) == 0


def test_the_wall_clock_drifts_and_the_steady_one_does_not(shim: Shim) -> None:
    shim.drift(401.0)
    time.sleep(0.5)
    wall, steady = clocks(shim)
    assert wall > 150
    assert round(steady / 60) == 0
    shim.heal()
    assert [round(off / 60) for off in clocks(shim)] == [0, 0]


@pytest.mark.parametrize("field", ["write_errno", "sync_errno"])
@pytest.mark.parametrize("error", [IO_ERROR, NO_SPACE])
def test_calls_to_the_data_fail_and_others_do_not(
    shim: Shim, data: Path, tmp_path: Path, field: str, error: int
) -> None:
    shim.tell(**{field: error})
    assert under(shim, WRITES, str(data / "f")) == str(error)
    assert under(shim, WRITES, str(tmp_path / "f")) == "fine"
    shim.heal()
    assert under(shim, WRITES, str(data / "f")) == "fine"

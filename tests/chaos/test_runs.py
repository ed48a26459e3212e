"""The chaos suite itself, end to end: a short run of each kind is judged right, and an interrupted
one leaves nothing behind. The matrix is for `make chaos`.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chaos import machine
from chaos.cells import Result
from chaos.janitor import Janitor
from chaos.matrix import NEMESES, read_matrix
from chaos.run import Play

SHORT_S = 4.0
WAIT_S_MAX = 60.0
ROOT = Path(__file__).parents[2]
MARK = "CHAOS_TEST_RUN"  # in the environment of all that a run starts

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]


async def play(name: str, workloads: tuple[str, ...], folder: Path) -> Result:
    (cell,) = read_matrix().named([name])
    short = replace(cell, seconds=SHORT_S, workloads=workloads)
    with Janitor() as janitor:
        return await Play(short, NEMESES[cell.nemesis](), "ci", janitor).play(folder)


@pytest.mark.parametrize(
    ("name", "workloads"),
    [("kill-leader", ("mailboxes", "registry")), ("partition-halves", ("mailboxes", "registers"))],
)
def test_a_short_run_is_right_and_kept(
    name: str, workloads: tuple[str, ...], tmp_path: Path
) -> None:
    (cell,) = read_matrix().named([name])
    if missing := NEMESES[cell.nemesis]().needs & machine.lacking().keys():
        pytest.skip(f"this machine lacks {missing}: {machine.lacking()}")
    result = asyncio.run(play(name, workloads, tmp_path))
    # how much gets done in these few seconds is the machine's
    wrong = [one for one in result.verdicts if one.violations and one.checker != "traffic"]
    assert wrong == []
    assert result.faults > 0
    kept = {path.name for path in tmp_path.iterdir()}
    assert {"history.jsonl", "operations.jsonl", "events.jsonl", "report.html"} <= kept
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def wait_until(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WAIT_S_MAX
    while not holds():
        assert time.monotonic() < until, f"not within {WAIT_S_MAX:g} s: {what}"
        time.sleep(0.1)


def left_by(run: int, mark: str, data: Path) -> list[str]:
    """What a run that is over has left: processes, namespaces, mounts, data."""
    found = [str(path) for path in data.iterdir()]
    found += [line for line in Path("/proc/self/mounts").read_text().split() if str(data) in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    spaces = Path("/run/netns")
    if spaces.exists():
        prefix = f"mq9c{run % 100_000:05d}"
        found += [space.name for space in spaces.iterdir() if space.name.startswith(prefix)]
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_behind(how: signal.Signals, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    # mounted disks would stay, and a paused node would hear of nothing
    name = "power-one" if machine.DISK not in machine.lacking() else "pause-leader"
    command = (sys.executable, "-m", "chaos", "--cell", name, "--out", str(tmp_path / "out"))
    mark = f"{os.getpid()}.{how}"
    environment = {**os.environ, "TMPDIR": str(data), MARK: mark}
    running = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        wait_until(lambda: bool(list(data.glob("*/n3/**/db"))), "the run has nodes")
        time.sleep(1.0)
        running.send_signal(how)
        running.wait(WAIT_S_MAX)
    finally:
        running.kill()
        running.wait()
    wait_until(lambda: left_by(running.pid, mark, data) == [], "everything is cleared away")

"""What a run leaves is undone when it ends, last first, however it ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

from chaos.janitor import Janitor

LEAVES = """
import os, signal, sys
from pathlib import Path
from chaos.janitor import Janitor
with Janitor() as janitor:
    janitor.remove(Path(sys.argv[1]))
    janitor.undo_with("touch", sys.argv[2])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_everything_is_undone_last_first_and_what_was_done_is_not(tmp_path: Path) -> None:
    told, kept = tmp_path / "told", tmp_path / "kept"
    kept.mkdir()
    sleeper = subprocess.Popen(["sleep", "600"])
    with Janitor() as janitor:
        janitor.undo_with("sh", "-c", f"echo second >> {told}")
        janitor.undo_with("sh", "-c", f"echo first >> {told}")
        janitor.done(janitor.remove(kept))
        janitor.kill(sleeper.pid)
    assert told.read_text() == "first\nsecond\n"
    assert kept.exists()
    assert sleeper.wait(10) < 0


def test_a_run_that_is_killed_is_cleared_away_all_the_same(tmp_path: Path) -> None:
    data, done = tmp_path / "data", tmp_path / "done"
    data.mkdir()
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", LEAVES, str(data), str(done)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    assert subprocess.run(command, check=False, env=environment).returncode < 0
    until = time.monotonic() + 30
    while data.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (data.exists(), done.exists()) == (False, True)

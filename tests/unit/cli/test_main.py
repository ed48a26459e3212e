"""The program before its command line: while it loads."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = (sys.executable, "-m", "mq9cluster")
SCRIPT = (str(Path(sys.executable).with_name("mq9cluster")),)
# In place of the real one, which the command line imports: it says so, and stays at it.
SLOW = 'import sys\n\nprint("loading", flush=True)\nsys.stdin.read()\n'


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
def test_ctrl_c_while_it_loads_ends_it_without_a_traceback(tmp_path, program):
    (tmp_path / "uvloop.py").write_text(SLOW)
    with subprocess.Popen(
        [*program, "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as process:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGINT

"""Clears away what a run leaves on the machine, however the run ends: kill -9 of it included.

Owns the list of what is to be undone. `Janitor` is used by the run; behind it a process of its own
waits for the end of its stdin, which comes with the run's end whatever happened, and then does,
last one first, whatever was not done yet. Each run has a folder; what runs have left is in there.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

GRACE_S = 10.0  # for processes that hold a mount to be gone
UNDO_S_MAX = 30.0  # of one command


class Janitor:
    """What is to be undone. Use as `with`; at the end all is."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.janitor"],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for the run
            cwd=Path(__file__).parent.parent,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def undo_with(self, *command: str) -> int:
        """Run `command` at the end; a number to take it back by."""
        return self._tell({"run": command})

    def kill(self, pid: int) -> int:
        """Kill the process `pid` at the end, stopped or not."""
        return self._tell({"kill": pid})

    def remove(self, folder: Path) -> int:
        """Remove `folder` at the end."""
        return self._tell({"remove": str(folder)})

    def done(self, number: int) -> None:
        """It need not be undone any more."""
        self._say({"done": number})

    def _tell(self, what: dict[str, Any]) -> int:
        self._numbers += 1
        self._say({"number": self._numbers, **what})
        return self._numbers

    def _say(self, what: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()


def _undo(what: dict[str, Any]) -> None:
    if "kill" in what:
        _kill(what["kill"])
    elif "remove" in what:
        shutil.rmtree(what["remove"], ignore_errors=True)
    else:
        _run(what["run"])


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + GRACE_S
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    """Whether `pid` still holds anything: not once it is gone, or a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _run(command: Sequence[str]) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, check=False, capture_output=True, timeout=UNDO_S_MAX)


def main() -> None:
    """Wait for the end of stdin, then undo."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left: dict[int, dict[str, Any]] = {}
    for line in sys.stdin.buffer:
        what = json.loads(line)
        if "done" in what:
            left.pop(what["done"], None)
        else:
            left[what["number"]] = what
    for what in reversed(left.values()):
        _undo(what)


if __name__ == "__main__":
    main()

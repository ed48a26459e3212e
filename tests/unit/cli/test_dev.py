"""`mq9cluster dev` as a person runs it: one screen, ready, Ctrl-C, nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.cluster.ports import free_ports

NODES = 3  # unless told otherwise: as many ports in a row, twice


class Screen:
    """A running `mq9cluster dev` and what it has printed."""

    def __init__(self, *arguments, **environment):
        self.port, self.http_port = free_ports(NODES)[0], free_ports(NODES)[0]
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mq9cluster", "dev", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **{
                    name: value for name, value in os.environ.items() if not name.startswith("MQ9_")
                },
                "MQ9_PORT": str(self.port),
                "MQ9_HTTP_PORT": str(self.http_port),
                **environment,
            },
        )

    def read_until(self, text):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return
        pytest.fail(f"never said {text!r}: {self.lines} {self.process.stderr.read()}")

    def end(self, number):
        """Its exit code, and what it said on stderr."""
        self.process.send_signal(number)
        rest, errors = self.process.communicate(timeout=60)
        self.lines += rest.splitlines()
        return self.process.returncode, errors


@pytest.fixture
def dev(tmp_path):
    screens = []

    def start(*arguments, **environment):
        environment.setdefault("TMPDIR", str(tmp_path))
        screens.append(Screen(*arguments, **environment))
        return screens[-1]

    yield start
    for screen in screens:
        if screen.process.poll() is None:
            screen.process.terminate()
        screen.process.communicate(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_when_it_is_ready_and_what_to_try_and_leaves_nothing_behind(dev, tmp_path, number):
    screen = dev()
    screen.read_until("MSG.FETCH.demo2")
    assert any(line.startswith("node1 | ") and " ready " in line for line in screen.lines)
    assert any(f"nats://127.0.0.1:{screen.port}" in line for line in screen.lines)
    assert screen.end(number) == (0, "")
    assert screen.lines[-1] == "stopped"
    assert list(tmp_path.iterdir()) == []


def test_data_are_kept_where_it_is_told(dev, tmp_path):
    screen = dev("--data-dir", str(tmp_path / "kept"))
    screen.read_until(f"data in {tmp_path / 'kept'}")  # all are ready: any node's log names it
    assert screen.end(signal.SIGINT) == (0, "")
    assert (tmp_path / "kept" / "node1").is_dir()


def test_a_taken_port_is_told_and_ends_it_with_1(dev):
    port, *_ = free_ports(NODES)  # node1's; the others' are the next two
    with socket.create_server(("127.0.0.1", port)):
        screen = dev(MQ9_HTTP_PORT=str(port))
        screen.process.wait(60)
        out, errors = screen.process.communicate()
    assert screen.process.returncode == 1
    assert "--http: cannot listen on 127.0.0.1:" in out
    assert errors == "mq9cluster: node1 did not start (exit code 1)\n"


# In place of the real uvloop, which every node imports: all but node1 go on once they are told to
# stop.
LOADS_UNTIL_STOPPED = """
import sys

if "serve" in sys.argv and "node1" not in sys.argv:
    sys.stdin.read()
sys.path.remove(__file__.rpartition("/")[0])
del sys.modules["uvloop"]
import uvloop
"""


def test_nodes_that_still_load_when_another_fails_stop_without_a_traceback(dev, tmp_path):
    (tmp_path / "uvloop.py").write_text(LOADS_UNTIL_STOPPED)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        screen = dev(MQ9_HTTP_PORT=str(taken.getsockname()[1]), PYTHONPATH=str(tmp_path))
        out, errors = screen.process.communicate(timeout=120)
    assert errors == "mq9cluster: node1 did not start (exit code 1)\n"
    assert "Traceback" not in out


def test_its_nodes_stop_when_it_is_killed(dev):
    screen = dev()
    screen.read_until("ready:")
    screen.process.kill()

    screen.process.communicate(timeout=60)
    _until_free(screen.http_port)


def _until_free(port):
    """Returns once nobody listens on `port`; the test's own timeout bounds it."""
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return


def test_the_others_go_on_when_one_node_is_killed(dev):
    screen = dev()
    screen.read_until("MSG.FETCH.demo2")
    (node2,) = nodes_of(screen, "node2")
    os.kill(node2, signal.SIGKILL)
    screen.read_until("node2 ended (exit code -9); the others go on")
    assert len(nodes_of(screen, "node1")) == 1
    assert screen.end(signal.SIGINT) == (0, "")
    assert screen.lines[-1] == "stopped"


def nodes_of(screen, name):
    """Process ids of the children of `screen` that run the node of that name."""
    children = Path(f"/proc/{screen.process.pid}/task/{screen.process.pid}/children")
    found = []
    for pid in map(int, children.read_text().split()):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if name.encode() in command:
            found.append(pid)
    return found

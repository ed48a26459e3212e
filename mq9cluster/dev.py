"""`mq9cluster dev`: a broker on this machine, each node a process of its own, their logs on one
screen.

Called by cli. A node is started as `serve` with its stdin held open: should this process die,
however, the node sees the end of its stdin and stops too. Nodes log JSON to us; we show it to
people.
"""

import asyncio
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import click
import orjson

from mq9cluster.admin.logs import facts_as_text
from mq9cluster.config import prepare_directory

HOST = "127.0.0.1"  # what is tried out stays on this machine
STOP_S_MAX = 15.0  # nodes stop in well under one; then they are killed
PEER_PORTS_FROM_CLIENTS = 7422 - 4222
PEER_PORTS_TRIED = 100
LINE_BYTES_MAX = 1024 * 1024  # one log line with a long traceback
_COLORS = ("cyan", "magenta", "yellow", "green", "blue")
_SHOWN_FIRST = frozenset({"time", "level", "node", "logger", "event", "exception"})


class DevFailed(Exception):
    """A node did not start or did not last; one line."""


class Plan(NamedTuple):
    """What to start. `data_dir` None: a temporary folder."""

    nodes: int
    port: int
    http_port: int
    data_dir: Path | None
    config_file: Path | None


class _DevNode:
    """One node's process, and what it has told us."""

    def __init__(self, plan: Plan, number: int, data_dir: Path, peers: list[str]) -> None:
        self.name = f"node{number + 1}"
        self.port = plan.port + number
        self.http_port = plan.http_port + number
        self.ready = asyncio.Event()
        self._color = _COLORS[number % len(_COLORS)]
        self._command = [
            *(sys.executable, "-m", "mq9cluster", "serve", "--stop-with-stdin"),
            *("--name", self.name),
            *("--data-dir", str(data_dir / self.name)),
            *("--listen", f"{HOST}:{self.port}"),
            *("--http", f"{HOST}:{self.http_port}"),
            *("--peer-listen", peers[number].partition("=")[2]),
            *("--peers", ",".join(peers)),
            *("--log-format", "json"),
            *(("--config", str(plan.config_file)) if plan.config_file else ()),
        ]

    async def run(self, stop: asyncio.Event) -> int:
        """Start it, show its log, stop it when `stop` is set; its exit code."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            limit=LINE_BYTES_MAX,
            start_new_session=True,  # Ctrl-C comes to us; we stop them
        )
        assert process.stdin is not None  # noqa: S101  we asked for the pipes
        assert process.stderr is not None  # noqa: S101
        showing = asyncio.create_task(self._show(process.stderr))
        stopping = asyncio.create_task(stop.wait())
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                process.stdin.close()  # not SIGINT, which ends it where it loads, and may say where
                await asyncio.wait((ending,), timeout=STOP_S_MAX)
        finally:
            stopping.cancel()
            if process.returncode is None:
                process.kill()
        await showing
        return await ending

    async def _show(self, log: asyncio.StreamReader) -> None:
        prefix = click.style(f"{self.name} | ", fg=self._color)
        while line := await log.readline():
            text, event = _for_people(line)
            click.echo(prefix + text)
            if event == "ready":
                self.ready.set()


def _for_people(line: bytes) -> tuple[str, str]:
    """A line of a node's log as people read it, and its event; anything else as it is."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        record = None
    if not isinstance(record, dict) or not {"time", "level", "event"} <= record.keys():
        return line.decode(errors="replace").rstrip("\n"), ""
    facts = {name: value for name, value in record.items() if name not in _SHOWN_FIRST}
    clock = record["time"][11:23]
    text = f"{clock} {record['level']:<7} {record['event']}{facts_as_text(facts)}"
    if "exception" in record:
        text += f"\n{record['exception']}"
    return text, record["event"]


async def run(plan: Plan) -> int:
    """Run the nodes of `plan` until Ctrl-C or SIGTERM; the exit code. Raises DevFailed."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    with ExitStack() as closing:
        data_dir = plan.data_dir
        if data_dir is None:
            folder = tempfile.TemporaryDirectory(prefix="mq9-dev-", ignore_cleanup_errors=True)
            data_dir = Path(closing.enter_context(folder))
        prepare_directory(data_dir, "--data-dir")
        peers = _peers(plan)
        nodes = [_DevNode(plan, number, data_dir, peers) for number in range(plan.nodes)]
        running = {asyncio.create_task(node.run(stop)): node for node in nodes}
        telling = asyncio.create_task(_tell_when_ready(nodes, plan, data_dir))
        trouble = ""
        pending = set(running)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if stop.is_set():
                    continue
                started = all(node.ready.is_set() for node in nodes)
                when = "ended" if running[task].ready.is_set() else "did not start"
                what = f"{running[task].name} {when} (exit code {task.result()})"
                if started and pending:  # a cluster outlives a node, also one to try things with
                    click.echo(f"{what}; the others go on")
                else:
                    trouble = what
                    stop.set()
        telling.cancel()
    if trouble:
        raise DevFailed(trouble)
    click.echo("stopped")
    return 0


def _peers(plan: Plan) -> list[str]:
    """Where the nodes are to reach each other: ports that are free now.

    At the usual distance from the clients', for the system may give a port of its own choice to an
    outgoing connection before the node listens on it.
    """
    ports: list[int] = []
    with ExitStack() as closing:
        first = plan.port + PEER_PORTS_FROM_CLIENTS
        for port in (*range(first, min(first + PEER_PORTS_TRIED, 65_536)), *[0] * plan.nodes):
            probe = closing.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind((HOST, port))
                ports.append(probe.getsockname()[1])
            if len(ports) == plan.nodes:
                break
    return [f"node{number + 1}={HOST}:{port}" for number, port in enumerate(ports)]


async def _tell_when_ready(nodes: list[_DevNode], plan: Plan, data_dir: Path) -> None:
    for node in nodes:
        await node.ready.wait()
    url = f"nats://{HOST}:{plan.port}"
    kept = f"data in {data_dir}" if plan.data_dir else "data is gone when it stops"
    click.echo(WHAT_TO_TRY.format(url=url, http=f"http://{HOST}:{plan.http_port}", kept=kept))


WHAT_TO_TRY = """
ready: {url} (monitoring on {http}, {kept}). Ctrl-C stops it.

Try it with the nats command line:
  nats -s {url} request '$mq9.AI.MAILBOX.CREATE' '{{"name":"demo"}}'
  nats -s {url} request '$mq9.AI.MSG.SEND.demo' 'hello'
  nats -s {url} request '$mq9.AI.MSG.FETCH.demo' '{{"deliver":"earliest","encoding":"text"}}'

or from Python, in `python -m asyncio` with nats-py installed (.venv/bin/python has it):
  import nats
  nc = await nats.connect("{url}")
  print((await nc.request("$mq9.AI.MAILBOX.CREATE", b'{{"name":"demo2"}}')).data)
  print((await nc.request("$mq9.AI.MSG.SEND.demo2", b"hello")).data)
  print((await nc.request("$mq9.AI.MSG.FETCH.demo2", b'{{"deliver":"earliest"}}')).data)
"""

"""Two servers of core NATS with the same settings: our listener, and the nats-server binary."""

import asyncio
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from mq9cluster.cluster.beat import ReportBeat
from mq9cluster.domain.access import Access, User
from mq9cluster.gateway.auth import AllowAll, Authenticator
from mq9cluster.gateway.exchange import Exchange
from mq9cluster.gateway.listener import Listener, ServerName
from mq9cluster.gateway.settings import Settings
from mq9cluster.gateway.tls import ClientTls
from tests.support.access import access_of, authenticator

NATS_SERVER = Path(sys.executable).parent / "nats-server"


@dataclass(frozen=True)
class CoreConfig:
    """What both servers are told; 0 or empty: their default."""

    token: str = ""
    user: str = ""
    password: str = ""
    payload_bytes_max: int = 0
    connections_max: int = 0
    subscriptions_max: int = 0
    pending_bytes_max: int = 0
    ping_interval_ms: int = 0
    pings_out_max: int = 0
    write_deadline_ms: int = 0
    auth_timeout_ms: int = 0
    websocket: bool = False

    def for_nats_server(self) -> str:
        lines = []
        if self.token or self.user:
            who = f'token: "{self.token}"'
            if self.user:
                who = f'user: "{self.user}", password: "{self.password}"'
            timeout = f", timeout: {self.auth_timeout_ms / 1000}" if self.auth_timeout_ms else ""
            lines.append(f"authorization {{ {who}{timeout} }}")
        for name, value in (
            ("max_payload", self.payload_bytes_max),
            ("max_connections", self.connections_max),
            ("max_subscriptions", self.subscriptions_max),
            ("max_pending", self.pending_bytes_max),
            ("ping_max", self.pings_out_max),
        ):
            lines += [f"{name}: {value}"] if value else []
        for name, value in (
            ("ping_interval", self.ping_interval_ms),
            ("write_deadline", self.write_deadline_ms),
        ):
            lines += [f'{name}: "{value}ms"'] if value else []
        if self.websocket:
            lines.append('websocket { host: "127.0.0.1", port: -1, no_tls: true }')
        return "\n".join(lines) + "\n"

    def for_ours(self) -> tuple[Settings, Authenticator]:
        given = {
            "payload_bytes_max": self.payload_bytes_max,
            "connections_max": self.connections_max,
            "subscriptions_max": self.subscriptions_max,
            "pending_bytes_max": self.pending_bytes_max,
            "pings_out_max": self.pings_out_max,
            "ping_interval_s": self.ping_interval_ms / 1000,
            "write_deadline_s": self.write_deadline_ms / 1000,
            "auth_timeout_s": self.auth_timeout_ms / 1000,
        }
        settings = Settings(**{name: value for name, value in given.items() if value})
        if self.token:
            return settings, authenticator(Access(token=self.token))
        if self.user:
            return settings, authenticator(access_of(User(self.user, password=self.password)))
        return settings, AllowAll()


class Echo:
    """Answers every command with its payload."""

    def handle(self, connection, account, subject, header, payload, respond):
        if respond is not None:
            respond(payload)

    def introduced(self, connection, name):
        pass

    def subscribe(self, connection, account, subject, queue, deliver, has_room, confirm):
        return None

    def connection_lost(self, connection):
        pass

    def connection_closed(self, connection):
        pass


class OurServer:
    """Our listener on a loop and thread of its own."""

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = self.ws_port = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def start(self, port: int = 0) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._run(self._listen(port))

    def stop(self) -> None:
        self._run(self.listener.close())

    def lame_duck(self) -> None:
        self._run(self.listener.lame_duck())

    def end(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self, port: int) -> None:
        settings, who = self._config.for_ours()
        await self.listen_with(settings, who, None, port)

    async def listen_with(
        self, settings: Settings, who: Authenticator, tls: ClientTls | None, port: int = 0
    ) -> None:
        chance = random.Random(1)
        exchange = Exchange(self._loop.call_soon, chance)
        name = ServerName("NOURS", "ours")
        self.listener = Listener(
            name, settings, exchange, Echo(), who, chance, time.perf_counter, ReportBeat()
        )
        await self.listener.start("127.0.0.1", port, tls)
        self.port = self.listener.port
        if self._config.websocket:
            self.ws_port = await self.listener.start_websockets("127.0.0.1", 0)


class NatsServer:
    """The nats-server binary, without JetStream, on a free port."""

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self.port = self.ws_port = 0

    def start(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False) as file:
            file.write(self.settings())
        self.conf = Path(file.name)
        self._process = subprocess.Popen(
            [NATS_SERVER, "-a", "127.0.0.1", "-p", "-1", "-c", file.name],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        stderr = self._process.stderr
        assert stderr is not None
        for line in stderr:
            found = re.search(r"Listening for client connections on [\d.]+:(\d+)", line)
            if found:
                self.port = int(found[1])
            found = re.search(r"Listening for websocket clients on wss?://[\d.]+:(\d+)", line)
            if found:
                self.ws_port = int(found[1])
            if "Server is ready" in line:
                break
        # The pipe is drained, or the server would stop at a full one.
        self._drain = threading.Thread(target=stderr.read, daemon=True)
        self._drain.start()

    def settings(self) -> str:
        """What its configuration file says."""
        return self._config.for_nats_server()

    def reload(self, settings: str) -> None:
        """Give it another configuration; it takes a moment."""
        self.conf.write_text(settings)
        self._process.send_signal(signal.SIGHUP)

    def lame_duck(self) -> None:
        self._process.send_signal(signal.SIGUSR2)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.conf.unlink()
        self._drain.join()
        if self._process.stderr is not None:
            self._process.stderr.close()

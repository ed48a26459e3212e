"""A listener on a free port with a command handler that tests look into."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import uvloop

from mq9cluster.cluster.beat import ReportBeat
from mq9cluster.gateway.auth import AllowAll
from mq9cluster.gateway.exchange import Exchange
from mq9cluster.gateway.listener import Listener, ServerName
from mq9cluster.gateway.settings import Settings
from tests.support.wire import CONNECT, Wire


def pytest_asyncio_loop_factories(config, item):
    """The loop that nodes run on."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class Push:
    """A push subscription, from the handler's side."""

    asked: tuple
    deliver: Callable
    has_room: Callable
    confirm: Callable
    resumed: int = 0
    cancelled: int = 0

    def resume(self):
        self.resumed += 1

    def cancel(self):
        self.cancelled += 1


@dataclass
class Handler:
    """Echoes the payload at once, unless `hold` is set: then the responds are kept in `held`."""

    hold: bool = False
    commands: list[tuple] = field(default_factory=list)
    held: list = field(default_factory=list)
    lost: dict[int, int] = field(default_factory=dict)  # behind how many commands
    names: dict[int, str] = field(default_factory=dict)
    closed: list[int] = field(default_factory=list)
    pushes: list["Push"] = field(default_factory=list)
    refuse: Exception | bool = True  # push subscriptions: there are none, or an error

    def handle(self, connection, account, subject, header, payload, respond):
        self.commands.append((connection, account, subject, header, payload))
        if respond is None:
            return
        if self.hold:
            self.held.append(respond)
        else:
            respond(payload)

    def introduced(self, connection, name):
        self.names[connection] = name

    def subscribe(self, connection, account, subject, queue, deliver, has_room, confirm):
        if isinstance(self.refuse, Exception):
            raise self.refuse
        push = Push((connection, account, subject, queue), deliver, has_room, confirm)
        if not self.refuse:
            self.pushes.append(push)
        return None if self.refuse else push

    def connection_lost(self, connection):
        self.lost[connection] = len(self.commands)

    def connection_closed(self, connection):
        self.closed.append(connection)


class Gateway:
    """A listener and what it uses; `open` makes raw connections to it."""

    def __init__(self, settings=None, authenticator=None, seconds=time.perf_counter, beats=None):
        chance = random.Random(1)
        self.handler = Handler()
        self.settings = settings or Settings()
        self.exchange = Exchange(asyncio.get_running_loop().call_soon, chance)
        self.listener = Listener(
            ServerName("NTEST", "test-1"),
            self.settings,
            self.exchange,
            self.handler,
            authenticator or AllowAll(),
            chance,
            seconds,
            beats or ReportBeat(),
        )
        self.wires: list[Wire] = []

    async def open(self, *, connect: bytes = CONNECT) -> Wire:
        wire = await Wire.open(self.listener.port, connect=connect)
        self.wires.append(wire)
        return wire

    async def stop(self) -> None:
        for wire in self.wires:
            wire.abort()
        await self.listener.close()


StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start_gateway() -> AsyncIterator[StartGateway]:
    """`await start_gateway(ping_interval_s=0.1)` serves until the test ends."""
    running: list[Gateway] = []

    async def start(
        authenticator=None, seconds=time.perf_counter, beats=None, **settings
    ) -> Gateway:
        gateway = Gateway(Settings(**settings), authenticator, seconds, beats)
        await gateway.listener.start("127.0.0.1", 0)
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        await gateway.stop()


@pytest.fixture
async def gateway(start_gateway) -> Gateway:
    return await start_gateway()

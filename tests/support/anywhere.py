"""Clients of one node or of several: the contract of mailboxes does not depend on where one asks.

Owns the connections of one test. With several nodes each client's home is a node at random, and
each of its requests goes to a node at random, except for what a hand-out binds to its connection
(FETCH, ACK and NACK stay at home). A client awaits its answer before it asks elsewhere wherever the
order of its requests matters, and so do the tests.
"""

import random
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Self

import nats
from nats.aio.client import Client

from chaos.cluster.process import ServedNode
from tests.support.mq9 import Body, Mq9, Reply
from tests.support.raw_nats import Headers, RawNats

BOUND = ("$mq9.AI.MSG.FETCH.", "$mq9.AI.MSG.ACK.", "$mq9.AI.MSG.NACK.")

# How long an answer took at most in this task: what was done may have been done so much earlier.
slowest_s: ContextVar[float] = ContextVar("slowest_s", default=0.0)

_chance = random.SystemRandom()


class Mq9Anywhere(Mq9):
    """A client at home at `connection` that also asks through `roads`, one to each node.

    `kind` is how it asks.
    """

    def __init__(self, connection: Client, roads: Sequence[Client], kind: type[Mq9] = Mq9) -> None:
        super().__init__(connection)
        self._roads = roads
        self._kind = kind

    async def request(
        self, subject: str, body: Body = None, headers: Mapping[str, str] | Headers | None = None
    ) -> Reply:
        road = self.connection if subject.startswith(BOUND) else _chance.choice(self._roads)
        asked_s = time.monotonic()
        reply = await self._kind(road).request(subject, body, headers)
        if not _may_wait(body):
            slowest_s.set(max(slowest_s.get(), time.monotonic() - asked_s))
        return reply


def _may_wait(body: Body) -> bool:
    config = body.get("config") if isinstance(body, Mapping) else None
    return isinstance(config, Mapping) and bool(config.get("max_wait_ms"))


class Clients:
    """Opens connections at `nodes` and closes them all in the end."""

    def __init__(self, nodes: Sequence[ServedNode]) -> None:
        self.nodes = nodes
        self._raw_node = _chance.choice(nodes)
        self._roads: list[Client] = []
        self._opened: list[Client | RawNats] = []

    async def __aenter__(self) -> Self:
        if len(self.nodes) > 1:
            self._roads = [await self._open(node) for node in self.nodes]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connection in self._opened:
            await connection.close()

    async def connect(self, kind: type[Mq9] = Mq9) -> Mq9:
        """One more client through nats-py."""
        home = await self._open(_chance.choice(self.nodes))
        return Mq9Anywhere(home, self._roads, kind) if self._roads else kind(home)

    async def connect_raw(self) -> RawNats:
        """One more that sends any bytes; those of a test are at one node, for core NATS promises
        nothing of a publication at one node right after a subscription at another.
        """
        raw = await RawNats.connect(self._raw_node.host, self._raw_node.port)
        self._opened.append(raw)
        return raw

    async def _open(self, node: ServedNode) -> Client:
        connection = await nats.connect(node.url, allow_reconnect=False)
        self._opened.append(connection)
        return connection

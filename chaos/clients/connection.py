"""A client's way to the cluster: one connection at a time, to any node, and what it was told.

Owns sockets, deadlines and going elsewhere. `Caller.ask` never raises: an answer that did not come
is *unknown*, which is no failure. Called by workloads; calls only the product's NATS codec.
"""

import asyncio
import base64
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from chaos.history import Told
from mq9cluster.protocol import nats_client, nats_headers

ANSWER_S: Final = 6.0  # beyond the broker's own deadline of 5 s
CONNECT_S: Final = 1.0
AGAIN_S: Final = 0.1  # before another node is tried
NOTHING_DONE: Final = frozenset({"unavailable", "overloaded"})
UNCERTAIN: Final = frozenset({"timeout"})

Reply = dict[str, Any]


class Answer(NamedTuple):
    """What came of a request. `code` is the reply's; without one `ended`, `silent`, `nowhere`."""

    told: Told
    code: str
    reply: Reply

    @property
    def again(self) -> bool:
        """Whether a careful client would ask once more."""
        return self.told is Told.UNKNOWN or self.code in NOTHING_DONE


class Pushed(NamedTuple):
    """A message of a subscription."""

    header: bytes | None
    payload: bytes


class Operation(NamedTuple):
    """One request, for the timeline."""

    began: float
    ended: float
    client: str
    node: str
    command: str
    subject: str
    told: str
    code: str


@dataclass(slots=True)
class Stage:
    """What all clients of a run share: the time, where nodes are, when to stop, what was done."""

    now: Callable[[], float]
    hosts: Mapping[str, tuple[str, int]]
    seed: str
    name: str  # unlike that of any other run on the same data
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    operations: list[Operation] = field(default_factory=list)
    numbers: int = 0

    def rng(self, name: str) -> random.Random:
        """The randomness of one client: the seed's, whatever the others do."""
        return random.Random(f"{self.seed}/{name}")

    def number(self) -> int:
        """A number nobody else has."""
        self.numbers += 1
        return self.numbers

    async def pause(self, seconds: float) -> bool:
        """Wait, but not beyond the stop; whether to go on."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            return True
        return False


class Connection(asyncio.Protocol):
    """One socket. `ended` is when it ended, by the stage's time."""

    def __init__(self, now: Callable[[], float], node: str, number: int) -> None:
        self.node = node
        self.number = number
        self.ended: float | None = None
        self.ready = asyncio.get_running_loop().create_future()
        self.on_end: list[Callable[[], None]] = []
        self._now = now
        self._parser = nats_client.ClientParser()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[bytes, asyncio.Future[bytes | None]] = {}
        self._inbox = b"_INBOX.c%d" % random.SystemRandom().getrandbits(64)
        self._requests = 0
        self._taking: dict[bytes, Callable[[Pushed], None]] = {}  # by sid

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open; nothing is sent before the server has spoken."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers, and what keeps the connection alive."""
        for event in self._parser.feed(data):
            if event[0] == nats_client.MSG and event[2] in self._taking:
                self._taking[event[2]](Pushed(event[4], event[5]))
            elif event[0] == nats_client.MSG:
                waiting = self._waiting.pop(event[1], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(event[5])
            elif event[0] == nats_client.PING:
                self._write(b"PONG\r\n")
            elif event[0] == nats_client.INFO and not self.ready.done():
                hello = {"verbose": False, "headers": True, "no_responders": True, "lang": "chaos"}
                self._write(nats_client.encode_connect(json.dumps(hello).encode()))
                self._write(nats_client.encode_sub(self._inbox + b".*", 1))
                self.ready.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        """It ended: what was not answered stays unknown."""
        self.ended = self._now()
        if not self.ready.done():
            self.ready.cancel()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)
        for tell in self.on_end:
            tell()

    def close(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def subscribe(self, subject: str, queue: str, take: Callable[[Pushed], None]) -> None:
        """Hand what comes to `take`, until the connection ends."""
        sid = len(self._taking) + 2
        self._taking[b"%d" % sid] = take
        self._write(nats_client.encode_sub(subject.encode(), sid, queue.encode() or None))

    def ask(
        self, subject: str, payload: bytes, headers: Iterable[tuple[str, str]]
    ) -> "asyncio.Future[bytes | None]":
        """Publish with a reply subject; the answer's payload, None if the connection ends."""
        waiting: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        if self.ended is not None:
            waiting.set_result(None)
            return waiting
        self._requests += 1
        reply = b"%b.%d" % (self._inbox, self._requests)
        self._waiting[reply] = waiting
        given = tuple(headers)
        block = nats_headers.encode(given) if given else None
        self._write(nats_client.encode_pub(subject.encode(), payload, reply, block))
        return waiting


class Caller:
    """One client: asks over its present connection, and finds another node when that fails.

    A `patient` one goes on looking after the stop.
    """

    def __init__(self, stage: Stage, name: str, *, patient: bool = False) -> None:
        self.stage = stage
        self.name = name
        self._patient = patient
        self._rng = stage.rng(f"{name} goes")
        self._connection: Connection | None = None
        self._last = ""  # whom not to try next

    async def connection(self) -> Connection | None:
        """A connection that lives; tries nodes until the stop, then None."""
        while self._connection is None or self._connection.ended is not None:
            others = [node for node in sorted(self.stage.hosts) if node != self._last]
            self._last = self._rng.choice(others or list(self.stage.hosts))
            self._connection = await self._connect(self._last)
            if self._connection is None:
                going_on = await self.stage.pause(AGAIN_S)
                if self._patient:
                    await asyncio.sleep(AGAIN_S)
                elif not going_on:
                    return None
        return self._connection

    async def go_to(self, node: str) -> bool:
        """Use `node` from now on, if it lets us in."""
        self.leave()
        self._connection = await self._connect(node)
        return self._connection is not None

    async def _connect(self, node: str) -> Connection | None:
        host, port = self.stage.hosts[node]
        made = Connection(self.stage.now, node, self.stage.number())
        try:
            async with asyncio.timeout(CONNECT_S):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: made, host, port)
                await made.ready
        except (OSError, asyncio.CancelledError):
            made.close()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None
        return made

    def leave(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def ask(
        self,
        command: str,
        body: Reply | bytes = b"",
        headers: Iterable[tuple[str, str]] = (),
        over: Connection | None = None,
        within_s: float = ANSWER_S,
    ) -> Answer:
        """Ask `$mq9.AI.{command}`, over `over` or whatever connection there is."""
        connection = over or await self.connection()
        if connection is None:
            return Answer(Told.REFUSED, "nowhere", {})
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        began = self.stage.now()
        waiting = connection.ask(f"$mq9.AI.{command}", payload, headers)
        done, _ = await asyncio.wait((waiting,), timeout=within_s)
        if not done:
            answer = Answer(Told.UNKNOWN, "silent", {})
            connection.close()  # a client that hears nothing goes elsewhere
        else:
            answer = _read(waiting.result())
        words = command.split(".")
        self.stage.operations.append(
            Operation(
                began,
                self.stage.now(),
                self.name,
                connection.node,
                words[1],
                ".".join(words[2:]),
                answer.told.value,
                answer.code,
            )
        )
        return answer

    async def ask_until_told(
        self,
        command: str,
        body: Reply | bytes = b"",
        headers: Iterable[tuple[str, str]] = (),
        within_s: float = 30.0,
    ) -> Answer:
        """`ask`, again and again while a careful client would."""
        given = tuple(headers)
        until = self.stage.now() + within_s
        while True:
            answer = await self.ask(command, body, given)
            if not answer.again or self.stage.now() > until:
                return answer
            await asyncio.sleep(AGAIN_S)


def _read(payload: bytes | None) -> Answer:
    if payload is None:
        return Answer(Told.UNKNOWN, "ended", {})
    if not payload:
        return Answer(Told.REFUSED, "no responders", {})
    reply: Reply = json.loads(payload)
    if reply["error"] == "":
        return Answer(Told.DONE, "", reply)
    code = str(reply.get("code", "none"))
    return Answer(Told.UNKNOWN if code in UNCERTAIN else Told.REFUSED, code, reply)


def payload_of(message: Reply) -> str:
    """The payload of a message as FETCH and QUERY give it, without its padding."""
    return base64.b64decode(message["payload"]).decode().rstrip(".")

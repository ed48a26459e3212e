"""A broker that says what a test has it say: a responder at a plain NATS server."""

import asyncio
import json
from typing import Any, NamedTuple

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

SILENCE = None  # what is asked is not answered


class Asked(NamedTuple):
    """What came."""

    command: str
    body: bytes
    headers: dict[str, str]


class ScriptedBroker:
    """Answers one command after the other as `says` has it, and the rest as its last one."""

    def __init__(self, connection: Client, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.says: list[dict[str, Any] | None] = []
        self._connection = connection
        self._came = asyncio.Event()

    @classmethod
    async def start(cls, url: str) -> "ScriptedBroker":
        broker = cls(await nats.connect(url), url)
        await broker._connection.subscribe("$mq9.AI.>", cb=broker._answer)
        await broker._connection.flush()
        return broker

    async def close(self) -> None:
        await self._connection.close()

    async def until_asked(self, times: int) -> None:
        while len(self.asked) < times:
            self._came.clear()
            await self._came.wait()

    async def _answer(self, message: Msg) -> None:
        command = message.subject.removeprefix("$mq9.AI.")
        self.asked.append(Asked(command, message.data, dict(message.headers or {})))
        self._came.set()
        says = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if says is not SILENCE:
            await message.respond(json.dumps(says).encode())

"""Subscriptions that the broker pushes to, as tests look at them. Calls nothing of the project."""

import asyncio
import json
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

GIVEN_S_MAX = 60.0  # generous: the machine that runs this may be busy
QUIET_S = (
    0.3  # nothing that was to come comes later, or a test would miss a defect, never invent one
)


class Given(NamedTuple):
    """One message that was pushed."""

    subject: str
    payload: bytes
    headers: dict[str, str]

    @property
    def msg_id(self) -> int:
        return int(self.headers["mq9-msg-id"])

    @property
    def priority(self) -> str:
        return self.headers["mq9-priority"]


class Pushed:
    """A subscription through nats-py, and what it is given, in order."""

    def __init__(self, connection: Client, subscription: Subscription) -> None:
        self.connection = connection
        self.subscription = subscription

    @classmethod
    async def to(cls, connection: Client, subject: str, queue: str = "") -> "Pushed":
        """Subscribe; the broker has heard of it when this returns."""
        subscription = await connection.subscribe(f"$mq9.AI.{subject}", queue)
        await connection.flush()
        return cls(connection, subscription)

    async def one(self) -> Given:
        """The next message, however long that takes."""
        return _given(await self.subscription.next_msg(GIVEN_S_MAX))

    async def some(self, count: int) -> list[Given]:
        """The next so many."""
        return [await self.one() for _ in range(count)]

    async def payloads(self, count: int) -> list[bytes]:
        """Of the next so many."""
        return [given.payload for given in await self.some(count)]

    async def event(self) -> dict[str, Any]:
        """The next event of a list."""
        event: dict[str, Any] = json.loads((await self.one()).payload)
        return event

    async def nothing_more(self) -> None:
        """Nothing comes for a moment."""
        try:
            given = await self.subscription.next_msg(QUIET_S)
        except TimeoutError:
            return
        raise AssertionError(_given(given))

    async def end(self) -> None:
        """Subscribe no more; the broker has heard of it when this returns."""
        await self.subscription.unsubscribe()
        await self.connection.flush()


def _given(message: Msg) -> Given:
    return Given(message.subject, message.data, dict(message.headers or {}))


async def each_once(pushed: list[Pushed], count: int) -> list[list[bytes]]:
    """What members of a group were given of `count` messages, by member, once all are given."""
    shares: list[list[bytes]] = [[] for _ in pushed]
    left = count
    all_given = asyncio.Event()

    async def read(member: Pushed, share: list[bytes]) -> None:
        nonlocal left
        while True:
            share.append((await member.one()).payload)
            left -= 1
            if not left:
                all_given.set()

    tasks = [asyncio.create_task(read(*pair)) for pair in zip(pushed, shares, strict=True)]
    try:
        await asyncio.wait_for(all_given.wait(), GIVEN_S_MAX)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return shares

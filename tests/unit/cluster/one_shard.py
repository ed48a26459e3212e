"""A shard on real storage, and how tests ask it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mq9cluster.cluster.durability import Durability
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.shard import Shard
from mq9cluster.cluster.waiting import Waiter
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.command import Command, FetchMessages
from mq9cluster.domain.errors import Mq9Error
from mq9cluster.domain.outcome import Outcome, Refused
from mq9cluster.domain.read import Browse, MessagesRead, Query
from mq9cluster.node import SystemClock
from mq9cluster.storage.store import Store, open_store
from tests.support.solo_shards import open_solo_shards

if TYPE_CHECKING:
    from mq9cluster.cluster.beat import Beat
    from mq9cluster.cluster.shards import Shards


REF = mailbox_ref("$G", "task.queue")


def replica_of(shard: Shard) -> Replica:
    assert shard.replica
    return shard.replica


class OneShard:
    """A shard with everything under it, that can be restarted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors: list[BaseException] = []
        self.store: Store
        self.durability: Durability
        self.shards: Shards
        self.beat: Beat | None = None  # at which commands that may wait leave; as a node's
        self.hold: Beat | None = None  # at which the leader holds them no longer

    async def start(self, sync_delay_s: float = 0.0) -> Shard:
        self.store = open_store(self.path, "n1", lambda: "07")
        loop = asyncio.get_running_loop()

        def offload(work: Callable[[], None]) -> "asyncio.Future[None]":
            return loop.run_in_executor(None, work)

        self.durability = Durability(
            self.store.database,
            self.errors.append,
            offload,
            time.perf_counter,
            sync_delay_s=sync_delay_s,
        )
        self.shards = open_solo_shards(
            self.store.database,
            self.durability,
            SystemClock(),
            "n1",
            7,
            self.store.incarnation,
            1,
            self.beat,
            self.hold,
        )
        await self.shards.until_caught_up()
        return self.shards.all[0]

    async def stop(self) -> None:
        await self.shards.stop()
        self.store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to that")


async def outcome_of(shard: Shard, command: Command, *, may_wait: bool = False) -> Outcome:
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    shard.propose(command, answered.set_result, may_wait=may_wait)
    return await answered


async def fetched(shard: Shard, request: FetchMessages | Browse, wait_ms: int = 0) -> object:
    answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    shard.fetch(Waiter(request, wait_ms, answered.set_result))
    return await answered


async def queried(shard: Shard) -> list[bytes]:
    answered: asyncio.Future[MessagesRead | Refused] = asyncio.get_running_loop().create_future()
    shard.query(Query(REF), answered.set_result)
    return payloads(await answered)


def payloads(found: object) -> list[bytes]:
    """What a FETCH handed out, or a QUERY found."""
    assert isinstance(found, MessagesRead)
    return [message.payload for message in found.messages]


def why(outcome: object) -> type[Mq9Error]:
    """The class of the error that refused a command."""
    assert isinstance(outcome, Refused)
    return type(outcome.error)

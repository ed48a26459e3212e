"""All shards as this node's clients use them, and which of them holds what.

`broker` asks for the shard of an address and proposes or reads there; `node` opens, starts and
stops.
"""

import asyncio
from collections.abc import Hashable
from contextlib import suppress

from mq9cluster.cluster.durability import Durability
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.shard import Shard
from mq9cluster.domain.address import slot_of
from mq9cluster.domain.command import EndIncarnation
from mq9cluster.domain.limits import SLOTS
from mq9cluster.storage.errors import StorageFailed


class Shards:
    """The shards, by slot, and this node's replicas of them."""

    def __init__(self, shards: list[Shard], durability: Durability) -> None:
        self.all = shards
        self._durability = durability

    def of(self, ref: bytes) -> Shard:
        """The shard of a mailbox. Slots are dealt out in equal ranges."""
        return self.all[slot_of(ref) * len(self.all) // SLOTS]

    def forget(self, client: Hashable) -> None:
        """A client is gone: what it asked for need not be read any more."""
        self._durability.turns.forget(client)

    @property
    def replicas(self) -> list[Replica]:
        """Those of this node."""
        return [shard.replica for shard in self.all if shard.replica]

    async def until_caught_up(self) -> None:
        """Wait until every replica has applied what its log held when it was opened."""
        await asyncio.gather(*(replica.caught_up.wait() for replica in self.replicas))

    async def end_earlier_runs(self, node: int, incarnation: int) -> None:
        """Release what connections of this node's earlier runs held: they ended with it."""
        if incarnation > 1:
            command = EndIncarnation(node, incarnation - 1)
            ended = [asyncio.Event() for _ in self.all]
            for shard, event in zip(self.all, ended, strict=True):
                shard.propose_surely(command, event.set)
            await asyncio.gather(*(event.wait() for event in ended))

    async def stop(self) -> None:
        """Propose nothing more, and wait until what is under way is on disk."""
        for shard in self.all:
            shard.stop()
        for replica in self.replicas:
            replica.stop()
        await self._durability.idle()
        if self._durability.error is None:
            with suppress(StorageFailed):  # or the next start takes it from the log
                for replica in self.replicas:
                    replica.flush()

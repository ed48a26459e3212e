"""One state on its way into this node: rows of a new epoch beside the old, then the switch.

Made by `snapshots` for each transfer that comes in; the durability loop calls `switch` and
`switched`. Until `switch` the old state is untouched, and `run` removes what it wrote if it does
not come that far; from then on nothing can be taken back, and nothing depends on `run` any more.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

from mq9cluster.cluster.durability import Durability, Group
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.cluster.snapshot_stream import Header, MalformedSnapshot, RowsRead
from mq9cluster.domain.failpoints import failpoint
from mq9cluster.storage.database import Batch, Database
from mq9cluster.storage.state import (
    ShardState,
    current_epoch,
    drop_other_epochs,
    switch_epoch,
)

STALL_S_MAX: Final = 10.0  # nothing moved for so long: given up
UNSYNCED_BYTES_MAX: Final = 1 << 20  # so that no sync of others has to carry much more


class Holder(Protocol):
    """A replica, as far as its state can be sent and replaced."""

    def flush(self) -> None:
        """Have the rows say all of the state."""

    def place_of(self, state: ShardState) -> int:
        """The last entry that is in `state`."""

    def restore(self, state: ShardState) -> None:
        """Go on from another state."""


class Member:
    """A group of this node."""

    __slots__ = ("engine", "group", "holder", "sending")

    def __init__(self, group: Group, engine: RaftEngine, holder: Holder) -> None:
        self.group = group
        self.engine = engine
        self.holder = holder
        self.sending = asyncio.Lock()  # one transfer of a group at a time


class Install:
    """One transfer; implements `durability.Replacement`."""

    def __init__(
        self, database: Database, durability: Durability, member: Member, told: Header
    ) -> None:
        self.begun = False  # the switch is written
        self.bytes = 0
        self._database = database
        self._durability = durability
        self._member = member
        self._told = told
        epoch = current_epoch(database, told.group)
        self._old = ShardState(database, told.group, epoch)
        self._new = ShardState(database, told.group, epoch + 1)
        self._loop = asyncio.get_running_loop()
        self._decided: asyncio.Future[bool] = self._loop.create_future()

    async def run(self, chunks: AsyncIterator[bytes]) -> bool:
        """Take the rows and switch to them; False: they were not wanted any more.

        Raises MalformedSnapshot, TimeoutError, StorageFailed, and what `chunks` raises.
        """
        try:
            drop_other_epochs(self._database, self._told.group)
            async with asyncio.timeout(STALL_S_MAX) as patience:
                await self._fill(chunks, patience)
                place = self._member.holder.place_of(self._new)
                if place != self._told.index:
                    raise MalformedSnapshot(f"its rows stand at {place}")
                await self._on_disk()  # so that the group stands still for a short while only
            self._durability.replace(self._member.group, self)
            return await asyncio.shield(self._decided)
        finally:
            if not self.begun:
                self._durability.withdraw(self._member.group, self)
                drop_other_epochs(self._database, self._told.group)

    async def _fill(self, chunks: AsyncIterator[bytes], patience: asyncio.Timeout) -> None:
        read, unsynced = RowsRead(), 0
        async for chunk in chunks:
            patience.reschedule(self._loop.time() + STALL_S_MAX)
            batch = self._database.batch()
            self._new.put_rows(read.feed(chunk), batch)
            self._database.write(batch)
            self.bytes += len(chunk)
            unsynced += len(chunk)
            if unsynced > UNSYNCED_BYTES_MAX:
                unsynced = 0
                await self._on_disk()
        if not read.complete:
            raise MalformedSnapshot("its end is missing")

    @failpoint("snapshot.sync")
    async def _on_disk(self) -> None:
        """Wait until everything written is on disk."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._durability.persist(
            self._database.batch(), lambda: None if done.done() else done.set_result(None)
        )
        await done

    @failpoint("snapshot.switch")
    def switch(self, batch: Batch) -> bool:
        """Make the new epoch the state and empty the log, if it still leads further than that.

        The engine's own term and vote must be on disk already: no log may end in a later term.
        """
        told, group, engine = self._told, self._member.group, self._member.engine
        known = not engine.is_leader and group.log.hard_state.term >= told.term
        if not known or not engine.snapshot_wanted(told.index, told.term):
            self._decide(installed=False)
            return False
        self.begun = True
        switch_epoch(self._database, told.group, self._new.epoch, batch)
        group.log.reset(batch, told.index, told.term)
        return True

    @failpoint("snapshot.switched")
    def switched(self) -> int:
        """Go on from the new state, and drop the old."""
        told = self._told
        self._member.engine.restore(told.index, told.term, told.members)
        self._member.holder.restore(self._new)
        batch = self._database.batch()
        self._old.drop(batch)
        self._database.write(batch)
        self._decide(installed=True)
        return told.index

    def _decide(self, *, installed: bool) -> None:
        if not self._decided.done():
            self._decided.set_result(installed)

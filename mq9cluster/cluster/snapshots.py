"""Copies of a group's state from its leader to followers that its log no longer reaches.

Owned by `cluster`, which adds each group; the durability loop calls `send` for peers an engine has
named, `peers` calls `receive` for what arrives. What travels is `snapshot_stream`'s.

The leader reads all rows as of one moment, a piece a turn, resting three times as long as each
took, no faster than gRPC takes them; meanwhile, and until the follower is close, the log is kept
from there on. The follower writes them under a new epoch of its own, beside the state it has, and
waits for the disk as it goes. Only when all came and match their checksums, and its engine still
wants them, one synced batch makes that epoch the state and empties the log (`durability.replace`);
only then it answers. Whatever breaks before leaves the old state in place; what it leaves behind
is dropped, at the next start at the latest.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

from mq9cluster.cluster.durability import Durability, Group
from mq9cluster.cluster.peers import PeerUnavailable
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.cluster.snapshot_install import STALL_S_MAX, Holder, Install, Member
from mq9cluster.cluster.snapshot_stream import (
    Header,
    Kind,
    MalformedSnapshot,
    Row,
    RowsWritten,
    frame,
)
from mq9cluster.domain.failpoints import failpoint
from mq9cluster.storage.database import Database
from mq9cluster.storage.errors import StorageFailed
from mq9cluster.storage.keyspace import FORMAT_VERSION
from mq9cluster.storage.state import ShardState, drop_other_epochs

TRANSFERS_MAX: Final = 2  # at a time, out of this node and into it: each costs the loop some turns
RETRY_S: Final = 1.0  # after a failure, before the engine may name the peer again
REST: Final = 3  # times what a piece took: a quarter of the loop's time at most, requests the rest
FEED_S_MAX: Final = 60.0  # the log is kept no longer for a follower that comes no closer
FEED_LOOK_S: Final = 0.1
NEAR_ENTRIES: Final = 16  # so close to the leader that the usual tail of the log will do

_log = logging.getLogger(__name__)


class Result(IntEnum):
    """What became of a transfer: the first byte of the receiver's answer, a reason may follow."""

    INSTALLED = 1
    UNWANTED = 2  # the follower has come that far by its log
    REFUSED = 3


class TransferBroken(Exception):
    """A transfer that cannot go on."""


class Carrier(Protocol):
    """What of `peers.Peers` is used here."""

    async def send_snapshot(self, peer: str, header: bytes, chunks: AsyncIterator[bytes]) -> bytes:
        """Stream a snapshot; the receiver's result. Raises PeerUnavailable."""


@dataclass(slots=True)
class TransferCounts:
    """What happened since the start."""

    sent: int = 0
    received: int = 0
    broken: int = 0  # either way
    bytes_sent: int = 0
    bytes_received: int = 0


class Snapshots:
    """The transfers of one node. Everything is called from its event loop."""

    def __init__(
        self,
        database: Database,
        durability: Durability,
        carrier: Carrier,
        cluster_id: Callable[[], str],
        seconds: Callable[[], float],
    ) -> None:
        self.counts = TransferCounts()
        self._database = database
        self._durability = durability
        self._carrier = carrier
        self._cluster_id = cluster_id
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._members: dict[int, Member] = {}
        self._slots = asyncio.Semaphore(TRANSFERS_MAX)
        self._sending: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._feeding: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._receiving: dict[int, tuple[Install, asyncio.Task[bool]]] = {}
        self._stopped = False

    def tidy(self, number: int) -> None:
        """Drop what earlier transfers of a group left behind; before it begins, since a disk may
        fail at it.
        """
        if drop_other_epochs(self._database, number):
            _log.info("dropped the rest of an earlier state", extra={"group": number})

    def add(self, group: Group, engine: RaftEngine, holder: Holder) -> None:
        """Serve a group."""
        self._members[group.group] = Member(group, engine, holder)

    async def stop(self) -> None:
        """Give up what is under way; a switch that is being written will be done."""
        self._stopped = True
        tasks = self.under_way()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def under_way(self) -> list[asyncio.Task[Any]]:
        """All that runs now."""
        incoming = [task for _, task in self._receiving.values()]
        return [*self._sending.values(), *self._feeding.values(), *incoming]

    def state_hash(self, number: int) -> tuple[int, str]:
        """Where a group's state stands, and its hash: at equal places it is equal on all nodes.

        Reads every row in one go: for tests.
        """
        self._members[number].holder.flush()
        written, rows = RowsWritten(), ShardState(self._database, number).everything()
        while written.take(rows):
            pass
        return self._members[number].group.applied, written.digest

    # --- the leader's side -----------------------------------------------------------------------

    def send(self, number: int, peers: Sequence[str]) -> None:
        """Bring these followers of a group its state; the engine is told how it went."""
        for peer in peers:
            feeding = self._feeding.pop((number, peer), None)
            if feeding:
                feeding.cancel()  # it was not fast enough
            # A transfer under way reports to the engine as it is by then.
            if (number, peer) not in self._sending and not self._stopped:
                work = self._serve(self._members[number], peer)
                self._keep(self._sending, (number, peer), work)

    @staticmethod
    def _keep(
        tasks: dict[tuple[int, str], asyncio.Task[None]],
        key: tuple[int, str],
        work: Coroutine[Any, Any, None],
    ) -> None:
        task = tasks[key] = asyncio.create_task(work)

        def ended(_: asyncio.Task[None]) -> None:
            if tasks.get(key) is task:
                del tasks[key]

        task.add_done_callback(ended)

    async def _serve(self, member: Member, peer: str) -> None:
        group = member.group
        try:
            async with member.sending, self._slots:
                index = await self._transfer(member, peer) if member.engine.is_leader else None
        except StorageFailed as error:
            self._durability.fail(error)
            return
        if index is None:
            group.kept_for.pop(peer, None)
            self.counts.broken += 1
            await asyncio.sleep(RETRY_S)
        else:
            work = self._feed(member, peer, index)
            self._keep(self._feeding, (group.group, peer), work)
        # Over before the engine hears: it may name the peer again in its very next turn.
        self._sending.pop((group.group, peer), None)
        member.engine.snapshot_sent(peer, index)
        self._durability.wake(group)

    @failpoint("snapshot.send")
    async def _transfer(self, member: Member, peer: str) -> int | None:
        """Send the state; its place if the follower has come that far. Raises StorageFailed."""
        group, engine = member.group, member.engine
        member.holder.flush()
        # All of one moment: state, place and members.
        rows, index = ShardState(self._database, group.group).everything(), group.applied
        group.kept_for[peer] = index
        place = (group.group, index, group.log.term(index), engine.members_applied)
        header = Header(self._cluster_id(), *place, FORMAT_VERSION).pack()
        facts = {"group": group.group, "peer": peer, "index": index}
        try:
            async with (
                asyncio.timeout(STALL_S_MAX) as patience,
                aclosing(self._chunks(engine, rows, patience)) as chunks,
            ):
                answer = await self._carrier.send_snapshot(peer, header, chunks)
        except (PeerUnavailable, TransferBroken, TimeoutError) as error:
            _log.warning("state not sent", extra={**facts, "error": str(error) or "it hangs"})
            return None
        if answer[:1] == bytes((Result.INSTALLED,)):
            self.counts.sent += 1
            _log.info("state sent", extra=facts)
        elif answer[:1] != bytes((Result.UNWANTED,)):
            why = answer[1:].decode(errors="replace")
            _log.warning("state refused", extra={**facts, "error": why})
            return None
        return index

    async def _chunks(
        self, engine: RaftEngine, rows: Iterator[Row], patience: asyncio.Timeout
    ) -> AsyncGenerator[bytes, None]:
        written = RowsWritten()
        while engine.is_leader:
            started = self._seconds()
            body = written.take(rows)
            if not body:
                yield written.trailer()
                return
            chunk = frame(Kind.ROWS, body)
            took_s = self._seconds() - started
            yield chunk
            self.counts.bytes_sent += len(chunk)
            patience.reschedule(self._loop.time() + STALL_S_MAX)
            await asyncio.sleep(REST * took_s)
        raise TransferBroken("leadership was lost")

    async def _feed(self, member: Member, peer: str, index: int) -> None:
        """Keep the log from where the follower stands, until it is close."""
        kept_for, engine = member.group.kept_for, member.engine
        until_s = self._loop.time() + FEED_S_MAX
        while engine.is_leader and self._loop.time() < until_s:
            await asyncio.sleep(FEED_LOOK_S)
            match = engine.match_of(peer)
            if match > index:
                index = kept_for[peer] = match
                until_s = self._loop.time() + FEED_S_MAX
            if match + NEAR_ENTRIES >= engine.commit_index:
                break
        kept_for.pop(peer, None)

    # --- the follower's side ---------------------------------------------------------------------

    @failpoint("snapshot.receive")
    async def receive(self, peer: str, header: bytes, chunks: AsyncIterator[bytes]) -> bytes:
        """Take a group's state from its leader; what the sender is told of it."""
        facts: dict[str, object] = {"peer": peer}
        try:
            told = Header.unpack(header)
            facts |= {"group": told.group, "index": told.index}
            member = self._admit(told)
            if not member.engine.snapshot_wanted(told.index, told.term):
                self._durability.wake(member.group)  # it may have learnt what is committed
                return bytes((Result.UNWANTED,))
            await self._make_room(told.group)
            if not await self._install(member, told, chunks):
                raise TransferBroken("it is not wanted any more")
        except (MalformedSnapshot, TransferBroken, PeerUnavailable, TimeoutError) as error:
            self.counts.broken += 1
            why = str(error) or "it hangs"
            _log.warning("state not taken", extra={**facts, "error": why})
            return bytes((Result.REFUSED,)) + why.encode()
        except StorageFailed as error:
            self._durability.fail(error)
            raise
        self.counts.received += 1
        _log.info("state installed", extra=facts)
        return bytes((Result.INSTALLED,))

    def _admit(self, told: Header) -> Member:
        """Whose state it is. Raises TransferBroken."""
        mine = self._cluster_id()
        if mine and told.cluster_id != mine:
            raise TransferBroken("it is of another cluster")
        if told.rows_format != FORMAT_VERSION:
            raise TransferBroken(f"its rows have format {told.rows_format}, not {FORMAT_VERSION}")
        member = self._members.get(told.group)
        if member is None or self._stopped:
            raise TransferBroken(f"there is no group {told.group} here now")
        return member

    async def _make_room(self, number: int) -> None:
        """End an earlier transfer of the group: its sender is gone, or began anew.

        Raises TransferBroken where there is none to be had.
        """
        while earlier := self._receiving.get(number):
            install, task = earlier
            if install.begun:
                raise TransferBroken("another is being switched to")
            task.cancel()
            await asyncio.wait((task,))
            if self._receiving.get(number) is earlier:
                del self._receiving[number]
        if len(self._receiving) >= TRANSFERS_MAX:
            raise TransferBroken(f"{TRANSFERS_MAX} others are coming in")

    async def _install(self, member: Member, told: Header, chunks: AsyncIterator[bytes]) -> bool:
        install = Install(self._database, self._durability, member, told)
        task = asyncio.create_task(install.run(chunks))
        mine = self._receiving[told.group] = install, task
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            raise TransferBroken("given up for a later one") from None
        finally:
            self.counts.bytes_received += install.bytes
            if self._receiving.get(told.group) is mine:
                del self._receiving[told.group]

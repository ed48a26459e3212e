"""The durability loop: one write and one sync per turn of the event loop, for the logs and votes of
all groups of the node.

A group's node registers its engine, log and callbacks, and wakes the group whenever its engine may
have work. A turn then

1. lets every woken group propose what it gathered (`prepare`) and takes its Ready; what may
   leave at once leaves,
2. writes entries, votes and due compactions of all of them in one batch, and syncs once,
3. tells each engine `synced`, lets the messages go that waited for it, and hands on what is
   committed (`on_committed`).

A group has one Ready under way at a time; what reaches it meanwhile gathers and goes with its next.
Other groups go on: their Readys are written while a sync runs, and the next sync, started when that
one returns, covers them. At most one sync is in flight.

On a fast disk the sync runs here: a detour over a thread would cost as much again. On a slow one it
runs in a worker thread, so that heartbeats and reads go on meanwhile. `_SyncCosts` decides, from
what syncs took.

State rows are written unsynced (`storage.state.ShardState.commit`): they are redone from the log,
whose entries are removed only once the state they led to is on disk, and, while a follower is sent
a copy of the state, only up to where that copy stands.

A whole other state is put under a group by `replace`: the group stands still, with nothing of it
under way, until log and state are switched over on disk.

When the disk fails, `on_fatal` hears of it once, and nothing is acknowledged from then on.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Protocol

from mq9cluster.cluster.engine import Engine, LogEntry, Message, Ready
from mq9cluster.cluster.turns import Turns
from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.measures import LATENCY_BOUNDS_S, SIZE_BOUNDS, Histogram
from mq9cluster.storage.database import Batch
from mq9cluster.storage.errors import StorageCorrupt, StorageFailed
from mq9cluster.storage.log import GroupLog

INLINE_SYNC_S_MAX: Final = (
    0.001  # above it, standing still costs others more than a thread costs us
)
COST_WEIGHT: Final = 0.2  # of the newest sync in the moving average
COSTS_REMEMBERED: Final = 16  # syncs in the thread before its best one may call it back
LOG_ENTRIES_KEPT: Final = (
    10_000  # a peer this far behind is fed from the log rather than by a snapshot
)
LOG_BYTES_KEPT: Final = 64 << 20
COMPACT_ENTRIES_MIN: Final = 1_024  # a range tombstone each costs reads; so rarely
COMPACT_BYTES_MIN: Final = 8 << 20
KEPT_FOR_PEERS_BYTES_MAX: Final = 1 << 30  # behind a copy that takes long; then it was in vain
CHECKPOINT_S: Final = 1.0  # how far the sentinel may lag after a power cut


class Disk(Protocol):
    """What the loop needs of `storage.database.Database`; the simulator gives its own."""

    def batch(self) -> Batch:
        """An empty batch."""

    def write(self, batch: Batch) -> None:
        """Make `batch` visible. Raises StorageFailed."""

    def sync(self) -> None:
        """Return when everything written is on disk. Raises StorageFailed."""


class GroupCallbacks(Protocol):
    """What a group's node does when the loop tells it."""

    def prepare(self) -> None:
        """A turn begins: propose what gathered, as one entry."""

    def send(self, messages: Sequence[Message]) -> None:
        """Hand messages to the peers."""

    def on_committed(self, entries: Sequence[LogEntry]) -> None:
        """Apply `entries` and write their state. Raises StorageFailed."""

    def send_state(self, peers: Sequence[str]) -> None:
        """These need the group's state; say `snapshot_sent` to the engine afterwards."""


class Replacement(Protocol):
    """Another state for a group, whose rows are written already."""

    def switch(self, batch: Batch) -> bool:
        """Add to `batch` what makes it current; False: it is not wanted any more.

        Nothing of the group is under way, and nothing is until `switched`.
        """

    def switched(self) -> int:
        """It is on disk: have the engine begin behind it. The index at which it stands."""


Offload = Callable[[Callable[[], None]], "asyncio.Future[None]"]


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of each log stays behind the applied index, for peers that lag."""

    entries: int = LOG_ENTRIES_KEPT
    bytes: int = LOG_BYTES_KEPT
    entries_slack: int = COMPACT_ENTRIES_MIN
    bytes_slack: int = COMPACT_BYTES_MIN


DEFAULT_RETENTION: Final = Retention()


class Group:
    """One registered group; the handle to wake it by."""

    __slots__ = (
        "applied",
        "applied_on_disk",
        "applied_when_syncing",
        "callbacks",
        "engine",
        "group",
        "kept_for",
        "log",
        "needed_from",
        "needed_on_disk",
        "needed_when_syncing",
        "ready",
        "replacement",
        "standing_still",
        "woken",
    )

    def __init__(
        self, group: int, engine: Engine, log: GroupLog, callbacks: GroupCallbacks, applied: int
    ) -> None:
        self.group = group
        self.engine = engine
        self.log = log
        self.callbacks = callbacks
        self.applied = applied
        self.applied_when_syncing = applied
        self.applied_on_disk = applied
        # The first applied entry of which the state does not say everything; 0 where it does.
        self.needed_from = self.needed_when_syncing = self.needed_on_disk = 0
        self.ready: Ready | None = None  # under way
        self.replacement: Replacement | None = None  # waits until nothing is
        self.standing_still = False  # it is being switched to: the engine must hear nothing
        self.kept_for: dict[str, int] = {}  # peers being fed, and from where on they need the log
        self.woken = False


class Durability:
    """The loop of one node. Everything is called from its event loop."""

    def __init__(
        self,
        disk: Disk,
        on_fatal: Callable[[BaseException], None],
        offload: Offload,
        seconds: Callable[[], float],
        *,
        retention: Retention = DEFAULT_RETENTION,
        checkpoint: Callable[[], None] | None = None,
        sync_delay_s: float = 0.0,
    ) -> None:
        self._disk = disk
        self._on_fatal = on_fatal
        self._offload = offload
        self._seconds = seconds
        self._retention = retention
        self._checkpoint = checkpoint
        self._sync_delay_s = sync_delay_s
        self._groups: dict[int, Group] = {}
        self._woken: list[Group] = []
        self._written: list[Group] = []  # in RocksDB, waiting for a sync
        self._extra: list[tuple[Batch, Callable[[], None]]] = []
        self._extra_written: list[Callable[[], None]] = []
        self._scheduled = False
        self._syncing = False
        self._sync_soon = False
        self._checkpointing = False
        self._checkpointed_at = seconds()
        self._idle: list[asyncio.Future[None]] = []
        self._costs = _SyncCosts()
        self.turns = Turns(asyncio.get_running_loop(), seconds)
        self.error: BaseException | None = None
        self.sync_seconds = Histogram(LATENCY_BOUNDS_S)
        self.turn_entries = Histogram(SIZE_BOUNDS)
        self.turn_rows = Histogram(SIZE_BOUNDS)

    # ------------------------------------------------------------------ for groups

    def register(
        self, group: int, engine: Engine, log: GroupLog, callbacks: GroupCallbacks, applied: int
    ) -> Group:
        """Take `group` in and wake it; `applied` is where its state stands on disk.

        Raises StorageCorrupt when state and log do not meet.
        """
        if not log.first_index() - 1 <= applied <= log.last_index():
            raise StorageCorrupt(
                f"storage: group {group}: state stands at entry {applied} but its log holds "
                f"{log.first_index()}..{log.last_index()}"
            )
        handle = Group(group, engine, log, callbacks, applied)
        self._groups[group] = handle
        self.wake(handle)
        return handle

    def forget(self, group: Group) -> None:
        """Let go of `group`; what is under way for it is dropped."""
        del self._groups[group.group]

    def wake(self, group: Group) -> None:
        """The engine of `group` may have work: look at it in the next turn."""
        if not group.woken:
            group.woken = True
            self._woken.append(group)
            if not self._scheduled:
                self._schedule()

    def persist(self, batch: Batch, done: Callable[[], None]) -> None:
        """Write `batch` with the next turn, and call `done` when it is on disk; never, if the disk
        fails.
        """
        self._extra.append((batch, done))
        if not self._scheduled:
            self._schedule()

    def replace(self, group: Group, replacement: Replacement) -> None:
        """Switch `group` to another state, as soon as nothing of it is under way."""
        group.replacement = replacement
        self.wake(group)

    def withdraw(self, group: Group, replacement: Replacement) -> None:
        """Do not switch, if that has not begun."""
        if group.replacement is replacement:
            group.replacement = None

    async def idle(self) -> None:
        """Wait until nothing is woken, unsynced or in flight: everything acknowledged, or the disk
        failed.
        """
        while self.error is None and self._busy():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    @property
    def syncs_inline(self) -> bool:
        """Whether the next sync runs on the event loop, as on a fast disk, rather than in the
        worker thread.
        """
        return self._costs.inline

    @property
    def sync_floor_s(self) -> float:
        """What even the quickest of the last syncs took; 0 where the disk is fast or unknown."""
        return self._costs.floor_s

    # ------------------------------------------------------------------ a turn

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self.error is not None:
            return
        try:
            sent = self._write_woken()
        except Exception as error:
            self.fail(error)
            if not isinstance(error, StorageFailed):
                raise
            return
        if sent and self._costs.inline:
            # The loop stands still for the sync: what was sent gets its turn on the wires first,
            # so that followers sync at the same time.
            self._sync_soon = True
            asyncio.get_running_loop().call_soon(self._sync_if_needed)
        else:
            self._sync_if_needed()

    def _sync_if_needed(self) -> None:
        self._sync_soon = False
        if self.error is not None:
            return
        try:
            if not self._syncing and (self._written or self._extra_written):
                self._start_sync()
        except Exception as error:
            self.fail(error)
            if not isinstance(error, StorageFailed):
                raise
        if self._idle:
            self._tell_idle()

    @failpoint("log.write")
    def _write_woken(self) -> bool:
        """Write what the woken groups ask for; whether they also had something to send at once."""
        sent = False
        woken, self._woken = self._woken, []
        batch: Batch | None = None  # most turns have nothing for the disk
        entries = 0
        for group in woken:
            group.woken = False
            if group.ready is not None or group.standing_still:
                continue  # woken again when that is done
            if group.replacement is not None and self._begin_switch(group, group.replacement):
                continue
            group.callbacks.prepare()
            ready = group.engine.ready()
            if ready is None:
                self._hand_on(group)
                continue
            if ready.messages:
                sent = True
                group.callbacks.send(ready.messages)
            if ready.snapshots_needed:
                group.callbacks.send_state(ready.snapshots_needed)
            if ready.entries or ready.hard_state is not None or ready.truncate_from is not None:
                if batch is None:
                    batch = self._disk.batch()
                self._put(batch, group, ready)
                entries += len(ready.entries)
                group.ready = ready
                self._written.append(group)
            else:  # heartbeats and the like: nothing of it waits for the disk
                self._synced(group, ready)
        extra, self._extra = self._extra, []
        if batch:
            self.turn_rows.observe(len(batch))
            self._disk.write(batch)
            self.turn_entries.observe(entries)
        for more, done in extra:
            self._disk.write(more)
            self._extra_written.append(done)
        return sent

    def _put(self, batch: Batch, group: Group, ready: Ready) -> None:
        log = group.log
        if ready.hard_state is not None:
            log.put_hard_state(batch, ready.hard_state)
        log.append(batch, ready.entries, ready.truncate_from)
        keep = self._retention
        if (
            log.entries_kept > keep.entries + keep.entries_slack
            or log.bytes_kept > keep.bytes + keep.bytes_slack
        ):
            upto = group.applied_on_disk
            for needed_from in (group.needed_on_disk, group.needed_from):
                if needed_from:
                    upto = min(upto, needed_from - 1)
            if group.kept_for and log.bytes_kept < KEPT_FOR_PEERS_BYTES_MAX:
                upto = min(upto, *group.kept_for.values())
            log.compact(batch, log.compactable(upto, keep.entries, keep.bytes))

    def _begin_switch(self, group: Group, replacement: Replacement) -> bool:
        """Have the switch written in this turn; whether the group stands still for it."""
        group.replacement = None
        batch = self._disk.batch()
        if not replacement.switch(batch):
            return False
        group.standing_still = True

        def on_disk() -> None:
            if self._groups.get(group.group) is group:
                index = replacement.switched()
                group.applied = group.applied_when_syncing = group.applied_on_disk = index
                group.needed_when_syncing = group.needed_on_disk = group.needed_from
                group.standing_still = False
                self.wake(group)

        self._extra.append((batch, on_disk))
        return True

    # ------------------------------------------------------------------ the sync

    def _start_sync(self) -> None:
        groups, self._written = self._written, []
        extra, self._extra_written = self._extra_written, []
        for group in groups:
            group.applied_when_syncing = group.applied
            group.needed_when_syncing = group.needed_from
        if self._costs.inline:
            self._sync()
            self._finish(groups, extra)
            return
        self._syncing = True

        def returned(sync: "asyncio.Future[None]") -> None:
            self._syncing = False
            if self.error is None:
                self._returned(sync, groups, extra)
            else:
                sync.exception()  # seen: of a disk that failed one word is enough
            if self._idle:
                self._tell_idle()

        self._offload(self._sync).add_done_callback(returned)

    def _returned(
        self, sync: "asyncio.Future[None]", groups: list[Group], extra: list[Callable[[], None]]
    ) -> None:
        try:
            sync.result()
            self._finish(groups, extra)
            if (self._written or self._extra_written) and not self._scheduled:
                self._schedule()
        except Exception as error:
            self.fail(error)
            if not isinstance(error, StorageFailed):
                raise

    @failpoint("log.sync")
    def _sync(self) -> None:
        """In the event loop or in the worker thread."""
        started = self._seconds()
        self._disk.sync()
        if self._sync_delay_s:
            time.sleep(self._sync_delay_s)
        took = self._seconds() - started
        self._costs.add(took)
        self.sync_seconds.observe(took)

    @failpoint("log.synced")
    def _finish(self, groups: list[Group], extra: list[Callable[[], None]]) -> None:
        for group in groups:
            ready, group.ready = group.ready, None
            if ready is not None and self._groups.get(group.group) is group:
                group.applied_on_disk = group.applied_when_syncing
                group.needed_on_disk = group.needed_when_syncing
                self._synced(group, ready)
        for done in extra:
            done()
        if self._checkpoint is not None and not self._checkpointing:
            self._checkpoint_if_due(self._checkpoint)

    def _synced(self, group: Group, ready: Ready) -> None:
        group.engine.synced(ready)
        if ready.messages_after_sync:
            group.callbacks.send(ready.messages_after_sync)
        self._hand_on(group)
        self.wake(group)  # what `synced` led to, and what gathered meanwhile

    def _hand_on(self, group: Group) -> None:
        entries = group.engine.take_committed()
        if entries:
            group.callbacks.on_committed(entries)
            group.applied = entries[-1].index
            group.engine.applied(group.applied)
            self.wake(group)

    def _checkpoint_if_due(self, checkpoint: Callable[[], None]) -> None:
        now = self._seconds()
        if now - self._checkpointed_at < CHECKPOINT_S:
            return
        self._checkpointed_at = now
        self._checkpointing = True

        def returned(done: "asyncio.Future[None]") -> None:
            self._checkpointing = False
            error = done.exception()
            if error is not None:
                self.fail(error)
            if self._idle:
                self._tell_idle()

        self._offload(checkpoint).add_done_callback(returned)

    # ------------------------------------------------------------------ the end

    def fail(self, error: BaseException) -> None:
        """The disk failed, here or under a reader: say so once, and acknowledge nothing more."""
        if self.error is None:
            self.error = error
            self._on_fatal(error)
        self._tell_idle()

    def _busy(self) -> bool:
        return bool(
            self._scheduled
            or self._syncing
            or self._sync_soon
            or self._checkpointing
            or self._written
            or self._extra_written
        )

    def _tell_idle(self) -> None:
        if self.error is not None or not self._busy():
            waiting, self._idle = self._idle, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)


class _SyncCosts:
    """Where the next sync should run, by what the last ones took.

    On the loop while their moving average stays low; in the thread from then on, until the best of
    a row of them is low again: there a measurement includes waiting for the GIL, so only the best
    one tells of the disk.
    """

    __slots__ = ("_average_s", "_recent", "inline")

    def __init__(self) -> None:
        self.inline = True
        self._average_s = 0.0
        self._recent: deque[float] = deque(maxlen=COSTS_REMEMBERED)

    @property
    def floor_s(self) -> float:
        known = not self.inline and len(self._recent) == COSTS_REMEMBERED
        return min(self._recent) if known else 0.0

    def add(self, took_s: float) -> None:
        if self.inline:
            self._average_s += COST_WEIGHT * (took_s - self._average_s)
            if self._average_s > INLINE_SYNC_S_MAX:
                self.inline = False
                self._recent.clear()
            return
        self._recent.append(took_s)
        if len(self._recent) == COSTS_REMEMBERED and min(self._recent) < INLINE_SYNC_S_MAX / 2:
            self.inline = True
            self._average_s = min(self._recent)


def offload_to(executor: Executor) -> Offload:
    """Run the work in `executor`, which needs two threads: a checkpoint must not hold up a sync."""

    def offload(work: Callable[[], None]) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().run_in_executor(executor, work)

    return offload

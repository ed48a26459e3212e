"""The durability loop: nothing is acknowledged before it is on disk, and one sync serves a whole
turn.
"""

import asyncio
import gc
import time

import pytest

from mq9cluster.cluster.durability import COSTS_REMEMBERED, Durability, Retention
from mq9cluster.cluster.engine import HardState, LogEntry, Message, Ready
from mq9cluster.domain.ports import Family, Writes
from mq9cluster.storage.database import Database
from mq9cluster.storage.errors import StorageCorrupt, StorageFailed
from mq9cluster.storage.log import GroupLog
from mq9cluster.storage.state import ShardState
from tests.support.solo_engine import SoloEngine


class WatchedDisk:
    """The real database; tells the order of things, and can be slow, held up or broken."""

    def __init__(self, database: Database, events: list) -> None:
        self.database = database
        self.events = events
        self.cost_s = 0.0
        self.failing = False
        self.batch = database.batch

    def write(self, batch) -> None:
        self.events.append("write")
        self.database.write(batch)

    def sync(self) -> None:
        if self.failing:
            raise StorageFailed("storage: the disk is gone")
        self.database.sync()
        self.events.append("sync")


class Held:
    """Offloads to the event loop itself, when told to: a sync in flight for as long as the test
    likes.
    """

    def __init__(self) -> None:
        self.waiting: list = []

    def __call__(self, work) -> asyncio.Future:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((work, future))
        return future

    def release(self) -> None:
        work, future = self.waiting.pop(0)
        try:
            future.set_result(work())
        except StorageFailed as error:
            future.set_exception(error)


class SoloGroup:
    """A group of one that applies entries to a shard's state."""

    def __init__(self, rig, number: int, applied: int = 0) -> None:
        self.rig = rig
        self.number = number
        self.log = GroupLog(rig.database, number)
        self.engine = SoloEngine("a", self.log, self.log.hard_state, applied)
        self.state = ShardState(rig.database, number)
        self.waiting: list[bytes] = []
        self.committed: list[LogEntry] = []
        self.handle = rig.loop.register(number, self.engine, self.log, self, applied)

    def propose(self, *commands: bytes) -> None:
        self.waiting.extend(commands)
        self.rig.loop.wake(self.handle)

    def prepare(self) -> None:
        if self.waiting:
            self.engine.propose(b",".join(self.waiting))
            self.waiting.clear()

    def send(self, messages) -> None:
        raise AssertionError(messages)

    def on_committed(self, entries) -> None:
        for entry in entries:
            writes = Writes()
            writes.rows[Family.SHARDS][b"applied"] = b"%d" % entry.index
            self.state.commit(writes)
        self.committed.extend(entries)
        self.rig.events.append(("committed", self.number, [entry.data for entry in entries]))


class Rig:
    def __init__(self, path, **options) -> None:
        self.database = Database.open(path / "db", create=not (path / "db").exists())
        self.events: list = []
        self.fatal: list = []
        self.now = 0.0
        self.disk = WatchedDisk(self.database, self.events)
        self.held = Held()
        self.loop = Durability(self.disk, self.fatal.append, self.held, self.seconds, **options)

    def seconds(self) -> float:
        self.now += self.disk.cost_s / 2  # asked before and after a sync
        return self.now

    def take_events(self) -> list:
        events = self.events[:]
        self.events.clear()
        return events


@pytest.fixture
async def rig(tmp_path):
    made = Rig(tmp_path)
    yield made
    made.database.close()


async def test_an_entry_is_written_then_synced_then_committed(rig):
    group = SoloGroup(rig, 1)
    await rig.loop.idle()
    rig.take_events()
    group.propose(b"x")
    assert rig.take_events() == []
    await rig.loop.idle()
    assert rig.take_events() == ["write", "sync", ("committed", 1, [b"x"])]
    assert group.state.get(Family.SHARDS, b"applied") == b"2"


async def test_one_write_and_one_sync_serve_all_groups_of_a_turn(rig):
    groups = [SoloGroup(rig, n) for n in range(5)]
    await rig.loop.idle()
    rig.take_events()
    for group in groups:
        group.propose(b"a")
    for group in groups:
        group.propose(b"b")
    await rig.loop.idle()
    committed = [("committed", n, [b"a,b"]) for n in range(5)]
    assert rig.take_events() == ["write", "sync", *committed]
    assert sum(rig.loop.sync_seconds.counts) == 2
    assert rig.loop.turn_entries.total == 10


async def slow(rig) -> None:
    """Make the loop believe in a slow disk, so that syncs are offloaded."""
    rig.disk.cost_s = 0.1
    rig.loop.persist(rig.disk.batch(), lambda: None)
    await rig.loop.idle()
    assert not rig.loop.syncs_inline


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_on_a_slow_disk_nothing_is_acknowledged_before_the_sync_returns_and_others_go_on(rig):
    one, two = SoloGroup(rig, 1), SoloGroup(rig, 2)
    await slow(rig)
    rig.take_events()
    one.propose(b"x")
    await turns()
    assert rig.take_events() == ["write"]
    one.propose(b"y")
    two.propose(b"z")
    await turns()
    assert rig.take_events() == ["write"]  # group two's; group one waits for its first
    assert len(rig.held.waiting) == 1
    rig.held.release()
    await turns()
    assert rig.take_events() == ["sync", ("committed", 1, [b"x"]), "write"]
    rig.held.release()
    await turns()
    assert rig.take_events() == ["sync", ("committed", 2, [b"z"]), ("committed", 1, [b"y"])]
    await rig.loop.idle()
    assert rig.held.waiting == []


async def test_the_sync_comes_back_to_the_loop_when_the_disk_is_fast_again(rig):
    group = SoloGroup(rig, 1)
    await slow(rig)
    rig.disk.cost_s = 0.0
    for _ in range(COSTS_REMEMBERED):
        group.propose(b"x")
        await turns()
        rig.held.release()
        await turns()
    assert rig.loop.syncs_inline
    group.propose(b"y")
    await rig.loop.idle()
    assert group.committed[-1].data == b"y"


@pytest.mark.parametrize("inline", [True, False])
async def test_when_the_disk_fails_it_is_said_once_and_nothing_is_acknowledged_any_more(
    rig, inline
):
    group = SoloGroup(rig, 1)
    await rig.loop.idle()
    if not inline:
        await slow(rig)
    rig.disk.failing = True
    before = len(group.committed)
    done: list[str] = []
    for command in (b"x", b"y"):
        group.propose(command)
        rig.loop.persist(rig.disk.batch(), lambda: done.append("persisted"))
        await turns()
        if rig.held.waiting:
            rig.held.release()
        await turns()
        rig.disk.failing = False
    await rig.loop.idle()
    assert [str(error) for error in rig.fatal] == ["storage: the disk is gone"]
    assert (len(group.committed), done) == (before, [])


async def test_a_sync_that_fails_behind_a_write_that_failed_is_not_told_again(rig):
    # Found by chaos, disk-full: asyncio logged a traceback after the one line that says it all.
    group = SoloGroup(rig, 1)
    await rig.loop.idle()
    await slow(rig)
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
    group.propose(b"x")
    await turns()
    rig.disk.failing = True
    rig.loop.fail(StorageFailed("storage: no room"))
    rig.held.release()
    await turns()
    gc.collect()
    assert [str(error) for error in rig.fatal] == ["storage: no room"]
    assert told == []


async def test_an_exception_while_applying_stops_everything_and_is_not_swallowed(rig):
    group = SoloGroup(rig, 1)
    await rig.loop.idle()
    heard = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, what: heard.append(what["exception"])
    )
    group.on_committed = lambda _: {}["missing"]
    group.propose(b"x")
    await turns()
    assert rig.fatal == heard
    assert repr(heard) == "[KeyError('missing')]"


class ScriptedEngine:
    """Hands out given Readys."""

    def __init__(self, events, readys) -> None:
        self.events = events
        self.readys = readys

    def ready(self):
        return self.readys.pop(0) if self.readys else None

    def synced(self, ready) -> None:
        self.events.append(("synced", ready.entries))

    def take_committed(self):
        return ()


class Recorder:
    def __init__(self, events) -> None:
        self.events = events

    def prepare(self) -> None: ...

    def send(self, messages) -> None:
        self.events.append(("send", [message.data for message in messages]))

    def on_committed(self, entries) -> None:
        raise AssertionError(entries)


async def test_messages_leave_at_once_but_votes_and_acknowledgements_only_after_the_sync(rig):
    entries = [LogEntry(1, 1, b"x")]
    readys = [
        Ready(HardState(1, "b"), None, entries, [Message("b", b"now")], [Message("b", b"later")]),
        Ready(None, None, (), [Message("b", b"heartbeat")], ()),
    ]
    log = GroupLog(rig.database, 1)
    engine = ScriptedEngine(rig.events, readys)
    rig.loop.register(1, engine, log, Recorder(rig.events), 0)
    await rig.loop.idle()
    assert rig.events == [
        ("send", [b"now"]),
        "write",
        "sync",
        ("synced", entries),
        ("send", [b"later"]),
        ("send", [b"heartbeat"]),
        ("synced", ()),
    ]
    assert GroupLog(rig.database, 1).hard_state == HardState(1, "b")
    assert rig.loop.turn_rows.total == 2


async def test_truncation_is_part_of_the_same_write(rig):
    old = [LogEntry(n, 1, b"old") for n in range(1, 4)]
    new = [LogEntry(2, 2, b"new")]
    readys = [Ready(None, None, old, (), ()), Ready(None, 2, new, (), ())]
    log = GroupLog(rig.database, 1)
    rig.loop.register(1, ScriptedEngine([], readys), log, Recorder([]), 0)
    await rig.loop.idle()
    reopened = GroupLog(rig.database, 1)
    assert reopened.read(1, 9, 1000) == log.read(1, 9, 1000) == [old[0], *new]


async def test_a_batch_of_ones_own_is_told_when_it_is_on_disk(rig):
    batch = rig.database.batch()
    meta = rig.database.table("meta")
    batch.put(b"k", b"v", meta.handle)
    rig.loop.persist(batch, lambda: rig.events.append("done"))
    await rig.loop.idle()
    assert rig.events == ["write", "sync", "done"]
    assert meta.get(b"k") == b"v"


async def test_a_restart_replays_what_the_state_has_not_seen(tmp_path):
    rig = Rig(tmp_path)
    group = SoloGroup(rig, 1)
    for n in range(5):
        group.propose(b"%d" % n)
        await rig.loop.idle()
    rig.database.close()
    rig = Rig(tmp_path)
    group = SoloGroup(rig, 1, applied=4)
    await rig.loop.idle()
    assert [(entry.index, entry.data) for entry in group.committed] == [
        (5, b"3"),
        (6, b"4"),
        (7, b""),
    ]
    rig.database.close()


@pytest.mark.parametrize(("compacted", "applied"), [(0, 4), (2, 1)])
async def test_a_state_that_does_not_meet_its_log_is_refused(rig, compacted, applied):
    log = GroupLog(rig.database, 1)
    batch = rig.database.batch()
    log.append(batch, [LogEntry(n, 1, b"x") for n in range(1, 4)])
    log.compact(batch, compacted)
    rig.database.write(batch)
    engine = ScriptedEngine([], [])
    with pytest.raises(StorageCorrupt, match=f"group 1: state stands at entry {applied} but"):
        rig.loop.register(1, engine, log, Recorder([]), applied)


async def test_the_log_is_compacted_behind_what_is_applied_and_on_disk(tmp_path):
    rig = Rig(tmp_path, retention=Retention(entries=10, entries_slack=5))
    group = SoloGroup(rig, 1)
    longest = 0
    for n in range(100):
        group.propose(b"%d" % n)
        await rig.loop.idle()
        longest = max(longest, group.log.entries_kept)
        assert group.log.first_index() - 1 <= group.handle.applied_on_disk
    assert longest == 15
    reopened = GroupLog(rig.database, 1)
    assert reopened.last_index() == 101
    assert 10 <= reopened.entries_kept <= 15
    rig.database.close()


async def test_a_log_whose_state_is_not_on_disk_is_never_compacted(tmp_path):
    rig = Rig(tmp_path, retention=Retention(entries=2, entries_slack=0))
    group = SoloGroup(rig, 1)
    await slow(rig)
    rig.held.waiting.clear()
    batch = rig.database.batch()
    ready = Ready(None, None, [LogEntry(n, 1, b"x") for n in range(2, 9)], (), ())
    group.handle.applied = 8  # applied, but no sync has returned since
    on_disk = group.handle.applied_on_disk
    rig.loop._put(batch, group.handle, ready)
    assert group.log.first_index() == on_disk + 1
    rig.database.close()


@pytest.mark.parametrize(
    ("in_memory", "on_disk", "first"), [(0, 0, 8), (4, 0, 4), (0, 4, 4), (6, 4, 4), (4, 6, 4)]
)
async def test_the_log_is_kept_from_where_the_state_needs_it(tmp_path, in_memory, on_disk, first):
    rig = Rig(tmp_path, retention=Retention(entries=1, entries_slack=0))
    group = SoloGroup(rig, 1)
    batch = rig.database.batch()
    ready = Ready(None, None, [LogEntry(n, 1, b"x") for n in range(1, 9)], (), ())
    handle = group.handle
    handle.applied = handle.applied_on_disk = 8
    handle.needed_from, handle.needed_on_disk = in_memory, on_disk
    rig.loop._put(batch, handle, ready)
    assert group.log.first_index() == first
    rig.database.close()


async def test_what_the_state_needs_of_the_log_counts_when_it_is_on_disk(tmp_path):
    rig = Rig(tmp_path)
    group = SoloGroup(rig, 1)
    await slow(rig)
    group.handle.needed_from = 3
    group.propose(b"x")
    await turns()
    group.handle.needed_from = 0  # since the sync began
    assert group.handle.needed_on_disk == 0
    rig.held.release()
    await turns()
    assert group.handle.needed_on_disk == 3
    rig.held.waiting.clear()
    rig.database.close()


async def test_the_sentinel_is_brought_up_to_date_about_once_a_second(tmp_path):
    checkpoints = []
    rig = Rig(tmp_path, checkpoint=lambda: checkpoints.append(rig.now))
    group = SoloGroup(rig, 1)
    for second in (0.5, 0.9, 1.1, 1.2, 2.0, 2.2, 2.3):
        rig.now = second
        group.propose(b"x")
        await turns()
        while rig.held.waiting:
            rig.held.release()
        await turns()
    assert checkpoints == [1.1, 2.2]
    rig.database.close()


async def test_a_failing_checkpoint_is_fatal(tmp_path):
    def broken() -> None:
        raise StorageFailed("storage: cannot sync node.mark")

    rig = Rig(tmp_path, checkpoint=broken)
    group = SoloGroup(rig, 1)
    rig.now = 5.0
    group.propose(b"x")
    await turns()
    rig.held.release()
    await turns()
    assert [str(error) for error in rig.fatal] == ["storage: cannot sync node.mark"]
    rig.database.close()


async def test_a_delayed_sync_counts_as_a_slow_one(tmp_path):
    rig = Rig(tmp_path, sync_delay_s=0.02)
    rig.loop._seconds = time.perf_counter
    SoloGroup(rig, 1)
    await rig.loop.idle()
    assert not rig.loop.syncs_inline
    rig.database.close()

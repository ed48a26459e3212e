"""A follower that is given a state takes all of it or nothing, whatever happens on the way."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mq9cluster.cluster import snapshot_install
from mq9cluster.cluster.durability import Durability
from mq9cluster.cluster.engine import LogEntry, Members, Message
from mq9cluster.cluster.peers import PeerUnavailable
from mq9cluster.cluster.raft_engine import RaftEngine
from mq9cluster.cluster.raft_wire import Append, Heartbeat, encode
from mq9cluster.cluster.snapshot_stream import Header, Kind, RowsWritten, frame
from mq9cluster.cluster.snapshots import Result, Snapshots
from mq9cluster.domain.ports import Family, Writes
from mq9cluster.storage.database import Database
from mq9cluster.storage.keyspace import FORMAT_VERSION
from mq9cluster.storage.log import GroupLog
from mq9cluster.storage.state import ShardState, current_epoch
from tests.support.raft import FakeClock, FakeRandom

GROUP = 3
TERM = 5
MEMBERS = Members(("a", "b", "c"))
HEADER = Header("c1", GROUP, 40, TERM, MEMBERS, FORMAT_VERSION)


def rows_at(index: int) -> list[tuple[int, bytes, bytes]]:
    """The whole state after `index` entries."""
    place = (int(Family.SHARDS), b"place", b"%d" % index)
    return [place, *((int(Family.MESSAGES), b"%08d" % n, b"v%d" % n) for n in range(1, index + 1))]


def stream(rows: Iterable, bytes_max: int = 200) -> list[bytes]:
    written, left = RowsWritten(), iter(rows)
    found = []
    while body := written.take(left, bytes_max):
        found.append(frame(Kind.ROWS, body))
    return [*found, written.trailer()]


class Broken(Exception):
    """The test ends a stream."""


async def chunks(pieces: Iterable[bytes], *, then: Any = None) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)
    if isinstance(then, Exception):
        raise then
    if then is not None:
        await then.wait()


class Follower:
    """Node "b": what `a`, the leader, says goes in by `hear`."""

    def __init__(self, path: Path, cluster_id: str = "c1") -> None:
        self.database = Database.open(path, create=not path.exists())
        self.log = GroupLog(self.database, GROUP)
        self.state = ShardState(self.database, GROUP)
        self.fatal: list[BaseException] = []
        loop = asyncio.get_running_loop()
        self.durability = Durability(
            self.database,
            self.fatal.append,
            lambda work: loop.run_in_executor(None, work),
            time.monotonic,
        )
        applied = self.place_of(self.state)
        self.engine = RaftEngine(
            name="b",
            members=MEMBERS,
            log=self.log,
            hard_state=self.log.hard_state,
            applied=applied,
            clock=FakeClock(),
            random=FakeRandom(1),
        )
        self.group = self.durability.register(GROUP, self.engine, self.log, self, applied)
        self.snapshots = Snapshots(
            self.database, self.durability, self, lambda: cluster_id, time.monotonic
        )
        self.snapshots.tidy(self.group.group)
        self.snapshots.add(self.group, self.engine, self)
        self.sent: list[Message] = []

    # callbacks of the durability loop, and Holder

    def prepare(self) -> None:
        """Nothing is proposed."""

    def send(self, messages: Sequence[Message]) -> None:
        self.sent += messages

    def on_committed(self, entries: Sequence[LogEntry]) -> None:
        for entry in entries:
            writes = Writes()
            writes.rows[Family.SHARDS][b"place"] = b"%d" % entry.index
            writes.rows[Family.MESSAGES][b"%08d" % entry.index] = b"v%d" % entry.index
            self.state.commit(writes)

    def flush(self) -> None:
        pass

    def place_of(self, state: ShardState) -> int:
        return int(state.get(Family.SHARDS, b"place") or 0)

    def restore(self, state: ShardState) -> None:
        self.state = state

    # the test's hands

    async def hear(self, *messages: Any) -> None:
        for message in messages:
            self.engine.receive("a", encode(message))
        self.durability.wake(self.group)
        await self.durability.idle()

    async def take(self, header: Header, pieces: Iterable[bytes], then: Any = None) -> bytes:
        async with asyncio.timeout(20):
            return await self.snapshots.receive("a", header.pack(), chunks(pieces, then=then))

    @property
    def rows(self) -> list:
        return list(self.state.everything())

    async def until_rows_came(self) -> None:
        while not self.left_over():  # noqa: ASYNC110  only the database knows
            await asyncio.sleep(0)

    def left_over(self) -> int:
        """Rows of other epochs than the one in force."""
        tables = [self.database.family(family) for family in Family]
        every = [row for table in tables for row in table.scan(b"\0", b"\xff" * 12)]
        return len(every) - len(list(ShardState(self.database, GROUP).everything()))

    async def close(self) -> None:
        await self.snapshots.stop()
        await self.durability.idle()
        assert self.fatal == []
        self.database.close()


def entries(first: int, last: int) -> list[LogEntry]:
    return [LogEntry(n, TERM, b"x%d" % n) for n in range(first, last + 1)]


@pytest.fixture
async def follower(tmp_path: Path) -> Any:
    """It has applied 10 entries of the leader's log, and no more."""
    made = Follower(tmp_path / "db")
    await made.hear(Append(TERM, 0, 0, 10, 0, entries(1, 10)))
    assert made.rows == rows_at(10)
    yield made
    await made.close()


def stands_as_before(node: Follower) -> bool:
    place = (node.rows, node.engine.commit_index, node.log.last_index(), node.left_over())
    return place == (rows_at(10), 10, 10, 0)


async def test_a_state_is_taken_and_the_log_goes_on_behind_it(follower: Follower) -> None:
    assert await follower.take(HEADER, stream(rows_at(40))) == bytes((Result.INSTALLED,))
    assert (follower.rows, follower.left_over()) == (rows_at(40), 0)
    assert (follower.log.first_index(), follower.log.last_index()) == (41, 40)
    assert (follower.group.applied, follower.group.applied_on_disk) == (40, 40)
    await follower.hear(Append(TERM, 40, TERM, 42, 0, entries(41, 42)))
    assert follower.rows == rows_at(42)
    counts = follower.snapshots.counts
    assert (counts.received, counts.broken, counts.bytes_received) == (
        1,
        0,
        sum(map(len, stream(rows_at(40)))),
    )


async def test_after_a_restart_it_stands_where_the_state_put_it(tmp_path: Path) -> None:
    node = Follower(tmp_path / "db")
    await node.hear(Append(TERM, 0, 0, 10, 0, entries(1, 10)))
    await node.take(HEADER, stream(rows_at(40)))
    await node.close()
    node = Follower(tmp_path / "db")
    assert (node.rows, node.engine.commit_index, node.log.first_index()) == (rows_at(40), 40, 41)
    await node.close()


async def test_a_second_state_takes_the_place_of_the_first(follower: Follower) -> None:
    await follower.take(HEADER, stream(rows_at(40)))
    later = replace(HEADER, index=90)
    assert await follower.take(later, stream(rows_at(90))) == bytes((Result.INSTALLED,))
    assert (follower.rows, follower.left_over()) == (rows_at(90), 0)
    assert current_epoch(follower.database, GROUP) == 2


async def test_a_repeated_state_changes_nothing(follower: Follower) -> None:
    await follower.take(HEADER, stream(rows_at(40)))
    assert await follower.take(HEADER, stream(rows_at(40))) == bytes((Result.UNWANTED,))
    assert (follower.rows, current_epoch(follower.database, GROUP)) == (rows_at(40), 1)


async def test_a_state_behind_the_own_log_is_not_wanted(follower: Follower) -> None:
    await follower.hear(Append(TERM, 10, TERM, 10, 0, entries(11, 45)))
    assert await follower.take(HEADER, stream(rows_at(40))) == bytes((Result.UNWANTED,))
    await follower.durability.idle()
    assert follower.rows == rows_at(40)  # that there is such a state proves these committed
    assert current_epoch(follower.database, GROUP) == 0


def damaged(pieces: list[bytes]) -> list[bytes]:
    middle = bytearray(pieces[2])
    middle[20] ^= 1
    return [*pieces[:2], bytes(middle), *pieces[3:]]


@pytest.mark.parametrize(
    ("header", "pieces", "why"),
    [
        (HEADER, damaged(stream(rows_at(40))), b"checksum"),
        (HEADER, stream(rows_at(40))[:-1], b"its end is missing"),
        (HEADER, [], b"its end is missing"),
        (HEADER, stream(rows_at(40))[1:], b"were sent"),
        (HEADER, stream(rows_at(39)), b"its rows stand at 39"),
        (replace(HEADER, cluster_id="c2"), stream(rows_at(40)), b"another cluster"),
        (replace(HEADER, cluster_id=""), stream(rows_at(40)), b"another cluster"),
        (replace(HEADER, rows_format=99), stream(rows_at(40)), b"format 99"),
        (replace(HEADER, group=4), stream(rows_at(40)), b"no group 4"),
        (replace(HEADER, term=TERM + 1), stream(rows_at(40)), b"not wanted"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
async def test_a_state_that_is_not_right_leaves_the_old_one(
    follower: Follower, header, pieces, why
) -> None:
    result = await follower.take(header, pieces)
    assert (result[0], why in result) == (Result.REFUSED, True)
    assert stands_as_before(follower)
    assert await follower.take(HEADER, stream(rows_at(40))) == bytes((Result.INSTALLED,))


async def test_a_stream_that_breaks_off_leaves_the_old_state(follower: Follower) -> None:
    pieces = stream(rows_at(40))[:4]
    result = await follower.take(HEADER, pieces, then=PeerUnavailable("gone"))
    assert result == bytes((Result.REFUSED,)) + b"gone"
    assert stands_as_before(follower)


async def test_a_stream_that_hangs_is_given_up(follower: Follower, monkeypatch) -> None:
    monkeypatch.setattr(snapshot_install, "STALL_S_MAX", 0.05)
    result = await follower.take(HEADER, stream(rows_at(40))[:4], then=asyncio.Event())
    assert result == bytes((Result.REFUSED,)) + b"it hangs"
    assert stands_as_before(follower)


async def test_a_later_stream_ends_an_earlier(follower: Follower) -> None:
    first = asyncio.ensure_future(
        follower.take(HEADER, stream(rows_at(40))[:4], then=asyncio.Event())
    )
    await follower.until_rows_came()
    assert await follower.take(HEADER, stream(rows_at(40))) == bytes((Result.INSTALLED,))
    assert await first == bytes((Result.REFUSED,)) + b"given up for a later one"
    assert (follower.rows, follower.left_over()) == (rows_at(40), 0)


async def test_a_sender_that_goes_away_leaves_the_old_state(follower: Follower) -> None:
    stream_task = asyncio.ensure_future(
        follower.take(HEADER, stream(rows_at(40))[:4], then=asyncio.Event())
    )
    await follower.until_rows_came()
    stream_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream_task
    assert stands_as_before(follower)


async def test_what_arrives_by_the_log_meanwhile_is_not_lost_to_a_state(follower: Follower) -> None:
    held = asyncio.Event()
    pieces = stream(rows_at(40))

    async def slow() -> AsyncIterator[bytes]:
        for piece in pieces[:-1]:
            yield piece
        await held.wait()
        yield pieces[-1]

    taking = asyncio.ensure_future(follower.snapshots.receive("a", HEADER.pack(), slow()))
    await follower.until_rows_came()
    await follower.hear(Append(TERM, 10, TERM, 50, 0, entries(11, 50)))
    held.set()
    assert await taking == bytes((Result.REFUSED,)) + b"it is not wanted any more"
    assert (follower.rows, follower.log.last_index(), follower.left_over()) == (rows_at(50), 50, 0)


async def test_nothing_is_heard_between_the_switch_and_its_sync(tmp_path: Path) -> None:
    node = Follower(tmp_path / "db")
    await node.hear(Append(TERM, 0, 0, 10, 0, entries(1, 10)))
    standing: list[bool] = []
    switched = snapshot_install.Install.switched

    def watched(install) -> int:
        standing.append(node.group.standing_still)
        node.durability.wake(node.group)
        return switched(install)

    snapshot_install.Install.switched = watched
    try:
        await node.take(HEADER, stream(rows_at(40)))
    finally:
        snapshot_install.Install.switched = switched
    assert (standing, node.group.standing_still) == ([True], False)
    await node.close()


async def test_a_crash_before_the_switch_leaves_the_old_state(tmp_path: Path, monkeypatch) -> None:
    node = Follower(tmp_path / "db")
    await node.hear(Append(TERM, 0, 0, 10, 0, entries(1, 10)))
    monkeypatch.setattr(snapshot_install, "drop_other_epochs", lambda *_: False)
    with pytest.raises(Broken):
        await node.take(HEADER, stream(rows_at(40))[:-1], then=Broken())
    assert node.left_over() == 41
    await node.close()
    node = Follower(tmp_path / "db")
    assert stands_as_before(node)
    await node.hear(Heartbeat(TERM, 10, 0))
    assert await node.take(HEADER, stream(rows_at(40))) == bytes((Result.INSTALLED,))
    await node.close()


async def test_a_crash_right_after_the_switch_leaves_the_new_state(
    tmp_path: Path, monkeypatch
) -> None:
    node = Follower(tmp_path / "db")
    await node.hear(Append(TERM, 0, 0, 10, 0, entries(1, 10)))
    on_disk = asyncio.Event()

    def crash(_: object) -> int:
        on_disk.set()
        raise Broken  # the node is gone before it hears of it

    with monkeypatch.context() as patched:
        patched.setattr(snapshot_install.Install, "switched", crash)
        taking = asyncio.ensure_future(node.take(HEADER, stream(rows_at(40))))
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        await on_disk.wait()
        asyncio.get_running_loop().set_exception_handler(None)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
    assert len(node.fatal) == 1
    node.database.close()
    node = Follower(tmp_path / "db")
    assert (node.rows, node.engine.commit_index, node.left_over()) == (rows_at(40), 40, 0)
    assert (node.log.first_index(), node.log.last_index()) == (41, 40)
    await node.close()

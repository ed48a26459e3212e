"""A process that writes through the durability loop as fast as it can, for tests that end it.

    python -m tests.support.solo_writer DIR

Three groups of one; each entry puts a row into its shard's state. Prints `GROUP INDEX` for every
entry once it is acknowledged: committed and applied. `read(DIR)` is what a later start finds.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mq9cluster.cluster.durability import Durability, Retention, offload_to
from mq9cluster.cluster.engine import LogEntry, Message
from mq9cluster.domain.ports import Family, Writes
from mq9cluster.storage.database import DatabaseLimits
from mq9cluster.storage.log import GroupLog
from mq9cluster.storage.state import ShardState
from mq9cluster.storage.store import Store, open_store
from tests.support.solo_engine import SoloEngine

GROUPS = 3
SMALL = DatabaseLimits(  # many flushes and WAL switches in a short run
    block_cache_bytes=1 << 20,
    write_buffers_bytes=1 << 20,
    write_buffer_bytes=256 << 10,
    wal_bytes_max=1 << 20,
)
RETENTION = Retention(entries=200, bytes=1 << 20, entries_slack=50, bytes_slack=1 << 18)


class Writer:
    """One group, proposing for ever."""

    def __init__(self, store: Store, loop: Durability, group: int) -> None:
        self.group = group
        self.log = GroupLog(store.database, group)
        self.state = ShardState(store.database, group)
        applied = int(self.state.get(Family.SHARDS, b"applied") or b"0")
        self.engine = SoloEngine("a", self.log, self.log.hard_state, applied)
        loop.register(group, self.engine, self.log, self, applied)

    def prepare(self) -> None:
        self.engine.propose(os.urandom(100) * (1 + self.engine.commit_index % 20))

    def send(self, messages: Sequence[Message]) -> None:
        raise AssertionError(messages)

    def on_committed(self, entries: Sequence[LogEntry]) -> None:
        for entry in entries:
            writes = Writes()
            writes.rows[Family.SHARDS][b"applied"] = b"%d" % entry.index
            writes.rows[Family.MESSAGES][b"%010d" % entry.index] = entry.data
            self.state.commit(writes)
            os.write(1, b"%d %d\n" % (self.group, entry.index))


async def write(directory: Path) -> str:
    """Write until the disk fails; the line it failed with."""
    store = open_store(directory, "a", lambda: "id-1", SMALL)
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    loop = Durability(
        store.database,
        lambda error: failed.set_result(str(error)),
        offload_to(ThreadPoolExecutor(2)),
        time.perf_counter,
        retention=RETENTION,
        checkpoint=store.checkpoint,
    )
    for group in range(GROUPS):
        Writer(store, loop, group)
    return await failed


def read(directory: Path) -> dict[int, int]:
    """The last index each group has, its state and its log both whole up to there."""
    store = open_store(directory, "a", lambda: "id-1", SMALL)
    found = {}
    for group in range(GROUPS):
        log, state = GroupLog(store.database, group), ShardState(store.database, group)
        applied = int(state.get(Family.SHARDS, b"applied") or b"0")
        rows = dict(state.scan(Family.MESSAGES, b"", b"\xff"))
        assert list(rows) == [b"%010d" % n for n in range(1, applied + 1)]
        assert log.first_index() - 1 <= applied <= log.last_index()
        for entry in log.read(log.first_index(), applied + 1, 1 << 30):
            assert rows[b"%010d" % entry.index] == entry.data
        found[group] = log.last_index()
    store.close()
    return found


if __name__ == "__main__":
    sys.stderr.write(asyncio.run(write(Path(sys.argv[1]))) + "\n")
    os._exit(1)  # as after any failure of the disk: nothing is tidied up

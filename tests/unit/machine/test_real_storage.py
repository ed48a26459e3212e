"""The machine over RocksDB: the rows are those it writes over a dictionary."""

from pathlib import Path

import pytest

from mq9cluster.domain.ports import Family, Writes
from mq9cluster.storage.state import ShardState
from mq9cluster.storage.store import open_store
from tests.property import workload
from tests.property.machine_shard import MachineShard


class Stored(ShardState):
    """Called as the store in memory is."""

    __slots__ = ("rows_read",)

    def write(self, writes: Writes) -> None:  # type: ignore[override]
        batch = self._database.batch()
        super().write(writes, batch)
        self._database.write(batch)


@pytest.mark.parametrize("seed", [11, 12])
def test_the_rows_on_disk_are_those_in_memory(tmp_path: Path, seed: int) -> None:
    store = open_store(tmp_path, "n1", lambda: "07")
    try:
        stored = Stored(store.database, shard=3, epoch=1)
        other_shard = Stored(store.database, shard=4, epoch=1)
        on_disk, in_memory = MachineShard(stored), MachineShard()  # type: ignore[arg-type]
        both = zip(
            workload.run(on_disk, seed, 250), workload.run(in_memory, seed, 250), strict=True
        )
        for says, says_too in both:
            assert says == says_too
            on_disk.restart()
        for family in Family:
            assert dict(stored.scan_all(family)) == in_memory.store.rows[family]
            assert list(other_shard.scan_all(family)) == []
    finally:
        store.close()

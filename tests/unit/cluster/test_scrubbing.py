"""Reading everything beside the work, on a clock that only the reading moves."""

import asyncio
import logging

import pytest

from mq9cluster.cluster import scrubbing
from mq9cluster.cluster.scrubbing import REST, ROWS_FIRST, SLICE_S, Scrubbing
from mq9cluster.storage.errors import StorageCorrupt

ROWS = 200_000


class Disk:
    """`rows` rows of which each takes a microsecond; one may be damaged."""

    def __init__(self, row_s=1e-6, damaged_at=None):
        self.now_s = 0.0
        self.row_s = row_s
        self.at = 0
        self.damaged_at = damaged_at
        self.slices = []
        self.damage = []

    def step(self, rows_max):
        rows = min(rows_max, ROWS - self.at)
        self.now_s += rows * self.row_s
        self.slices.append(rows * self.row_s)
        if self.damaged_at is not None and self.at <= self.damaged_at < self.at + rows:
            raise StorageCorrupt("storage: damage")
        self.at = (self.at + rows) % ROWS
        return self.at == 0

    def scrubbing(self):
        return Scrubbing(self, lambda: ROWS, self.damage.append, lambda: self.now_s)


@pytest.fixture
def rests(monkeypatch):
    """How long it rested each time; nobody waits for it."""
    taken = []
    sleep = asyncio.sleep

    async def rest(seconds):
        taken.append(seconds)
        await sleep(0)

    monkeypatch.setattr(scrubbing.asyncio, "sleep", rest)
    return taken


async def rounds(work, count):
    task = asyncio.create_task(work.run(at_once=True))
    async with asyncio.timeout(30):
        while work.rounds < count and not task.done():
            await asyncio.tasks.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("row_s", [1e-7, 1e-6, 5e-5])
async def test_a_slice_takes_little_of_the_loop_whatever_the_disk(rests, row_s):
    disk = Disk(row_s)
    await rounds(disk.scrubbing(), 2)
    settled = disk.slices[20:]
    assert max(settled) <= 4 * SLICE_S
    assert all(
        rest >= REST * took * 0.999
        for rest, took in zip(
            (r for r in rests if r < scrubbing.PERIOD_S), disk.slices, strict=False
        )
    )


async def test_it_says_when_it_begins_and_ends(rests, caplog):
    caplog.set_level(logging.INFO, scrubbing.__name__)
    await rounds(Disk().scrubbing(), 1)
    assert [record.message for record in caplog.records][:2] == ["scrubbing", "scrubbed"]


async def test_damage_is_told_once_and_ends_it(rests):
    disk = Disk(damaged_at=5 * ROWS_FIRST)
    work = disk.scrubbing()
    await asyncio.wait_for(work.run(at_once=True), 30)
    (damage,) = disk.damage
    assert isinstance(damage, StorageCorrupt)
    assert work.rounds == 0


async def test_what_was_read_at_the_start_is_not_read_again_before_its_time(rests):
    disk = Disk()
    task = asyncio.create_task(disk.scrubbing().run(at_once=False))
    await asyncio.tasks.sleep(0)
    assert rests == [scrubbing.PERIOD_S]
    assert disk.slices == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

"""What a shard that read sees of what fell due: also after a time without a leader."""

import asyncio
from collections.abc import Callable

import pytest

from mq9cluster.cluster.engine import LogEntry
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.shard_time import SLEW, ShardTime
from mq9cluster.domain.command import CreateMailbox, SendMessage
from mq9cluster.domain.read import Browse, MessagesRead, Query
from mq9cluster.machine import due
from tests.unit.cluster.one_shard import (
    REF,
    OneShard,
    fetched,
    outcome_of,
    payloads,
    queried,
    replica_of,
)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has so many seconds pass at once, as a pause of the leader does: no timer tells it."""
    monkeypatch.setattr(Replica, "_expire_when_due", lambda _: None)
    now_ms = ShardTime.now_ms

    def pause(seconds: int) -> None:
        monkeypatch.setattr(ShardTime, "now_ms", lambda time: now_ms(time) + seconds * 1000)

    return pause


async def test_a_read_waits_for_what_fell_due_before_it(
    one: OneShard, passes: Callable[[int], None]
) -> None:
    """Simulator, seed 118: after a pause of its leader a QUERY came before the timer."""
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    await outcome_of(shard, SendMessage(REF, b"expires", ttl_s=5))
    await outcome_of(shard, SendMessage(REF, b"stays"))
    await outcome_of(shard, SendMessage(REF, b"comes", delay_s=5))
    assert await queried(shard) == [b"expires", b"stays"]
    passes(6)
    both = await asyncio.gather(queried(shard), queried(shard))
    assert both == [[b"stays", b"comes"]] * 2


async def test_a_read_waits_for_all_that_is_due_however_many_entries_that_takes(
    one: OneShard, passes: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulator, seed 7672: after seconds without a leader one entry was not enough."""
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    monkeypatch.setattr(due, "DUE_WORK_MAX", 2)
    for n in range(7):
        await outcome_of(shard, SendMessage(REF, b"%d" % n, delay_s=5))
    passes(6)
    both = await asyncio.wait_for(asyncio.gather(queried(shard), queried(shard)), 30)
    assert both == [[b"%d" % n for n in range(7)]] * 2


async def test_a_new_leader_goes_on_from_the_last_stamp_it_applied(one: OneShard) -> None:
    shard = await one.start()
    replica = replica_of(shard)
    await outcome_of(shard, CreateMailbox(REF))
    ahead_ms = 3_600_000
    replica._time._now_ms += ahead_ms  # as where the wall clocks of most nodes were set back since
    await outcome_of(shard, SendMessage(REF, b"stamped"))
    stamp_ms = replica.machine.now_ms
    replica.on_committed(
        [LogEntry(replica.machine.applied_index + 1, 2, b"")]
    )  # no stamp of its own
    replica._heard_ms -= 2_700  # all that time nobody led
    replica._led_term = 0
    replica._notice_leadership()
    assert replica.now_ms() >= stamp_ms + 2_700 * (1 - SLEW) - 1


@pytest.mark.parametrize("ahead_s", [10, 60])
async def test_who_reads_after_a_time_without_a_leader_sees_what_fell_due_in_it(
    one: OneShard, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    # Found by chaos, kill-majority, seed 13: the first QUERY a new leader answered was of the time
    # before the outage.
    shard = await one.start()
    replica = replica_of(shard)
    await outcome_of(shard, CreateMailbox(REF))
    await outcome_of(shard, SendMessage(REF, b"gone", ttl_s=5))
    await outcome_of(shard, SendMessage(REF, b"come", delay_s=5))
    assert await queried(shard) == [b"gone"]
    now_ms = replica.machine.now_ms + ahead_s * 1000
    monkeypatch.setattr(replica._time, "_now_ms", float(now_ms))
    found, again = await asyncio.gather(queried(shard), fetched(shard, Browse(REF, 0)))
    assert found == [b"come"]
    assert payloads(again) == [b"come"]


async def test_who_reads_while_others_wait_for_what_is_due_sees_what_fell_due_since(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulator, whole nodes, seed 1896: where disks were slow it was answered what the entry under
    way, stamped long before it asked, had left.
    """
    shard = await one.start()
    replica = replica_of(shard)
    await outcome_of(shard, CreateMailbox(REF))
    await outcome_of(shard, SendMessage(REF, b"first", ttl_s=1_000))
    await outcome_of(shard, SendMessage(REF, b"second", ttl_s=2_000))
    monkeypatch.setattr(replica, "_expire_when_due", lambda: None)  # only reads see to what is due
    monkeypatch.setattr(replica, "confirm", lambda done: done(replica.machine.applied_index))
    prepare, late = replica.prepare, asyncio.get_running_loop().create_future()

    def prepare_and_read() -> None:
        stamped = bool(replica.proposals._own)
        prepare()
        if stamped:
            monkeypatch.setattr(replica, "prepare", prepare)
            replica._time._now_ms += 1_500_000
            shard.query(Query(REF), late.set_result)

    monkeypatch.setattr(replica, "prepare", prepare_and_read)
    replica._time._now_ms += 1_500_000
    assert await queried(shard) == [b"second"]
    assert await asyncio.wait_for(late, 30) == MessagesRead([])
    assert replica._reads_behind_due == []

"""A shard on real storage: batches, bounds, deadlines, waiting, and what a restart keeps."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mq9cluster.cluster import replica as replica_module
from mq9cluster.cluster import shard as shard_module
from mq9cluster.cluster.durability import Durability
from mq9cluster.cluster.engine import LogEntry
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.shard import Shard
from mq9cluster.cluster.shard_time import SLEW, ShardTime
from mq9cluster.cluster.waiting import Waiter
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.command import (
    Command,
    CreateMailbox,
    DeleteMessage,
    Deliver,
    EndConnection,
    EndIncarnation,
    FetchMessages,
    Owner,
    SendMessage,
)
from mq9cluster.domain.errors import MailboxNotFound, OutcomeUnknown, Overloaded, Unavailable
from mq9cluster.domain.outcome import Done, MailboxCreated, MessageStored, Outcome, Refused
from mq9cluster.domain.read import Browse, MessagesRead, Query
from mq9cluster.machine import due
from mq9cluster.machine.codec import PARCEL_OF_NOBODY, encode_parcel
from mq9cluster.node import SystemClock
from mq9cluster.storage.store import Store, open_store
from tests.support.solo_shards import open_solo_shards

if TYPE_CHECKING:
    from mq9cluster.cluster.shards import Shards

REF = mailbox_ref("$G", "task.queue")
OWNER = Owner(7, 1, 1)


def replica_of(shard: Shard) -> Replica:
    assert shard.replica
    return shard.replica


class OneShard:
    """A shard with everything under it, that can be restarted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors: list[BaseException] = []
        self.store: Store
        self.durability: Durability
        self.shards: Shards

    async def start(self, sync_delay_s: float = 0.0) -> Shard:
        self.store = open_store(self.path, "n1", lambda: "07")
        loop = asyncio.get_running_loop()

        def offload(work: Callable[[], None]) -> "asyncio.Future[None]":
            return loop.run_in_executor(None, work)

        self.durability = Durability(
            self.store.database,
            self.errors.append,
            offload,
            time.perf_counter,
            sync_delay_s=sync_delay_s,
        )
        self.shards = open_solo_shards(
            self.store.database, self.durability, SystemClock(), "n1", 7, self.store.incarnation, 1
        )
        await self.shards.until_caught_up()
        return self.shards.all[0]

    async def stop(self) -> None:
        await self.shards.stop()
        self.store.close()


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[OneShard]:
    one = OneShard(tmp_path / "data")
    one.path.mkdir()
    yield one
    await one.stop()
    assert one.errors == []


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to that")


async def outcome_of(shard: Shard, command: Command, *, may_wait: bool = False) -> Outcome:
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    shard.propose(command, answered.set_result, may_wait=may_wait)
    return await answered


async def fetched(shard: Shard, request: FetchMessages | Browse, wait_ms: int = 0) -> object:
    answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    shard.fetch(Waiter(request, wait_ms, answered.set_result))
    return await answered


async def queried(shard: Shard) -> list[bytes]:
    answered: asyncio.Future[MessagesRead | Refused] = asyncio.get_running_loop().create_future()
    shard.query(Query(REF), answered.set_result)
    found = await answered
    assert isinstance(found, MessagesRead)
    return [message.payload for message in found.messages]


async def test_commands_of_one_turn_are_one_entry_and_answered_in_order(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    before = replica_of(shard).machine.applied_index
    sends = [outcome_of(shard, SendMessage(REF, b"%d" % n)) for n in range(50)]
    assert await asyncio.gather(*sends) == [MessageStored(n) for n in range(1, 51)]
    assert replica_of(shard).machine.applied_index == before + 1


async def test_patient_commands_leave_together_after_a_while(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "BEAT_S", 0.05)
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    before = replica_of(shard).machine.applied_index
    for first in (1, 6):
        sends = [outcome_of(shard, SendMessage(REF, b"x"), may_wait=True) for _ in range(5)]
        assert await asyncio.gather(*sends) == [MessageStored(first + n) for n in range(5)]
    assert replica_of(shard).machine.applied_index == before + 2


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patient commands would wait for an hour, and no deadline looks at them."""
    monkeypatch.setattr(shard_module, "BEAT_S", 3_600.0)
    monkeypatch.setattr(shard_module, "PROPOSAL_DEADLINE_S", 3_600.0)


@pytest.mark.usefixtures("never")
async def test_patient_commands_leave_with_one_that_is_not_and_before_it(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    before = replica_of(shard).machine.applied_index
    patient = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"1"), may_wait=True))
    for _ in range(10):
        await asyncio.sleep(0)
    assert shard.pending_commands == 1
    assert await outcome_of(shard, SendMessage(REF, b"2")) == MessageStored(2)
    assert await patient == MessageStored(1)
    assert replica_of(shard).machine.applied_index == before + 1


@pytest.mark.usefixtures("never")
async def test_patient_commands_join_an_entry_that_others_cause(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    patient = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"1"), may_wait=True))
    await asyncio.sleep(0)
    replica_of(shard).accept(encode_parcel(PARCEL_OF_NOBODY, []), lambda _: None)
    assert await patient == MessageStored(1)


@pytest.mark.usefixtures("never")
async def test_so_many_patient_commands_and_no_more_wait(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "PATIENT_COMMANDS_MAX", 3)
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    sends = [
        asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"x"), may_wait=True))
        for _ in range(2)
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    assert shard.commands_under_way == 0
    sends.append(asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"x"), may_wait=True)))
    assert await asyncio.gather(*sends) == [MessageStored(n) for n in (1, 2, 3)]


async def test_what_is_too_much_for_one_entry_becomes_several(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    monkeypatch.setattr(shard_module, "PARCEL_BYTES_MAX", 1_000)
    monkeypatch.setattr(replica_module, "ENTRY_BYTES_MAX", 1_000)
    before = replica_of(shard).machine.applied_index
    sizes = [300, 300, 300, 300, 2_000, 10]
    sends = [outcome_of(shard, SendMessage(REF, b"x" * size)) for size in sizes]
    assert await asyncio.gather(*sends) == [MessageStored(n) for n in range(1, 7)]
    assert replica_of(shard).machine.applied_index == before + 4


async def test_a_restart_keeps_what_was_acknowledged(one: OneShard) -> None:
    shard = await one.start()
    assert await outcome_of(shard, CreateMailbox(REF)) == MailboxCreated(REF)
    assert await outcome_of(shard, SendMessage(REF, b"kept")) == MessageStored(1)
    await one.stop()
    shard = await one.start()
    assert await queried(shard) == [b"kept"]
    assert await outcome_of(shard, SendMessage(REF, b"more")) == MessageStored(2)


async def test_a_full_shard_refuses_and_does_nothing(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    monkeypatch.setattr(shard_module, "UNDER_WAY_COMMANDS_MAX", 2)
    sends = [outcome_of(shard, SendMessage(REF, b"%d" % n)) for n in range(3)]
    answers = await asyncio.gather(*sends)
    assert answers[:2] == [MessageStored(1), MessageStored(2)]
    assert isinstance(answers[2], Refused)
    assert isinstance(answers[2].error, Overloaded)
    assert await queried(shard) == [b"0", b"1"]


async def test_bytes_under_way_are_bounded_too(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    monkeypatch.setattr(shard_module, "UNDER_WAY_BYTES_MAX", 1_000)
    sends = [outcome_of(shard, SendMessage(REF, b"x" * 600)) for _ in range(2)]
    first, second = await asyncio.gather(*sends)
    assert first == MessageStored(1)
    assert isinstance(second, Refused)
    assert isinstance(second.error, Overloaded)


async def test_on_a_disk_that_hangs_outcomes_are_unknown_and_new_commands_unavailable(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    await one.stop()
    monkeypatch.setattr(shard_module, "PROPOSAL_DEADLINE_S", 0.05)
    monkeypatch.setattr(shard_module, "DEADLINE_CHECK_S", 0.01)
    shard = await one.start(sync_delay_s=0.3)
    while one.durability.syncs_inline:  # the slow disk is noticed, and syncs go to the thread
        await outcome_of(shard, SendMessage(REF, b"before"))
    proposed = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"proposed")))
    await until(lambda: shard.commands_under_way == 1)
    gathered = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"gathered")))
    unknown, unavailable = await asyncio.gather(proposed, gathered)
    assert isinstance(unknown, Refused)
    assert isinstance(unknown.error, OutcomeUnknown)
    assert isinstance(unavailable, Refused)
    assert isinstance(unavailable.error, Unavailable)
    await one.durability.idle()
    payloads = await queried(shard)
    assert b"proposed" in payloads
    assert b"gathered" not in payloads


async def test_an_answer_to_an_earlier_run_is_not_taken_for_one_to_this(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulator, a mutant of runs: both runs count their parcels from 1."""
    shard = await one.start()
    taken: list[Callable[[list[Outcome] | Refused | None], None]] = []
    monkeypatch.setattr(replica_of(shard), "accept", lambda _, done: taken.append(done))
    earlier = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"earlier")))
    await until(lambda: len(taken) == 1)
    shard.begin_run(2)
    assert isinstance(await earlier, Refused)
    later = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"later")))
    await until(lambda: len(taken) == 2)
    for late in ([MessageStored(7)], Refused(Overloaded("full")), None):
        taken[0](late)
    taken[1]([MessageStored(1)])
    assert await asyncio.wait_for(later, 30) == MessageStored(1)
    assert len(taken) == 2


async def test_what_an_earlier_leader_may_have_done_is_not_refused_by_a_full_one(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was answered with `overloaded`, which says that nothing was done, and could be stored."""
    shard = await one.start()
    monkeypatch.setattr(shard_module, "RETRY_S", 0.0)
    tries: list[Callable[[list[Outcome] | Refused | None], None]] = []

    def accept(_: bytes, done: Callable[[list[Outcome] | Refused | None], None]) -> None:
        tries.append(done)
        if len(tries) in (2, 4):
            raise Overloaded("full")

    monkeypatch.setattr(replica_of(shard), "accept", accept)
    sent = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"one")))
    await until(lambda: len(tries) == 1)
    tries[0](None)
    await until(lambda: len(tries) == 3 or sent.done())
    tries[-1]([MessageStored(1)])
    assert await asyncio.wait_for(sent, 30) == MessageStored(1)
    refused = await outcome_of(shard, SendMessage(REF, b"two"))  # which nobody else can have
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, Overloaded)


async def test_a_waiting_fetch_is_answered_by_the_message_it_waits_for(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    grouped = asyncio.ensure_future(fetched(shard, FetchMessages(REF, "g", OWNER), 60_000))
    browsing = asyncio.ensure_future(fetched(shard, Browse(REF), 60_000))
    await until(lambda: replica_of(shard).waiting_room.count == 2)
    await outcome_of(shard, SendMessage(REF, b"now"))
    for found in (await grouped, await browsing):
        assert isinstance(found, MessagesRead)
        assert [message.payload for message in found.messages] == [b"now"]


async def test_a_read_waits_for_what_fell_due_before_it(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulator, seed 118: after a pause of its leader a QUERY came before the timer."""
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    monkeypatch.setattr(Replica, "_expire_when_due", lambda _: None)  # the timer is late
    await outcome_of(shard, SendMessage(REF, b"expires", ttl_s=5))
    await outcome_of(shard, SendMessage(REF, b"stays"))
    await outcome_of(shard, SendMessage(REF, b"comes", delay_s=5))
    assert await queried(shard) == [b"expires", b"stays"]
    now_ms = ShardTime.now_ms
    monkeypatch.setattr(ShardTime, "now_ms", lambda time: now_ms(time) + 6_000)
    both = await asyncio.gather(queried(shard), queried(shard))
    assert both == [[b"stays", b"comes"]] * 2


async def test_a_read_waits_for_all_that_is_due_however_many_entries_that_takes(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulator, seed 7672: after seconds without a leader one entry was not enough."""
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    monkeypatch.setattr(Replica, "_expire_when_due", lambda _: None)  # the timer is late
    monkeypatch.setattr(due, "DUE_WORK_MAX", 2)
    for n in range(7):
        await outcome_of(shard, SendMessage(REF, b"%d" % n, delay_s=5))
    now_ms = ShardTime.now_ms
    monkeypatch.setattr(ShardTime, "now_ms", lambda time: now_ms(time) + 6_000)
    both = await asyncio.wait_for(asyncio.gather(queried(shard), queried(shard)), 30)
    assert both == [[b"%d" % n for n in range(7)]] * 2


async def test_a_client_that_leaves_before_its_fetch_looks_leaves_nothing_behind(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulator, seed 15: such a FETCH looked for itself for ever, and the node ended."""
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    await outcome_of(shard, SendMessage(REF, b"one"))
    waiter = Waiter(Browse(REF), 60_000, lambda _: None)
    barriers: list[Callable[[int], None]] = []
    with monkeypatch.context() as slow:
        slow.setattr(replica_of(shard).engine, "read_barrier", barriers.append)
        shard.fetch(waiter)
    shard.cancel(waiter)
    barriers[0](replica_of(shard).machine.applied_index)
    assert await queried(shard) == [b"one"]
    assert shard.waiting_fetches == 0


async def test_a_fetch_and_the_end_of_its_connection_in_one_turn_leave_nothing_held(
    one: OneShard,
) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    await outcome_of(shard, SendMessage(REF, b"one"))
    waiter = Waiter(FetchMessages(REF, "g", OWNER, deliver=Deliver.EARLIEST), 0, lambda _: None)
    shard.fetch(waiter)
    shard.cancel(waiter)
    assert await outcome_of(shard, EndConnection(OWNER)) == Done()
    await outcome_of(shard, SendMessage(REF, b"two"))  # behind the FETCH, wherever that stands
    other = FetchMessages(REF, "g", Owner(7, 1, 2), deliver=Deliver.EARLIEST)
    found = await fetched(shard, other)
    assert isinstance(found, MessagesRead)
    assert [message.payload for message in found.messages] == [b"one", b"two"]


async def test_who_leaves_in_the_turn_its_fetch_is_proposed_in_wakes_the_next(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await one.start()
    replica = replica_of(shard)
    await outcome_of(shard, CreateMailbox(REF))
    first = Waiter(FetchMessages(REF, "g", OWNER), 60_000, lambda _: None)
    shard.fetch(first)
    await until(lambda: replica.waiting_room.count == 1)
    second = asyncio.ensure_future(fetched(shard, FetchMessages(REF, "g", Owner(7, 1, 2)), 60_000))
    await until(lambda: replica.waiting_room.count == 2)
    propose = replica._propose

    def propose_and_leave(*args: Any) -> None:
        propose(*args)
        shard.cancel(first)

    monkeypatch.setattr(replica, "_propose", propose_and_leave)
    await outcome_of(shard, SendMessage(REF, b"one"))
    found = await asyncio.wait_for(second, 30)
    assert isinstance(found, MessagesRead)
    assert [message.payload for message in found.messages] == [b"one"]


async def test_a_fetch_whose_time_is_over_once_it_is_proposed_answers_what_it_was_handed(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered nothing, and held the message until its consumer's next FETCH, or its end."""
    shard = await one.start()
    replica = replica_of(shard)
    await outcome_of(shard, CreateMailbox(REF))
    waiting = asyncio.ensure_future(fetched(shard, FetchMessages(REF, "g", OWNER), 60_000))
    await until(lambda: replica.waiting_room.count == 1)
    propose, prepare, proposed = replica._propose, replica.prepare, list[Waiter]()

    def propose_noted(command: Command, done: Any, waiter: Waiter | None = None) -> None:
        propose(command, done, waiter)
        proposed.extend([waiter] if waiter else [])

    def prepare_just_in_time() -> None:
        prepare()
        for waiter in proposed:
            if waiter.timer:
                replica._give_up(waiter)

    monkeypatch.setattr(replica, "_propose", propose_noted)
    monkeypatch.setattr(replica, "prepare", prepare_just_in_time)
    await outcome_of(shard, SendMessage(REF, b"one"))
    found = await asyncio.wait_for(waiting, 30)
    assert isinstance(found, MessagesRead)
    assert [message.payload for message in found.messages] == [b"one"]


async def test_a_fetch_that_was_woken_for_nothing_still_ends_in_time(one: OneShard) -> None:
    shard = await one.start()
    replica = replica_of(shard)
    await outcome_of(shard, CreateMailbox(REF))
    waiting = asyncio.ensure_future(fetched(shard, FetchMessages(REF, "g", OWNER), 3_000))
    await until(lambda: replica.waiting_room.count == 1)
    before = replica.machine.applied_index
    gone = (outcome_of(shard, SendMessage(REF, b"one")), outcome_of(shard, DeleteMessage(REF, 1)))
    await asyncio.gather(*gone)
    await until(lambda: replica.machine.applied_index == before + 2)  # it looked
    assert await asyncio.wait_for(waiting, 30) == MessagesRead([])


@pytest.mark.parametrize("how", ["leaves", "is over", "is refused"])
async def test_a_woken_fetch_that_ends_before_its_turn_wakes_the_next(
    one: OneShard, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    shard = await one.start()
    replica, turns = replica_of(shard), one.durability.turns
    await outcome_of(shard, CreateMailbox(REF))
    attempts: list[Waiter] = []
    park = replica.waiting_room.park

    def park_seen(waiter: Waiter, *, first: bool = False) -> None:
        attempts.append(waiter)
        park(waiter, first=first)

    monkeypatch.setattr(replica.waiting_room, "park", park_seen)
    first = Waiter(FetchMessages(REF, "g", OWNER), 60_000, lambda _: None)
    shard.fetch(first)
    await until(lambda: replica.waiting_room.count == 1)
    other = FetchMessages(REF, "g", Owner(8, 1, 2))
    second = asyncio.ensure_future(fetched(shard, other, 60_000))
    await until(lambda: replica.waiting_room.count == 2)
    turns.charge(600.0)  # others are ahead of it for long
    await outcome_of(shard, SendMessage(REF, b"one"))
    assert replica.waiting_room.count == 1
    if how == "leaves":
        shard.cancel(first)
        one.shards.forget(OWNER)
    elif how == "is over":
        replica._give_up(attempts[0])
    else:
        await outcome_of(shard, EndIncarnation(7, 1))
    turns._debt_s = 0.0
    turns._turn()
    found = await asyncio.wait_for(second, 30)
    assert isinstance(found, MessagesRead)
    assert [message.payload for message in found.messages] == [b"one"]


async def test_all_who_wait_at_a_mailbox_that_expires_are_told(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF, ttl_s=1))
    waiting = [
        asyncio.ensure_future(fetched(shard, FetchMessages(REF, "g", Owner(7, 1, n)), 300_000))
        for n in range(1_500)
    ]
    for found in await asyncio.wait_for(asyncio.gather(*waiting), 60):
        assert isinstance(found, Refused)
        assert isinstance(found.error, MailboxNotFound)


async def test_one_message_goes_to_one_waiting_member(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    request = FetchMessages(REF, "g", OWNER, num_msgs=1)
    waiting = [
        asyncio.ensure_future(fetched(shard, request._replace(consumer=f"c{n}"), 60_000))
        for n in range(3)
    ]
    await until(lambda: replica_of(shard).waiting_room.count == 3)
    await outcome_of(shard, SendMessage(REF, b"one"))
    done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(left), replica_of(shard).waiting_room.count) == (1, 2, 2)
    sends = [outcome_of(shard, SendMessage(REF, payload)) for payload in (b"two", b"three")]
    await asyncio.gather(*sends, *left)
    payloads = [m.payload for waiter in waiting for m in waiter.result().messages]
    assert sorted(payloads) == [b"one", b"three", b"two"]


async def test_the_end_of_a_connection_wakes_those_who_wait(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    await outcome_of(shard, SendMessage(REF, b"passed on"))
    await fetched(shard, FetchMessages(REF, "g", OWNER, deliver=Deliver.EARLIEST))
    other = Owner(7, 1, 2)
    waiting = asyncio.ensure_future(fetched(shard, FetchMessages(REF, "g", other), 60_000))
    await until(lambda: replica_of(shard).waiting_room.count == 1)
    assert await outcome_of(shard, EndConnection(OWNER)) == Done()
    found = await waiting
    assert isinstance(found, MessagesRead)
    assert [message.payload for message in found.messages] == [b"passed on"]


async def test_a_delayed_message_wakes_those_who_wait_when_its_time_comes(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    await outcome_of(shard, SendMessage(REF, b"later", delay_s=1))
    sent_ms = replica_of(shard).machine.now_ms
    found = await fetched(shard, FetchMessages(REF, "g", OWNER), 60_000)
    assert isinstance(found, MessagesRead)
    assert [message.payload for message in found.messages] == [b"later"]
    assert found.messages[0].created_ms >= sent_ms + 1_000


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
    assert isinstance(again, MessagesRead)
    assert [message.payload for message in again.messages] == [b"come"]


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
        stamped = bool(replica._own)
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


async def test_a_fetch_that_finds_nothing_in_time_answers_nothing(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    assert await fetched(shard, FetchMessages(REF, "g", OWNER), 20) == MessagesRead([])
    assert await fetched(shard, Browse(REF), 0) == MessagesRead([])
    assert replica_of(shard).waiting_room.count == 0


async def test_a_search_longer_than_its_budget_goes_on_where_it_stopped(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mq9cluster.machine.search.SEARCH_ROWS_MAX", 10)
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    meta = b'{"tags":["rare"]}'
    sends = [outcome_of(shard, SendMessage(REF, b"common")) for _ in range(35)]
    await asyncio.gather(*sends, outcome_of(shard, SendMessage(REF, b"rare", meta=meta)))
    request = FetchMessages(REF, "g", OWNER, deliver=Deliver.EARLIEST, tags=("rare",))
    found = await fetched(shard, request)
    assert isinstance(found, MessagesRead)
    assert [message.payload for message in found.messages] == [b"rare"]

"""FETCHes that wait in a shard: what wakes them, what ends them, and who leaves meanwhile."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mq9cluster.cluster.waiting import Waiter
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
from mq9cluster.domain.errors import MailboxNotFound
from mq9cluster.domain.outcome import Done
from mq9cluster.domain.read import Browse, MessagesRead
from tests.unit.cluster.one_shard import (
    REF,
    OneShard,
    fetched,
    outcome_of,
    payloads,
    queried,
    replica_of,
    until,
    why,
)

if TYPE_CHECKING:
    from collections.abc import Callable

OWNER = Owner(7, 1, 1)


async def test_a_waiting_fetch_is_answered_by_the_message_it_waits_for(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    grouped = asyncio.ensure_future(fetched(shard, FetchMessages(REF, "g", OWNER), 60_000))
    browsing = asyncio.ensure_future(fetched(shard, Browse(REF), 60_000))
    await until(lambda: replica_of(shard).waiting_room.count == 2)
    await outcome_of(shard, SendMessage(REF, b"now"))
    for found in (await grouped, await browsing):
        assert payloads(found) == [b"now"]


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
    assert payloads(found) == [b"one", b"two"]


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
    propose = replica.proposals.add_own

    def propose_and_leave(*args: Any) -> None:
        propose(*args)
        shard.cancel(first)

    monkeypatch.setattr(replica.proposals, "add_own", propose_and_leave)
    await outcome_of(shard, SendMessage(REF, b"one"))
    found = await asyncio.wait_for(second, 30)
    assert payloads(found) == [b"one"]


async def test_a_fetch_whose_time_is_over_once_it_is_proposed_answers_what_it_was_handed(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered nothing, and held the message until its consumer's next FETCH, or its end."""
    shard = await one.start()
    replica = replica_of(shard)
    await outcome_of(shard, CreateMailbox(REF))
    waiting = asyncio.ensure_future(fetched(shard, FetchMessages(REF, "g", OWNER), 60_000))
    await until(lambda: replica.waiting_room.count == 1)
    propose, prepare, proposed = replica.proposals.add_own, replica.prepare, list[Waiter]()

    def propose_noted(command: Command, done: Any, waiter: Waiter | None = None) -> None:
        propose(command, done, waiter)
        proposed.extend([waiter] if waiter else [])

    def prepare_just_in_time() -> None:
        prepare()
        for waiter in proposed:
            if waiter.timer:
                replica._give_up(waiter)

    monkeypatch.setattr(replica.proposals, "add_own", propose_noted)
    monkeypatch.setattr(replica, "prepare", prepare_just_in_time)
    await outcome_of(shard, SendMessage(REF, b"one"))
    found = await asyncio.wait_for(waiting, 30)
    assert payloads(found) == [b"one"]


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
    assert payloads(found) == [b"one"]


async def test_all_who_wait_at_a_mailbox_that_expires_are_told(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF, ttl_s=1))
    waiting = [
        asyncio.ensure_future(fetched(shard, FetchMessages(REF, "g", Owner(7, 1, n)), 300_000))
        for n in range(1_500)
    ]
    for found in await asyncio.wait_for(asyncio.gather(*waiting), 60):
        assert why(found) is MailboxNotFound


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
    given = [payload for waiter in waiting for payload in payloads(waiter.result())]
    assert sorted(given) == [b"one", b"three", b"two"]


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
    assert payloads(found) == [b"passed on"]


async def test_a_delayed_message_wakes_those_who_wait_when_its_time_comes(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    await outcome_of(shard, SendMessage(REF, b"later", delay_s=1))
    sent_ms = replica_of(shard).machine.now_ms
    found = await fetched(shard, FetchMessages(REF, "g", OWNER), 60_000)
    assert payloads(found) == [b"later"]
    assert found.messages[0].created_ms >= sent_ms + 1_000


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
    assert payloads(found) == [b"rare"]

"""What a restart must not change: each rule of sections 2 and 3 across a kill -9, one by one.

The crash tests do this at random and in bulk; here every kind of state has its sentence. All rules
share one node and one restart: each is a generator that sets up before its `yield` and looks after.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import nats
import pytest

from chaos.cluster.process import ServedNode
from tests.conftest import ServeNode
from tests.support.careful import CarefulMq9
from tests.support.mq9 import Mq9, fresh, ids, payloads

Rule = Callable[[Mq9], AsyncIterator[None]]

RULES: list[Rule] = []
SETTLE_MS = 10_000


def rule(check: Rule) -> Rule:
    """Enter a rule into the table."""
    RULES.append(check)
    return check


@rule
async def messages_stay_with_all_their_fields_and_ids_go_on(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box()
    headers = {"mq9-priority": "urgent", "mq9-key": "k", "mq9-tags": "a,b", "X-Trace": "7"}
    await mq9.send(address, b"plain")
    await mq9.ask(f"MSG.SEND.{address}", b"\x00full\xff", headers)
    before = await mq9.query(address)
    yield
    assert await mq9.query(address) == before
    assert await mq9.send(address) == 3


@rule
async def ids_are_not_given_again_though_the_last_messages_were_deleted(
    mq9: Mq9,
) -> AsyncIterator[None]:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.delete(address, 2)
    yield
    assert ids(await mq9.query(address)) == [1]
    assert await mq9.send(address) == 3


@rule
async def settings_of_a_mailbox_stay(mq9: Mq9) -> AsyncIterator[None]:
    full = await mq9.box(max_msgs=1)
    weighed = await mq9.box(max_bytes=3)
    acked = await mq9.box(retain="acked")
    for address in (full, weighed, acked):
        await mq9.send(address, b"123")
    yield
    for address in (full, weighed):
        assert (await mq9.try_send(address, b"4"))["code"] == "mailbox_full"
        assert (await mq9.ask("MAILBOX.CREATE", {"name": address}))["code"] == "mailbox_exists"
    await mq9.fetch(acked, "g")
    await mq9.ack(acked, "g", 1)
    assert ids(await mq9.query(acked)) == []


@rule
async def a_key_still_replaces(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box()
    await mq9.send(address, b"old", key="k")
    yield
    await mq9.send(address, b"new", key="k")
    assert payloads(await mq9.query(address)) == [b"new"]


@rule
async def a_msg_id_is_still_known(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box()
    await mq9.send_all(address, [b"1"])
    await mq9.send(address, b"2", msg_id="m-1")
    await mq9.send(address, b"3", msg_id="m-2", delay=3600)
    yield
    answers = [await mq9.try_send(address, msg_id=name) for name in ("m-1", "m-2", "m-3")]
    assert answers == [
        {"error": "", "msg_id": 2, "duplicate": True},
        {"error": "", "msg_id": -1, "duplicate": True},
        {"error": "", "msg_id": 3},
    ]


@rule
async def a_delayed_message_becomes_visible_after_its_time_and_not_before(
    mq9: Mq9,
) -> AsyncIterator[None]:
    address = await mq9.box()
    await mq9.send(address, b"soon", delay=5)
    due = time.monotonic() + 5
    await mq9.send(address, b"long after", delay=3600)
    yield
    assert payloads(await mq9.fetch(address, max_wait_ms=60_000)) == [b"soon"]
    assert time.monotonic() > due - 0.2


@rule
async def what_expired_meanwhile_is_gone_and_what_did_not_is_there(mq9: Mq9) -> AsyncIterator[None]:
    brief, lasting = await mq9.box(ttl=1), await mq9.box(ttl=3600)
    await mq9.send(lasting, b"brief", ttl=1)
    await mq9.send(lasting, b"lasting", ttl=3600)
    await asyncio.sleep(1)
    yield
    assert (await mq9.query(brief))["code"] == "mailbox_not_found"
    assert payloads(await mq9.query(lasting)) == [b"lasting"]


@rule
async def a_group_goes_on_where_it_was(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box()
    for priority in ("normal", "critical", "normal", "critical"):
        await mq9.send(address, priority=priority)
    await mq9.fetch(address, "g")
    await mq9.ack(address, "g", 4)
    await mq9.ack(address, "g", 3, scope="message")
    yield
    assert ids(await mq9.fetch(address, "g")) == [1]


@rule
async def the_start_of_a_group_stays(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.fetch(address, "g", deliver="latest")
    yield
    assert ids(await mq9.fetch(address, "g", deliver="earliest")) == [2]


@rule
async def what_connections_held_is_open_again(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.fetch(address, "g", num_msgs=1)
    await mq9.fetch(address, "g", num_msgs=1, consumer="named")
    yield
    assert ids(await mq9.fetch(address, "g", max_wait_ms=SETTLE_MS, consumer="new")) == [1, 2]


@rule
async def what_is_held_by_time_stays_held_and_is_nobody_elses(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    held = await mq9.fetch(address, "g", num_msgs=1, ack_wait_ms=3_600_000)
    yield
    # a connection of the new run may bear the number of an old one, and is another all the same
    assert ids(await mq9.fetch(address, "g")) == [2]
    assert await mq9.ack(address, "g", 1, handout=held["handout"]) == {"error": ""}
    assert ids(await mq9.fetch(address, "g")) == [2]


@rule
async def a_named_consumer_gets_its_own_again(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.fetch(address, "g", num_msgs=1, ack_wait_ms=3_600_000, consumer="named")
    yield
    assert ids(await mq9.fetch(address, "g", num_msgs=1, consumer="other")) == [2]
    assert ids(await mq9.fetch(address, "g", consumer="named")) == [1]


@rule
async def an_ack_of_a_hand_out_from_before_counts(mq9: Mq9) -> AsyncIterator[None]:
    named, plain = await mq9.box(), await mq9.box()
    for address in (named, plain):
        await mq9.send_all(address, [b"1", b"2", b"3"])
    handout = (await mq9.fetch(named, "g"))["handout"]
    await mq9.fetch(plain, "g")
    yield
    assert await mq9.ack(named, "g", 2, handout=handout) == {"error": ""}
    assert await mq9.ack(plain, "g", 2) == {"error": ""}
    for address in (named, plain):
        assert ids(await mq9.fetch(address, "g", max_wait_ms=SETTLE_MS)) == [3]


@rule
async def a_message_given_back_with_a_delay_stays_away(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 1, delay=3600)
    yield
    assert ids(await mq9.fetch(address, "g", max_wait_ms=SETTLE_MS)) == [2]


@rule
async def returns_are_still_counted_and_the_restart_is_one(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box(max_deliver=3)
    await mq9.send(address, b"poison")
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 1)
    await mq9.fetch(address, "g")
    yield
    assert ids(await mq9.fetch(address, "g", max_wait_ms=SETTLE_MS)) == [1]
    assert await mq9.nack(address, "g", 1) == {"error": ""}
    (dead,) = (await mq9.query(f"{address}.dlq"))["messages"]
    assert (dead["header"]["mq9-dlq-count"], dead["header"]["mq9-dlq-reason"]) == ("3", "nack")


@rule
async def dead_letters_stay(mq9: Mq9) -> AsyncIterator[None]:
    address = await mq9.box(max_deliver=1)
    await mq9.send(address, b"poison")
    await mq9.fetch(address, "g")
    await mq9.nack(address, "g", 1)
    yield
    assert payloads(await mq9.query(f"{address}.dlq")) == [b"poison"]
    assert ids(await mq9.fetch(address, "g")) == []


async def check_all(node: ServedNode) -> dict[str, BaseException | None]:
    """Set all rules up, restart the node once, look at all of them."""
    failed: dict[str, BaseException | None] = {}
    connection = await nats.connect(node.url, allow_reconnect=False)
    clients = [CarefulMq9(connection) for _ in RULES]
    running = [
        (one.__name__, client, one(client)) for one, client in zip(RULES, clients, strict=True)
    ]
    for name, _, steps in running:
        await anext(steps)
        failed[name] = None
    await node.kill()
    await connection.close()
    await node.start()
    connection = await nats.connect(node.url, allow_reconnect=False)

    async def look(name: str, client: Mq9, steps: AsyncIterator[None]) -> None:
        client.connection = connection
        try:
            assert await anext(steps, "over") == "over"
        except Exception as error:  # noqa: BLE001 - each is raised again by the test of its name
            failed[name] = error

    await asyncio.gather(*(look(*one) for one in running))
    await connection.close()
    return failed


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseException | None]:
    """What went wrong with each rule."""
    node = ServedNode(tmp_path_factory.mktemp("restarted"))
    node.start_now()
    try:
        return asyncio.run(check_all(node))
    finally:
        node.kill_now()


@pytest.mark.parametrize("name", [one.__name__ for one in RULES])
def test_across_a_restart(name: str, failures: dict[str, BaseException | None]) -> None:
    failed = failures[name]
    if failed is not None:
        raise failed


async def test_a_client_that_reconnects_by_itself_works_on(serve_node: ServeNode) -> None:
    node = await serve_node()
    back = asyncio.Event()

    async def came_back() -> None:
        back.set()

    connection = await nats.connect(
        node.url,
        reconnect_time_wait=0.1,
        max_reconnect_attempts=600,
        error_cb=ignore,
        reconnected_cb=came_back,
    )
    mq9 = CarefulMq9(connection)
    address = await mq9.box()
    await mq9.send_all(address, [b"1", b"2"])
    assert ids(await mq9.fetch(address, "g", num_msgs=1)) == [1]
    await node.restart()
    await asyncio.wait_for(back.wait(), 60)
    # what it held it gets again: the restart was the end of its connection
    assert ids(await mq9.fetch(address, "g", max_wait_ms=SETTLE_MS)) == [1, 2]
    assert await mq9.ack(address, "g", 2) == {"error": ""}
    assert await mq9.send(address, b"3") == 3
    assert payloads(await mq9.fetch(address, "g")) == [b"3"]
    await connection.close()


async def ignore(_: Exception) -> None:
    """The connection is lost on purpose."""


async def test_a_clean_stop_and_start_changes_nothing_either(serve_node: ServeNode) -> None:
    node = await serve_node()
    connection = await nats.connect(node.url, allow_reconnect=False)
    mq9 = CarefulMq9(connection)
    name = await mq9.create(fresh())
    await mq9.send_all(name, [b"1", b"2", b"3"])
    await mq9.fetch(name, "g")
    await mq9.ack(name, "g", 2)
    before = await mq9.query(name)
    await connection.close()
    for _ in range(2):
        assert await node.terminate() == 0
        await node.start()
    connection = await nats.connect(node.url, allow_reconnect=False)
    mq9 = CarefulMq9(connection)
    assert await mq9.query(name) == before
    assert ids(await mq9.fetch(name, "g", max_wait_ms=SETTLE_MS)) == [3]
    await connection.close()

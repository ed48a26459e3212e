"""Limits that only many messages reach: what a group may hold, and how far a search goes."""

import asyncio

import pytest

from mq9cluster.domain.limits import HELD_PER_GROUP_MAX
from tests.support.mq9 import Mq9, encoded, ids
from tests.support.raw_nats import RawNats

BATCH = 1_000
LAST_TAGGED = HELD_PER_GROUP_MAX + 2


@pytest.mark.slow
async def test_a_group_holds_a_hundred_thousand_messages_and_a_search_reaches_behind_them(
    raw: RawNats,
) -> None:
    mq9 = Mq9(raw)
    address = await mq9.box("many")
    for start in range(0, HELD_PER_GROUP_MAX + 1, BATCH):
        count = min(BATCH, HELD_PER_GROUP_MAX + 1 - start)
        await asyncio.gather(*(raw.ask(f"$mq9.AI.MSG.SEND.{address}") for _ in range(count)))
    assert await mq9.send(address, b"rare", tags="rare") == LAST_TAGGED

    # a search for a rare tag goes as far as it must, without waiting
    assert ids(await mq9.fetch(address, tags=["rare"])) == [LAST_TAGGED]
    assert ids(await mq9.query(address, tags=["rare"])) == [LAST_TAGGED]
    assert ids(await mq9.fetch(address, "rare", tags=["rare"])) == [LAST_TAGGED]

    for number in range(HELD_PER_GROUP_MAX // BATCH):
        body = {"group_name": "g", "deliver": "earliest", "consumer": f"c{number}"}
        body["config"] = {"num_msgs": BATCH, "max_wait_ms": 0}
        answer = await raw.request(f"$mq9.AI.MSG.FETCH.{address}", encoded(body))
        assert answer.payload.count(b'"msg_id":') == BATCH, answer.payload[:200]
    refused = await mq9.fetch(address, "g", consumer="one more")
    assert refused["error"].startswith("overloaded: ")
    # a consumer that holds some still gets its own, and room comes with an ACK
    assert len(ids(await mq9.fetch(address, "g", consumer="c7", num_msgs=BATCH))) == BATCH
    first = ids(await mq9.fetch(address, "g", consumer="c0", num_msgs=BATCH))
    assert await mq9.ack(address, "g", first[0]) == {"error": ""}
    more = await mq9.fetch(address, "g", consumer="one more", num_msgs=BATCH)
    assert ids(more) == [HELD_PER_GROUP_MAX + 1]

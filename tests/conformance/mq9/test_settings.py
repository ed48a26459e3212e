"""Rules whose numbers are settings of the node: duplicate window, payloads above one MiB."""

import asyncio

import nats
import pytest

from mq9cluster.domain.limits import PAYLOAD_BYTES_MAX, REPLY_JSON_BYTES_MAX
from tests.conftest import ServeNode
from tests.support.mq9 import Mq9, encoded, ids, payloads
from tests.support.raw_nats import ConnectionEnded, RawNats


async def test_after_the_duplicate_window_a_msg_id_stores_anew(serve_node: ServeNode) -> None:
    node = await serve_node(duplicate_window=2)
    connection = await nats.connect(node.url)
    mq9 = Mq9(connection)
    address = await mq9.box()
    assert await mq9.try_send(address, msg_id="m-1") == {"error": "", "msg_id": 1}
    await asyncio.sleep(1)
    # a repeat does not lengthen the window
    assert await mq9.try_send(address, msg_id="m-1") == {
        "error": "",
        "msg_id": 1,
        "duplicate": True,
    }
    await asyncio.sleep(1.2)
    assert await mq9.try_send(address, msg_id="m-1") == {"error": "", "msg_id": 2}
    assert await mq9.try_send(address, msg_id="m-1") == {
        "error": "",
        "msg_id": 2,
        "duplicate": True,
    }
    assert ids(await mq9.query(address)) == [1, 2]
    await connection.close()


async def test_a_message_whose_json_exceeds_a_whole_reply_is_given_all_the_same(
    serve_node: ServeNode,
) -> None:
    node = await serve_node(max_payload=PAYLOAD_BYTES_MAX)
    raw = await RawNats.connect(node.host, node.port)
    mq9 = Mq9(raw)
    assert raw.info["max_payload"] == PAYLOAD_BYTES_MAX
    address = await mq9.box()
    largest = b"\xab" * PAYLOAD_BYTES_MAX
    assert await mq9.send_all(address, [largest, b"small"]) == [1, 2]
    answer = await raw.request(f"$mq9.AI.MSG.FETCH.{address}", encoded({"deliver": "earliest"}))
    assert len(answer.payload) > REPLY_JSON_BYTES_MAX
    assert payloads(await mq9.fetch(address, "g")) == [largest]
    assert payloads(await mq9.fetch(address, "g", consumer="another")) == [b"small"]
    # QUERY gives the most recent ones
    assert payloads(await mq9.query(address)) == [b"small"]
    assert payloads(await mq9.query(address, limit=1)) == [b"small"]
    await mq9.delete(address, 2)
    assert payloads(await mq9.query(address)) == [largest]
    with pytest.raises(ConnectionEnded):
        await mq9.send(address, largest + b"\xab")
    assert raw.errors == ["Maximum Payload Violation"]

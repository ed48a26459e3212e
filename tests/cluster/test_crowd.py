"""Many clients: what an idle one costs, and that all of a dead node's are served elsewhere.

bench/crowd.py measures the same with more of them, and the time.
"""

import asyncio

from tests.conftest import ServeCluster, ServeNode
from tests.support.careful import CarefulMq9
from tests.support.hostile import memory_bytes
from tests.support.mq9 import ids
from tests.support.raw_nats import ConnectionEnded, RawNats

IDLE = 1_000
IDLE_BYTES_MAX = 30_000
CROWD = 150
SERVED_S_MAX = 60.0


async def test_an_idle_connection_costs_less_than_thirty_kilobytes(serve_node: ServeNode) -> None:
    node = await serve_node()
    before = memory_bytes(node)
    idle = []
    for number in range(IDLE):
        client = await RawNats.connect(node.host, node.port)
        client.subscribe(f"agents.{number}.>")
        idle.append(client)
    await asyncio.gather(*(client.flush() for client in idle))
    assert (memory_bytes(node) - before) / IDLE < IDLE_BYTES_MAX
    await asyncio.gather(*(client.close() for client in idle))


async def test_all_clients_of_a_node_that_died_are_served_by_the_others(
    serve_cluster: ServeCluster,
) -> None:
    cluster = await serve_cluster(shards=4)
    dying, *others = cluster
    owner = CarefulMq9(await RawNats.connect(others[0].host, others[0].port))
    address = await owner.box("crowd")
    crowd = [await RawNats.connect(dying.host, dying.port) for _ in range(CROWD)]
    await dying.kill()

    async def come_back(number: int, client: RawNats) -> None:
        """At once, all together; what is not certain is sent again under its own id."""
        await client.ended.wait()
        node = others[number % len(others)]
        again = CarefulMq9(await RawNats.connect(node.host, node.port))
        try:
            await again.send(address, b"%d" % number)
        except ConnectionEnded as error:
            raise AssertionError(f"{node.name} ended a connection: {error}") from error
        assert isinstance(again.connection, RawNats)
        await again.connection.close()

    async with asyncio.timeout(SERVED_S_MAX):
        await asyncio.gather(*(come_back(number, client) for number, client in enumerate(crowd)))
    assert ids(await owner.query(address, limit=1000)) == list(range(1, CROWD + 1))
    assert isinstance(owner.connection, RawNats)
    await owner.connection.close()

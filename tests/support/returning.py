"""nats-py clients that come back to their node whenever it is there, and how they are closed.

Called by tests that end nodes and start them again.
"""

import nats
from nats.aio.client import Client

from chaos.cluster.process import ServedNode
from tests.support.careful import CarefulMq9
from tests.support.mq9 import Mq9


class ReturningClients:
    """All of one test: a client that tries to connect again would outlive it."""

    def __init__(self) -> None:
        self._opened: list[Client] = []

    async def at(self, node: ServedNode) -> Mq9:
        """One more, of `node`."""
        client = await nats.connect(node.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        self._opened.append(client)
        return CarefulMq9(client)

    async def close(self) -> None:
        """Close them all."""
        while self._opened:
            await close_for_good(self._opened.pop())


async def close_for_good(client: Client) -> None:
    """Close a client, also one that is just trying to come back.

    nats-py cancels its trying, once. Before Python 3.12 `asyncio.wait_for` loses a cancellation
    that comes together with a refused connection, and a client that may try for ever would do so
    for as long as its event loop lives. So it may not any longer.
    """
    client.options["max_reconnect_attempts"] = 1
    await client.close()

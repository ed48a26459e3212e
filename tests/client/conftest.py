"""Fixtures of the SDK's tests: clients of real nodes, and of a broker that says what it is told."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from mq9cluster.client import Mq9Client
from tests.conftest import CONNECT_S_MAX, ONE_OR_THREE, chosen_nodes
from tests.support.core_servers import CoreConfig, NatsServer
from tests.support.scripted import ScriptedBroker

Ask = Callable[..., Awaitable[Mq9Client]]


@pytest.fixture(params=ONE_OR_THREE)
async def mq9(request: pytest.FixtureRequest) -> AsyncIterator[Mq9Client]:
    """A client of one node, and one of three."""
    nodes = chosen_nodes(request)
    async with await Mq9Client.connect([node.url for node in nodes]) as client:
        yield client


@pytest.fixture(scope="session")
def nats_server() -> Iterator[str]:
    """The address of a plain NATS server."""
    server = NatsServer(CoreConfig())
    server.start()
    yield f"nats://127.0.0.1:{server.port}"
    server.end()


@pytest.fixture
async def broker(nats_server: str) -> AsyncIterator[ScriptedBroker]:
    """A broker that says what a test has it say."""
    scripted = await ScriptedBroker.start(nats_server)
    yield scripted
    await scripted.close()


@pytest.fixture
async def ask(broker: ScriptedBroker) -> AsyncIterator[Ask]:
    """`await ask(patience_s=1)` is a client of that broker."""
    opened: list[Mq9Client] = []

    async def connect(patience_s: float = CONNECT_S_MAX) -> Mq9Client:
        opened.append(await Mq9Client.connect(broker.url, patience_s=patience_s))
        return opened[-1]

    yield connect
    for client in opened:
        await client.close()

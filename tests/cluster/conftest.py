"""Fixtures of tests that treat whole clusters badly."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from chaos.cluster.process import ServedNode
from tests.conftest import ServeCluster, ServeNode
from tests.support.cluster import ClusterNode, ServedCluster
from tests.support.mq9 import Mq9
from tests.support.raw_nats import RawNats
from tests.support.returning import ReturningClients

At = Callable[[ClusterNode], Awaitable[RawNats]]
Connect = Callable[[ServedNode], Awaitable[Mq9]]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCluster]:
    """The cluster that all tests of a module share, whatever they do to its nodes."""
    cluster = ServedCluster(tmp_path_factory.mktemp("nodes"), lame_duck=2)
    try:
        cluster.start_now()
        yield cluster
    finally:
        cluster.kill_now()


@pytest.fixture
async def cluster(nodes: ServedCluster) -> ServedCluster:
    """The same, whole again whatever the test before did to it."""
    await nodes.start()
    return nodes


@pytest.fixture
async def at() -> AsyncIterator[At]:
    """`await at(node)` is a connection to one node that does not go elsewhere."""
    opened: list[RawNats] = []

    async def one_more(node: ClusterNode) -> RawNats:
        opened.append(await RawNats.connect(node.host, node.port))
        return opened[-1]

    yield one_more
    for client in opened:
        await client.close()


@pytest.fixture
async def connect(serve_node: ServeNode, serve_cluster: ServeCluster) -> AsyncIterator[Connect]:
    """`await connect(node)` is a client that comes back to its node whenever that is there.

    The two fixtures are asked for so that nodes end after their clients.
    """
    clients = ReturningClients()
    yield clients.at
    await clients.close()

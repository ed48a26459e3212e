"""Fixtures of all tests.

`serve_node` and `serve_cluster` start nodes for one test; `shared_node` and `shared_cluster` are
there for many.
"""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nats
import pytest

from chaos.cluster.process import ServedNode
from tests.support.anywhere import Clients
from tests.support.cluster import ServedCluster

CONNECT_S_MAX = 30  # nats-py gives up after two seconds, which a busy machine may take

ServeCluster = Callable[..., Awaitable[ServedCluster]]
ServeNode = Callable[..., Awaitable[ServedNode]]


def pytest_collection_finish() -> None:
    """Have the collector never look again through all that tests and imports are: it takes longer
    than the simulation of a seed, and is done after each.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _patient_clients() -> Iterator[None]:
    """Have nats-py wait longer for a connection than it does by itself."""
    connect = nats.connect

    async def connect_patiently(*servers: Any, **options: Any) -> Any:
        return await connect(*servers, **{"connect_timeout": CONNECT_S_MAX, **options})

    with patch.object(nats, "connect", connect_patiently):
        yield


@pytest.fixture
async def serve_node(tmp_path: Path) -> AsyncIterator[ServeNode]:
    """`await serve_node(max_payload=4096)` starts a node of this test's own, ready to serve.

    Its data are in `tmp_path/<name>`, unless `data_dir` says where; `environment` adds variables.
    It is killed when the test is over.
    """
    nodes: list[ServedNode] = []

    async def serve(data_dir: Path | None = None, **flags: object) -> ServedNode:
        name = str(flags.setdefault("name", f"node{len(nodes) + 1}"))
        node = ServedNode(data_dir or tmp_path / name, **flags)
        nodes.append(node)
        await node.start()
        return node

    yield serve
    for node in nodes:
        await node.kill()


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """One node for all tests of this process that keep to mailboxes of their own and leave it
    alive.
    """
    node = ServedNode(tmp_path_factory.mktemp("shared-node"))
    node.start_now()
    yield node
    node.kill_now()


@pytest.fixture
async def serve_cluster(tmp_path: Path) -> AsyncIterator[ServeCluster]:
    """`await serve_cluster(nodes=3, shards=4)` starts a cluster of this test's own; all its nodes
    are ready. They are killed when the test is over.
    """
    clusters: list[ServedCluster] = []

    async def serve(nodes: int = 3, **flags: Any) -> ServedCluster:
        cluster = ServedCluster(tmp_path / f"cluster{len(clusters) + 1}", nodes, **flags)
        clusters.append(cluster)
        await cluster.start()
        return cluster

    yield serve
    for cluster in clusters:
        await cluster.kill()


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCluster]:
    """Three nodes for all tests of this process that keep to names of their own and leave every
    node alive.
    """
    cluster = ServedCluster(tmp_path_factory.mktemp("shared-cluster"))
    try:
        cluster.start_now()
        yield cluster
    finally:
        cluster.kill_now()


ONE_OR_THREE = ("one node", "three nodes")


def chosen_nodes(request: pytest.FixtureRequest) -> list[ServedNode]:
    """The shared nodes that a parameter of ONE_OR_THREE names; they are started when needed."""
    if request.param == "one node":
        return [request.getfixturevalue("shared_node")]
    return list(request.getfixturevalue("shared_cluster"))


@pytest.fixture(params=ONE_OR_THREE)
async def clients(request: pytest.FixtureRequest) -> AsyncIterator[Clients]:
    """Clients of a test: once of one node, once of three, each request at a random one."""
    async with Clients(chosen_nodes(request)) as opened:
        yield opened

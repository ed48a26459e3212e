"""Clients for the conformance tests, which run twice: against one node and against three. All share
their nodes, each test has its own connections.
"""

from collections.abc import Awaitable, Callable

import pytest

from tests.conformance.mq9.discovering import Agents
from tests.support.anywhere import Clients
from tests.support.mq9 import Mq9
from tests.support.raw_nats import RawNats

Connect = Callable[[], Awaitable[Mq9]]
ConnectRaw = Callable[[], Awaitable[RawNats]]


@pytest.fixture
def connect(clients: Clients) -> Connect:
    """`await connect()` is one more client through nats-py."""
    return clients.connect


@pytest.fixture
async def mq9(connect: Connect) -> Mq9:
    """A client through nats-py."""
    return await connect()


@pytest.fixture
async def other(connect: Connect) -> Mq9:
    """Another one."""
    return await connect()


@pytest.fixture
def connect_raw(clients: Clients) -> ConnectRaw:
    """`await connect_raw()` is one more connection that sends any bytes."""
    return clients.connect_raw


@pytest.fixture
async def raw(connect_raw: ConnectRaw) -> RawNats:
    """A connection that sends any bytes."""
    return await connect_raw()


@pytest.fixture
def agents(mq9: Mq9) -> Agents:
    return Agents(mq9)

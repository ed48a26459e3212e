"""Agents for the pattern tests: connections of their own through nats-py, as a user has them."""

from collections.abc import Awaitable, Callable

import pytest

from tests.support.anywhere import Clients
from tests.support.careful import CarefulMq9
from tests.support.mq9 import Mq9

Agent = Callable[[], Awaitable[Mq9]]


@pytest.fixture
def agent(clients: Clients) -> Agent:
    """`await agent()` comes online; `await it.connection.close()` goes offline."""
    return lambda: clients.connect(CarefulMq9)

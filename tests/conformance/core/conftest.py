"""Both servers, started once for each configuration that a check asks for."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.core_servers import CoreConfig, NatsServer, OurServer

Ports = tuple[int, int]


@pytest.fixture(scope="session")
def both() -> Iterator[Callable[..., Ports]]:
    """`both(connections_max=2)` → (our port, nats-server's port)."""
    started: dict[CoreConfig, tuple[OurServer, NatsServer]] = {}

    def ports(**config) -> Ports:
        wanted = CoreConfig(**config)
        if wanted not in started:
            ours, theirs = OurServer(wanted), NatsServer(wanted)
            ours.start()
            theirs.start()
            started[wanted] = ours, theirs
        ours, theirs = started[wanted]
        return ours.port, theirs.port

    yield ports
    for ours, theirs in started.values():
        ours.end()
        theirs.end()


@pytest.fixture(params=["ours", "nats-server"])
def port(request, both) -> int:
    """The port of each server in turn, for checks that cannot be compared byte by byte."""
    ours, theirs = both()
    return ours if request.param == "ours" else theirs

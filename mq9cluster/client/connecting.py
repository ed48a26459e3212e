"""A NATS connection as a client of a cluster wants it: to any node, and for ever.

Called by `client`; calls nats-py, whose errors end here.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from mq9cluster.domain.errors import PermissionDenied, Unavailable

# What nats-py would do otherwise: give up after 60 tries, wait 2 s between two at one server, and
# notice a dead one after four minutes.
OPTIONS: Final[Mapping[str, Any]] = {
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": 0.25,
    "ping_interval": 5,
    "max_outstanding_pings": 2,
}
CONNECT_S_MIN: Final = 2.0
AUTHORIZATION_VIOLATION: Final = "authorization violation"

_log = logging.getLogger(__name__)


async def connect(
    connection: Client,
    servers: str | list[str],
    patience_s: float,
    on_loss: Callable[[], object],
    options: Mapping[str, Any],
) -> None:
    """Connect, to any of `servers`. `on_loss` is called whenever the connection breaks.

    Raises Unavailable where no server answers, PermissionDenied where one lets nobody in.
    """
    told_of_loss = options.get("disconnected_cb")
    told_of_errors = options.get("error_cb")
    last: list[Exception] = []

    async def lost() -> None:
        on_loss()
        if told_of_loss is not None:
            await told_of_loss()

    async def failed(error: Exception) -> None:
        if not connected and AUTHORIZATION_VIOLATION in str(error).lower():
            raise PermissionDenied("the server lets nobody in who says what we say")
        last[:] = [error]
        if told_of_errors is not None:
            await told_of_errors(error)
        else:
            _log.warning("connection: %s", error)

    connected = False
    try:
        async with asyncio.timeout(max(patience_s, CONNECT_S_MIN)):
            await connection.connect(
                servers, **{**OPTIONS, **options, "disconnected_cb": lost, "error_cb": failed}
            )
        connected = True
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise Unavailable(f"no server at {servers}: {[*last, error][0]}") from error
    finally:
        if not connected:
            await connection.close()

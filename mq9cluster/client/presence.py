"""An agent that others find for as long as it is there.

Made by `Mq9Client.present`. REPORTs come three times in each ttl, so that one that takes long does
no harm; an agent that has expired all the same, while nobody could be reached, registers anew.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

from mq9cluster.client.asking import UNSURE
from mq9cluster.domain.errors import AgentNotFound, InvalidField

TTL_SECONDS_MIN: Final = 3  # a REPORT a second
REPORTS_PER_TTL: Final = 3

_log = logging.getLogger(__name__)


class Agents(Protocol):
    """What a presence asks for; `Mq9Client`."""

    async def agent_register(self, card: Mapping[str, Any], *, ttl: int | None) -> int: ...  # noqa: D102 as there

    async def agent_report(self, name: str, report_info: object) -> int: ...  # noqa: D102

    async def agent_unregister(self, name: str) -> None: ...  # noqa: D102


class Presence:
    """An async context manager: the agent is known within it."""

    def __init__(
        self,
        agents: Agents,
        card: Mapping[str, Any],
        ttl: int,
        report: Callable[[], object] | None,
    ) -> None:
        """By `Mq9Client.present`. Raises InvalidField where `ttl` is less than TTL_SECONDS_MIN."""
        if ttl < TTL_SECONDS_MIN:
            raise InvalidField("ttl", f"must be at least {TTL_SECONDS_MIN}")
        self._agents = agents
        self._card = card
        self._ttl = ttl
        self._report = report
        self._reporting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._agents.agent_register(self._card, ttl=self._ttl)
        self._reporting = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        name = self._card["name"]
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.wait((self._reporting,))
        try:
            await self._agents.agent_unregister(name)
        except AgentNotFound:
            pass
        except UNSURE as lasting:
            _log.warning("UNREGISTER of %s: %s; it expires within %d s", name, lasting, self._ttl)
        if self._reporting is not None and not self._reporting.cancelled():
            await self._reporting  # raises what ended it

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._ttl / REPORTS_PER_TTL)
            info = self._report() if self._report else None
            try:
                await self._say(info)
            except UNSURE as error:
                _log.warning("REPORT of %s: %s", self._card["name"], error)

    async def _say(self, info: object) -> None:
        try:
            await self._agents.agent_report(self._card["name"], info)
        except AgentNotFound:
            await self._agents.agent_register(self._card, ttl=self._ttl)

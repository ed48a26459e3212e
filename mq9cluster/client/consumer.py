"""A member of a consumer group that goes on until it is stopped.

Made by `Mq9Client.consume`. Each of its lanes is a consumer of its own: it FETCHes one message,
has it handled, and ACKs it. So nothing waits behind what one lane is slow with, and the next
message is always the best there is. What was handed out over a connection that broke is handed out
anew; an ACK over the next connection counts unless another member has the message by then.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from mq9cluster.client.asking import UNSURE
from mq9cluster.client.messages import Message
from mq9cluster.domain.errors import InvalidField, MessageNotFound

WAIT_MS: Final = 5_000  # of a FETCH that finds nothing: so long `stop` may take
CONCURRENCY_MAX: Final = 256  # a lane each, of the 1,000 FETCHes that may wait on a connection
AGAIN_S: Final = 1.0  # when patience has ended

Handler = Callable[[Message], Awaitable[object]]
Failed = Callable[[Message, Exception], object]

_log = logging.getLogger(__name__)


class Mailboxes(Protocol):
    """What a consumer asks for; `Mq9Client`."""

    async def fetch(  # noqa: D102 all three as there
        self,
        address: str,
        *,
        group_name: str,
        consumer: str,
        deliver: str,
        tags: Sequence[str],
        num_msgs: int,
        max_wait_ms: int,
    ) -> list[Message]: ...

    async def ack(  # noqa: D102
        self, address: str, group_name: str, msg_id: int, *, handout: str, scope: str
    ) -> None: ...

    async def nack(  # noqa: D102
        self, address: str, group_name: str, msg_id: int, *, delay: int
    ) -> None: ...


class Consumer:
    """Goes on until `stop`, until its client is closed, or until the broker refuses it its mailbox:
    `wait` raises that.
    """

    def __init__(
        self,
        mailboxes: Mailboxes,
        address: str,
        handler: Handler,
        *,
        group_name: str,
        concurrency: int,
        deliver: str,
        tags: Sequence[str],
        retry_delay: int,
        error_handler: Failed | None,
        ended: Callable[["Consumer"], object],
    ) -> None:
        """By `Mq9Client.consume`. Raises InvalidField where `concurrency` is beyond its limits."""
        if not 1 <= concurrency <= CONCURRENCY_MAX:
            raise InvalidField("concurrency", f"must be from 1 to {CONCURRENCY_MAX}")
        self._mailboxes = mailboxes
        self._address = address
        self._handler = handler
        self._group_name = group_name
        self._deliver = deliver
        self._tags = tags
        self._retry_delay = retry_delay
        self._error_handler = error_handler or _log_failure
        self._stopping = False
        self._failure: Exception | None = None
        name = secrets.token_urlsafe(12)
        self._idle: set[str] = set()  # lanes that hold no message
        self._lanes = {
            lane: asyncio.create_task(self._go_on(lane))
            for lane in (f"{name}.{number}" for number in range(concurrency))
        }
        self._run = asyncio.create_task(self._until_ended())
        self._run.add_done_callback(lambda _: ended(self))

    async def stop(self) -> None:
        """Have what was handed out handled, and nothing after it. Takes as long as that, and up to
        WAIT_MS where nothing was; a handler that stops its own consumer does not wait for itself.
        """
        self._stopping = True
        if asyncio.current_task() not in self._lanes.values():
            await asyncio.wait((self._run,))

    async def leave(self) -> None:
        """The same, where the connection is about to be closed: nobody waits for a FETCH."""
        self._stopping = True
        for lane in self._idle:
            self._lanes[lane].cancel()
        await asyncio.wait((self._run,))

    async def wait(self) -> None:
        """Until it has ended. Raises what it ended of, if it was not stopped."""
        await asyncio.wait((self._run,))
        if self._failure is not None:
            raise self._failure

    async def _until_ended(self) -> None:
        ends = await asyncio.gather(*self._lanes.values(), return_exceptions=True)
        failures = [error for error in ends if isinstance(error, Exception)]
        if failures:
            self._failure = failures[0]
            _log.error("consumer of %s ended: %s", self._address, self._failure)

    async def _go_on(self, lane: str) -> None:
        try:
            while not self._stopping:
                self._idle.add(lane)
                messages = await self._fetch(lane)
                self._idle.discard(lane)
                for message in messages:
                    await self._handle(message)
        finally:
            self._stopping = True  # and the other lanes with it

    async def _fetch(self, lane: str) -> list[Message]:
        try:
            return await self._mailboxes.fetch(
                self._address,
                group_name=self._group_name,
                consumer=lane,
                deliver=self._deliver,
                tags=self._tags,
                num_msgs=1,
                max_wait_ms=WAIT_MS,
            )
        except UNSURE as error:
            _log.warning("FETCH from %s: %s; again", self._address, error)
            await asyncio.sleep(AGAIN_S)
            return []

    async def _handle(self, message: Message) -> None:
        try:
            await self._handler(message)
        except Exception as error:  # noqa: BLE001 what a handler may raise is its own business
            self._error_handler(message, error)
            await self._settle(self._nack(message), message)
        else:
            await self._settle(self._ack(message), message)

    def _ack(self, message: Message) -> Awaitable[None]:
        return self._mailboxes.ack(
            self._address,
            self._group_name,
            message.msg_id,
            handout=message.handout,
            scope="message",
        )

    def _nack(self, message: Message) -> Awaitable[None]:
        return self._mailboxes.nack(
            self._address, self._group_name, message.msg_id, delay=self._retry_delay
        )

    async def _settle(self, settled: Awaitable[None], message: Message) -> None:
        try:
            await settled
        except (MessageNotFound, *UNSURE) as error:  # handed out again, or about to be
            _log.warning("message %d of %s: %s", message.msg_id, self._address, error)


def _log_failure(message: Message, error: Exception) -> None:
    _log.error("message %d of %s", message.msg_id, message.address, exc_info=error)

"""The port through which the gateway hands mq9 commands to whoever carries them out
(`broker.router`, a fake in tests).
"""

from collections.abc import Callable
from typing import Protocol


class CommandHandler(Protocol):
    """Carries out what clients send to `$mq9.AI.…` (BROADCAST aside). Called on the gateway's event
    loop, must not block.
    """

    def handle(
        self,
        connection: int,
        account: str,
        subject: bytes,
        header: bytes | None,
        payload: bytes,
        respond: Callable[[bytes], None] | None,
    ) -> None:
        """Take one command. `header` is the raw NATS header block.

        `respond(reply)` may be called now or any number of turns later, on the same loop, at most
        once. Sessions always give one, also where the client wants no answer, so that every command
        counts against its connection until it is done; one never answered counts for ever.
        """

    def connection_lost(self, connection: int) -> None:
        """Nobody hears what is answered to `connection` any more: what it only wanted to read may
        stay undone. Commands that were read from it before may still follow.
        """

    def connection_closed(self, connection: int) -> None:
        """No more commands come from `connection`; called once, behind its last `handle`."""

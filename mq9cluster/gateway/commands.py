"""The port through which the gateway hands mq9 commands to whoever carries them out
(`broker.router`, a fake in tests).
"""

from collections.abc import Callable
from typing import Protocol


class Push(Protocol):
    """A subscription to which a mailbox's messages are pushed."""

    def resume(self) -> None:
        """The client, which had no room, has some again."""

    def cancel(self) -> None:
        """The subscription is over: nothing is delivered to it any more. Called once."""


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

    def introduced(self, connection: int, name: str) -> None:
        """The client of `connection` says at CONNECT what it is called."""

    def subscribe(
        self,
        connection: int,
        account: str,
        subject: bytes,
        queue: bytes | None,
        deliver: Callable[[bytes, bytes | None, bytes], bool],
        has_room: Callable[[], bool],
        confirm: Callable[[Callable[[bool], None]], None],
    ) -> Push | None:
        """A subscription under `$mq9.AI.`; None where it is none that messages are pushed to.

        `deliver(subject, header block, payload)` says whether the subscription is still there; from
        the next turn on it may be called at any time while `has_room()`. `confirm(then)` has `then`
        called once: with True when the client has read what was delivered before, with False when
        its connection has ended. Raises Mq9Error where the subscription names no mailbox or no
        priority.
        """

    def connection_lost(self, connection: int) -> None:
        """Nobody hears what is answered to `connection` any more: what it only wanted to read may
        stay undone. Commands that were read from it before may still follow.
        """

    def connection_closed(self, connection: int) -> None:
        """No more commands come from `connection`; called once, behind its last `handle`."""

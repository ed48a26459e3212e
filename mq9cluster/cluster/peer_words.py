"""The words that `peers` and its parts share: who a peer is, what it says of itself, what a node
does with what arrives, and what a stream is to those who know no gRPC.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message


class PeerUnavailable(Exception):
    """A peer that cannot be reached, broke off, refused us or sent what nobody understands."""


class PeerRefused(PeerUnavailable):
    """The peer, or this node, does not want to talk to the other: an operator's business."""


class PeerIdentity(NamedTuple):
    """Who this node is to its peers."""

    name: str
    node_id: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class PeerTls:
    """PEM contents: our certificate and key, and the authority that signs our peers'."""

    certificate: bytes
    key: bytes
    authority: bytes


class Flag(IntFlag):
    """What a node says of itself with every ping."""

    LEADS_META = 1
    DRAINING = 2
    SLOW_DISK = 4


class PeerHandler(Protocol):
    """What the node does with what arrives. Called on the event loop; must not block."""

    def flags(self) -> Flag:
        """What to say of this node."""

    def on_ping(self, peer: str, flags: Flag, silent_ms: int) -> None:
        """`peer` lives, says this of itself, and heard from us what left `silent_ms` ago or later;
        more than a day stands for never.
        """

    def on_raft(self, peer: str, messages: Sequence[tuple[int, bytes]]) -> None:
        """Raft messages of `peer`, as (group, data)."""

    def on_request(
        self, peer: str, kind: int, data: bytes, respond: Callable[[bytes], None]
    ) -> Callable[[], None] | None:
        """A request; the function returned is called when nobody waits for it any more."""

    def on_route(self, peer: str, data: bytes) -> None:
        """One frame of core NATS."""

    def on_up(self, peer: str) -> None:
        """Streams to `peer` are open."""

    def on_down(self, peer: str) -> None:
        """They are not, any more. Not called when this node stops."""

    async def on_snapshot(self, peer: str, header: bytes, chunks: AsyncIterator[bytes]) -> bytes:
        """A snapshot; the result is told to the sender. Cancelled where the sender is gone."""


class Stream(Protocol):
    """One stream to or from a peer. Both raise PeerUnavailable when it is over."""

    async def send(self, data: bytes) -> None:
        """Write one message; waits while the other side is slow."""

    async def receive(self) -> bytes:
        """The next message."""


M = TypeVar("M", bound=Message)


def read(kind: type[M], data: bytes) -> M:
    """The message in `data`. Raises PeerUnavailable where there is none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise PeerUnavailable(f"a frame with garbage, no {kind.__name__}") from error

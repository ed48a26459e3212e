"""What waits to be written to one stream, bounded in bytes.

Putting never waits. One writer takes everything that gathered since its last write as one frame.
What is urgent leaves first, but never all alone for ever: half of a full frame is for the rest.
What is patient begins no frame for PATIENCE_S: it leaves with the next one that something else
begins.
Used by `peer_link` and `peer_service`.
"""

import asyncio
from collections import deque
from itertools import chain
from typing import Final, Generic, TypeVar

FRAME_BYTES_MAX: Final = 4 << 20  # of what is put together; beyond it urgent pieces wait too long
PIECE_BYTES_MAX: Final = 60 << 20  # what one gRPC message holds, less its frame
PIECE_BYTES: Final = 64  # what a piece costs beside its data: small ones fill memory too
PATIENCE_S: Final = 0.15  # more than a node's tick, whose frame takes what waits along

T = TypeVar("T")


class Outbox(Generic[T]):
    """Pieces in order, urgent ones before the others."""

    __slots__ = ("_bytes_max", "_patience", "_ready", "_urgent", "_waiting", "bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self._bytes_max = bytes_max
        self._urgent: deque[tuple[T, int]] = deque()
        self._waiting: deque[tuple[T, int]] = deque()
        self._ready = asyncio.Event()
        self._patience: asyncio.TimerHandle | None = None

    def put(
        self,
        piece: T,
        size: int,
        *,
        urgent: bool = False,
        always: bool = False,
        patient: bool = False,
    ) -> bool:
        """Queue a piece; False where there is no room, unless `always`. An empty box has room."""
        if not always and (
            size > PIECE_BYTES_MAX or (self.bytes and self.bytes + size > self._bytes_max)
        ):
            return False
        size += PIECE_BYTES
        (self._urgent if urgent else self._waiting).append((piece, size))
        self.bytes += size
        if not patient:
            self._ready.set()
        elif self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE_S, self._ready.set)
        return True

    async def take(self) -> list[T]:
        """What the next frame holds; waits for something."""
        await self._ready.wait()
        if self.bytes <= FRAME_BYTES_MAX:
            return self.drain()
        reserved = FRAME_BYTES_MAX // 2 if self._waiting else 0
        taken: list[T] = []
        room = self._move(self._urgent, taken, FRAME_BYTES_MAX - reserved)
        self._move(self._waiting, taken, room + reserved)
        if not self.bytes:
            self._taken_all()
        return taken

    def _move(self, source: deque[tuple[T, int]], taken: list[T], room: int) -> int:
        """Move the first piece, and others while there is room; the room that is left."""
        first = True
        while source and (first or source[0][1] <= room):
            piece, size = source.popleft()
            taken.append(piece)
            self.bytes -= size
            room -= size
            first = False
        return max(room, 0)

    def drain(self) -> list[T]:
        """Everything that waits."""
        taken = [piece for piece, _ in chain(self._urgent, self._waiting)]
        self._urgent.clear()
        self._waiting.clear()
        self.bytes = 0
        self._taken_all()
        return taken

    def _taken_all(self) -> None:
        self._ready.clear()
        if self._patience:
            self._patience.cancel()
            self._patience = None

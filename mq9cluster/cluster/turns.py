"""Reads take turns: all FETCHes and QUERYs of a node together get a slice of each turn of the event
loop.

One long search, or a thousand waiting FETCHes that one message wakes, would otherwise hold up every
client of the node. Who is first in a turn is decided client by client, so that one who asks for
much waits behind nobody but himself. Called by `replica`; a node has one `Turns` for all of its
replicas, kept by the durability loop, whose turns they share.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Final

SLICE_S: Final = 0.002  # of one turn; what a calm client waits longer, a few times in a request

Piece = Callable[[], bool]  # does a part, some ms at most; whether there is more to do


class Turns:
    """Pieces of work by client. While the slice lasts they run at once, then in later turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: Callable[[], float]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._queues: OrderedDict[Hashable, deque[Piece]] = OrderedDict()
        self._left_s = SLICE_S
        self._debt_s = 0.0  # promised to come later, and not yet passed
        self._debt_at_s = 0.0
        self._scheduled = False

    def take(self, client: Hashable, piece: Piece) -> None:
        """Run `piece` until it says there is no more, beginning now if this turn has time left."""
        if self._queues or self._left_s <= 0:
            self._queues.setdefault(client, deque()).append(piece)
            self._begin_turn_later()
        else:
            self._run(client, piece)

    def forget(self, client: Hashable) -> None:
        """Drop what a client waits for: it is gone."""
        self._queues.pop(client, None)

    def charge(self, cost_s: float) -> None:
        """The piece that runs now will cost so much once more, when its command is applied."""
        self._left_s -= cost_s
        self._settle()
        self._debt_s += cost_s

    def _settle(self) -> None:
        """Time passes, and what was promised comes."""
        now_s = self._seconds()
        self._debt_s = max(0.0, self._debt_s - (now_s - self._debt_at_s))
        self._debt_at_s = now_s

    def _begin_turn_later(self, wait_s: float = 0.0) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        if wait_s > 0:
            self._loop.call_later(wait_s, self._turn)
        else:
            self._loop.call_soon(self._turn)

    def _run(self, client: Hashable, piece: Piece) -> None:
        self._begin_turn_later()
        began_s = self._seconds()
        if piece():
            self._queues.setdefault(client, deque()).appendleft(piece)
        self._left_s -= self._seconds() - began_s

    def _turn(self) -> None:
        """A new turn: a new slice, less what was promised and did not come yet."""
        self._scheduled = False
        self._settle()
        self._left_s = SLICE_S - self._debt_s
        while self._queues and self._left_s > 0:
            client, pieces = self._queues.popitem(last=False)
            piece = pieces.popleft()
            if pieces:
                self._queues[client] = pieces  # behind all other clients
            self._run(client, piece)
        if self._queues or self._left_s <= 0:
            self._begin_turn_later(-self._left_s)

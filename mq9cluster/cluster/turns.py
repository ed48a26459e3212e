"""Reads take turns: all FETCHes and QUERYs of a node together get a slice of each turn of the event
loop.

One long search, or a thousand waiting FETCHes that one message wakes, would otherwise hold up every
client of the node. Who is first in a turn is decided client by client, so that one who asks for
much waits behind nobody but himself. And one whose reads take long is served apart from the others,
in a small slice every few turns: the turns between are short, and a request of a calm client, which
needs some, meets one such slice and not one in each. Called by `replica`; a node has one `Turns`
for all of its replicas, kept by the durability loop, whose turns they share.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Final

SLICE_S: Final = 0.01  # of one turn, for short pieces of work: large batches are cheaper
LONG_S: Final = 0.0005  # a piece that takes longer is that of a search
LONG_SLICE_S: Final = (
    0.001  # for searches; what a calm client waits longer, about once in a request
)
TURNS_BETWEEN: Final = 3  # without a search; they cost nothing where there is nothing else to do

Piece = Callable[[], bool]  # does a part, some ms at most; whether there is more to do
_Queues = OrderedDict[Hashable, deque[Piece]]


class Turns:
    """Pieces of work by client. While the slice lasts they run at once, then in later turns."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: Callable[[], float],
        long_s: float = LONG_S,
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._long_s = long_s
        self._queues: _Queues = OrderedDict()
        self._searches: _Queues = OrderedDict()  # of clients whose pieces take long, until all done
        self._between = 0  # turns before the next slice for these
        self._left_s = SLICE_S
        self._debt_s = 0.0  # promised to come later, and not yet passed
        self._debt_at_s = 0.0
        self._scheduled = False

    def take(self, client: Hashable, piece: Piece) -> None:
        """Run `piece` until it says there is no more, beginning now if this turn has time left."""
        if client in self._searches:
            self._searches[client].append(piece)
        elif self._queues or self._left_s <= 0:
            self._queues.setdefault(client, deque()).append(piece)
            self._begin_turn_later()
        else:
            self._run(self._queues, client, deque((piece,)))

    def forget(self, client: Hashable) -> None:
        """Drop what a client waits for: it is gone."""
        self._queues.pop(client, None)
        self._searches.pop(client, None)

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

    def _run(self, queues: _Queues, client: Hashable, pieces: deque[Piece]) -> None:
        """Run the first of what `client` waits for; the rest goes behind all other clients."""
        self._begin_turn_later()
        piece = pieces.popleft()
        if pieces:
            queues[client] = pieces
        began_s = self._seconds()
        if piece():
            queues.setdefault(client, deque()).appendleft(piece)
        took_s = self._seconds() - began_s
        self._left_s -= took_s
        if took_s > self._long_s and queues is self._queues and client in queues:
            self._searches[client] = queues.pop(client)

    def _turn(self) -> None:
        """A new turn: a new slice, less what was promised and did not come yet."""
        self._scheduled = False
        self._settle()
        self._left_s = SLICE_S - self._debt_s
        while self._queues and self._left_s > 0:
            self._run(self._queues, *self._queues.popitem(last=False))
        if self._between > 0:
            self._between -= 1
        elif self._searches:
            self._search()
        if self._queues or self._searches or self._left_s <= 0:
            self._begin_turn_later(-self._left_s)

    def _search(self) -> None:
        self._between = TURNS_BETWEEN
        until_s = self._seconds() + LONG_SLICE_S
        while self._searches and self._seconds() < until_s:
            self._run(self._searches, *self._searches.popitem(last=False))

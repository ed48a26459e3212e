"""What this node tells its peers of its own interest: every change, and everything to a peer that
is back.

Made by `routes`. Everything may be a million subscriptions: it is told a slice a turn, and only as
fast as the outbox takes it, between BEGIN and END; changes go on being told meanwhile. What is told
is what holds at that moment, so the last word on a subject is always the right one.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Final

from mq9cluster.gateway.interest import Interest
from mq9cluster.gateway.route_frames import BEGIN, END, encode_interest

SLICE: Final = 256  # frames told in one turn of the loop: about a millisecond
FULL_S: Final = 0.05  # after which a full outbox is tried again
RESYNC_S: Final = 0.5  # a peer that missed a change is told everything anew so much later


_Item = tuple[bytes, Interest, bytes, bytes | None]  # account, its table, subject, queue


class _Told:
    """The observer of one account's local interest."""

    __slots__ = ("_account", "_telling")

    def __init__(self, telling: "Telling", account: bytes) -> None:
        self._telling = telling
        self._account = account

    def interest_changed(self, subject: bytes, queue: bytes | None, members: int) -> None:
        """Tell every peer; of plain interest only that it began or ended."""
        if queue is not None or members <= 1:
            self._telling.tell_all(encode_interest(self._account, subject, queue, members))


class _Everything:
    """What one peer is still to be told. Each frame is made when it is sent: what was listed may
    not hold any more.
    """

    __slots__ = ("_items", "_now")

    def __init__(self, tables: Mapping[bytes, Interest]) -> None:
        interest = (
            (account, table, subject, queue)
            for account, table in list(tables.items())
            for subject, queue in table.subjects()
        )
        self._items: Iterator[_Item | bytes] = chain((BEGIN,), interest, (END,))
        self._now: _Item | bytes = next(self._items)

    def frame(self) -> bytes:
        """The next frame, again and again until `advance`."""
        if isinstance(self._now, bytes):
            return self._now
        account, table, subject, queue = self._now
        return encode_interest(account, subject, queue, table.members_of(subject, queue))

    def advance(self) -> bool:
        """That one was sent; whether there is another."""
        following = next(self._items, None)
        if following is None:
            return False
        self._now = following
        return True


class Telling:
    """This node's interest, by account, and who is still being told of it."""

    def __init__(self, send: Callable[[str, bytes], bool]) -> None:
        self.tables: dict[bytes, Interest] = {}
        self._send = send
        self._up: dict[str, None] = {}  # not a set: in what order they are told is the same anew
        self._under_way: dict[str, _Everything] = {}
        self._missed: set[str] = set()  # peers that a change could not be told to meanwhile
        self._handles: dict[str, asyncio.Handle] = {}

    def open_interest(self, account: bytes) -> Interest:
        """The table of this node's subscriptions of `account`; changes are told to peers."""
        table = self.tables[account] = Interest(_Told(self, account))
        return table

    def tell_all(self, frame: bytes) -> None:
        """Send a frame of interest to every peer that is up."""
        for peer in self._up:
            if not self._send(peer, frame):
                self._resync_later(peer)

    def tell_everything(self, peer: str) -> None:
        """Begin to tell a peer that is up everything, whatever it was told before."""
        self._up[peer] = None
        self._missed.discard(peer)
        self._under_way[peer] = _Everything(self.tables)
        self._go_on(peer)

    def forget(self, peer: str) -> None:
        """A peer is gone: tell it nothing."""
        self._up.pop(peer, None)
        self._missed.discard(peer)
        self._under_way.pop(peer, None)
        self._cancel(peer)

    def _go_on(self, peer: str) -> None:
        """Tell the next slice."""
        self._cancel(peer)
        rest = self._under_way[peer]
        for _ in range(SLICE):
            if not self._send(peer, rest.frame()):
                self._later(peer, FULL_S, self._go_on)
                return
            if not rest.advance():
                del self._under_way[peer]
                if peer in self._missed:
                    self._resync_later(peer)
                return
        self._later(peer, 0.0, self._go_on)

    def _resync_later(self, peer: str) -> None:
        if peer in self._under_way:
            self._missed.add(peer)  # perhaps behind the place where that one is
        elif peer not in self._handles:
            self._later(peer, RESYNC_S, self.tell_everything)

    def _later(self, peer: str, wait_s: float, do: Callable[[str], None]) -> None:
        self._handles[peer] = asyncio.get_running_loop().call_later(wait_s, do, peer)

    def _cancel(self, peer: str) -> None:
        handle = self._handles.pop(peer, None)
        if handle:
            handle.cancel()

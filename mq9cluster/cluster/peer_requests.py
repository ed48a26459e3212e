"""Requests to a peer and from one, each answered at most once, each told about exactly once.

`Asked` is the asking side's table, `Served` the answering side's. Both know no stream: they put
into outboxes and are told what arrived. Used by `peer_link` and `peer_service`.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from mq9cluster.cluster.outbox import Outbox
from mq9cluster.cluster.peer_words import PeerUnavailable
from mq9cluster.cluster.proto import peers_pb2 as pb

UNDER_WAY_MAX: Final = 131_072  # per peer: two waiting FETCHes for each of a node's connections
OUTBOX_BYTES_MAX: Final = 64 << 20  # a second of the largest load; beyond it, a client is told


class Answered(NamedTuple):
    """The peer answered."""

    data: bytes


class NotSent(NamedTuple):
    """The request never left: nothing was done."""


class Lost(NamedTuple):
    """The request left, and the stream broke before an answer: nobody knows."""


PeerReply = Answered | NotSent | Lost
Respond = Callable[[bytes], None]
Cancel = Callable[[], None]
OnRequest = Callable[[int, bytes, Respond], Cancel | None]


class PendingRequest:
    """A request under way."""

    __slots__ = ("_asked", "_done", "id")

    def __init__(
        self, asked: "Asked | None", number: int, done: Callable[[PeerReply], None]
    ) -> None:
        self.id = number
        self._asked = asked
        self._done: Callable[[PeerReply], None] | None = done

    def cancel(self) -> None:
        """Nobody waits for it any more; `done` is not called."""
        if self._done:
            self._done = None
            if self._asked:
                self._asked.cancel(self.id)

    def finish(self, reply: PeerReply) -> None:
        """Call `done`, unless that was done or nobody waits."""
        done, self._done = self._done, None
        if done:
            done(reply)


def not_sent(done: Callable[[PeerReply], None]) -> PendingRequest:
    """A request that cannot leave; `done` is told so later."""
    pending = PendingRequest(None, 0, done)
    asyncio.get_running_loop().call_soon(pending.finish, NotSent())
    return pending


class Asked:
    """What this node asked one peer over one stream."""

    def __init__(self) -> None:
        self.outbox: Outbox[pb.Item] = Outbox(OUTBOX_BYTES_MAX)
        self._pending: dict[int, PendingRequest] = {}
        self._number = 0

    def ask(self, kind: int, data: bytes, done: Callable[[PeerReply], None]) -> PendingRequest:
        """Queue a request; `done` is called exactly once, later, unless it is cancelled."""
        self._number += 1
        item = pb.Item(id=self._number, kind=kind, data=data)
        if len(self._pending) >= UNDER_WAY_MAX or not self.outbox.put(item, len(data)):
            return not_sent(done)
        pending = PendingRequest(self, self._number, done)
        self._pending[self._number] = pending
        return pending

    def cancel(self, number: int) -> None:
        """Tell the peer that nobody waits. Never dropped: there are no more than requests."""
        if self._pending.pop(number, None):
            self.outbox.put(pb.Item(id=number, cancel=True), 0, always=True)

    def hear(self, items: Iterable[pb.Item]) -> None:
        """Answers. One that nobody waits for was cancelled while it was under way."""
        for item in items:
            pending = self._pending.pop(item.id, None)
            if pending:
                pending.finish(Answered(item.data))

    def break_off(self) -> None:
        """The stream is gone. Each is told by itself: one that fails must not silence the rest."""
        waiting = {item.id for item in self.outbox.drain() if not item.cancel}
        loop = asyncio.get_running_loop()
        pending, self._pending = self._pending, {}
        for number, request in pending.items():
            loop.call_soon(request.finish, NotSent() if number in waiting else Lost())


class Served:
    """What one peer asked this node over one stream."""

    def __init__(self, on_request: OnRequest) -> None:
        self.outbox: Outbox[pb.Item] = Outbox(OUTBOX_BYTES_MAX)
        self.overflowed = asyncio.Event()
        self._on_request = on_request
        self._under_way: dict[int, Cancel | None] = {}

    def hear(self, items: Iterable[pb.Item]) -> None:
        """Requests and cancellations. Raises PeerUnavailable for what no peer of ours sends."""
        for item in items:
            if item.cancel:
                cancel = self._under_way.pop(item.id, None)
                if cancel:
                    cancel()
            else:
                self._serve(item.id, item.kind, item.data)

    def _serve(self, number: int, kind: int, data: bytes) -> None:
        if number in self._under_way or len(self._under_way) >= UNDER_WAY_MAX:
            raise PeerUnavailable("more requests than agreed, or one number twice")
        self._under_way[number] = None

        def respond(answer: bytes) -> None:
            if number in self._under_way:
                del self._under_way[number]
                # A stream with an answer missing would leave the asker waiting for ever: it has
                # to break instead.
                if not self.outbox.put(pb.Item(id=number, data=answer), len(answer)):
                    self.overflowed.set()

        cancel = self._on_request(kind, data, respond)
        if number in self._under_way:
            self._under_way[number] = cancel

    def end(self) -> None:
        """Nobody waits for any of it any more."""
        under_way, self._under_way = self._under_way, {}
        for cancel in under_way.values():
            if cancel:
                cancel()

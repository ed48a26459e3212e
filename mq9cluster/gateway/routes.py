"""Core NATS between nodes: who is interested where, and messages one hop to them.

The cluster's peers are the wire (`send`, and `on_up`, `on_down`, `on_frame` called by node);
`exchange` asks who elsewhere wants a message and sends through here; what arrives goes to this
node's own subscribers only. Interest and messages share one ordered stream per peer, so a request
never overtakes the subscription to its answer.

A peer is told of plain interest once, whatever the number of subscriptions, and of a queue group
with its number of members. A peer that comes up is told everything and asked for everything; one
that goes down has no interest any more. Everything stands between BEGIN and END, and what was known
before and not told again ends there: interest that goes on is never forgotten in between.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, NamedTuple

from mq9cluster.gateway.interest import NOBODY, Interest, Match, Subscription
from mq9cluster.gateway.outgoing import Outgoing

RESYNC_S: Final = 0.5  # a peer whose outbox was full is told everything anew so much later

_ASK, _BEGIN, _END, _INTEREST, _MESSAGE = b"A", b"B", b"E", b"I", b"M"
_PLAIN, _EXACTLY, _REPLY, _HEADER = 1, 2, 4, 8
_INTEREST_HEAD: Final = Struct(">cBHhI")  # kind, account, subject, queue or -1, members
_MESSAGE_HEAD: Final = Struct(">cBBHHIH")  # kind, account, flags, subject, reply, header, queues
_QUEUE: Final = Struct(">H")


_Key = tuple[bytes, bytes, bytes | None]  # account, subject, queue


class Route:
    """A peer, as the subscriber of what its clients want. Deliveries go by `Routes.send`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def deliver(self, subscription: Subscription, message: Outgoing) -> bool:
        """Not called: a peer gets a message once, however much of its interest matches."""
        del subscription, message
        return False


class Aim(NamedTuple):
    """What one peer is to do with a message: all its plain subscribers, one of each group."""

    plain: bool
    queues: list[bytes]


class _Told:
    """The observer of one account's local interest."""

    __slots__ = ("_account", "_routes")

    def __init__(self, routes: "Routes", account: bytes) -> None:
        self._routes = routes
        self._account = account

    def interest_changed(self, subject: bytes, queue: bytes | None, members: int) -> None:
        """Tell every peer; of plain interest only that it began or ended."""
        if queue is not None or members <= 1:
            self._routes.tell_all(encode_interest(self._account, subject, queue, members))


class Routes:
    """What peers want, and the way to them."""

    def __init__(self, send: Callable[[str, bytes], bool], chance: random.Random) -> None:
        self._send = send
        self._chance = chance
        self._up: set[str] = set()
        self._local: dict[bytes, Interest] = {}
        self._remote: dict[bytes, Interest] = {}
        self._subscriptions: dict[str, dict[_Key, Subscription]] = {}
        self._untold: dict[str, set[_Key]] = {}  # by peer that is telling everything: not yet told
        self._deliver: Callable[[str, Match, Outgoing], None] = _nowhere
        self._resync: dict[str, asyncio.TimerHandle] = {}
        self.in_messages = self.out_messages = self.dropped = 0

    # --- this node's own interest ----------------------------------------------------------------

    def open_interest(self, account: str) -> Interest:
        """The table of this node's subscriptions of `account`; changes are told to peers."""
        name = account.encode()
        table = self._local[name] = Interest(_Told(self, name))
        return table

    def deliver_with(self, deliver: Callable[[str, Match, Outgoing], None]) -> None:
        """How messages of peers reach this node's subscribers."""
        self._deliver = deliver

    def tell_all(self, frame: bytes) -> None:
        """Send a frame of interest to every peer that is up."""
        for peer in self._up:
            if not self._send(peer, frame):
                self._resync_later(peer)

    def _tell_everything(self, peer: str) -> None:
        self._resync.pop(peer, None)
        if peer not in self._up:
            return
        frames = [_BEGIN]
        for account, table in self._local.items():
            frames += [encode_interest(account, *members) for members in table.members()]
        frames.append(_END)
        if not all(self._send(peer, frame) for frame in frames):
            self._resync_later(peer)

    def _resync_later(self, peer: str) -> None:
        if peer not in self._resync:
            loop = asyncio.get_running_loop()
            self._resync[peer] = loop.call_later(RESYNC_S, self._tell_everything, peer)

    # --- what peers want -------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Whether anybody elsewhere wants anything."""
        return bool(self._remote)

    def match(self, account: str, subject: bytes) -> Match:
        """Peers with interest in `subject`."""
        table = self._remote.get(account.encode())
        return table.match(subject) if table else NOBODY

    def match_literal(self, account: str, subject: bytes) -> Match:
        """Peers with subscribers of exactly `subject`."""
        table = self._remote.get(account.encode())
        return table.match_literal(subject) if table else NOBODY

    @staticmethod
    def aim_at_plain(remote: Match) -> dict[str, Aim]:
        """Each peer with plain subscribers gets the message once."""
        return {_peer_of(subscription): Aim(True, []) for subscription in remote.plain}

    def falls_here(self, members: Sequence[Subscription], others: Sequence[Subscription]) -> bool:
        """Whether a group's message is for one of its members here: each is as likely as any."""
        here = len(members)
        return not others or self._chance.random() * (here + _weight(others)) < here

    def aim_at_one(
        self, aims: dict[str, Aim], queue: bytes, others: Sequence[Subscription]
    ) -> None:
        """Choose the peer that serves a group, by its number of members."""
        weights = [subscription.maximum for subscription in others]
        (chosen,) = self._chance.choices(others, weights)
        aims.setdefault(_peer_of(chosen), Aim(False, [])).queues.append(queue)

    def send(self, account: str, aims: dict[str, Aim], message: Outgoing, *, exactly: bool) -> int:
        """Send a message to each peer that wants it; to how many."""
        sent = 0
        for peer, aim in aims.items():
            if self._send(peer, encode_message(account.encode(), aim, message, exactly=exactly)):
                sent += 1
            else:
                self.dropped += 1
        self.out_messages += sent
        return sent

    # --- what the cluster tells ------------------------------------------------------------------

    def on_up(self, peer: str) -> None:
        """A peer can be reached: tell it everything, and ask it to."""
        self._up.add(peer)
        self._send(peer, _ASK)
        self._tell_everything(peer)

    def on_down(self, peer: str) -> None:
        """A peer cannot be reached: nobody there gets anything."""
        self._up.discard(peer)
        self._forget(peer)

    def on_frame(self, peer: str, frame: bytes) -> None:
        """What a peer sent, in order."""
        kind = frame[:1]
        if kind == _MESSAGE:
            self._take_message(frame)
        elif kind == _INTEREST:
            self._take_interest(peer, frame)
        elif kind == _BEGIN:
            self._untold[peer] = set(self._subscriptions.get(peer, ()))
        elif kind == _END:
            for key in self._untold.pop(peer, ()):
                self._drop(peer, key)
        elif kind == _ASK:
            self._tell_everything(peer)

    def _forget(self, peer: str) -> None:
        self._untold.pop(peer, None)
        for key in list(self._subscriptions.get(peer, ())):
            self._drop(peer, key)

    def _drop(self, peer: str, key: _Key) -> None:
        subscription = self._subscriptions[peer].pop(key, None)
        if subscription:
            table = self._remote[key[0]]
            table.remove(subscription)
            if not table.count:
                del self._remote[key[0]]

    def _take_interest(self, peer: str, frame: bytes) -> None:
        account, subject, queue, members = decode_interest(frame)
        key = account, subject, queue
        known = self._subscriptions.setdefault(peer, {})
        if peer in self._untold:
            self._untold[peer].discard(key)
        self._drop(peer, key)
        if members:
            subscription = Subscription(Route(peer), subject, queue, b"")
            subscription.maximum = members  # the group's weight there
            known[key] = subscription
            self._remote.setdefault(account, Interest()).add(subscription)

    def _take_message(self, frame: bytes) -> None:
        account, aim, message, exactly = decode_message(frame)
        self.in_messages += 1
        table = self._local.get(account)
        if table is None:
            return
        match = table.match_literal(message.subject) if exactly else table.match(message.subject)
        wanted = set(aim.queues)
        groups = tuple(group for group in match.groups if group[0] in wanted)
        self._deliver(account.decode(), Match(match.plain if aim.plain else (), groups), message)


def _nowhere(_: str, __: Match, ___: Outgoing) -> None:
    """Before there is an exchange."""


def _peer_of(subscription: Subscription) -> str:
    route = subscription.subscriber
    assert isinstance(route, Route)  # noqa: S101  only routes are put into these tables
    return route.name


def _weight(others: Sequence[Subscription]) -> int:
    return sum(subscription.maximum for subscription in others)


# --- frames --------------------------------------------------------------------------------------


def encode_interest(account: bytes, subject: bytes, queue: bytes | None, members: int) -> bytes:
    """So many members of a group, or any plain subscription (1) or none (0), want `subject`."""
    queue_bytes = -1 if queue is None else len(queue)
    head = _INTEREST_HEAD.pack(_INTEREST, len(account), len(subject), queue_bytes, members)
    return b"".join((head, account, subject, queue or b""))


def decode_interest(frame: bytes) -> tuple[bytes, bytes, bytes | None, int]:
    """(account, subject, queue, members)."""
    _, account_bytes, subject_bytes, queue_bytes, members = _INTEREST_HEAD.unpack_from(frame)
    at = _INTEREST_HEAD.size
    account = frame[at : (at := at + account_bytes)]
    subject = frame[at : (at := at + subject_bytes)]
    queue = None if queue_bytes < 0 else frame[at : at + queue_bytes]
    return account, subject, queue, members


def encode_message(account: bytes, aim: Aim, message: Outgoing, *, exactly: bool) -> bytes:
    """A message for a peer's subscribers."""
    reply, header = message.reply, message.header
    flags = (_PLAIN if aim.plain else 0) | (_EXACTLY if exactly else 0)
    flags |= (0 if reply is None else _REPLY) | (0 if header is None else _HEADER)
    reply, header = reply or b"", header or b""
    sizes = (len(message.subject), len(reply), len(header), len(aim.queues))
    parts = [_MESSAGE_HEAD.pack(_MESSAGE, len(account), flags, *sizes)]
    for queue in aim.queues:
        parts += (_QUEUE.pack(len(queue)), queue)
    parts += (account, message.subject, reply, header, message.payload)
    return b"".join(parts)


def decode_message(frame: bytes) -> tuple[bytes, Aim, Outgoing, bool]:
    """(account, aim, message, exactly)."""
    _, account_bytes, flags, *sizes, queue_count = _MESSAGE_HEAD.unpack_from(frame)
    at = _MESSAGE_HEAD.size
    queues: list[bytes] = []
    for _ in range(queue_count):
        (length,) = _QUEUE.unpack_from(frame, at)
        at += _QUEUE.size
        queues.append(frame[at : (at := at + length)])
    account = frame[at : (at := at + account_bytes)]
    subject = frame[at : (at := at + sizes[0])]
    reply = frame[at : (at := at + sizes[1])]
    header = frame[at : (at := at + sizes[2])]
    message = Outgoing(
        subject,
        reply if flags & _REPLY else None,
        header if flags & _HEADER else None,
        frame[at:],
    )
    return account, Aim(bool(flags & _PLAIN), queues), message, bool(flags & _EXACTLY)

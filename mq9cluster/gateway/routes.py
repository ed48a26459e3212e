"""Core NATS between nodes: who is interested where, and messages one hop to them.

The cluster's peers are the wire (`send`, and `on_up`, `on_down`, `on_frame` called by node);
`exchange` asks who elsewhere wants a message and sends through here; what arrives goes to this
node's own subscribers only. Interest and messages share one ordered stream per peer, so a request
never overtakes the subscription to its answer.

A peer is told of plain interest once, whatever the number of subscriptions, and of a queue group
with its number of members. A peer that comes up is told everything and asked for everything; one
that goes down has no interest any more. Everything stands between BEGIN and END, and what was known
before and not told again ends there: interest that goes on is never forgotten in between. Telling
it all (`telling`) and taking it out of the tables go a slice a turn.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from mq9cluster.gateway.interest import NOBODY, Interest, Match, Subscription
from mq9cluster.gateway.outgoing import Outgoing
from mq9cluster.gateway.route_frames import (
    ASK,
    BEGIN,
    END,
    INTEREST,
    MESSAGE,
    Aim,
    decode_interest,
    decode_message,
    encode_message,
)
from mq9cluster.gateway.telling import SLICE, Telling

_Key = tuple[bytes, bytes, bytes | None]  # account, subject, queue


class Route:
    """A peer while it is up, as the subscriber of what its clients want. Deliveries go by
    `Routes.send`.
    """

    __slots__ = ("name", "up")

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = True

    def deliver(self, subscription: Subscription, message: Outgoing) -> bool:
        """Not called: a peer gets a message once, however much of its interest matches."""
        del subscription, message
        return False


class Routes:
    """What peers want, and the way to them."""

    def __init__(self, send: Callable[[str, bytes], bool], chance: random.Random) -> None:
        self._send = send
        self._chance = chance
        self._telling = Telling(send)
        self._remote: dict[bytes, Interest] = {}
        self._subscriptions: dict[str, dict[_Key, Subscription]] = {}
        self._untold: dict[str, set[_Key]] = {}  # by peer that is telling everything: not yet told
        self._ways: dict[str, Route] = {}
        self._over: deque[tuple[str, _Key, Subscription]] = deque()  # to be taken out of the tables
        self._sweeping = False
        self._deliver: Callable[[str, Match, Outgoing], None] = _nowhere
        self.in_messages = self.out_messages = self.dropped = 0

    def open_interest(self, account: str) -> Interest:
        """The table of this node's subscriptions of `account`; changes are told to peers."""
        return self._telling.open_interest(account.encode())

    def deliver_with(self, deliver: Callable[[str, Match, Outgoing], None]) -> None:
        """How messages of peers reach this node's subscribers."""
        self._deliver = deliver

    # --- what peers want -------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Whether anybody elsewhere wants anything."""
        return bool(self._remote)

    def match(self, account: str, subject: bytes) -> Match:
        """Peers with interest in `subject`."""
        table = self._remote.get(account.encode())
        return self._alive(table.match(subject)) if table else NOBODY

    def match_literal(self, account: str, subject: bytes) -> Match:
        """Peers with subscribers of exactly `subject`."""
        table = self._remote.get(account.encode())
        return self._alive(table.match_literal(subject)) if table else NOBODY

    def _alive(self, match: Match) -> Match:
        """`match` without peers that went down and are still being taken out of the tables."""
        if not self._over or match is NOBODY:
            return match
        plain = tuple(one for one in match.plain if _way(one).up)
        groups = (
            (queue, tuple(one for one in all_ if _way(one).up)) for queue, all_ in match.groups
        )
        kept = tuple(group for group in groups if group[1])
        return Match(plain, kept) if plain or kept else NOBODY

    @staticmethod
    def aim_at_plain(remote: Match) -> dict[str, Aim]:
        """Each peer with plain subscribers gets the message once."""
        return {_way(subscription).name: Aim(True, []) for subscription in remote.plain}

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
        aims.setdefault(_way(chosen).name, Aim(False, [])).queues.append(queue)

    def send(self, account: str, aims: dict[str, Aim], message: Outgoing, *, exactly: bool) -> int:
        """Send a message to each peer that wants it; how many those are.

        One whose outbox is full misses it, as a slow subscriber does; that is not nobody.
        """
        for peer, aim in aims.items():
            if self._send(peer, encode_message(account.encode(), aim, message, exactly=exactly)):
                self.out_messages += 1
            else:
                self.dropped += 1
        return len(aims)

    # --- what the cluster tells ------------------------------------------------------------------

    def on_up(self, peer: str) -> None:
        """A peer can be reached: tell it everything, and ask it to."""
        self._send(peer, ASK)
        self._telling.tell_everything(peer)

    def on_down(self, peer: str) -> None:
        """A peer cannot be reached: nobody there gets anything, as of now."""
        self._telling.forget(peer)
        self._untold.pop(peer, None)
        way = self._ways.pop(peer, None)
        if way:
            way.up = False
        known = self._subscriptions.pop(peer, {})
        self._take_out((peer, key, subscription) for key, subscription in known.items())

    def on_frame(self, peer: str, frame: bytes) -> None:
        """What a peer sent, in order."""
        kind = frame[:1]
        if kind == MESSAGE:
            self._take_message(frame)
        elif kind == INTEREST:
            self._take_interest(peer, frame)
        elif kind == BEGIN:
            self._untold[peer] = set(self._subscriptions.get(peer, ()))
        elif kind == END:
            known = self._subscriptions.get(peer, {})
            untold = self._untold.pop(peer, ())
            self._take_out((peer, key, known[key]) for key in untold if key in known)
        elif kind == ASK:
            self._telling.tell_everything(peer)

    def _take_out(self, ended: Iterable[tuple[str, _Key, Subscription]]) -> None:
        """Have interest that ended leave the tables, a slice a turn."""
        self._over.extend(ended)
        if not self._sweeping:
            self._sweep()

    def _sweep(self) -> None:
        for _ in range(min(SLICE, len(self._over))):
            self._drop(*self._over.popleft())
        self._sweeping = bool(self._over)
        if self._sweeping:
            asyncio.get_running_loop().call_soon(self._sweep)

    def _drop(self, peer: str, key: _Key, subscription: Subscription) -> None:
        known = self._subscriptions.get(peer)
        if known and known.get(key) is subscription:
            del known[key]
        table = self._remote.get(key[0])
        if table:
            table.remove(subscription)
            if not table.count:
                del self._remote[key[0]]

    def _take_interest(self, peer: str, frame: bytes) -> None:
        account, subject, queue, members = decode_interest(frame)
        key = account, subject, queue
        known = self._subscriptions.setdefault(peer, {})
        if peer in self._untold:
            self._untold[peer].discard(key)
        before = known.get(key)
        if before:
            self._drop(peer, key, before)
        if members:
            way = self._ways.get(peer) or self._ways.setdefault(peer, Route(peer))
            subscription = Subscription(way, subject, queue, b"")
            subscription.maximum = members  # the group's weight there
            known[key] = subscription
            self._remote.setdefault(account, Interest()).add(subscription)

    def _take_message(self, frame: bytes) -> None:
        account, aim, message, exactly = decode_message(frame)
        self.in_messages += 1
        table = self._telling.tables.get(account)
        if table is None:
            return
        match = table.match_literal(message.subject) if exactly else table.match(message.subject)
        wanted = set(aim.queues)
        groups = tuple(group for group in match.groups if group[0] in wanted)
        self._deliver(account.decode(), Match(match.plain if aim.plain else (), groups), message)


def _nowhere(_: str, __: Match, ___: Outgoing) -> None:
    """Before there is an exchange."""


def _way(subscription: Subscription) -> Route:
    route = subscription.subscriber
    assert isinstance(route, Route)  # noqa: S101  only routes are put into these tables
    return route


def _weight(others: Sequence[Subscription]) -> int:
    return sum(subscription.maximum for subscription in others)

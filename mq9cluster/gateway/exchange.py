"""Core NATS on one node: what is published reaches whoever subscribes.

Called by sessions, by `routes` (what peers sent) and by the broker (replies, pushes); calls
`interest` and the subscribers. Owns the interest table of every account and the turn's flush: a
session that has something to write is marked, and all marked ones are written once, at the end of
the turn.
"""

import random
from collections.abc import Callable
from typing import Protocol

from mq9cluster.gateway.interest import NOBODY, Interest, Match, Subscriber, Subscription
from mq9cluster.gateway.outgoing import Outgoing
from mq9cluster.gateway.routes import Routes


class Writer(Protocol):
    """A marked session."""

    def flush(self) -> None:
        """Hand what was gathered to the socket."""


class Exchange:
    """Interest tables by account, and delivery."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        chance: random.Random,
        routes: Routes | None = None,
    ) -> None:
        """`chance` chooses queue group members; `call_soon` is the event loop's."""
        if routes:
            routes.deliver_with(self._deliver_for_peer)
        self._call_soon = call_soon
        self._chance = chance
        self._routes = routes
        self._accounts: dict[str, Interest] = {}
        self._marked: list[Writer] = []
        # Set by a reader that was delivered to although it is behind, taken back by the publisher.
        self.reader_behind = False

    def interest(self, account: str) -> Interest:
        """The table of `account`, made at its first use."""
        table = self._accounts.get(account)
        if table is None:
            table = self._routes.open_interest(account) if self._routes else Interest()
            self._accounts[account] = table
        return table

    def accounts(self) -> dict[str, Interest]:
        """All tables, for monitoring."""
        return self._accounts

    def publish(
        self,
        account: str,
        subject: bytes,
        reply: bytes | None,
        header: bytes | None,
        payload: bytes,
        *,
        silent_for: Subscriber | None = None,
    ) -> int:
        """Deliver a message to all who match; the number of deliveries. `silent_for` hears no echo
        of its own.
        """
        match = self.interest(account).match(subject)
        if self._routes and self._routes.wanted:
            remote = self._routes.match(account, subject)
            if remote is not NOBODY:
                message = Outgoing(subject, reply, header, payload)
                return self._deliver_everywhere(account, match, remote, message, silent_for)
        if match is NOBODY:
            return 0
        return self.deliver(match, Outgoing(subject, reply, header, payload), silent_for)

    def publish_exactly(self, account: str, subject: bytes, payload: bytes) -> int:
        """Deliver the reply of a command to subscribers of exactly `subject` (docs/protocol.md,
        section 7).
        """
        match = self.interest(account).match_literal(subject)
        message = Outgoing(subject, None, None, payload)
        if self._routes and self._routes.wanted:
            remote = self._routes.match_literal(account, subject)
            if remote is not NOBODY:
                return self._deliver_everywhere(account, match, remote, message, None, exactly=True)
        return self.deliver(match, message, None)

    def _deliver_everywhere(
        self,
        account: str,
        local: Match,
        remote: Match,
        message: Outgoing,
        silent_for: Subscriber | None,
        *,
        exactly: bool = False,
    ) -> int:
        """Deliver here and send to peers; a queue group gets it once in the whole cluster."""
        routes = self._routes
        assert routes  # noqa: S101  they matched
        delivered = self.deliver(Match(local.plain, ()), message, silent_for)
        aims = routes.aim_at_plain(remote)
        elsewhere = dict(remote.groups)
        for queue, members in local.groups:
            here = routes.falls_here(members, elsewhere.get(queue, ()))
            # A member here that cannot take it (gone, or the silent publisher) leaves it to others.
            if here and self._deliver_to_one(members, message, silent_for):
                delivered += 1
                elsewhere.pop(queue, None)
        for queue, others in elsewhere.items():
            routes.aim_at_one(aims, queue, others)
        return delivered + routes.send(account, aims, message, exactly=exactly)

    def _deliver_for_peer(self, _: str, match: Match, message: Outgoing) -> None:
        self.deliver(match, message, None)
        self.reader_behind = False  # its publisher is elsewhere: nobody here can be slowed down

    def deliver(self, match: Match, message: Outgoing, silent_for: Subscriber | None) -> int:
        """Deliver to all of `match`, one of each group; the number of deliveries."""
        plain, groups = match
        delivered = 0
        for subscription in plain:
            subscriber = subscription.subscriber
            if subscriber is not silent_for and subscriber.deliver(subscription, message):
                delivered += 1
        for _, members in groups:
            delivered += self._deliver_to_one(members, message, silent_for)
        return delivered

    def mark(self, writer: Writer) -> None:
        """`writer.flush` is called once at the end of this turn."""
        if not self._marked:
            self._call_soon(self._flush)
        self._marked.append(writer)

    def _deliver_to_one(
        self,
        members: tuple[Subscription, ...],
        message: Outgoing,
        silent_for: Subscriber | None,
    ) -> int:
        """One member at random; the ones behind it stand in for a member that cannot take it."""
        count = len(members)
        first = int(self._chance.random() * count)
        for place in range(first, first + count):
            subscription = members[place % count]
            subscriber = subscription.subscriber
            if subscriber is not silent_for and subscriber.deliver(subscription, message):
                return 1
        return 0

    def _flush(self) -> None:
        marked = self._marked
        self._marked = []
        for writer in marked:
            writer.flush()

"""Core NATS of a simulated cluster: what clients publish and subscribe to, at whatever nodes they
are, and whether what reached them can be.

Owned by `whole.World`; `whole_node` has one `CoreSession` per connection, in the place of
`gateway.session`. Checked at every delivery: somebody published it, in this account, on a subject
that was subscribed to, on a connection that is open; to a subscription once, to a queue group once
in the whole cluster, what one connection published in its order, and the answer to a command never
through a wildcard. Messages may be lost while nodes cannot reach each other; once everything is
healed none is (`World` asks `final`).
"""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from mq9cluster.gateway.interest import Subscription
from mq9cluster.gateway.outgoing import Outgoing

if TYPE_CHECKING:
    from tests.simulation.whole import World
    from tests.simulation.whole_clients import Client
    from tests.simulation.whole_node import WholeNode

ACCOUNTS = ("$G", "$G", "$G", "other")
SUBJECTS = (b"news.a", b"news.b.c", b"work.1", b"work.2", b"news.a.b.c.d")
PLAIN = (b"news.a", b"news.*", b"news.>", b">", b"work.*", b"*.b.c")
QUEUES = ((b"work.*", b"one"), (b"work.1", b"one"), (b"work.>", b"two"), (b"service", b"three"))
SERVICE = b"service"
FINAL = b"final.word"

Work = Callable[[Any], None]


class Published(NamedTuple):
    """A message, and who sent it as what number."""

    account: str
    subject: bytes
    publisher: int
    number: int
    exactly: bool


class CoreHistory:
    """All that was published and delivered."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.published: dict[bytes, Published] = {}
        self.delivered: dict[bytes, int] = {}  # to plain subscribers, by payload
        self.numbers = count(1)
        self.inboxes = [b"_INBOX.0"]
        self._to_groups: set[tuple[str, bytes, bytes]] = set()  # account, queue, payload
        self._newest: dict[tuple[int, int], int] = {}  # by subscription and publisher

    def broken(self, why: str) -> None:
        """Say what cannot be."""
        self.world.broken(f"core: {why}")

    def publishes(self, session: "CoreSession", subject: bytes, *, exactly: bool = False) -> bytes:
        """A payload that nobody sent before."""
        number = next(self.numbers)
        payload = b"message %d" % number
        self.published[payload] = Published(
            session.account, subject, session.number, number, exactly
        )
        self.world.seen["published"] += 1
        return payload

    def reached(
        self, session: "CoreSession", subscription: Subscription, message: Outgoing
    ) -> None:
        """A message was delivered."""
        self.world.seen["delivered"] += 1
        payload, serial = message.payload, int(subscription.sid)
        what = f"{payload.decode()} on {message.subject.decode()}"
        sent = self.published.get(payload)
        if sent is None or sent.subject != message.subject:
            self.broken(f"nobody published {what}")
            return
        if sent.account != session.account:
            self.broken(f"{what} of {sent.account} got to {session.account}")
        pattern = subscription.subject
        if not (pattern == sent.subject if sent.exactly else matches(pattern, sent.subject)):
            self.broken(f"{what} got to who asked for {pattern.decode()}")
        if subscription.queue is not None:
            group = (sent.account, subscription.queue, payload)
            if group in self._to_groups:
                self.broken(f"{what} got to two of group {subscription.queue.decode()}")
            self._to_groups.add(group)
        else:
            self.delivered[payload] = self.delivered.get(payload, 0) + 1
        newest = self._newest.get((serial, sent.publisher), 0)
        if sent.number <= newest:
            self.broken(f"{what} came after, or was, message {newest} of the same connection")
        self._newest[serial, sent.publisher] = sent.number

    def in_group(self, payload: bytes, queue: bytes) -> bool:
        """Whether a member of the group has it."""
        return ("$G", queue, payload) in self._to_groups


def matches(pattern: bytes, subject: bytes) -> bool:
    """Whether a subscription to `pattern` is one to `subject`."""
    wanted, tokens = pattern.split(b"."), subject.split(b".")
    if wanted[-1] == b">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(
        one in (b"*", other) for one, other in zip(wanted, tokens, strict=True)
    )


class CoreSession:
    """One connection's subscriptions; a `Subscriber`. All of it happens in the node's process."""

    def __init__(self, history: CoreHistory, node: "WholeNode", account: str) -> None:
        self.history = history
        self.account = account
        self.number = next(history.numbers)
        self.inbox = b"_INBOX.%d" % self.number
        self.open = True
        self.answers = 0
        self._node = node
        self._subscriptions: list[Subscription] = []

    def subscribe(self, subject: bytes, queue: bytes | None = None) -> None:
        """SUB."""
        if not self.open or self._node.exchange is None:
            return
        sid = b"%d" % next(self.history.numbers)
        subscription = Subscription(self, subject, queue, sid)
        self._subscriptions.append(subscription)
        self._node.exchange.interest(self.account).add(subscription)

    def unsubscribe(self, choice: int) -> None:
        """UNSUB of one of them."""
        if self._subscriptions and self._node.exchange is not None:
            gone = self._subscriptions.pop(choice % len(self._subscriptions))
            self._node.exchange.interest(self.account).remove(gone)

    def close(self) -> None:
        """The connection ends."""
        while self._subscriptions:
            self.unsubscribe(0)
        self.open = False

    def publish(self, subject: bytes, reply: bytes | None = None, *, echo: bool = True) -> int:
        """PUB; how many it went to."""
        if not self.open or self._node.exchange is None:
            return 0
        payload = self.history.publishes(self, subject)
        silent_for = None if echo else self
        return self._node.exchange.publish(
            self.account, subject, reply, None, payload, silent_for=silent_for
        )

    def answer(self, inbox: bytes) -> None:
        """What a command comes to, for whoever asked on another connection."""
        if self.open and self._node.exchange is not None:
            payload = self.history.publishes(self, inbox, exactly=True)
            self._node.exchange.publish_exactly(self.account, inbox, payload)

    def deliver(self, subscription: Subscription, message: Outgoing) -> bool:
        """A message for this client."""
        if not self.open or subscription not in self._subscriptions:
            self.history.broken("a message got to a connection that is gone")
            return False
        self.history.reached(self, subscription, message)
        if subscription.subject == self.inbox:
            self.answers += 1
        elif message.reply is not None and subscription.subject == SERVICE:
            self._node.in_process(partial(self.publish, message.reply))
        return True


def begin(client: "Client", session: CoreSession) -> None:
    """A client that just connected says what it wants to hear."""
    draw = client.random
    wanted: list[tuple[bytes, bytes | None]] = [(session.inbox, None)]
    wanted += [(subject, None) for subject in draw.sample(PLAIN, k=draw.randint(0, 2))]
    wanted += draw.sample(QUEUES, k=draw.randint(0, 3))
    for subject, queue in wanted:
        session.subscribe(subject, queue)
    client.world.core.inboxes = [*client.world.core.inboxes[-7:], session.inbox]


def works(client: "Client") -> list[Work]:
    """What a client may do next with core NATS."""
    draw = client.random

    def at_node(do: Callable[[CoreSession], object]) -> None:
        node, connection = client.node, client.connection
        if node is not None:
            client.soon(partial(node.in_session, connection, do))
        client.next_soon()

    def publish(_: object) -> None:
        subject, times, echo = draw.choice(SUBJECTS), draw.choice([1, 1, 5]), draw.random() < 0.8
        at_node(lambda session: [session.publish(subject, echo=echo) for _ in range(times)])

    def request(_: object) -> None:
        at_node(lambda session: session.publish(SERVICE, session.inbox))

    def answer(_: object) -> None:
        other = draw.choice(client.world.core.inboxes)
        at_node(lambda session: session.answer(other))

    def change(_: object) -> None:
        choice, subject = draw.randrange(10), draw.choice(PLAIN)

        def swap(session: CoreSession) -> None:
            session.unsubscribe(choice)
            session.subscribe(subject)

        at_node(swap)

    return [publish] * 3 + [request, answer, change]

"""The subscription table of one account: who gets a message published to a subject.

Owned by `gateway.exchange` (one per account); `routes` may hold another for what peers said. Calls
nobody but its observer.

Literal subjects live in a dict, patterns in a trie of tokens; a bounded cache of answers spares
both for busy subjects. A change of a literal subject drops one answer, a change of a pattern drops
all of them.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

from mq9cluster.gateway.outgoing import Outgoing
from mq9cluster.protocol.subjects import is_literal

ANSWERS_MAX = (
    8_192  # subjects in the cache: a few hundred bytes each; past it the cache starts anew
)

ANSWER_SUBJECT_BYTES_MAX = 256  # longer ones are looked up anew, so that the cache stays small


class Subscriber(Protocol):
    """Whoever takes deliveries: a client's session, or a part of the node that listens."""

    def deliver(self, subscription: "Subscription", message: Outgoing) -> bool:
        """Take one message; False if it cannot be taken any more."""


class Subscription:
    """One SUB. `maximum` and `delivered` are its subscriber's to count."""

    __slots__ = ("delivered", "maximum", "queue", "sid", "subject", "subscriber")

    def __init__(
        self, subscriber: Subscriber, subject: bytes, queue: bytes | None, sid: bytes
    ) -> None:
        self.subscriber = subscriber
        self.subject = subject
        self.queue = queue
        self.sid = sid
        self.maximum = 0
        self.delivered = 0


class Match(NamedTuple):
    """Who is interested in a subject: every one of `plain`, and one of each group."""

    plain: tuple[Subscription, ...]
    groups: tuple[tuple[bytes, tuple[Subscription, ...]], ...]


NOBODY = Match((), ())


class InterestObserver(Protocol):
    """Told of every change that peers need to know (`routes`)."""

    def interest_changed(self, subject: bytes, queue: bytes | None, members: int) -> None:
        """So many local subscriptions of `subject`, in `queue` or plain, there are now; 0: the last
        one went.
        """


class _Place:
    """The subscriptions of exactly one subject or pattern."""

    __slots__ = ("groups", "plain")

    def __init__(self) -> None:
        self.plain: dict[Subscription, None] = {}
        self.groups: dict[bytes, dict[Subscription, None]] | None = None

    def add(self, subscription: Subscription) -> int:
        members = self.plain
        if subscription.queue is not None:
            if self.groups is None:
                self.groups = {}
            members = self.groups.setdefault(subscription.queue, {})
        members[subscription] = None
        return len(members)

    def remove(self, subscription: Subscription) -> int | None:
        """How many are left of its kind; None if it was not here."""
        queue = subscription.queue
        if queue is None:
            members = self.plain
        elif self.groups is None or queue not in self.groups:
            return None
        else:
            members = self.groups[queue]
        if subscription not in members:
            return None
        del members[subscription]
        if queue is not None and not members and self.groups is not None:
            del self.groups[queue]
        return len(members)

    def of(self, queue: bytes | None) -> Collection[Subscription]:
        """The plain ones, or those of a group."""
        return self.plain if queue is None else (self.groups or {}).get(queue, ())

    def queues(self, subject: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """What kinds of them there are."""
        if self.plain:
            yield subject, None
        for queue in list(self.groups or ()):
            yield subject, queue

    @property
    def empty(self) -> bool:
        return not self.plain and not self.groups


class _Node:
    """A token of the patterns' trie."""

    __slots__ = ("children", "here", "star", "tail")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.star: _Node | None = None
        self.tail: _Place | None = None  # patterns that end in `>` at this place
        self.here: _Place | None = None  # patterns that end here

    @property
    def empty(self) -> bool:
        return not self.children and self.star is None and self.tail is None and self.here is None


class Interest:
    """Subscriptions by subject, of one account."""

    __slots__ = (
        "_answers",
        "_literals",
        "_observer",
        "_root",
        "count",
        "inserts",
        "searches",
    )

    def __init__(self, observer: InterestObserver | None = None) -> None:
        self._observer = observer
        self._literals: dict[bytes, _Place] = {}
        self._root = _Node()
        self._answers: dict[bytes, Match] = {}
        self.count = self.inserts = 0
        self.searches = 0  # subjects looked up that were not in the cache

    def add(self, subscription: Subscription) -> None:
        """Put `subscription` in; its subject must be valid."""
        subject = subscription.subject
        if is_literal(subject):
            place = self._literals.get(subject)
            if place is None:
                place = self._literals[subject] = _Place()
            self._answers.pop(subject, None)
        else:
            place = self._place(subject)
            self._answers.clear()
        members = place.add(subscription)
        self.count += 1
        self.inserts += 1
        if self._observer is not None:
            self._observer.interest_changed(subject, subscription.queue, members)

    def remove(self, subscription: Subscription) -> None:
        """Take `subscription` out; nothing happens if it is not in."""
        subject = subscription.subject
        if is_literal(subject):
            place = self._literals.get(subject)
            left = place.remove(subscription) if place is not None else None
            if place is not None and place.empty:
                del self._literals[subject]
            self._answers.pop(subject, None)
        else:
            left = _remove(self._root, subject.split(b"."), subscription)
            self._answers.clear()
        if left is None:
            return
        self.count -= 1
        if self._observer is not None:
            self._observer.interest_changed(subject, subscription.queue, left)

    def match(self, subject: bytes) -> Match:
        """Everybody who gets a message published to `subject`."""
        answer = self._answers.get(subject)
        if answer is None:
            self.searches += 1
            answer = self._find(subject)
            if len(subject) <= ANSWER_SUBJECT_BYTES_MAX:
                if len(self._answers) >= ANSWERS_MAX:
                    self._answers.clear()
                self._answers[subject] = answer
        return answer

    def match_literal(self, subject: bytes) -> Match:
        """Those who subscribe to exactly `subject`, never through a wildcard (docs/protocol.md,
        section 7).
        """
        place = self._literals.get(subject)
        return NOBODY if place is None else _merged([place])

    def subjects(self) -> Iterator[tuple[bytes, bytes | None]]:
        """All there is, as (subject, queue): what a peer is told of. The table may change while it
        is listed; what comes meanwhile may be missing, which is for the observer to tell.
        """
        for subject in list(self._literals):
            place = self._literals.get(subject)
            if place is not None:
                yield from place.queues(subject)
        for subject, place in _patterns(self._root, b""):
            yield from place.queues(subject)

    def members_of(self, subject: bytes, queue: bytes | None) -> int:
        """How many subscriptions of exactly this subject or pattern there are, plain or of a
        group.
        """
        place = self._literals.get(subject) if is_literal(subject) else self._existing(subject)
        return 0 if place is None else len(place.of(queue))

    @property
    def answers_cached(self) -> int:
        """How many subjects the cache holds (/subsz)."""
        return len(self._answers)

    def fanouts(self) -> list[int]:
        """How many deliveries a message to each subject in the cache leads to (/subsz)."""
        return [len(answer.plain) + len(answer.groups) for answer in self._answers.values()]

    def _find(self, subject: bytes) -> Match:
        places: list[_Place] = []
        literal = self._literals.get(subject)
        if literal is not None:
            places.append(literal)
        if not self._root.empty:
            tokens = subject.split(b".")
            if b"" not in tokens:
                _walk(self._root, tokens, places)
        return _merged(places) if places else NOBODY  # never another empty Match: it is the sign

    def _existing(self, pattern: bytes) -> _Place | None:
        node = self._root
        *tokens, last = pattern.split(b".")
        for token in tokens if last == b">" else (*tokens, last):
            following = node.star if token == b"*" else node.children.get(token)
            if following is None:
                return None
            node = following
        return node.tail if last == b">" else node.here

    def _place(self, pattern: bytes) -> _Place:
        node = self._root
        tokens = pattern.split(b".")
        last = len(tokens) - 1
        for depth, token in enumerate(tokens):
            if token == b">" and depth == last:
                if node.tail is None:
                    node.tail = _Place()
                return node.tail
            if token == b"*":
                if node.star is None:
                    node.star = _Node()
                node = node.star
            else:
                child = node.children.get(token)
                if child is None:
                    child = node.children[token] = _Node()
                node = child
        if node.here is None:
            node.here = _Place()
        return node.here


def _walk(root: _Node, tokens: list[bytes], places: list[_Place]) -> None:
    nodes = [root]
    for token in tokens:
        following: list[_Node] = []
        for node in nodes:
            if node.tail is not None:
                places.append(node.tail)
            child = node.children.get(token)
            if child is not None:
                following.append(child)
            if node.star is not None:
                following.append(node.star)
        if not following:
            return
        nodes = following
    places.extend(node.here for node in nodes if node.here is not None)


def _remove(root: _Node, tokens: list[bytes], subscription: Subscription) -> int | None:
    """Take `subscription` out below `root` and prune what became empty."""
    path = [root]
    last = len(tokens) - 1
    for depth, token in enumerate(tokens):
        if token == b">" and depth == last:
            break
        child = path[-1].star if token == b"*" else path[-1].children.get(token)
        if child is None:
            return None
        path.append(child)
    node = path[-1]
    at_tail = len(path) == len(tokens)
    place = node.tail if at_tail else node.here
    left = place.remove(subscription) if place is not None else None
    if place is not None and place.empty:
        if at_tail:
            node.tail = None
        else:
            node.here = None
    for depth in range(len(path) - 1, 0, -1):
        if not path[depth].empty:
            break
        if tokens[depth - 1] == b"*":
            path[depth - 1].star = None
        else:
            del path[depth - 1].children[tokens[depth - 1]]
    return left


def _patterns(node: _Node, prefix: bytes) -> Iterator[tuple[bytes, _Place]]:
    """Every pattern below `node`. Without recursion: a pattern may have thousands of tokens."""
    waiting = [(node, prefix)]
    while waiting:
        node, prefix = waiting.pop()
        if node.here is not None:
            yield prefix[:-1], node.here
        if node.tail is not None:
            yield prefix + b">", node.tail
        if node.star is not None:
            waiting.append((node.star, prefix + b"*."))
        waiting += [(child, prefix + token + b".") for token, child in node.children.items()]


def _merged(places: list[_Place]) -> Match:
    """One answer of all `places`; a group that spans several of them stays one group."""
    plain: list[Subscription] = []
    groups: dict[bytes, list[Subscription]] = {}
    for place in places:
        plain += place.plain
        for queue, members in (place.groups or {}).items():
            groups.setdefault(queue, []).extend(members)
    return Match(tuple(plain), tuple((queue, tuple(group)) for queue, group in groups.items()))

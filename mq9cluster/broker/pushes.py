"""Push subscriptions: a mailbox's messages, and the list of public mailboxes, given to whoever
subscribes (docs/protocol.md, section 8).

The gateway has `Pushes.subscribe` look at every subscription under `$mq9.AI.`. One that names a
mailbox gets a reader, which asks the mailbox's shard for what comes next, waits there as a FETCH
does, gives the client what it is answered, and asks again. Nothing is recorded of a plain one, so a
second subscription is given everything again. A queue group is the mailbox's group of that name:
its readers are handed messages, a few at a time, and acknowledge them when the client has read
them, so that each goes to one member, and what a member that is gone was handed goes to another.

One message: SEND wakes the readers that wait in its shard; each answers with a page; `_found` gives
it to the session, which writes it at the end of the turn; the next turn asks for what is behind it.
One failure: the leader dies; the shard asks its next leader, from the same place, so that a plain
reader is given nothing twice and misses nothing.

A client that does not read is waited for: nothing is asked for while it has no room, what was asked
for before is dropped and asked for again, and `resume` goes on.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final

import orjson

from mq9cluster.cluster.features import DIALECTS
from mq9cluster.cluster.shard import Shard
from mq9cluster.cluster.shards import Shards
from mq9cluster.cluster.waiting import Waiter
from mq9cluster.domain.address import mailbox_ref, public_list_ref
from mq9cluster.domain.command import (
    AckMessages,
    Deliver,
    EndConnection,
    FetchMessages,
    Owner,
)
from mq9cluster.domain.errors import (
    MailboxNotFound,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from mq9cluster.domain.limits import (
    PUSH_GROUP_PAGE_FIRST,
    PUSH_PAGE_MAX,
    WAIT_MS_MAX,
    WAITING_FETCHES_DEFAULT,
)
from mq9cluster.domain.message import ALL_PRIORITIES, Message
from mq9cluster.domain.outcome import Outcome, Refused
from mq9cluster.domain.read import Follow, MessagesRead
from mq9cluster.protocol import dialects, fields

AGAIN_S: Final = 0.25  # after a refusal that passes: no leader, or too much that waits
REFUSED_AGAIN_S: Final = 5.0  # after one that may not: a mailbox with all the groups it may have
# Readers of groups own what they are handed, each for itself: numbers that no connection gets to.
READERS_FROM: Final = 1 << 48

DeliverPush = Callable[[bytes, bytes | None, bytes], bool]
Confirm = Callable[[Callable[[bool], None]], None]
Give = Callable[[Message], bool]  # whether the subscription is still there
_TRY_AGAIN: Final = frozenset((Unavailable.code, OutcomeUnknown.code, Overloaded.code))


class Client:
    """Who subscribes: `deliver` (subject, header block, payload) says whether the subscription is
    still there, `has_room` whether the client keeps up; `confirm` has its argument called, once,
    with whether the client has read what was delivered before.
    """

    __slots__ = ("confirm", "deliver", "has_room", "owner")

    def __init__(
        self, owner: Owner, deliver: DeliverPush, has_room: Callable[[], bool], confirm: Confirm
    ) -> None:
        self.owner = owner
        self.deliver = deliver
        self.has_room = has_room
        self.confirm = confirm

    def give(self, place: dialects.Place, message: Message) -> bool:
        """A mailbox's message; whether the subscription is still there."""
        subject, header = dialects.pushed(place, message)
        return self.deliver(subject, header, message.payload)

    def give_event(self, message: Message) -> bool:
        """What became of a public mailbox."""
        return self.deliver(dialects.PUBLIC_LIST.encode(), None, message.payload)


class Reader:
    """Reads one mailbox on behalf of one subscription."""

    def __init__(self, shard: Shard, mailbox: bytes, client: Client, give: Give) -> None:
        self._shard = shard
        self._mailbox = mailbox
        self._client = client
        self._give = give
        self._loop = asyncio.get_running_loop()
        self._waiter: Waiter | None = None
        self._held_up = False  # until the client has room
        self._stopped = False
        self._later: asyncio.Handle | None = None

    def ask_soon(self) -> None:
        """In the next turn, so that a long mailbox holds up nobody; once, however often called."""
        self._later = self._later or self._loop.call_soon(self._due)

    def _ask_later(self, wait_s: float) -> None:
        self._later = self._later or self._loop.call_later(wait_s, self._due)

    def _due(self) -> None:
        self._later = None
        if self._waiter is not None or self._stopped:
            return
        if self._no_room():
            return
        if self._shard.may(DIALECTS):
            self._ask()
        else:
            self._ask_later(AGAIN_S)

    def _no_room(self) -> bool:
        """Whether the client has none; `resume` is called when it has."""
        self._held_up = not self._client.has_room()
        return self._held_up

    @abstractmethod
    def _ask(self) -> None:
        """Ask the shard for what comes next."""

    @abstractmethod
    def begin_run(self, incarnation: int) -> None:
        """This node's run was ended and another begins."""

    def _wait_for(self, request: FetchMessages | Follow, done: Callable[..., None]) -> None:
        def answered(found: MessagesRead | Refused) -> None:
            self._waiter = None
            done(found)

        self._waiter = Waiter(request, WAIT_MS_MAX, answered, self._client.owner)
        self._shard.fetch(self._waiter)

    def resume(self) -> None:
        """The client has room."""
        if self._held_up:
            self._held_up = False
            self.ask_soon()

    def stop(self) -> None:
        """Nobody is to be given anything any more."""
        self._stopped = True
        if self._later:
            self._later.cancel()
        if self._waiter:
            self._shard.cancel(self._waiter)
            self._waiter = None


class PlainReader(Reader):
    """Gives everything, of which the broker remembers nothing."""

    def __init__(
        self, shard: Shard, mailbox: bytes, priorities: int, client: Client, give: Give
    ) -> None:
        super().__init__(shard, mailbox, client, give)
        self._next = Follow(mailbox, priorities=priorities, num_msgs=PUSH_PAGE_MAX)

    def _ask(self) -> None:
        self._wait_for(self._next, self._found)

    def begin_run(self, incarnation: int) -> None:
        """It holds nothing: what it was given is known here alone."""

    def _found(self, found: MessagesRead | Refused) -> None:
        if isinstance(found, Refused):
            self._ask_later(AGAIN_S)
            return
        if found.messages and self._no_room():
            return
        if found.messages:
            number = int(found.handout)
            starts = list(self._next.starts if number == self._next.number else Follow(b"").starts)
            for message in found.messages:
                if not self._give(message):
                    return
                starts[message.priority] = message.msg_id + 1
            self._next = self._next._replace(number=number, starts=tuple(starts))
        self.ask_soon()


class GroupReader(Reader):
    """Gives what a group of the mailbox hands it, which goes to nobody else."""

    def __init__(
        self,
        shard: Shard,
        mailbox: bytes,
        priorities: int,
        client: Client,
        give: Give,
        group: str,
        owner: Owner,
        may_hand_out: Callable[[], bool],
    ) -> None:
        super().__init__(shard, mailbox, client, give)
        self._priorities = priorities
        self._group = group
        self._owner = owner
        self._may_hand_out = may_hand_out
        self._asked = False  # so that it may hold something
        self._giving = False  # until the client has read what it was given, or never will
        self._page = PUSH_GROUP_PAGE_FIRST

    def begin_run(self, incarnation: int) -> None:
        """What it was handed by an earlier run is not its own any more."""
        self._owner = self._owner._replace(incarnation=incarnation)
        self._asked = False

    def _ask(self) -> None:
        if not self._may_hand_out():
            self._ask_later(AGAIN_S)
            return
        self._asked = True
        request = FetchMessages(
            self._mailbox,
            self._group,
            self._owner,
            deliver=Deliver.EARLIEST,
            num_msgs=self._page,
            priorities=self._priorities,
        )
        self._wait_for(request, partial(self._found, self._owner))

    def _found(self, owner: Owner, found: MessagesRead | Refused) -> None:
        if isinstance(found, Refused):
            if found.error.code == MailboxNotFound.code:
                self._wait_for(Follow(self._mailbox, num_msgs=1), self._there_is_something)
            else:
                self._ask_later(AGAIN_S if found.error.code in _TRY_AGAIN else REFUSED_AGAIN_S)
        elif not found.messages:
            self.ask_soon()
        elif owner != self._owner or not self._may_hand_out():
            self._ask_later(AGAIN_S)  # others may have these soon, or have them
        elif not self._no_room():  # else it is handed the same again
            self._hand_on(found)

    def _there_is_something(self, found: MessagesRead | Refused) -> None:
        """The mailbox was created, or the wait was over."""
        if isinstance(found, Refused):
            self._ask_later(AGAIN_S)
        else:
            self.ask_soon()

    def _hand_on(self, found: MessagesRead) -> None:
        given = 0
        self._giving = True
        for message in found.messages:
            if not self._give(message):
                break
            given = message.msg_id
        full = len(found.messages) == self._page
        self._page = min(2 * self._page, PUSH_PAGE_MAX) if full else PUSH_GROUP_PAGE_FIRST
        ack = AckMessages(self._mailbox, self._group, given, self._owner, found.handout)
        self._client.confirm(partial(self._given, ack))

    def _given(self, ack: AckMessages, read: bool) -> None:
        """The client has read what it was given, or its connection has ended before."""
        self._giving = False
        if read and ack.msg_id:
            self._acknowledge(ack)
        if self._stopped:
            self._end()

    def _acknowledge(self, ack: AckMessages) -> None:
        """Done, for the group; then what comes next. Where a run has ended, others are given it."""

        def answered(outcome: Outcome) -> None:
            again = isinstance(outcome, Refused) and outcome.error.code in _TRY_AGAIN
            if again and ack.owner == self._owner:
                self._loop.call_later(AGAIN_S, self._acknowledge, ack)
            else:
                self.ask_soon()

        self._shard.propose(ack, answered)

    def stop(self) -> None:
        """And what it was handed is open again, behind the acknowledgement of what was read."""
        super().stop()
        if not self._giving:
            self._end()

    def _end(self) -> None:
        if self._asked:
            self._asked = False
            self._shard.propose_surely(EndConnection(self._owner), _nothing)


class Push:
    """One subscription and its readers; what the gateway holds of it."""

    __slots__ = ("_forget", "readers")

    def __init__(self, forget: Callable[["Push"], None]) -> None:
        self._forget = forget
        self.readers: list[Reader] = []

    def resume(self) -> None:
        """The client has room again."""
        for reader in self.readers:
            reader.resume()

    def cancel(self) -> None:
        """The subscription is over."""
        self._forget(self)
        for reader in self.readers:
            reader.stop()


class Pushes:
    """The push subscriptions of one run of one node."""

    def __init__(
        self,
        shards: Shards,
        node: int,
        incarnation: int,
        may_hand_out: Callable[[], bool],
        readers_max: int = WAITING_FETCHES_DEFAULT,
    ) -> None:
        """`readers_max`: of one connection."""
        self._shards = shards
        self._node = node
        self._incarnation = incarnation
        self._may_hand_out = may_hand_out
        self._readers_max = readers_max
        self._numbers = count(READERS_FROM)
        self._of: dict[int, dict[Push, None]] = {}  # by connection

    @property
    def readers(self) -> int:
        """So many wait, or give."""
        return sum(len(push.readers) for pushes in self._of.values() for push in pushes)

    def begin_run(self, incarnation: int) -> None:
        """From now on readers are handed messages as this run."""
        self._incarnation = incarnation
        for pushes in self._of.values():
            for push in pushes:
                for reader in push.readers:
                    reader.begin_run(incarnation)

    def client(
        self,
        connection: int,
        deliver: DeliverPush,
        has_room: Callable[[], bool],
        confirm: Confirm,
    ) -> Client:
        """Who is at that connection; the arguments as in Client."""
        owner = Owner(self._node, self._incarnation, connection)
        return Client(owner, deliver, has_room, confirm)

    def subscribe(
        self,
        connection: int,
        account: str,
        subject: str,
        queue: str | None,
        words_for: str,
        client: Client,
    ) -> Push | None:
        """Begin to give what `subject` names, as a member of `queue` if that is not None.

        None where it is no push subscription. Raises what is wrong with it, and Overloaded.

        `words_for`: the name the client gave itself.
        """
        if queue is not None:
            fields.checked_name("group_name", queue)
        if subject == dialects.PUBLIC_LIST:
            ref = public_list_ref(mailbox_ref(account, ""))
            give = client.give_event if queue is not None else _NewsOnly(client).give
            wanted = [(shard, ref, ALL_PRIORITIES, give) for shard in self._shards.all]
        else:
            place = dialects.place_of(subject)
            if place is None:
                return None
            place = place._replace(dialect=dialects.as_told_to(place.dialect, words_for))
            ref = mailbox_ref(account, place.address)
            priorities = place.dialect.priorities_of(place.word)
            give = partial(client.give, place)
            wanted = [(self._shards.of(ref), ref, priorities, give)]
        pushes = self._of.setdefault(connection, {})
        if sum(len(push.readers) for push in pushes) + len(wanted) > self._readers_max:
            raise Overloaded(f"{self._readers_max} mailboxes are read by this connection")
        push = Push(partial(self._forget, connection))
        pushes[push] = None
        for shard, ref, priorities, give in wanted:
            push.readers.append(self._reader(shard, ref, priorities, client, give, queue))
        for reader in push.readers:
            reader.ask_soon()
        return push

    def _reader(
        self,
        shard: Shard,
        ref: bytes,
        priorities: int,
        client: Client,
        give: Give,
        queue: str | None,
    ) -> Reader:
        if queue is None:
            return PlainReader(shard, ref, priorities, client, give)
        owner = Owner(self._node, self._incarnation, next(self._numbers))
        hand_out = self._may_hand_out
        return GroupReader(shard, ref, priorities, client, give, queue, owner, hand_out)

    def _forget(self, connection: int, push: Push) -> None:
        pushes = self._of.get(connection)
        if pushes is not None:
            pushes.pop(push, None)
            if not pushes:
                del self._of[connection]


class _NewsOnly:
    """Of the list of public mailboxes: removals only of those that the client was told of."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._told: set[str] = set()

    def give(self, message: Message) -> bool:
        """Tell the client, or not."""
        if orjson.loads(message.payload)["event"] == "removed":
            if message.key not in self._told:
                return True
            self._told.remove(message.key)
        else:
            self._told.add(message.key)
        return self._client.give_event(message)


def _nothing() -> None:
    """Nobody is left to be told."""

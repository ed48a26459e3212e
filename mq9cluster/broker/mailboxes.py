"""The mailbox commands: what each means, on the shard that holds the mailbox.

Called by `router`, one method per command; answers through a `Call`. Commands that change
something are proposed; reads wait for the shard's read barrier. What a connection holds or waits
for is known here, so that it can be let go when the connection ends.
"""

from base64 import b32encode
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from mq9cluster.broker.call import Call
from mq9cluster.cluster.shard import Shard
from mq9cluster.cluster.shards import Shards
from mq9cluster.cluster.waiting import Waiter
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.command import (
    Command,
    DeleteMessage,
    EndConnection,
    FetchMessages,
    Owner,
    SendMessage,
)
from mq9cluster.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from mq9cluster.domain.limits import WAITING_FETCHES_DEFAULT
from mq9cluster.domain.message import Priority
from mq9cluster.domain.outcome import Done, MailboxCreated, MessageStored, Outcome, Refused
from mq9cluster.domain.ports import Random
from mq9cluster.domain.read import MessagesRead
from mq9cluster.machine.codec import plain_send_head
from mq9cluster.protocol import replies, requests

GENERATED_PREFIX: Final = "mbx."
GENERATED_BYTES: Final = (
    20  # 160 bits: beyond guessing, and 32 characters of base32 without padding
)
SHOWN_PREFIX: Final = "tok-"  # dialect 000 shows one, and none of its commands ever takes it
SHOWN_BYTES: Final = 10

NO_LEASE: Final = "this node has no contact with the cluster"


class Target(NamedTuple):
    """Whom a command is for.

    `ref`, `address` and `shard` only where the subject names a mailbox. `send_head` is what stands
    before the payload of a SEND to it without headers.
    """

    account: str
    ref: bytes
    address: str
    shard: Shard
    send_head: bytes


class _Connection:
    """What a client connection left behind in shards."""

    __slots__ = ("owner", "shards", "waiting")

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        # In the order they came, not as sets: one seed must decide a simulated run.
        self.shards: dict[Shard, None] = {}  # in which it may hold messages
        self.waiting: dict[Waiter, None] = {}


class Mailboxes:
    """What clients do with mailboxes, for one run of one node."""

    def __init__(
        self,
        shards: Shards,
        random: Random,
        node: int,
        incarnation: int,
        may_hand_out: Callable[[], bool],
        duplicate_window_ms: int,
        waiting_max: int = WAITING_FETCHES_DEFAULT,
    ) -> None:
        """`may_hand_out` says whether the lease of this node's run holds; `waiting_max` FETCHes of
        one connection may wait at a time.
        """
        self._shards = shards
        self._random = random
        self._node = node
        self._incarnation = incarnation
        self._may_hand_out = may_hand_out
        self.duplicate_window_ms = duplicate_window_ms
        self._waiting_max = waiting_max
        self.waiting_refused = 0  # FETCHes over that
        self._connections: dict[int, _Connection] = {}

    def begin_run(self, incarnation: int) -> None:
        """From now on connections own what they are handed as this run."""
        self._incarnation = incarnation
        for number, client in self._connections.items():
            client.owner = self.owner(number)

    def holding(self) -> list[int]:
        """Connections that may hold messages."""
        return [number for number, client in self._connections.items() if client.shards]

    def target(self, account: str, address: str) -> Target:
        """The mailbox of that address, wherever it is."""
        ref = mailbox_ref(account, address)
        head = plain_send_head(ref, Priority.NORMAL)
        return Target(account, ref, address, self._shards.of(ref), head)

    @property
    def waiting(self) -> int:
        """FETCHes that wait."""
        return sum(shard.waiting_fetches for shard in self._shards.all)

    # --- mailboxes -------------------------------------------------------------------------------

    def create(self, account: str, _: int, __: bytes | None, payload: bytes, call: Call) -> None:
        """MAILBOX.CREATE."""
        request = requests.parse_create(payload)
        address = request.address or self._generate_address()
        target = self.target(account, address)
        command = request.command._replace(mailbox=target.ref)
        token = ""
        if request.with_token:
            token = SHOWN_PREFIX + self._token(SHOWN_BYTES)
        target.shard.propose(command, partial(answer, call, token=token))

    def _generate_address(self) -> str:
        return GENERATED_PREFIX + self._token(GENERATED_BYTES)

    def _token(self, size: int) -> str:
        return b32encode(self._random.token(size)).decode().lower()

    # --- messages --------------------------------------------------------------------------------

    def send(
        self, target: Target, _: int, header: bytes | None, payload: bytes, call: Call
    ) -> None:
        """MSG.SEND."""
        if header is None:  # as nearly all: no command is made of it, here or where it is applied
            data = target.send_head + payload
            target.shard.propose_encoded(SendMessage, data, partial(answer, call))
        else:
            command = requests.parse_send(target.ref, header, payload, self.duplicate_window_ms)
            target.shard.propose(command, partial(answer, call))

    def query(
        self, target: Target, connection: int, _: bytes | None, payload: bytes, call: Call
    ) -> None:
        """MSG.QUERY."""
        request = requests.parse_query(target.ref, payload)
        done = partial(_answer_read, call, as_text=request.as_text)
        target.shard.query(request.query, done, self.owner(connection))

    def delete(
        self, target: Target, _: int, __: bytes | None, ___: bytes, call: Call, msg_id: int
    ) -> None:
        """MSG.DELETE."""
        done = partial(answer, call, reply=replies.DELETED)
        target.shard.propose(DeleteMessage(target.ref, msg_id), done)

    # --- hand-outs -------------------------------------------------------------------------------

    def fetch(
        self, target: Target, connection: int, _: bytes | None, payload: bytes, call: Call
    ) -> None:
        """MSG.FETCH."""
        client = self._connection(connection)
        request = requests.parse_fetch(target.ref, client.owner, payload)
        if len(client.waiting) >= self._waiting_max:
            self.waiting_refused += 1
            raise Overloaded(f"{self._waiting_max} FETCHes wait on this connection")
        held = isinstance(request.read, FetchMessages) and not request.read.ack_wait_ms
        if held:
            if not self._may_hand_out():
                raise Unavailable(NO_LEASE)
            client.shards[target.shard] = None

        def done(found: MessagesRead | Refused) -> None:
            client.waiting.pop(waiter, None)
            gave = held and isinstance(found, MessagesRead) and found.handout
            if gave and not self._may_hand_out():  # others may have these soon, or have them
                found = Refused(OutcomeUnknown(NO_LEASE))
            _answer_read(call, found, as_text=request.as_text)

        waiter = Waiter(request.read, request.wait_ms, done, client.owner)
        client.waiting[waiter] = None
        target.shard.fetch(waiter)

    def ack(
        self, target: Target, connection: int, _: bytes | None, payload: bytes, call: Call
    ) -> None:
        """MSG.ACK."""
        owner = self.owner(connection)
        self._propose(target, requests.parse_ack(target.address, target.ref, owner, payload), call)

    def nack(
        self, target: Target, connection: int, _: bytes | None, payload: bytes, call: Call
    ) -> None:
        """MSG.NACK."""
        owner = self.owner(connection)
        self._propose(target, requests.parse_nack(target.address, target.ref, owner, payload), call)

    @staticmethod
    def _propose(target: Target, command: Command, call: Call) -> None:
        target.shard.propose(command, partial(answer, call))

    # --- connections -----------------------------------------------------------------------------

    def owner(self, connection: int) -> Owner:
        """Who holds what this connection is handed."""
        return Owner(self._node, self._incarnation, connection)

    def _connection(self, connection: int) -> _Connection:
        client = self._connections.get(connection)
        if client is None:
            client = self._connections[connection] = _Connection(self.owner(connection))
        return client

    def connection_lost(self, connection: int) -> None:
        """Read nothing more for it, and stop waiting."""
        client = self._connections.get(connection)
        if client is not None:
            for waiter in client.waiting:
                self._shards.of(waiter.request.mailbox).cancel(waiter)
            client.waiting.clear()
        self._shards.forget(self.owner(connection) if client is None else client.owner)

    def connection_closed(self, connection: int) -> None:
        """The same, and give back what it holds, behind its own FETCHes under way."""
        self.connection_lost(connection)
        client = self._connections.pop(connection, None)
        if client is None:
            return
        for shard in client.shards:
            shard.propose_surely(EndConnection(client.owner), _nothing)


def _nothing() -> None:
    """Nobody is left to be told."""


def answer(call: Call, outcome: Outcome, reply: bytes = replies.DONE, token: str = "") -> None:
    """What a command came to."""
    if isinstance(outcome, MessageStored):
        call.reply(replies.stored(outcome))
    elif isinstance(outcome, Refused):
        call.refuse(outcome.error)
    elif isinstance(outcome, MailboxCreated):
        call.reply(replies.created(outcome, token))
    elif isinstance(outcome, Done):
        call.reply(reply)


def _answer_read(call: Call, found: MessagesRead | Refused, *, as_text: bool) -> None:
    if isinstance(found, Refused):
        call.refuse(found.error)
    else:
        call.reply(replies.messages(found, as_text=as_text))

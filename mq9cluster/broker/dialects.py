"""The commands that only the older dialects have, on the same mailboxes (docs/protocol.md, section
8): messages stored under a subject that says their priority, listings, and other names.

Called by `router`, one method per command; what both kinds of names mean is `mailboxes`' alone.
"""

from functools import partial
from typing import Final

from mq9cluster.broker.call import Call
from mq9cluster.broker.mailboxes import Mailboxes, Target, answer
from mq9cluster.cluster.features import DIALECTS
from mq9cluster.domain.command import SendMessage
from mq9cluster.domain.errors import PermissionDenied, Unavailable
from mq9cluster.domain.limits import NOTIFY_TTL_S
from mq9cluster.domain.message import Priority
from mq9cluster.domain.outcome import Refused
from mq9cluster.domain.read import MessagesRead
from mq9cluster.machine.codec import plain_send_head
from mq9cluster.protocol import dialects, replies, requests
from mq9cluster.protocol.dialects import Dialect

OWN_LIST: Final = "the broker alone writes the list of public mailboxes"


class Storing:
    """What is published to one subject of a dialect: one mailbox, one priority."""

    __slots__ = ("_head", "_priority", "_target", "_ttl_s", "_window_ms")

    def __init__(
        self, target: Target, dialect: Dialect, priority: Priority, duplicate_window_ms: int
    ) -> None:
        self._target = target
        self._priority = priority
        self._window_ms = duplicate_window_ms
        notify = dialect is dialects.DIALECT_000 and priority is Priority.LOW
        self._ttl_s = NOTIFY_TTL_S if notify else 0
        self._head = b"" if self._ttl_s else plain_send_head(target.ref, priority)

    def store(self, _: int, header: bytes | None, payload: bytes, call: Call) -> None:
        """As MSG.SEND; the subject's priority counts, whatever a header says."""
        shard = self._target.shard
        if header is None and self._head:
            shard.propose_encoded(SendMessage, self._head + payload, partial(answer, call))
            return
        ref, window_ms = self._target.ref, self._window_ms
        command = requests.parse_send(ref, header or b"", payload, window_ms, self._priority)
        if not command.ttl_s:
            command = command._replace(ttl_s=self._ttl_s)
        shard.propose(command, partial(answer, call))


class Dialects:
    """The dialects' own commands."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._old: set[int] = set()  # connections of dialect 001's published client

    def introduced(self, connection: int, name: str) -> None:
        """The client has said its name."""
        if name == dialects.OLD_CLIENT:
            self._old.add(connection)
        else:
            self._old.discard(connection)

    def forget(self, connection: int) -> None:
        """It is gone."""
        self._old.discard(connection)

    def is_old(self, connection: int) -> bool:
        """Whether its client takes any `error` in a reply for one."""
        return connection in self._old

    def name_of(self, connection: int) -> str:
        """The name that decides which words the client knows."""
        return dialects.OLD_CLIENT if connection in self._old else ""

    def storing(self, account: str, place: dialects.Place) -> Storing:
        """What is published to `place`; raises InvalidField."""
        priority = place.dialect.priority_of(place.word)
        target = self._mailboxes.target(account, place.address)
        window_ms = self._mailboxes.duplicate_window_ms
        return Storing(target, place.dialect, priority, window_ms)

    def list_messages(
        self, target: Target, connection: int, _: bytes | None, payload: bytes, call: Call
    ) -> None:
        """MAILBOX.LIST: what is visible, without payloads, by msg_id."""
        query = requests.parse_list(target.ref, payload)
        if not target.shard.may(DIALECTS):
            raise Unavailable("not before all nodes of the cluster run this version")
        words = dialects.as_told_to(dialects.DIALECT_001, self.name_of(connection)).shown

        def done(found: MessagesRead | Refused) -> None:
            if isinstance(found, Refused):
                call.refuse(found.error)
            else:
                call.reply(replies.listed(found, words))

        target.shard.query(query, done, self._mailboxes.owner(connection))


def refuse_to_publish(_: str, __: int, ___: bytes | None, ____: bytes, call: Call) -> None:
    """PUBLIC.LIST can only be subscribed to."""
    call.refuse(PermissionDenied(OWN_LIST))

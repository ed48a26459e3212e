"""The older documents' dialects: their subjects, their words for priorities, and what a pushed
message looks like. Pure; called by gateway (which subscriptions are pushes) and broker.

Source: docs/protocol.md, section 8. Two of them push: a subscription to `<prefix><address>.<word>`
is given the messages of a mailbox, and what is published to such a subject is stored.
"""

from typing import Final, NamedTuple

import orjson

from mq9cluster.domain.address import MailAddress, parse_address
from mq9cluster.domain.errors import InvalidField
from mq9cluster.domain.message import ALL_PRIORITIES, Message, Priority
from mq9cluster.protocol import nats_headers

PUBLIC_LIST: Final = "$mq9.AI.PUBLIC.LIST"
OLD_CLIENT: Final = "robustmq-mq9-python"  # the CONNECT name of dialect 001's published client
ANY: Final = "*"


class Dialect(NamedTuple):
    """How one of them names things; `shown` are the words by priority that readers are told."""

    prefix: str
    words: dict[str, Priority]
    shown: tuple[str, str, str, str]

    def priorities_of(self, word: str) -> int:
        """What a subscription to `word` wants, as a set (see domain.message); raises InvalidField.

        It wants what readers are shown under that word, so that whoever has fewer words misses
        nothing.
        """
        if word == ANY:
            return ALL_PRIORITIES
        named = {self.priority_of(word)}
        named |= {Priority(at) for at, shown in enumerate(self.shown) if shown == word}
        return sum(1 << priority for priority in named)

    def priority_of(self, word: str) -> Priority:
        """What a message published under `word` gets; raises InvalidField."""
        priority = self.words.get(word)
        if priority is None:
            raise InvalidField("priority", f"must be one of {', '.join(self.words)}")
        return priority


_WORDS_001: Final = {
    "critical": Priority.CRITICAL,
    "urgent": Priority.URGENT,
    "high": Priority.URGENT,
    "normal": Priority.NORMAL,
    "low": Priority.LOW,
}
_WORDS_000: Final = {
    "urgent": Priority.URGENT,
    "normal": Priority.NORMAL,
    "notify": Priority.LOW,
}
_MAILBOX_MSG: Final = "$mq9.AI.MAILBOX.MSG."
DIALECT_001: Final = Dialect(_MAILBOX_MSG, _WORDS_001, ("critical", "urgent", "normal", "low"))
# Its published client knows no other words, and fails on a listing that holds one.
DIALECT_001_OLD: Final = Dialect(_MAILBOX_MSG, _WORDS_001, ("high", "high", "normal", "low"))
DIALECT_000: Final = Dialect("$mq9.AI.INBOX.", _WORDS_000, ("urgent", "urgent", "normal", "notify"))


class Place(NamedTuple):
    """What a subject of a dialect names: a mailbox, and a word for priorities."""

    dialect: Dialect
    address: MailAddress
    word: str


def place_of(subject: str) -> Place | None:
    """The place a subject names, None if it is no dialect's; raises InvalidMailAddress.

    An address may hold dots: the last token is the word.
    """
    for dialect in (DIALECT_001, DIALECT_000):
        if subject.startswith(dialect.prefix):
            address, _, word = subject[len(dialect.prefix) :].rpartition(".")
            return Place(dialect, parse_address(address), word)
    return None


def as_told_to(dialect: Dialect, client: str) -> Dialect:
    """The words for a client that gave this name at CONNECT."""
    return DIALECT_001_OLD if dialect is DIALECT_001 and client == OLD_CLIENT else dialect


def pushed(place: Place, message: Message) -> tuple[bytes, bytes]:
    """(subject, header block) of a message that is pushed: what the sender said of it, and what a
    reader would be told in a FETCH.
    """
    shown = place.dialect.shown[message.priority]
    meta = orjson.loads(message.meta) if message.meta else {}
    own = [
        ("mq9-msg-id", str(message.msg_id)),
        ("mq9-priority", shown),
        ("mq9-create-time", str(message.created_ms // 1000)),
    ]
    if message.key:
        own.append(("mq9-key", message.key))
    if "tags" in meta:
        own.append(("mq9-tags", ",".join(meta["tags"])))
    word = shown if place.word == ANY else place.word
    subject = f"{place.dialect.prefix}{place.address}.{word}".encode()
    sent = meta.get("header", {}).items()
    own += [(nats_headers.one_line(name), nats_headers.one_line(value)) for name, value in sent]
    return subject, nats_headers.encode(own)

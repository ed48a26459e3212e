"""Keys of a shard's rows, relative to the shard: fixed width and big-endian, so that an ordered
scan is delivery order.

A mailbox's rows share a ten-byte prefix: `slot u16 | mailbox number u64`. Numbers are never
reused, so rows of a mailbox that is gone can be dropped late without ever being taken for those of
its successor.
"""

import struct
from enum import IntEnum

from mq9cluster.domain.command import Owner

SHARD_ROW = b"shard"

PREFIX_BYTES = 10
_PREFIX = struct.Struct(">HQ").pack
_PLACE = struct.Struct(">BQ")
_DUE = struct.Struct(">QB")
_OWNER = struct.Struct(">QQQ")

PRIORITIES = 4
NEVER_ID = 2**62  # no mailbox gets there; a row holds it
DELAYED = 0xD0  # stands where the priority stands: after all that is visible

AGENT_CARDS = b"C"
AGENTS_SEEN = b"S"
_AGENTS_OF = b"M"

# Not a slot: rows that belong to no mailbox sort behind all mailboxes.
_OWNERS = b"\xff\xffO"
_ENDED = b"\xff\xffE"


class Due(IntEnum):
    """What falls due; at the same instant in this order."""

    MAILBOX_EXPIRY = 1
    PROMOTION = 2
    MESSAGE_EXPIRY = 3
    ACK_WAIT = 4
    NACK_DELAY = 5
    DUPLICATE = 6
    GROUP_IDLE = 7
    RETAIN_SWEEP = 8
    PURGE = 9
    RELEASE = 10
    AGENT_EXPIRY = 11
    DROP_CODES = 12


def prefix(slot: int, number: int) -> bytes:
    """What all rows of one mailbox begin with."""
    return _PREFIX(slot, number)


def mailbox(slot: int, ref: bytes) -> bytes:
    """MAILBOXES: the mailbox's own row."""
    return slot.to_bytes(2, "big") + ref


def place(priority: int, msg_id: int) -> bytes:
    """Behind a mailbox's prefix in MESSAGES; DELAYED takes the place of a priority."""
    return _PLACE.pack(priority, msg_id)


def place_of(key: bytes) -> tuple[int, int]:
    """(priority, msg_id) of a MESSAGES key."""
    priority, msg_id = _PLACE.unpack_from(key, PREFIX_BYTES)
    return priority, msg_id


def by_key(mailbox_prefix: bytes, key: bytes) -> bytes:
    """INDEX: the newest message with this key."""
    return mailbox_prefix + b"K" + key


def by_dedupe_id(mailbox_prefix: bytes, dedupe_id: bytes) -> bytes:
    """INDEX: the message a sender's own id was given."""
    return mailbox_prefix + b"D" + dedupe_id


def group(mailbox_prefix: bytes, name: str) -> bytes:
    """What all rows of one group begin with in GROUPS; names have no control characters."""
    return mailbox_prefix + name.encode() + b"\0"


def agent_card(slot: int, ref: bytes) -> bytes:
    """AGENTS: what an agent says of itself."""
    return AGENT_CARDS + slot.to_bytes(2, "big") + ref


def agent_seen(slot: int, ref: bytes) -> bytes:
    """AGENTS: when it was last heard of, and what it said; cards and these sort alike."""
    return AGENTS_SEEN + slot.to_bytes(2, "big") + ref


def agent_ref_of(key: bytes) -> bytes:
    """The agent's reference in either key."""
    return key[3:]


def agents_of(mailbox_ref: bytes) -> bytes:
    """AGENTS: how many agents of this shard have that mailbox; their names follow behind it."""
    return _AGENTS_OF + mailbox_ref + b"\0"


def due(at_ms: int, kind: int, rest: bytes) -> bytes:
    """SCHEDULE: time-ordered."""
    return _DUE.pack(at_ms, kind) + rest


def due_of(key: bytes) -> tuple[int, int, bytes]:
    """(at_ms, kind, rest) of a SCHEDULE key."""
    at_ms, kind = _DUE.unpack_from(key)
    return at_ms, kind, key[_DUE.size :]


def due_until(at_ms: int) -> bytes:
    """SCHEDULE: behind everything due at `at_ms` or before."""
    return (at_ms + 1).to_bytes(8, "big")


def due_from(at_ms: int) -> bytes:
    """SCHEDULE: before everything due at `at_ms`."""
    return at_ms.to_bytes(8, "big")


def owner(whose: Owner) -> bytes:
    """GROUPS: what the rows of one owner begin with."""
    return _OWNERS + _OWNER.pack(*whose)


def owner_of(key: bytes) -> tuple[Owner, bytes]:
    """(owner, prefix and name of the group) of an owner's row."""
    at = len(_OWNERS)
    return Owner(*_OWNER.unpack_from(key, at)), key[at + _OWNER.size :]


def owners_of_run(node: int, incarnation: int) -> tuple[bytes, bytes]:
    """GROUPS: the range of owners of a node's runs up to `incarnation`."""
    return owner(Owner(node, 0, 0)), owner(Owner(node, incarnation + 1, 0))


def ended_run(node: int) -> bytes:
    """GROUPS: the last run of a node that was ended."""
    return _ENDED + node.to_bytes(8, "big")


def after(key_prefix: bytes) -> bytes:
    """The smallest key behind all that begin with `key_prefix`, which is not all 0xff."""
    stripped = key_prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])

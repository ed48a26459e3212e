"""Mail addresses and agents' names, and where they live: references and their slots.

Both belong to an account, as NATS subjects do. Inside the broker a mailbox is named by its
*reference*, the bytes `account NUL address`, which travels in commands and is the key of the
mailbox's row; an agent likewise, by `account NUL name`.
"""

import re
import zlib
from typing import NewType

from mq9cluster.domain.errors import InvalidMailAddress
from mq9cluster.domain.limits import ADDRESS_CHARS_MAX, DEAD_LETTER_SUFFIX, SLOTS

MailAddress = NewType("MailAddress", str)
MailboxRef = NewType("MailboxRef", bytes)
AgentRef = NewType("AgentRef", bytes)

GLOBAL_ACCOUNT = "$G"
_VALID = re.compile(r"(?!.*\.\.)[a-z0-9](?:[a-z0-9.]*[a-z0-9])?", re.ASCII)
_DEAD_LETTERS = DEAD_LETTER_SUFFIX.encode()
_PUBLIC_LIST = b"$public"  # no address holds a "$"
_ALLOWED = re.compile(r"[a-z0-9.]*", re.ASCII)


def parse_address(raw: str) -> MailAddress:
    """The address in `raw`, or InvalidMailAddress saying what is wrong with it."""
    if len(raw) <= ADDRESS_CHARS_MAX and _VALID.fullmatch(raw):
        return MailAddress(raw)
    raise InvalidMailAddress(_what_is_wrong(raw))


def _what_is_wrong(raw: str) -> str:
    if not raw:
        return "empty"
    if len(raw) > ADDRESS_CHARS_MAX:
        return f"longer than {ADDRESS_CHARS_MAX} characters"
    if not _ALLOWED.fullmatch(raw):
        return "only a-z, 0-9 and . are allowed"
    if ".." in raw:
        return "two dots in a row"
    return "must begin and end with a letter or digit"


def mailbox_ref(account: str, address: str) -> MailboxRef:
    """How commands and keys name the mailbox `address` of `account`."""
    return MailboxRef(f"{account}\0{address}".encode())


def address_of(ref: bytes) -> MailAddress:
    """The address in a mailbox reference."""
    return MailAddress(ref[ref.index(b"\0") + 1 :].decode())


def dead_letter_ref(ref: bytes) -> MailboxRef:
    """The mailbox that takes the dead letters of `ref`; it has the same slot."""
    return MailboxRef(ref + _DEAD_LETTERS)


def public_list_ref(ref: bytes) -> MailboxRef:
    """The mailbox in which each shard tells of public mailboxes of the account of `ref`; no client
    can name it.
    """
    return MailboxRef(ref[: ref.index(b"\0") + 1] + _PUBLIC_LIST)


def agent_ref(account: str, name: str) -> AgentRef:
    """How commands and keys name the agent `name` of `account`; neither holds a NUL."""
    return AgentRef(f"{account}\0{name}".encode())


def account_and_name(ref: bytes) -> tuple[str, str]:
    """The account and name in an agent's reference."""
    account, _, name = ref.decode().partition("\0")
    return account, name


def slot_of(ref: bytes) -> int:
    """Slot 0 to 16383 of a mailbox's or agent's reference; a mailbox and its dead letters share
    one.
    """
    return zlib.crc32(ref.removesuffix(_DEAD_LETTERS)) % SLOTS

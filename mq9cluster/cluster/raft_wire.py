"""Raft's messages between the replicas of one group, and their bytes.

Owned by `raft_engine`, its only caller; calls nothing. A message is a format byte, a kind byte,
fixed fields, and for `Append` the entries: no pickle, no names of types, nothing that could run.
Entries are raw bytes, and one copy is made of them: the engine neither looks into them nor wraps
them.

Peers are authenticated below this layer and told to `receive`; a message does not name its sender.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mq9cluster.cluster.engine import LogEntry

FORMAT = 1
"""First byte of every message; another format is dropped and counted, never guessed at."""

MESSAGE_ENTRIES_MAX = 65_536
"""Entries in one Append: a count beyond it is damage, not load (the engine sends by bytes, far
fewer).
"""


class MalformedMessage(Exception):
    """Bytes that are no message of this format."""


class VoteRequest(NamedTuple):
    """`pre`: would you vote for me in `term`? Nobody's term changes. `transfer`: the leader itself
    asked for this.
    """

    term: int
    last_index: int
    last_term: int
    pre: bool
    transfer: bool


class VoteReply(NamedTuple):
    """`term`: the one voted in; of a refusal, the voter's own."""

    term: int
    granted: bool
    pre: bool


class Append(NamedTuple):
    """Entries behind (prev_index, prev_term). `round`: the newest read round of the leader."""

    term: int
    prev_index: int
    prev_term: int
    commit: int
    round: int
    entries: Sequence[LogEntry]


class AppendReply(NamedTuple):
    """`ok`: the log equals the leader's up to `index`, on disk. Otherwise `index` is the prev_index
    that did not match,

    and the hint names the newest place at which the two logs may still agree.
    """

    term: int
    round: int
    ok: bool
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    hint_index: int
    hint_term: int


class Heartbeat(NamedTuple):
    """`commit`: never above what the receiver has acknowledged in this term."""

    term: int
    commit: int
    round: int


class HeartbeatReply(NamedTuple):
    """The receiver's term, and the round it heard of."""

    term: int
    round: int


class TimeoutNow(NamedTuple):
    """The leader asks the receiver to stand for election at once."""

    term: int


RaftMessage = (
    VoteRequest | VoteReply | Append | AppendReply | Heartbeat | HeartbeatReply | TimeoutNow
)

_HEAD = struct.Struct("<BB")
_ENTRY = struct.Struct("<QI")
_APPEND = struct.Struct("<BBQQQQQI")
_KIND_APPEND = 3
_KINDS: dict[int, tuple[struct.Struct, Callable[..., RaftMessage]]] = {
    1: (struct.Struct("<BBQQQ??"), VoteRequest),
    2: (struct.Struct("<BBQ??"), VoteReply),
    4: (struct.Struct("<BBQQ?QQQ"), AppendReply),
    5: (struct.Struct("<BBQQQ"), Heartbeat),
    6: (struct.Struct("<BBQQ"), HeartbeatReply),
    7: (struct.Struct("<BBQ"), TimeoutNow),
}
_KIND_OF = {message: (kind, layout) for kind, (layout, message) in _KINDS.items()}


def encode(message: RaftMessage) -> bytes:
    """The bytes of `message`."""
    if isinstance(message, Append):
        return _encode_append(message)
    kind, layout = _KIND_OF[type(message)]
    return layout.pack(FORMAT, kind, *message)


def decode(data: bytes) -> RaftMessage:
    """The message in `data`. Raises MalformedMessage."""
    try:
        version, kind = _HEAD.unpack_from(data)
        if version != FORMAT:
            raise MalformedMessage(f"format {version}, this build speaks {FORMAT}")
        if kind == _KIND_APPEND:
            return _decode_append(data)
        layout, message = _KINDS[kind]
        return message(*layout.unpack(data)[2:])
    except struct.error as error:
        raise MalformedMessage(str(error)) from error
    except KeyError as error:
        raise MalformedMessage(f"no message of kind {error}") from error


def _encode_append(message: Append) -> bytes:
    entries = message.entries
    parts = [_APPEND.pack(FORMAT, _KIND_APPEND, *message[:5], len(entries))]
    for _, term, data in entries:
        parts.append(_ENTRY.pack(term, len(data)))
        parts.append(data)
    return b"".join(parts)


def _decode_append(data: bytes) -> Append:
    _, _, term, prev_index, prev_term, commit, round_, count = _APPEND.unpack_from(data)
    if count > MESSAGE_ENTRIES_MAX:
        raise MalformedMessage(f"{count} entries")
    place = _APPEND.size
    entries = []
    for index in range(prev_index + 1, prev_index + 1 + count):
        entry_term, size = _ENTRY.unpack_from(data, place)
        place += _ENTRY.size + size
        if place > len(data):
            raise MalformedMessage(f"entry {index} is cut short")
        entries.append(LogEntry(index, entry_term, data[place - size : place]))
    if place != len(data):
        raise MalformedMessage(f"{len(data) - place} bytes behind the last entry")
    return Append(term, prev_index, prev_term, commit, round_, entries)

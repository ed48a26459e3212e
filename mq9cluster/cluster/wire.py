"""What nodes ask of each other and answer, field by field; the bytes inside the messages of
proto/peers.proto.

A request names its shard first. An answer begins with what it is: the thing asked for, a refusal
that a client is to be told, or that this node does not lead (nothing was done) or no longer does
(it may have been). Used by `links`.
"""

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

import orjson

from mq9cluster.domain.command import FetchMessages, Owner
from mq9cluster.domain.errors import error_of
from mq9cluster.domain.message import Message
from mq9cluster.domain.outcome import Refused
from mq9cluster.domain.read import Browse, Follow, MessagesRead, Query
from mq9cluster.machine.codec import (
    PARCEL_HEAD_BYTES,
    UnknownFormat,
    decode_command,
    encode_command,
)


class Kind(IntEnum):
    """What is asked."""

    PARCEL = 1
    FETCH = 2
    QUERY = 3
    META = 4
    OVERVIEW = 5
    FIND_CONFIRM = 32  # of several shards at once, in JSON; so are those that follow
    FIND_STATISTICS = 33
    FIND_ANSWERS = 34
    FIND_CARDS = 35
    EMBED = 36
    TRACES = 64


class Answer(IntEnum):
    """What an answer is."""

    GIVEN = 0
    NOT_LEADER = 1
    REFUSED = 2
    MAYBE = 3


FIND_FORMAT: Final = 1
NOT_LEADER: Final = bytes([Answer.NOT_LEADER])
MAYBE: Final = bytes([Answer.MAYBE])

Client = Owner | None  # on whose account something is read, so that nobody's turn is another's

_SHARD = struct.Struct(">H")
_FETCH = struct.Struct(">HIc")
_MESSAGE = struct.Struct(">QBQQHII")
_HANDOUT = struct.Struct(">H")


def given(data: bytes) -> bytes:
    """The thing asked for."""
    return bytes([Answer.GIVEN]) + data


def refused(outcome: Refused) -> bytes:
    """A refusal that a client is to be told."""
    error = outcome.error
    return bytes([Answer.REFUSED]) + orjson.dumps([error.code, str(error)])


def not_leader(leader: str) -> bytes:
    """Nothing was done; try `leader`, if it names one."""
    return NOT_LEADER + leader.encode()


def open_answer(data: bytes) -> tuple[Answer, bytes]:
    """What an answer is, and the rest. Raises UnknownFormat."""
    try:
        return Answer(data[0]), data[1:]
    except (ValueError, IndexError) as error:
        raise UnknownFormat("an answer of an unknown kind") from error


def read_refusal(data: bytes) -> Refused:
    """The refusal that `refused` wrote."""
    code, text = orjson.loads(data)
    return Refused(error_of(code, text))


# --- requests ------------------------------------------------------------------------------------


def parcel_request(shard: int, parcel: bytes) -> bytes:
    """Apply this parcel."""
    return _SHARD.pack(shard) + parcel


def traces_request(shard: int, parcel: bytes, traces: Sequence[str]) -> bytes:
    """These traces are in the parcel that follows, of which the head is enough."""
    return _SHARD.pack(shard) + parcel[:PARCEL_HEAD_BYTES] + ",".join(traces).encode()


def read_traces(data: bytes) -> tuple[int, bytes, list[str]]:
    """(shard, a parcel's head, traces). Raises UnknownFormat."""
    shard, rest = read_shard(data)
    head, traces = rest[:PARCEL_HEAD_BYTES], rest[PARCEL_HEAD_BYTES:]
    if len(head) < PARCEL_HEAD_BYTES or not traces.isascii():
        raise UnknownFormat("traces of no parcel")
    return shard, head, traces.decode().split(",")


def read_shard(data: bytes) -> tuple[int, bytes]:
    """The shard a request is for, and the rest."""
    return _SHARD.unpack_from(data)[0], data[_SHARD.size :]


def fetch_request(
    shard: int, request: FetchMessages | Browse | Follow, wait_ms: int, client: Client
) -> bytes:
    """Serve this FETCH of `client`, waiting so long."""
    if isinstance(request, FetchMessages):
        return _FETCH.pack(shard, wait_ms, b"G") + encode_command(request)
    fields = [request.mailbox.decode(), *request[1:], _told(client)]
    form = b"B" if isinstance(request, Browse) else b"F"
    return _FETCH.pack(shard, wait_ms, form) + orjson.dumps(fields)


def read_fetch(data: bytes) -> tuple[int, FetchMessages | Browse | Follow, int, Client]:
    """(shard, FETCH, how long to wait in ms, whose). Raises UnknownFormat."""
    shard, wait_ms, form = _FETCH.unpack_from(data)
    rest = data[_FETCH.size :]
    if form == b"B":
        mailbox, deliver, from_value, tags, num_msgs, client = orjson.loads(rest)
        browse = Browse(mailbox.encode(), deliver, from_value, tuple(tags), num_msgs)
        return shard, browse, wait_ms, _client(client)
    if form == b"F":
        mailbox, number, starts, *more, client = orjson.loads(rest)
        follow = Follow(mailbox.encode(), number, tuple(starts), *more)
        return shard, follow, wait_ms, _client(client)
    command = decode_command(rest)
    if not isinstance(command, FetchMessages):
        raise UnknownFormat("a FETCH that is none")
    return shard, command, wait_ms, command.owner


def query_request(shard: int, query: Query, client: Client) -> bytes:
    """Answer this QUERY of `client`."""
    mailbox, key, tags, since, limit, bare = query
    fields: list[Any] = [mailbox.decode(), key.decode(), tags, since, limit, _told(client)]
    if bare:  # older versions know no more fields
        fields.append(bare)
    return _SHARD.pack(shard) + orjson.dumps(fields)


def read_query(data: bytes) -> tuple[int, Query, Client]:
    """(shard, QUERY, whose)."""
    shard, rest = read_shard(data)
    mailbox, key, tags, since, limit, client, *bare = orjson.loads(rest)
    query = Query(mailbox.encode(), key.encode(), tuple(tags), since, limit, *bare)
    return shard, query, _client(client)


def _told(client: Client) -> list[int] | None:
    return None if client is None else list(client)


def _client(fields: list[int] | None) -> Client:
    return None if fields is None else Owner(*fields)


def find_request(fields: Mapping[str, Any]) -> bytes:
    """What one who looks for agents asks; `finding` and `finding_service` know the fields."""
    return bytes([FIND_FORMAT]) + orjson.dumps(fields)


def read_find_request(data: bytes) -> Mapping[str, Any]:
    """The fields that `find_request` wrote. Raises UnknownFormat."""
    if data[:1] != bytes([FIND_FORMAT]):
        raise UnknownFormat("a question of an unknown format")
    fields: Mapping[str, Any] = orjson.loads(data[1:])
    return fields


# --- what was read -------------------------------------------------------------------------------


def messages(found: MessagesRead) -> bytes:
    """The messages of a FETCH or QUERY."""
    handout = found.handout.encode()
    parts = [_HANDOUT.pack(len(handout)), handout]
    for message in found.messages:
        key = message.key.encode()
        sizes = (len(key), len(message.meta), len(message.payload))
        head = (message.msg_id, message.priority, message.created_ms, message.expires_ms)
        parts += (_MESSAGE.pack(*head, *sizes), key, message.meta, message.payload)
    return b"".join(parts)


def read_messages(data: bytes) -> MessagesRead:
    """What `messages` wrote."""
    (size,) = _HANDOUT.unpack_from(data)
    at = _HANDOUT.size + size
    handout = data[_HANDOUT.size : at].decode()
    found: list[Message] = []
    while at < len(data):
        msg_id, priority, created_ms, expires_ms, *sizes = _MESSAGE.unpack_from(data, at)
        at += _MESSAGE.size
        key = data[at : (at := at + sizes[0])].decode()
        meta = data[at : (at := at + sizes[1])]
        payload = data[at : (at := at + sizes[2])]
        found.append(Message(msg_id, priority, created_ms, expires_ms, key, meta, payload))
    return MessagesRead(found, handout)

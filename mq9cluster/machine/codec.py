"""How commands and entries travel and are kept in the log.

An entry is `version u8 | stamp u64 | count u32` and so many parcels, each behind its length. A
parcel is what one node gathered in one turn: `node u64 | incarnation u64 | sequence u64 | confirmed
u64 | count u32 | lengths u32… | commands…`: the lengths stand together, so that a batch of a
thousand is cut up without a loop over headers. A command is `kind
u8 | …`; SEND, which nearly all are, is binary; the others are `kind u8 | ref length u16 | ref | …`
with a JSON array of their fields, short and rare, or with what `agent_codec` writes.

A replica that meets a version or kind it does not know stops instead of guessing: `UnknownFormat`.
"""

import struct
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from sys import byteorder
from typing import Any, NamedTuple

import orjson

from mq9cluster.domain.command import (
    AckMessages,
    Command,
    CreateMailbox,
    DeleteMessage,
    DropEmbedder,
    EndConnection,
    EndIncarnation,
    Expire,
    FetchMessages,
    NackMessage,
    Owner,
    RegisterAgent,
    ReportAgent,
    ReportAgents,
    SendMessage,
    SetAgentCode,
    UnregisterAgent,
    UnregisterAgents,
)
from mq9cluster.domain.errors import error_of
from mq9cluster.domain.message import ALL_PRIORITIES
from mq9cluster.domain.outcome import (
    AgentRegistered,
    AgentsReported,
    AgentsUnregistered,
    Done,
    HandedOut,
    MailboxCreated,
    MessageStored,
    Outcome,
    Refused,
)
from mq9cluster.machine import agent_codec

ENTRY_VERSION = 1
_ENTRY = struct.Struct(">BQI")
_LENGTH = struct.Struct(">I")
_PARCEL = struct.Struct(">QQQQI")
_SEND_KIND = 1
_SEND = struct.Struct(">BBBH")
_SEND_MORE = struct.Struct(">IIHIHI")
_PLAIN, _FULL = 0, 1
REPORT_KIND = 11
_PLAIN_SEND = bytes((_SEND_KIND, _PLAIN))
_HEAD = struct.Struct(">BH")


class UnknownFormat(Exception):
    """An entry or command written by a newer version, or no entry at all."""


# --- commands ------------------------------------------------------------------------------------


# What reading fields that are missing, or of other kinds than ours write, may raise.
_MALFORMED = (struct.error, AttributeError, IndexError, KeyError, TypeError, ValueError)


def encode_command(command: Command) -> bytes:
    """The command's bytes."""
    if type(command) is SendMessage:
        return _encode_send(command)
    plain = _PLAIN_ENCODERS.get(type(command))
    if plain is not None:
        kind, write = plain
        ref, rest = write(command)
        return _HEAD.pack(kind, len(ref)) + ref + rest
    kind, encode = _ENCODERS[type(command)]
    ref, fields = encode(command)
    return _HEAD.pack(kind, len(ref)) + ref + orjson.dumps(fields, default=list)


def decode_command(data: bytes) -> Command:
    """The command `data` says; raises UnknownFormat."""
    try:
        return _decode_command(data)
    except _MALFORMED as error:
        raise UnknownFormat(f"a command of {len(data)} bytes: {error}") from error


def _decode_command(data: bytes) -> Command:
    kind = data[0]
    if kind == _SEND_KIND:
        return _decode_send(data)
    end = _HEAD.size + int.from_bytes(data[1:3], "big")
    read = _PLAIN_DECODERS.get(kind)
    if read is not None:
        return read(data[_HEAD.size : end], data[end:])
    decode = _DECODERS.get(kind)
    if decode is None:
        raise UnknownFormat(f"command kind {kind}")
    return decode(data[_HEAD.size : end], orjson.loads(data[end:]))


def _encode_send(command: SendMessage) -> bytes:
    ref, payload, priority, key, meta, ttl_s, delay_s, dedupe_id, window_ms = command
    if not (key or meta or ttl_s or delay_s or dedupe_id):
        return plain_send_head(ref, priority) + payload
    return b"".join(
        (
            _SEND.pack(_SEND_KIND, _FULL, priority, len(ref)),
            ref,
            _SEND_MORE.pack(ttl_s, delay_s, len(key), len(meta), len(dedupe_id), window_ms),
            key,
            meta,
            dedupe_id,
            payload,
        )
    )


def _decode_send(data: bytes) -> SendMessage:
    _, form, priority, ref_bytes = _SEND.unpack_from(data)
    at = 5 + ref_bytes
    ref = data[5:at]
    if len(ref) < ref_bytes:
        raise UnknownFormat("a SEND that was cut short")
    if form == _PLAIN:
        return SendMessage(ref, data[at:], priority)
    ttl_s, delay_s, key_bytes, meta_bytes, id_bytes, window_ms = _SEND_MORE.unpack_from(data, at)
    at += _SEND_MORE.size
    if at + key_bytes + meta_bytes + id_bytes > len(data):
        raise UnknownFormat("a SEND that was cut short")
    key = data[at : (at := at + key_bytes)]
    meta = data[at : (at := at + meta_bytes)]
    dedupe_id = data[at : (at := at + id_bytes)]
    return SendMessage(ref, data[at:], priority, key, meta, ttl_s, delay_s, dedupe_id, window_ms)


# A plain SEND is a head, the same for all to one mailbox at one priority, and the payload.


def plain_send_head(ref: bytes, priority: int) -> bytes:
    """What stands before the payload of a plain SEND."""
    return _SEND.pack(_SEND_KIND, _PLAIN, priority, len(ref)) + ref


def plain_send_payload_at(data: bytes) -> int:
    """Where the payload of a plain SEND begins."""
    return 5 + (data[3] << 8 | data[4])


def plain_send_to(head: bytes) -> tuple[bytes, int]:
    """(mailbox reference, priority) of a plain SEND's head."""
    return head[5:], head[2]


def is_plain_send(data: bytes) -> bool:
    """Which of the two kinds that stay bytes a command is."""
    return data[0] == _SEND_KIND


def decode_plain_send(data: bytes) -> SendMessage:
    """A plain SEND as a command."""
    return _decode_send(data)


def plain_report(ref: bytes, info: bytes) -> bytes:
    """A REPORT by name, encoded: its kind, two bytes of the reference's length, the reference, and
    what it says.
    """
    return _HEAD.pack(REPORT_KIND, len(ref)) + ref + info


def plain_report_parts(data: bytes) -> tuple[bytes, bytes]:
    """(agent reference, what it says) of one."""
    end = 3 + (data[1] << 8 | data[2])
    return data[3:end], data[end:]


def is_heartbeat(command: Command | bytes) -> bool:
    """Whether a command of an opened parcel may wait for others to share an entry with."""
    if isinstance(command, bytes):
        return command[0] == REPORT_KIND
    return isinstance(command, ReportAgents)


def _decode_fetch(ref: bytes, fields: list[Any]) -> FetchMessages:
    group, owner, consumer, deliver, from_value, force, tags, num_msgs, *rest = fields
    ack_wait_ms, resume, *priorities = rest
    return FetchMessages(
        ref, group, Owner(*owner), consumer, deliver, from_value, force, tuple(tags), num_msgs,
        ack_wait_ms, tuple(resume), *priorities,
    )  # fmt: skip


def _create_fields(command: CreateMailbox) -> list[Any]:
    """Without what is only said of dialects' mailboxes, where it is not: older versions read it."""
    fields = list(command[1:])
    return fields if command.public or command.latest else fields[:-2]


def _fetch_fields(command: FetchMessages) -> list[Any]:
    fields = list(command[1:])
    return fields if command.priorities != ALL_PRIORITIES else fields[:-1]


def _decode_ack(ref: bytes, fields: list[Any]) -> AckMessages:
    group, msg_id, owner, handout, scope = fields
    return AckMessages(ref, group, msg_id, Owner(*owner), handout, scope)


def _decode_nack(ref: bytes, fields: list[Any]) -> NackMessage:
    group, msg_id, owner, delay_s = fields
    return NackMessage(ref, group, msg_id, Owner(*owner), delay_s)


_Encoder = Callable[..., tuple[bytes, list[Any]]]

_ENCODERS: dict[type, tuple[int, _Encoder]] = {
    CreateMailbox: (2, lambda c: (c.mailbox, _create_fields(c))),
    FetchMessages: (3, lambda c: (c.mailbox, _fetch_fields(c))),
    AckMessages: (4, lambda c: (c.mailbox, list(c[1:]))),
    NackMessage: (5, lambda c: (c.mailbox, list(c[1:]))),
    DeleteMessage: (6, lambda c: (c.mailbox, [c.msg_id])),
    EndConnection: (7, lambda c: (b"", list(c.owner))),
    EndIncarnation: (8, lambda c: (b"", list(c))),
    Expire: (9, lambda _: (b"", [])),
    UnregisterAgent: (12, lambda c: (c.agent, [])),
    UnregisterAgents: (13, lambda c: (c.mailbox, [c.after])),
    ReportAgents: (14, lambda c: (c.mailbox, [c.report_info.decode(), c.after])),
    DropEmbedder: (16, lambda c: (b"", [c.embedder])),
}

_PLAIN_ENCODERS: dict[type, tuple[int, Callable[[Any], tuple[bytes, bytes]]]] = {
    RegisterAgent: (10, agent_codec.encode_register),
    ReportAgent: (REPORT_KIND, agent_codec.encode_report),
    SetAgentCode: (15, agent_codec.encode_set_code),
}

_DECODERS: dict[int, Callable[[bytes, list[Any]], Command]] = {
    2: lambda ref, fields: CreateMailbox(ref, *fields),
    3: _decode_fetch,
    4: _decode_ack,
    5: _decode_nack,
    6: lambda ref, fields: DeleteMessage(ref, *fields),
    7: lambda _, fields: EndConnection(Owner(*fields)),
    8: lambda _, fields: EndIncarnation(*fields),
    9: lambda _, __: Expire(),
    12: lambda ref, _: UnregisterAgent(ref),
    13: lambda ref, fields: UnregisterAgents(ref, *fields),
    14: lambda ref, fields: ReportAgents(ref, fields[0].encode(), fields[1]),
    16: lambda _, fields: DropEmbedder(*fields),
}

_PLAIN_DECODERS: dict[int, Callable[[bytes, bytes], Command]] = {
    10: agent_codec.decode_register,
    REPORT_KIND: agent_codec.decode_report,
    15: agent_codec.decode_set_code,
}


# --- outcomes ------------------------------------------------------------------------------------

_STORED, _REPORTED, _MIXED = b"S", b"R", b"J"


def encode_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    """What the commands of a parcel came to. Mostly a row of msg_ids, which is written as one, or
    of the times when agents that reported expire.
    """
    first = type(outcomes[0]) if outcomes else MessageStored
    if first is MessageStored:
        stored = [o.msg_id for o in outcomes if type(o) is MessageStored and not o.duplicate]
        if len(stored) == len(outcomes):
            return _STORED + _numbers(stored)
    elif first is AgentsReported:
        ones = [o for o in outcomes if type(o) is AgentsReported and o.agents == 1 and not o.resume]
        if len(ones) == len(outcomes):
            return _REPORTED + _numbers([o.expires_at_s for o in ones])
    return _MIXED + orjson.dumps([_outcome_fields(outcome) for outcome in outcomes])


def _numbers(values: list[int]) -> bytes:
    numbers = array("q", values)
    if byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()


def _read_numbers(data: bytes) -> "array[int]":
    numbers = array("q")
    numbers.frombytes(data)
    if byteorder == "little":
        numbers.byteswap()
    return numbers


def _outcome_fields(outcome: Outcome) -> list[Any]:
    if isinstance(outcome, MessageStored):
        return ["stored", outcome.msg_id, outcome.duplicate]
    if isinstance(outcome, HandedOut):
        return ["handed", outcome.handout, outcome.places, outcome.resume]
    if isinstance(outcome, MailboxCreated):
        return ["created", outcome.mailbox.decode()]
    if isinstance(outcome, AgentRegistered):
        return ["registered", *outcome]
    if isinstance(outcome, AgentsReported):
        return ["reported", *outcome]
    if isinstance(outcome, AgentsUnregistered):
        return ["unregistered", *outcome]
    if isinstance(outcome, Refused):
        return ["refused", outcome.error.code, str(outcome.error)]
    return ["done"]


def decode_outcomes(data: bytes) -> list[Outcome]:
    """The outcomes `data` says; raises UnknownFormat."""
    try:
        return _decode_outcomes(data)
    except _MALFORMED as error:
        raise UnknownFormat(f"outcomes of {len(data)} bytes: {error}") from error


def _decode_outcomes(data: bytes) -> list[Outcome]:
    if data[:1] == _STORED:
        return [MessageStored(msg_id) for msg_id in _read_numbers(data[1:])]
    if data[:1] == _REPORTED:
        times = _read_numbers(data[1:])
        reported = {expires_at_s: AgentsReported(1, expires_at_s) for expires_at_s in set(times)}
        return [reported[expires_at_s] for expires_at_s in times]
    if data[:1] != _MIXED:
        raise UnknownFormat("outcomes of an unknown kind")
    return [_OUTCOMES[kind](*fields) for kind, *fields in orjson.loads(data[1:])]


def _handed(handout: str, places: list[list[int]], resume: list[int] | None) -> HandedOut:
    return HandedOut(
        handout,
        tuple((priority, msg_id) for priority, msg_id in places),
        (resume[0], resume[1]) if resume else None,
    )


_OUTCOMES: dict[str, Callable[..., Outcome]] = {
    "stored": MessageStored,
    "handed": _handed,
    "created": lambda mailbox: MailboxCreated(mailbox.encode()),
    "refused": lambda code, text: Refused(error_of(code, text)),
    "registered": AgentRegistered,
    "reported": AgentsReported,
    "unregistered": AgentsUnregistered,
    "done": Done,
}


# --- parcels and entries -------------------------------------------------------------------------


class Parcel(NamedTuple):
    """What tells a parcel from all others: commands that one node gathered in one turn for one
    shard.

    `sequence` counts the node's parcels for the shard from 1 in each of its runs; up to
    `confirmed` it has heard the outcomes. A parcel sent again, because a leader was lost, is the
    same parcel: it is applied once.
    """

    node: int
    incarnation: int
    sequence: int
    confirmed: int


PARCEL_OF_NOBODY = Parcel(0, 0, 0, 0)  # what a leader proposes of itself; never sent again


def encode_parcel(parcel: Parcel, commands: Sequence[bytes]) -> bytes:
    """The parcel's bytes."""
    lengths = array("I", map(len, commands))
    if byteorder == "little":
        lengths.byteswap()
    head = _PARCEL.pack(*parcel, len(commands))
    return b"".join((head, lengths.tobytes(), *commands))


def parcel_identity(data: bytes) -> Parcel:
    """What tells the parcel from all others; its first bytes suffice."""
    node, incarnation, sequence, confirmed, _ = _PARCEL.unpack_from(data)
    return Parcel(node, incarnation, sequence, confirmed)


PARCEL_HEAD_BYTES = _PARCEL.size


def decode_parcel(data: bytes) -> tuple[Parcel, list[Command]]:
    """The parcel `data` says, and its commands; raises UnknownFormat."""
    parcel, commands = open_parcel(data)
    return parcel, [_decode_command(one) if isinstance(one, bytes) else one for one in commands]


def open_parcel(data: bytes) -> tuple[Parcel, list[Command | bytes]]:
    """The parcel `data` says, and its commands, of which plain SENDs and REPORTs by name stay the
    bytes they are.

    Raises UnknownFormat.
    """
    try:
        return _open_parcel(data)
    except _MALFORMED as error:
        raise UnknownFormat(f"a parcel of {len(data)} bytes: {error}") from error


def _open_parcel(data: bytes) -> tuple[Parcel, list[Command | bytes]]:
    node, incarnation, sequence, confirmed, count = _PARCEL.unpack_from(data)
    start = _PARCEL.size + 4 * count
    lengths = array("I")
    lengths.frombytes(data[_PARCEL.size : start])
    if byteorder == "little":
        lengths.byteswap()
    ends = list(accumulate(lengths, initial=start))
    if len(lengths) != count or ends[-1] != len(data):
        raise UnknownFormat(f"a parcel of {ends[-1]} bytes has {len(data)}")
    decode = decode_command
    commands = [
        data[a:b]
        if (data[a] == REPORT_KIND and b - a >= _HEAD.size)
        or (data[a : a + 2] == _PLAIN_SEND and b - a >= _SEND.size)
        else decode(data[a:b])
        for a, b in pairwise(ends)
    ]
    return Parcel(node, incarnation, sequence, confirmed), commands


def encode_entry(stamp_ms: int, parcels: Sequence[bytes]) -> bytes:
    """One log entry of encoded parcels, stamped with the shard time (Unix ms)."""
    parts = [_ENTRY.pack(ENTRY_VERSION, stamp_ms, len(parcels))]
    for parcel in parcels:
        parts += (_LENGTH.pack(len(parcel)), parcel)
    return b"".join(parts)


def decode_entry(data: bytes) -> tuple[int, list[bytes]]:
    """(stamp in ms, encoded parcels) of an entry; raises UnknownFormat."""
    if len(data) < _ENTRY.size or data[0] != ENTRY_VERSION:
        raise UnknownFormat(f"an entry of {len(data)} bytes begins with {data[:1].hex() or '-'}")
    _, stamp_ms, count = _ENTRY.unpack_from(data)
    if count * _LENGTH.size > len(data):  # or it would count to four billion
        raise UnknownFormat(f"an entry of {len(data)} bytes with {count} parcels")
    parcels: list[bytes] = []
    at = _ENTRY.size
    for _ in range(count):
        length = int.from_bytes(data[at : (at := at + _LENGTH.size)], "big")
        parcels.append(data[at : (at := at + length)])
    if at != len(data):
        raise UnknownFormat(f"an entry of {at} bytes has {len(data)}")
    return stamp_ms, parcels

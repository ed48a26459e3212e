"""How mailboxes, messages, groups and hand-outs are written down, and the objects they become in
memory.

Every row begins with its format version. A change of a format gets a new version beside the old
one's reader.
"""

import struct
from collections.abc import Sequence
from itertools import chain, islice

from mq9cluster.domain.command import Owner
from mq9cluster.domain.limits import HANDOUTS_REMEMBERED_MAX
from mq9cluster.domain.message import Message
from mq9cluster.machine import keys
from mq9cluster.machine.idset import BUCKET_IDS, IdSet

_VERSION = 1


class UnknownRowFormat(Exception):
    """A row written by a version this one does not know; the shard stops."""

    def __init__(self, kind: str, version: int) -> None:
        super().__init__(f"{kind} row has format {version}, newer than this version reads")


def check_version(kind: str, version: int) -> None:
    """Raises UnknownRowFormat."""
    if version != _VERSION:
        raise UnknownRowFormat(kind, version)


# --- shard ---------------------------------------------------------------------------------------

_SHARD = struct.Struct(">BQQQQQ")
_SHARD_2 = struct.Struct(">BQQQQQQ")  # written where there are agents: older versions know none
_SHARD_3 = struct.Struct(">BQQQQQQQQ")  # where heartbeats of agents are in the log alone
_SHARDS = {1: _SHARD, 2: _SHARD_2, 3: _SHARD_3}


class Shard:
    """A shard's applied index, time (Unix ms), next mailbox number, and what it holds.

    `heard_from`: the first entry of which the log alone says some REPORTs, 0 for none; `heard_ms`:
    the shard's time before it.
    """

    __slots__ = (
        "agents", "applied_index", "heard_from", "heard_ms", "mailboxes", "messages",
        "next_number", "now_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.applied_index = 0
        self.now_ms = 0
        self.next_number = 1
        self.mailboxes = 0
        self.messages = 0
        self.agents = 0  # expired ones too, until they are swept
        self.heard_from = self.heard_ms = 0

    def pack(self) -> bytes:
        """The row."""
        held = (
            self.applied_index,
            self.now_ms,
            self.next_number,
            self.mailboxes,
            self.messages,
        )
        if self.heard_from:
            return _SHARD_3.pack(3, *held, self.agents, self.heard_from, self.heard_ms)
        if self.agents:
            return _SHARD_2.pack(2, *held, self.agents)
        return _SHARD.pack(1, *held)

    @classmethod
    def unpack(cls, row: bytes) -> "Shard":
        """The shard a row says."""
        shard = cls()
        form = _SHARDS.get(row[0])
        if form is None:
            raise UnknownRowFormat("shard", row[0])
        (
            _,
            shard.applied_index,
            shard.now_ms,
            shard.next_number,
            shard.mailboxes,
            shard.messages,
            *more,
        ) = form.unpack(row)
        shard.agents, shard.heard_from, shard.heard_ms = (*more, 0, 0, 0)[:3]
        return shard


# --- mailbox -------------------------------------------------------------------------------------

_MAILBOX = struct.Struct(">BBQQQIHQQQQQQHQQQQ")
_RETAIN_ACKED, _PUBLIC, _LATEST = 1, 2, 4


class Mailbox:
    """A mailbox; times in Unix ms, `expires_ms` 0: never.

    `last_of` is the highest msg_id of each priority.
    """

    __slots__ = (
        "count", "created_ms", "delayed_seq", "desc", "dirty", "expires_ms", "groups", "last_id",
        "last_of", "latest", "max_bytes", "max_deliver", "max_msgs", "number", "payload_bytes",
        "pending", "prefix", "public", "ref", "retain_acked", "slot", "ttl_s",
    )  # fmt: skip

    def __init__(self, ref: bytes, slot: int, number: int) -> None:
        self.ref = ref
        self.slot = slot
        self.number = number
        self.prefix = keys.prefix(slot, number)
        self.created_ms = 0
        self.expires_ms = 0
        self.ttl_s = 0
        self.max_deliver = 0
        self.max_msgs = 0
        self.max_bytes = 0
        self.retain_acked = False
        self.public = False
        self.latest = False
        self.desc = ""
        self.last_id = 0
        self.last_of = [0, 0, 0, 0]
        self.count = 0  # visible and delayed
        self.payload_bytes = 0
        self.groups = 0
        self.delayed_seq = 0
        self.dirty = False
        self.pending: dict[bytes, bytes | None] = {}  # MESSAGES rows the current entry has written

    def pack(self) -> bytes:
        """The row."""
        flags = _RETAIN_ACKED if self.retain_acked else 0
        flags |= (_PUBLIC if self.public else 0) | (_LATEST if self.latest else 0)
        return _MAILBOX.pack(
            _VERSION, flags, self.number, self.created_ms,
            self.expires_ms, self.ttl_s, self.max_deliver, self.max_msgs, self.max_bytes,
            self.last_id, self.count, self.payload_bytes, self.delayed_seq, self.groups,
            *self.last_of,
        ) + self.desc.encode()  # fmt: skip

    @classmethod
    def unpack(cls, ref: bytes, slot: int, row: bytes) -> "Mailbox":
        """The mailbox a row says."""
        version, flags, number, *rest = _MAILBOX.unpack_from(row)
        check_version("mailbox", version)
        self = cls(ref, slot, number)
        self.retain_acked = bool(flags & _RETAIN_ACKED)
        self.public = bool(flags & _PUBLIC)
        self.latest = bool(flags & _LATEST)
        (
            self.created_ms, self.expires_ms, self.ttl_s, self.max_deliver, self.max_msgs,
            self.max_bytes, self.last_id, self.count, self.payload_bytes, self.delayed_seq,
            self.groups, *self.last_of,
        ) = rest  # fmt: skip
        self.desc = row[_MAILBOX.size :].decode()
        return self


# --- message -------------------------------------------------------------------------------------

# version and flags in one byte: the low four bits are flags
_MESSAGE_PLAIN = _VERSION << 4
_EXPIRES, _KEYED, _META = 1, 2, 4
_CREATED = struct.Struct(">BQ")
_U64 = struct.Struct(">Q")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")


def plain_message_head(created_ms: int) -> bytes:
    """What stands before the payload in a row of a message that has nothing else."""
    return _CREATED.pack(_MESSAGE_PLAIN, created_ms)


def pack_message(
    created_ms: int, expires_ms: int, key: bytes, meta: bytes, payload: bytes
) -> bytes:
    """A MESSAGES row."""
    if not (expires_ms or key or meta):
        return _CREATED.pack(_MESSAGE_PLAIN, created_ms) + payload
    flags = (_EXPIRES if expires_ms else 0) | (_KEYED if key else 0) | (_META if meta else 0)
    parts = [_CREATED.pack(_MESSAGE_PLAIN | flags, created_ms)]
    if expires_ms:
        parts.append(_U64.pack(expires_ms))
    if key:
        parts += (_U16.pack(len(key)), key)
    if meta:
        parts += (_U32.pack(len(meta)), meta)
    parts.append(payload)
    return b"".join(parts)


def unpack_message(priority: int, msg_id: int, row: bytes) -> Message:
    """The message a MESSAGES row says."""
    flags, created_ms = _CREATED.unpack_from(row)
    check_version("message", flags >> 4)
    at = _CREATED.size
    expires_ms, key, meta = 0, b"", b""
    if flags & _EXPIRES:
        (expires_ms,) = _U64.unpack_from(row, at)
        at += 8
    if flags & _KEYED:
        (length,) = _U16.unpack_from(row, at)
        key = row[at + 2 : at + 2 + length]
        at += 2 + length
    if flags & _META:
        (length,) = _U32.unpack_from(row, at)
        meta = row[at + 4 : at + 4 + length]
        at += 4 + length
    return Message(msg_id, priority, created_ms, expires_ms, key.decode(), meta, row[at:])


def created_ms_of(row: bytes) -> int:
    """When the message became visible, without unpacking the rest."""
    return int.from_bytes(row[1:9], "big")


def is_visible(row: bytes, now_ms: int) -> bool:
    """Whether the message has not expired."""
    return not row[0] & _EXPIRES or _U64.unpack_from(row, _CREATED.size)[0] > now_ms


def has_meta(row: bytes) -> bool:
    """Whether the message has tags or a header."""
    return bool(row[0] & _META)


# A delayed message waits under its own key as: priority | dedupe flag of the future | the message
# row.


def pack_delayed(priority: int, message_row: bytes) -> bytes:
    """A MESSAGES row of a message that is not yet visible; its created_ms is that of SEND."""
    return bytes([priority]) + message_row


def unpack_delayed(row: bytes) -> tuple[int, bytes]:
    """(priority, message row)."""
    return row[0], row[1:]


def with_created_ms(message_row: bytes, created_ms: int) -> bytes:
    """The same row, created (which is: made visible) at `created_ms`."""
    return message_row[:1] + created_ms.to_bytes(8, "big") + message_row[9:]


# --- consumer group ------------------------------------------------------------------------------

Run = tuple[
    int, int, int
]  # priority, first msg_id, last msg_id: every id in between is one of the messages
_RUN = struct.Struct(">BQQ")
_GROUP = struct.Struct(">BQQQQQQQQQ")
_GROUP_2 = struct.Struct(">BQQQQQQQQQQ")  # written where an unsettled hand-out was forgotten
_HANDOUT = struct.Struct(">BBQQIQQQHHH")
_HELD_ALL, _ACTIVE = 1, 2


def runs_of(places: list[tuple[int, int]]) -> tuple[Run, ...]:
    """Sorted (priority, msg_id) places as runs of consecutive ids."""
    runs: list[Run] = []
    for priority, msg_id in places:
        if runs and runs[-1][0] == priority and runs[-1][2] == msg_id - 1:
            runs[-1] = (priority, runs[-1][1], msg_id)
        else:
            runs.append((priority, msg_id, msg_id))
    return tuple(runs)


def in_both(some: Sequence[Run], others: Sequence[Run]) -> list[Run]:
    """What two lists of runs in delivery order have in common, in that order."""
    both: list[Run] = []
    at = 0
    for priority, first, last in some:
        while at < len(others) and (others[at][0], others[at][2]) < (priority, first):
            at += 1
        for of, begin, end in islice(others, at, None):
            if (of, begin) > (priority, last):
                break
            both.append((priority, max(first, begin), min(last, end)))
    return both


class HandOut:
    """What one FETCH gave to one consumer.

    `runs` are its messages in delivery order and stay; `held` are those it still holds. It is
    active while it holds its consumer's place, afterwards it is remembered for late ACKs;
    `ended_seq` orders the remembered.
    """

    __slots__ = (
        "ack_wait_ms",
        "consumer",
        "deadline_ms",
        "ended_seq",
        "held",
        "owner",
        "runs",
        "seq",
    )

    def __init__(self, seq: int, consumer: str, owner: Owner, runs: tuple[Run, ...]) -> None:
        self.seq = seq
        self.consumer = consumer
        self.owner = owner
        self.runs = runs
        self.held: set[int] = set()
        self.ack_wait_ms = 0
        self.deadline_ms = 0
        self.ended_seq = 0

    @property
    def active(self) -> bool:
        """Whether the consumer still has it."""
        return self.ended_seq == 0

    def priority_of(self, msg_id: int) -> int | None:
        """The priority of one of its messages, or None if it is not one of them."""
        return next((run[0] for run in self.runs if run[1] <= msg_id <= run[2]), None)

    def up_to(self, msg_id: int) -> list[Run]:
        """Its messages in delivery order up to and including `msg_id`, which is one of them."""
        confirmed: list[Run] = []
        for priority, first, last in self.runs:
            if first <= msg_id <= last:
                confirmed.append((priority, first, msg_id))
                break
            confirmed.append((priority, first, last))
        return confirmed

    def strike(self, msg_id: int) -> None:
        """Take a message that was given back off: an ACK of its neighbours must not confirm it."""
        runs: list[Run] = []
        for priority, first, last in self.runs:
            if first <= msg_id <= last:
                runs += [
                    (priority, a, b) for a, b in ((first, msg_id - 1), (msg_id + 1, last)) if a <= b
                ]
            else:
                runs.append((priority, first, last))
        self.runs = tuple(runs)

    def pack(self) -> bytes:
        """The row."""
        total = sum(last - first + 1 for _, first, last in self.runs)
        held: tuple[Run, ...] = ()
        if self.held and len(self.held) < total:
            held = runs_of(
                [
                    (p, i)
                    for p, first, last in self.runs
                    for i in range(first, last + 1)
                    if i in self.held
                ]
            )
        flags = _HELD_ALL if len(self.held) == total else 0
        consumer = self.consumer.encode()
        return b"".join(
            (
                _HANDOUT.pack(
                    _VERSION, flags, self.ended_seq, self.deadline_ms, self.ack_wait_ms,
                    *self.owner, len(consumer), len(self.runs), len(held),
                ),
                consumer,
                *(_RUN.pack(*run) for run in self.runs),
                *(_RUN.pack(*run) for run in held),
            )
        )  # fmt: skip

    @classmethod
    def unpack(cls, seq: int, row: bytes) -> "HandOut":
        """The hand-out a row says."""
        (
            version, flags, ended_seq, deadline_ms, ack_wait_ms, node, incarnation, connection,
            consumer_bytes, run_count, held_count,
        ) = _HANDOUT.unpack_from(row)  # fmt: skip
        check_version("hand-out", version)
        at = _HANDOUT.size + consumer_bytes
        consumer = row[_HANDOUT.size : at].decode()
        middle = at + run_count * _RUN.size
        runs = tuple(_RUN.iter_unpack(row[at:middle]))
        self = cls(seq, consumer, Owner(node, incarnation, connection), runs)
        held = (
            runs
            if flags & _HELD_ALL
            else _RUN.iter_unpack(row[middle : middle + held_count * _RUN.size])
        )
        self.held = {i for _, first, last in held for i in range(first, last + 1)}
        self.ended_seq, self.deadline_ms, self.ack_wait_ms = ended_seq, deadline_ms, ack_wait_ms
        return self


_BUCKET = struct.Struct(">BI")


class Group:
    """A consumer group in memory: what is done, what is held by whom, what was handed out before.

    `done` and `taken` (done or held, or waiting for the delay of a NACK) are sets per priority;
    `taken` is derived, and must at any time be what a load of the rows would make of it.
    """

    __slots__ = (
        "active", "birth", "counts", "delays", "dirty", "done", "ended_seq", "forgotten_id",
        "handouts", "holder", "mailbox_ref", "name", "owner_rows", "prefix", "remembered", "seq",
        "start_ms", "taken", "unsettled", "unwritten", "used_ms",
    )  # fmt: skip

    PROGRESS_KINDS = (b"B", b"C", b"D")  # rows of what was done, counted and delayed

    def __init__(self, mailbox: Mailbox, name: str, birth: int) -> None:
        self.mailbox_ref = mailbox.ref
        self.name = name
        self.prefix = keys.group(mailbox.prefix, name)
        self.birth = birth  # unique in the shard: hand-out ids never repeat
        self.seq = 0
        self.ended_seq = 0
        self.used_ms = 0
        self.start_ms = 0  # what is created before counts as done; 0 once that time has passed
        self.done = [IdSet() for _ in range(keys.PRIORITIES)]
        self.taken = [IdSet() for _ in range(keys.PRIORITIES)]
        self.handouts: dict[int, HandOut] = {}
        self.active: dict[str, HandOut] = {}  # by consumer identity
        self.unwritten: dict[int, HandOut] = {}  # hand-outs that the current entry changed
        self.remembered: dict[int, HandOut] = {}  # ended, by seq, in the order in which they ended
        self.unsettled: dict[int, HandOut] = {}  # likewise, ended before those, not all of it done
        self.forgotten_id = 0  # ids above it were in no hand-out that was forgotten unfinished
        self.holder: dict[int, HandOut] = {}  # by msg_id
        self.counts: dict[int, int] = {}  # deliveries that came back, by msg_id
        self.delays: dict[int, tuple[int, int]] = {}  # msg_id to (priority, open again at, ms)
        self.dirty = False
        self.owner_rows: set[Owner] = set()  # owners that surely have a row that leads here

    def started_anew(self, mailbox: Mailbox) -> "Group":
        """The group with nothing done or held; what it handed out is remembered for late ACKs."""
        group = Group(mailbox, self.name, self.birth)
        group.seq, group.ended_seq = self.seq, self.ended_seq
        group.handouts, group.remembered = self.handouts, self.remembered
        group.unsettled, group.unwritten = self.unsettled, self.unwritten
        if self.ended_seq > len(self.remembered) + len(self.unsettled):
            group.forgotten_id = mailbox.last_id  # what was done in forgotten ones no longer is
        return group

    def ended_with(self, msg_id: int) -> "list[HandOut]":
        """The known hand-outs that ended and whose list has the message; the last to end last."""
        return [
            handout
            for handout in chain(self.unsettled.values(), self.remembered.values())
            if handout.priority_of(msg_id) is not None
        ]

    def reopen(self, priority: int, msg_id: int) -> None:
        """Nobody holds the message any more, nor does it wait: it is open, unless it is done.

        It can be both: a search that saw it gone closed it while somebody held it.
        """
        if msg_id not in self.done[priority]:
            self.taken[priority].discard(msg_id)

    def header_key(self) -> bytes:
        """GROUPS: the group's own row; sorts before its others."""
        return self.prefix + b"A"

    def bucket_key(self, priority: int, bucket: int) -> bytes:
        """GROUPS: a bucket of what is done."""
        return self.prefix + b"B" + _BUCKET.pack(priority, bucket)

    def handout_key(self, seq: int) -> bytes:
        """GROUPS: a hand-out."""
        return self.prefix + b"H" + _U64.pack(seq)

    def count_key(self, msg_id: int) -> bytes:
        """GROUPS: how often a message came back."""
        return self.prefix + b"C" + _U64.pack(msg_id)

    def delay_key(self, msg_id: int) -> bytes:
        """GROUPS: a message given back with a delay."""
        return self.prefix + b"D" + _U64.pack(msg_id)

    def pack(self) -> bytes:
        """The header row."""
        told = (
            self.birth,
            self.seq,
            self.ended_seq,
            self.used_ms,
            self.start_ms,
            *(done.floor for done in self.done),
        )
        if self.forgotten_id:
            return _GROUP_2.pack(2, *told, self.forgotten_id)
        return _GROUP.pack(1, *told)

    def load(self, row_key: bytes, row: bytes) -> None:
        """Take in one of the group's rows; `finish_load` after the last."""
        kind, rest = (
            row_key[len(self.prefix) : len(self.prefix) + 1],
            row_key[len(self.prefix) + 1 :],
        )
        if kind == b"A":
            self._load_header(row)
        elif kind == b"B":
            priority, bucket = _BUCKET.unpack(rest)
            self.done[priority].buckets[bucket] = int.from_bytes(row, "little")
        elif kind == b"C":
            self.counts[_U64.unpack(rest)[0]] = _U32.unpack(row)[0]
        elif kind == b"D":
            self.delays[_U64.unpack(rest)[0]] = unpack_delay(row)
        else:
            handout = HandOut.unpack(_U64.unpack(rest)[0], row)
            self.handouts[handout.seq] = handout

    def _load_header(self, row: bytes) -> None:
        if row[0] not in (1, 2):
            raise UnknownRowFormat("group", row[0])
        form = _GROUP if row[0] == 1 else _GROUP_2
        _, self.birth, self.seq, self.ended_seq, self.used_ms, self.start_ms, *rest = form.unpack(
            row
        )
        self.done = [IdSet(floor) for floor in rest[: keys.PRIORITIES]]
        self.forgotten_id = rest[keys.PRIORITIES] if row[0] > 1 else 0

    def finish_load(self) -> None:
        """Derive what is not stored."""
        self.taken = [done.copy() for done in self.done]
        for msg_id, (priority, _) in self.delays.items():
            self.taken[priority].add_range(msg_id, msg_id)
        for handout in sorted(self.handouts.values(), key=lambda handout: handout.ended_seq):
            if not handout.active:
                self.remembered[handout.seq] = handout
                continue
            self.active[handout.consumer] = handout
            for priority, first, last in handout.runs:
                for msg_id in range(first, last + 1):
                    if msg_id in handout.held:
                        self.holder[msg_id] = handout
                        self.taken[priority].add_range(msg_id, msg_id)
        while len(self.remembered) > HANDOUTS_REMEMBERED_MAX:
            oldest = self.remembered.pop(next(iter(self.remembered)))
            self.unsettled[oldest.seq] = oldest


def pack_bucket(bits: int) -> bytes:
    """A bucket row."""
    return bits.to_bytes(BUCKET_IDS // 8, "little").rstrip(b"\0")


def pack_count(count: int) -> bytes:
    """A count row."""
    return _U32.pack(count)


def pack_delay(priority: int, open_ms: int) -> bytes:
    """A NACK delay row."""
    return bytes([priority]) + _U64.pack(open_ms)


def unpack_delay(row: bytes) -> tuple[int, int]:
    """(priority, open again at, ms)."""
    return row[0], _U64.unpack_from(row, 1)[0]

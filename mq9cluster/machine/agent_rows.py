"""How agents are written down: a *card* row that changes with REGISTER, and a small *seen* row that
every REPORT writes anew.

Every row begins with its format version, as in `rows`. Times in Unix ms of shard time.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from mq9cluster.domain.address import account_and_name, slot_of
from mq9cluster.machine import keys
from mq9cluster.machine.rows import UnknownRowFormat, check_version

_VERSION = 1
_CARD = struct.Struct(">BQHHI")  # version, registered, address, codes, body
_CODE = struct.Struct(">HI")
# Version, ttl, seen, expires, due and, since 2, entry; the report_info follows.
_SEEN = {1: struct.Struct(">BIQQQ"), 2: struct.Struct(">BIQQQQ")}
_SEEN_VERSION = 2
_PACK_SEEN = _SEEN[_SEEN_VERSION].pack
_COUNT = struct.Struct(">BI")

Codes = dict[str, bytes]


class Card(NamedTuple):
    """What an agent said of itself, with its codes by embedder id."""

    registered_ms: int  # when it said so first
    address: str  # of its mailbox, or ""
    body: bytes
    codes: Codes


class Seen(NamedTuple):
    """When an agent was last heard of. `expires_ms` 0: never. `due_ms`: when the schedule looks at
    it again, 0: never. `entry`: the one that changed it last.
    """

    ttl_s: int
    seen_ms: int
    expires_ms: int
    due_ms: int
    entry: int
    report_info: bytes


class Heard:
    """The same of one agent while it is worked on, with what every heartbeat of it needs at hand:
    of those that report it is kept. `old_since`: the first entry that its row does not say; 0: it
    says all.
    """

    __slots__ = (
        "due_ms",
        "expires_ms",
        "index",
        "key",
        "old_since",
        "ref",
        "report_info",
        "seen_ms",
        "ttl_s",
        "who",
    )

    def __init__(self, ref: bytes) -> None:
        self.ref = ref
        self.who = account_and_name(ref)
        self.key = keys.agent_seen(slot_of(ref), ref)
        self.ttl_s = self.seen_ms = self.expires_ms = self.due_ms = 0
        self.index = self.old_since = 0
        self.report_info = b""

    def load(self, row: bytes) -> None:
        """Take over what its row says."""
        seen = unpack_seen(row)
        self.ttl_s, self.seen_ms, self.expires_ms, self.due_ms, self.index, self.report_info = seen

    def row(self) -> bytes:
        """Its row."""
        times = (self.ttl_s, self.seen_ms, self.expires_ms, self.due_ms)
        return _PACK_SEEN(_SEEN_VERSION, *times, self.index) + self.report_info

    def report(self, now_ms: int, report_info: bytes) -> None:
        """It reported; without `report_info` what it said before stays."""
        self.seen_ms = now_ms
        self.expires_ms = now_ms + self.ttl_s * 1000 if self.ttl_s else 0
        self.report_info = report_info or self.report_info

    def lives_at(self, now_ms: int) -> bool:
        """Whether its ttl has not passed."""
        return self.expires_ms == 0 or self.expires_ms > now_ms


def pack_card(card: Card) -> bytes:
    """A card row."""
    address = card.address.encode()
    head = (_VERSION, card.registered_ms, len(address), len(card.codes), len(card.body))
    return b"".join((_CARD.pack(*head), address, card.body, pack_codes(card.codes.items())))


def unpack_card(row: bytes) -> Card:
    """The card a row says."""
    version, registered_ms, address_bytes, count, body_bytes = _CARD.unpack_from(row)
    check_version("card", version)
    at = _CARD.size
    address = row[at : (at := at + address_bytes)].decode()
    body = row[at : (at := at + body_bytes)]
    return Card(registered_ms, address, body, dict(unpack_codes(row, at, count)))


def pack_codes(codes: Iterable[tuple[str, bytes]]) -> bytes:
    """Codes, one behind the other."""
    parts: list[bytes] = []
    for embedder, code in codes:
        name = embedder.encode()
        parts += (_CODE.pack(len(name), len(code)), name, code)
    return b"".join(parts)


def unpack_codes(data: bytes, at: int, count: int) -> list[tuple[str, bytes]]:
    """`count` codes from `at` to the end; raises ValueError where they do not end there."""
    codes: list[tuple[str, bytes]] = []
    for _ in range(count):
        name_bytes, code_bytes = _CODE.unpack_from(data, at)
        at += _CODE.size
        name = data[at : (at := at + name_bytes)].decode()
        codes.append((name, data[at : (at := at + code_bytes)]))
    if at != len(data):
        raise ValueError(f"codes to {at} in {len(data)} bytes")
    return codes


def unpack_seen(row: bytes) -> Seen:
    """What a seen row says."""
    form = _SEEN.get(row[0])
    if form is None:
        raise UnknownRowFormat("seen", row[0])
    _, ttl_s, seen_ms, expires_ms, due_ms, *entry = form.unpack_from(row)
    return Seen(ttl_s, seen_ms, expires_ms, due_ms, entry[0] if entry else 0, row[form.size :])


def pack_count(count: int) -> bytes:
    """The row that counts a mailbox's agents."""
    return _COUNT.pack(_VERSION, count)


def unpack_count(row: bytes | None) -> int:
    """How many it says; none where there is no row."""
    if row is None:
        return 0
    version, count = _COUNT.unpack(row)
    check_version("count", version)
    return int(count)

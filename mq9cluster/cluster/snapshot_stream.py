"""A group's state as a stream of checksummed frames: what travels to a follower, and one day into a
backup.

Written and read by `snapshots`; no I/O here. A frame is `length u32 | crc32 u32 | kind u8 | body`,
so that frames laid end to end are a file. First a header (JSON), then rows, then a trailer (JSON)
with their number, bytes and digest. The digest covers the rows alone, in key order, however they
were cut into frames: it is the hash of the state, equal wherever the state is.

    row   family u8 | key length u16 | value length u32 | key | value
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from struct import Struct
from typing import Any, Final
from zlib import crc32

import orjson

from mq9cluster.cluster.engine import Members
from mq9cluster.domain.failpoints import failpoint
from mq9cluster.domain.ports import Family

FORMAT: Final = 1  # of the frames; the rows' own is in the header, too
CHUNK_BYTES: Final = 128 << 10  # half a millisecond to read, and as long to write
DIGEST_BYTES: Final = 16

_FRAME = Struct(">IIB")
_CHECKED = Struct(">B")
_ROW = Struct(">BHI")

Row = tuple[int, bytes, bytes]


class MalformedSnapshot(Exception):
    """A stream that is not what a sender of this version sends, or was damaged on its way."""


class Kind(IntEnum):
    """What a frame holds."""

    HEADER = 1
    ROWS = 2
    TRAILER = 3


@dataclass(frozen=True, slots=True)
class Header:
    """Whose state it is, and where it stands. `rows_format`: of keys and values."""

    cluster_id: str
    group: int
    index: int  # of the last entry that is in the state
    term: int  # that entry's
    members: Members
    rows_format: int

    def pack(self) -> bytes:
        """The stream's first frame."""
        fields = {"format": FORMAT, **asdict(self), "members": list(self.members)}
        return frame(Kind.HEADER, orjson.dumps(fields))

    @classmethod
    def unpack(cls, data: bytes) -> "Header":
        """The header in a stream's first frame. Raises MalformedSnapshot."""
        kind, body = open_frame(data)
        if kind is not Kind.HEADER:
            raise MalformedSnapshot("it does not begin with a header")
        fields = _fields(body)
        if fields.pop("format", None) != FORMAT:
            raise MalformedSnapshot("it has another format")
        try:
            voters, learners = fields.pop("members")
            header = cls(members=Members(_names(voters), _names(learners)), **fields)
        except (TypeError, ValueError, KeyError) as error:
            raise MalformedSnapshot(f"its header is no header: {error}") from error
        numbers = ("group", "index", "term", "rows_format")
        if not isinstance(fields["cluster_id"], str) or not all(
            type(fields[name]) is int and fields[name] >= 0 for name in numbers
        ):
            raise MalformedSnapshot("its header is no header")
        return header


def _names(names: Iterable[Any]) -> tuple[str, ...]:
    found = tuple(names)
    if not all(isinstance(name, str) for name in found):
        raise ValueError("members are named by text")
    return found


def frame(kind: Kind, body: bytes) -> bytes:
    """A frame around `body`."""
    return _FRAME.pack(len(body), crc32(body, crc32(_CHECKED.pack(kind))), kind) + body


def open_frame(data: bytes) -> tuple[Kind, bytes]:
    """What a frame holds. Raises MalformedSnapshot."""
    if len(data) < _FRAME.size:
        raise MalformedSnapshot("a frame is cut off")
    length, check, number = _FRAME.unpack_from(data)
    body = data[_FRAME.size :]
    if len(body) != length or crc32(body, crc32(_CHECKED.pack(number))) != check:
        raise MalformedSnapshot("a frame does not match its checksum")
    try:
        return Kind(number), body
    except ValueError as error:
        raise MalformedSnapshot(f"a frame is of kind {number}") from error


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedSnapshot(f"no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise MalformedSnapshot("no JSON object")
    return fields


class RowsWritten:
    """Cuts rows into frames, and keeps count of them for the trailer."""

    __slots__ = ("_digest", "bytes", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES)

    @failpoint("snapshot.read")
    def take(self, rows: Iterator[Row], bytes_max: int = CHUNK_BYTES) -> bytes:
        """About `bytes_max` of rows as a frame's body, at least one row; b"" at the end."""
        pack = _ROW.pack
        pieces: list[bytes] = []
        size = 0
        for family, key, value in rows:
            pieces += (pack(family, len(key), len(value)), key, value)
            size += len(key) + len(value) + _ROW.size
            if size >= bytes_max:
                break
        body = b"".join(pieces)
        self.rows += len(pieces) // 3
        self.bytes += size
        self._digest.update(body)
        return body

    @property
    def digest(self) -> str:
        """Of all rows taken so far."""
        return self._digest.hexdigest()

    def trailer(self) -> bytes:
        """The stream's last frame."""
        fields = {"rows": self.rows, "bytes": self.bytes, "digest": self.digest}
        return frame(Kind.TRAILER, orjson.dumps(fields))


class RowsRead:
    """Takes the frames behind the header apart, and tells at the end whether all came."""

    __slots__ = ("_digest", "bytes", "complete", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self.complete = False
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES)

    @failpoint("snapshot.chunk")
    def feed(self, data: bytes) -> list[Row]:
        """The rows in a frame; none in the trailer. Raises MalformedSnapshot."""
        kind, body = open_frame(data)
        if self.complete:
            raise MalformedSnapshot("it goes on behind its end")
        if kind is Kind.TRAILER:
            self._check(_fields(body))
            self.complete = True
            return []
        if kind is not Kind.ROWS:
            raise MalformedSnapshot("it begins twice")
        rows = list(_rows(body))
        self.rows += len(rows)
        self.bytes += len(body)
        self._digest.update(body)
        return rows

    def _check(self, told: Mapping[str, object]) -> None:
        came = {"rows": self.rows, "bytes": self.bytes, "digest": self._digest.hexdigest()}
        if told != came:
            raise MalformedSnapshot(f"{came} came, {dict(told)} were sent")


_FAMILIES: Final = frozenset(Family)


def _rows(body: bytes) -> Iterator[Row]:
    unpack, head, size = _ROW.unpack_from, _ROW.size, len(body)
    at = 0
    while at < size:
        if size - at < head:
            raise MalformedSnapshot("a row is cut off")
        family, key_length, value_length = unpack(body, at)
        middle = at + head + key_length
        end = middle + value_length
        if end > size or family not in _FAMILIES:
            raise MalformedSnapshot("a row is cut off, or of no family")
        yield family, body[at + head : middle], body[middle:end]
        at = end

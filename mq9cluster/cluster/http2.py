"""HTTP/2 as bytes (RFC 9113), as far as gRPC needs it: frames in, frames out, no I/O.

Used by `grpc_connection` alone, which knows what the frames mean.
"""

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES_DEFAULT: Final = 16_384  # the largest frame, until the other side's SETTINGS allow more
WINDOW_DEFAULT: Final = 65_535
WINDOW_MAX: Final = 2**31 - 1
HEADER_TABLE_BYTES: Final = 4_096  # what header compression may remember; never more than this
CONTROL_FRAME_BYTES_MAX: Final = 32_768  # of any frame but DATA: headers of gRPC are a few hundred


class Kind(IntEnum):
    """What a frame is."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """What SETTINGS can say."""

    HEADER_TABLE_BYTES = 1
    ENABLE_PUSH = 2
    STREAMS_MAX = 3
    INITIAL_WINDOW = 4
    FRAME_BYTES_MAX = 5
    HEADER_LIST_BYTES_MAX = 6


class Code(IntEnum):
    """Why a stream or connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

DATA: Final = int(Kind.DATA)  # looked at for every frame: an enumeration's comparison costs more

_HEAD = Struct(">HBBBI")
_NUMBER = Struct(">I")
_SETTING = Struct(">HI")
_GOAWAY = Struct(">II")


class ProtocolBroken(Exception):
    """The other side does not speak HTTP/2 as it should; the connection ends with `code`."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


class Frame(NamedTuple):
    """One frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class FrameReader:
    """Cuts a stream of bytes into frames, whatever pieces it comes in.

    Keeps at most one unfinished frame, of `frame_bytes_max`.
    """

    __slots__ = ("_frame_bytes_max", "_kept", "_needed")

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._kept = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`. Raises ProtocolBroken."""
        if self._kept:
            self._kept += data
            if len(self._kept) < self._needed:
                return []
            data = bytes(self._kept)
            self._kept.clear()
        found: list[Frame] = []
        at, end = 0, len(data)
        unpack = _HEAD.unpack_from
        while end - at >= 9:
            high, low, kind, flags, stream = unpack(data, at)
            size = high << 8 | low
            stop = at + 9 + size
            if stop > end:
                self._check(kind, size)
                self._needed = stop - at
                break
            if kind != DATA or size > FRAME_BYTES_DEFAULT:
                self._check(kind, size)
            found.append(Frame(kind, flags, stream & WINDOW_MAX, data[at + 9 : stop]))
            at = stop
        else:
            self._needed = 9
        if at < end:
            self._kept += data[at:]
        return found

    def _check(self, kind: int, size: int) -> None:
        if size > (self._frame_bytes_max if kind == DATA else CONTROL_FRAME_BYTES_MAX):
            raise ProtocolBroken(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")


# --- frames to be sent ---------------------------------------------------------------------------


def head(kind: int, flags: int, stream: int, size: int) -> bytes:
    """What stands before a payload of `size` bytes."""
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return head(kind, flags, stream, len(payload)) + payload


def settings(said: Sequence[tuple[Setting, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(_SETTING.pack(*one) for one in said))


def window_update(stream: int, more: int) -> bytes:
    """Allow the other side so many bytes more."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, _NUMBER.pack(more))


def reset(stream: int, code: Code) -> bytes:
    """End a stream at once."""
    return frame(Kind.RST_STREAM, 0, stream, _NUMBER.pack(code))


def goaway(last_stream: int, code: Code, why: str = "") -> bytes:
    """Say that the connection ends."""
    return frame(Kind.GOAWAY, 0, 0, _GOAWAY.pack(last_stream, code) + why.encode())


# --- payloads that came --------------------------------------------------------------------------


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """What a SETTINGS frame says. Raises ProtocolBroken."""
    if len(payload) % _SETTING.size:
        raise ProtocolBroken(Code.FRAME_SIZE_ERROR, "SETTINGS of an odd size")
    return list(_SETTING.iter_unpack(payload))


def read_number(payload: bytes) -> int:
    """The number of a WINDOW_UPDATE or RST_STREAM. Raises ProtocolBroken."""
    if len(payload) != _NUMBER.size:
        raise ProtocolBroken(Code.FRAME_SIZE_ERROR, "a number of an odd size")
    number: int = _NUMBER.unpack(payload)[0]
    return number & WINDOW_MAX


def without_padding(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame itself. Raises ProtocolBroken."""
    start, stop = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ProtocolBroken(Code.PROTOCOL_ERROR, "padding without a length")
        start, stop = 1, stop - payload[0]
    if flags & WITH_PRIORITY:
        start += 5
    if start > stop:
        raise ProtocolBroken(Code.PROTOCOL_ERROR, "more padding than payload")
    return payload[start:stop]

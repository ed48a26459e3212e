"""The NATS client protocol as a client reads and writes it: bytes to events, operations to bytes.
No I/O.

Called by the chaos suite and tests; calls nothing. The mirror of `protocol.nats`; events are plain
tuples:

    (MSG, subject, sid, reply | None, header | None, payload)
    (INFO, json)  (OK,)  (ERR, text)  (PING,)  (PONG,)
"""

from typing import Any, Final

MSG: Final = 0
INFO: Final = 1
OK: Final = 2
ERR: Final = 3
PING: Final = 4
PONG: Final = 5

Event = tuple[Any, ...]

# A server says nothing longer on one line but INFO, which grows with the cluster's nodes.
LINE_BYTES_MAX = 1_048_576

_COMMON = {
    b"MSG ": MSG,
    b"HMSG": MSG,
    b"PING": PING,
    b"PONG": PONG,
    b"+OK": OK,
    b"INFO": INFO,
    b"-ERR": ERR,
}


class ProtocolError(Exception):
    """The server sent something that is no NATS: the connection cannot be used any more."""


class ClientParser:
    """What a server sends, as events. Any split of the same bytes gives the same events."""

    __slots__ = ("_needed", "_partial")

    def __init__(self) -> None:
        self._partial = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that end in `data`. Raises ProtocolError."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return []
            data = bytes(self._partial)
            self._partial.clear()
        events: list[Event] = []
        position, end = 0, len(data)
        while position < end:
            line_end = data.find(b"\n", position)
            if line_end < 0:
                if end - position > LINE_BYTES_MAX:
                    raise ProtocolError("a line without an end")
                break
            line = data[position:line_end].removesuffix(b"\r")
            code = _COMMON.get(line[:4].upper())
            if code != MSG:
                events.append(_simple(code, line))
                position = line_end + 1
                continue
            subject, sid, reply, header_size, size = _message(line)
            start = line_end + 1
            stop = start + size
            if stop + 2 > end:
                self._keep(data[position:], stop + 2 - position)
                return events
            if data[stop : stop + 2] != b"\r\n":
                raise ProtocolError("a payload that does not end where it was said to")
            middle = start + header_size
            header = data[start:middle] if header_size else None
            events.append((MSG, subject, sid, reply, header, data[middle:stop]))
            position = stop + 2
        if position < end:
            self._keep(data[position:], end - position + 1)
        return events

    def _keep(self, rest: bytes, needed: int) -> None:
        self._partial = bytearray(rest)
        self._needed = needed


def _simple(code: int | None, line: bytes) -> Event:
    if code is None:
        raise ProtocolError(f"unknown operation {line[:40]!r}")
    if code == INFO:
        return (INFO, line[5:].strip())
    if code == ERR:
        return (ERR, line[4:].strip().strip(b"'"))
    return (code,)


def _message(line: bytes) -> tuple[bytes, bytes, bytes | None, int, int]:
    words = line.split()
    with_header = len(words[0]) == len(b"HMSG")
    count = len(words) - with_header
    if count not in (4, 5) or not all(word.isdigit() for word in words[-1 - with_header :]):
        raise ProtocolError(f"not a message: {line[:80]!r}")
    header_size = int(words[-2]) if with_header else 0
    size = int(words[-1])
    if header_size > size:
        raise ProtocolError(f"more header than message: {line[:80]!r}")
    return words[1], words[2], words[3] if count == 5 else None, header_size, size


def encode_connect(json: bytes) -> bytes:
    """CONNECT."""
    return b"CONNECT %b\r\n" % json


def encode_sub(subject: bytes, sid: int, queue: bytes | None = None) -> bytes:
    """SUB."""
    if queue is not None:
        return b"SUB %b %b %d\r\n" % (subject, queue, sid)
    return b"SUB %b %d\r\n" % (subject, sid)


def encode_unsub(sid: int, maximum: int = 0) -> bytes:
    """UNSUB, at once or after `maximum` messages in all."""
    return b"UNSUB %d %d\r\n" % (sid, maximum) if maximum else b"UNSUB %d\r\n" % sid


def encode_pub(
    subject: bytes, payload: bytes, reply: bytes | None = None, header: bytes | None = None
) -> bytes:
    """PUB, or HPUB where there is a header block."""
    target = b"%b %b" % (subject, reply) if reply is not None else subject
    if header:
        total = len(header) + len(payload)
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (target, len(header), total, header, payload)
    return b"PUB %b %d\r\n%b\r\n" % (target, len(payload), payload)

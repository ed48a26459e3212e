"""The NATS client protocol as a server reads and writes it: bytes to events, events to bytes. No
I/O.

Called by `gateway.session`; calls nothing. Source: nats-server 2.15 (its behaviour, byte by byte;
docs/protocol.md, section 6).

An event is a plain tuple that begins with its code, because there is one per message and nothing
else is as cheap:

    (PUB, subject, reply | None, header | None, payload)      header: the raw block of an HPUB
    (SUB, subject, queue | None, sid)
    (UNSUB, sid, max_messages)                                 0: at once
    (PING,)  (PONG,)
    (CONNECT, json)
    (FAIL, text)                                               the last one: say `-ERR text` (unless
    empty) and close
"""

import re
from typing import Any, Final

import orjson

PUB: Final = 0
SUB: Final = 1
UNSUB: Final = 2
PING: Final = 3
PONG: Final = 4
CONNECT: Final = 5
FAIL: Final = 6

# One tuple per event; its code says which of the shapes above the rest has.
Event = tuple[Any, ...]
Request = tuple[bytes, bytes, bytes]  # subject, reply, payload

CONTROL_LINE_BYTES_MAX = 4096  # nats-server's; bounds what an unterminated line may make us keep
EVENTS_PER_FEED_MAX = 512  # one client's share of a turn of the event loop: a few milliseconds
SIZE_DIGITS_MAX = 9  # nats-server's: more is refused before it is a number

UNKNOWN_OPERATION = b"Unknown Protocol Operation"
CONTROL_LINE_EXCEEDED = b"maximum control line exceeded"
PAYLOAD_EXCEEDED = b"Maximum Payload Violation"
SILENTLY = b""

PING_LINE = b"PING\r\n"
PONG_LINE = b"PONG\r\n"
OK_LINE = b"+OK\r\n"

_HPUB: Final = 7
_INFO: Final = 8
_OK: Final = 9
_ERR: Final = 10
_MORE: Final = 11  # too few bytes to tell

_OPERATIONS = {
    b"PUB": PUB,
    b"HPUB": _HPUB,
    b"SUB": SUB,
    b"UNSUB": UNSUB,
    b"PING": PING,
    b"PONG": PONG,
    b"CONNECT": CONNECT,
    b"INFO": _INFO,
    b"+OK": _OK,
    b"-ERR": _ERR,
}
_NAMES = {code: name for name, code in _OPERATIONS.items()}
_NEED_BLANK = frozenset((PUB, _HPUB, SUB, UNSUB, _INFO, _ERR))
_BARE = frozenset((PING, PONG, _OK))  # anything up to the line's end is ignored behind these
_BLANKS = b" \t"
_PUB_WORDS = (3, 4)
_ALONE = (PING, PONG)

# What the four first bytes of a line are in nearly all of a client's lifetime; any other case takes
# the long way.
_COMMON = {b"PUB ": PUB, b"HPUB": _HPUB, b"PING": PING, b"PONG": PONG}

# A request as all clients write it; the parser takes more.
_REQUEST = re.compile(
    rb"PUB ([!-~]+) ([!-~]+) ([0-9]{1,%d})\r\n(.*)\r\n" % SIZE_DIGITS_MAX, re.DOTALL
).fullmatch


class ServerParser:
    """What one client sends, as events. Any split of the same bytes gives the same events.

    Keeps at most one unfinished operation: a control line of `control_line_bytes_max`, or a line
    and its payload.
    """

    __slots__ = (
        "_buffer",
        "_control_max",
        "_exact",
        "_failed",
        "_needed",
        "_partial",
        "_position",
        "payload_bytes_max",
    )

    def __init__(
        self, payload_bytes_max: int, control_line_bytes_max: int = CONTROL_LINE_BYTES_MAX
    ) -> None:
        self.payload_bytes_max = payload_bytes_max
        self._control_max = control_line_bytes_max
        self._partial: bytearray | None = None  # an unfinished operation, from its first byte
        self._needed = 0  # nothing more can be told about it with fewer bytes than this
        self._buffer = b""  # whole operations that did not fit the last call's events_max
        self._position = 0
        # whether `_buffer` holds bytes that bytes.split() takes for blanks and NATS does not
        self._exact = False
        self._failed = False

    @property
    def has_more(self) -> bool:
        """Whether `feed(b"")` would look at bytes that were left aside for the sake of
        `events_max`.
        """
        return bool(self._buffer)

    @property
    def held_bytes(self) -> int:
        """How much is kept for later."""
        return len(self._partial or b"") + len(self._buffer) - self._position

    def feed_request(self, data: bytes) -> Request | None:
        """`data`, if it is one request and nothing before or behind it; None, and nothing has
        happened, where `feed` has to look.
        """
        if self._partial is not None or self._buffer or self._failed:
            return None
        match = _REQUEST(data)
        if match is None:
            return None
        subject, reply, digits, payload = match.groups()
        size = len(payload)
        if (
            size != int(digits)
            or size > self.payload_bytes_max
            or match.end(3) >= self._control_max
        ):
            return None
        return subject, reply, payload

    def feed(self, data: bytes, events_max: int = EVENTS_PER_FEED_MAX) -> list[Event]:
        """The events that end in `data`, at most `events_max`; the rest comes next time."""
        if self._failed:
            return []
        if self._buffer:
            buffer = self._buffer[self._position :] + data if data else self._buffer
            position = 0 if data else self._position
            self._buffer = b""
        elif self._partial is not None:
            self._partial += data
            if len(self._partial) < self._needed:
                return []
            buffer = bytes(self._partial)
            position = 0
            self._partial = None
        else:
            buffer = data
            position = 0
        if position == 0:
            self._exact = b"\x0b" in buffer or b"\x0c" in buffer
        return self._scan(buffer, position, events_max)

    def _scan(  # noqa: PLR0912, PLR0915  one loop without calls: this is what every message costs
        self, buffer: bytes, position: int, events_max: int
    ) -> list[Event]:
        events: list[Event] = []
        append = events.append
        find = buffer.find
        common = _COMMON.get
        payload_max = self.payload_bytes_max
        control_max = self._control_max
        exact = self._exact
        end = len(buffer)
        while position < end:
            line_end = find(b"\n", position)
            if line_end < 0:
                failure = self._keep_line(buffer[position:])
                if failure is not None:
                    append(failure)
                return events
            line = buffer[position:line_end]
            code = common(line[:4])
            if code == PUB and not exact and line_end - position <= control_max:
                words = line.split()
                count = len(words)
                size_word = words[-1]
                if (
                    count not in _PUB_WORDS
                    or not size_word.isdigit()
                    or len(size_word) > SIZE_DIGITS_MAX
                ):
                    append(self._fail(SILENTLY))
                    return events
                subject = words[1]
                reply = words[2] if count == 4 else None
                header_size = 0
                size = int(size_word)
            elif (
                code == _HPUB
                and not exact
                and line[4:5] == b" "
                and line_end - position <= control_max
            ):
                parsed = _parse_hpub(line[5:].split())
                if parsed is None:
                    append(self._fail(SILENTLY))
                    return events
                _, subject, reply, header_size, size = parsed
            elif code in _ALONE:
                append((code,))
                position = line_end + 1
                if len(events) >= events_max:
                    break
                continue
            else:
                parsed = self._parse_line(line)
                if parsed is None:  # understood, and nothing to do about it
                    position = line_end + 1
                    continue
                if parsed[0] != PUB:
                    append(parsed)
                    position = line_end + 1
                    if parsed[0] == FAIL:
                        return events
                    if len(events) >= events_max:
                        break
                    continue
                _, subject, reply, header_size, size = parsed
            if size > payload_max:
                append(self._fail(PAYLOAD_EXCEEDED))
                return events
            start = line_end + 1
            stop = start + size
            next_position = stop + 2
            if next_position > end:
                failure = self._keep_message(buffer, position, stop)
                if failure is not None:
                    append(failure)
                return events
            if buffer[stop:next_position] != b"\r\n":
                append(self._fail(UNKNOWN_OPERATION))
                return events
            if header_size:
                middle = start + header_size
                append((PUB, subject, reply, buffer[start:middle], buffer[middle:stop]))
            else:
                append((PUB, subject, reply, None, buffer[start:stop]))
            position = next_position
            if len(events) >= events_max:
                break
        if position < end:
            self._buffer = buffer
            self._position = position
        return events

    def _fail(self, text: bytes) -> Event:
        self._failed = True
        self._partial = None
        self._buffer = b""
        return (FAIL, text)

    def _keep_line(self, rest: bytes) -> Event | None:
        """Keep an unterminated line, unless it is already wrong."""
        code = _operation(rest)
        if code == FAIL:
            return self._fail(UNKNOWN_OPERATION)
        if code in _BARE:
            rest = rest[: len(_NAMES[code])]
        elif code != _MORE and len(_arguments(rest, code)) > self._control_max:
            return self._fail(CONTROL_LINE_EXCEEDED)
        self._partial = bytearray(rest)
        self._needed = len(rest) + 1
        return None

    def _keep_message(self, buffer: bytes, position: int, stop: int) -> Event | None:
        """Keep a message whose payload is still under way, unless it is already longer than
        declared.
        """
        if len(buffer) == stop + 1 and buffer[stop] != 0x0D:
            return self._fail(UNKNOWN_OPERATION)
        self._partial = bytearray(buffer[position:])
        self._needed = stop - position + 1
        if len(self._partial) >= self._needed:
            self._needed += 1
        return None

    def _parse_line(self, line: bytes) -> Event | None:
        """A whole line that is not the common case: (PUB, subject, reply, header size, size), or an
        event, or None.
        """
        code = _operation(line + b"\n")
        if code == FAIL:
            return self._fail(UNKNOWN_OPERATION)
        if code in _BARE:
            return None if code == _OK else (code,)
        arguments = _arguments(line, code)
        if len(arguments) > self._control_max:
            return self._fail(CONTROL_LINE_EXCEEDED)
        if code == CONNECT:
            return (CONNECT, arguments)
        parsed: Event | None
        if code == _ERR:
            parsed = None
        elif code == _INFO:
            if _is_object(arguments):
                return None
            parsed = None
        else:
            parsed = _SHAPES[code](_split(arguments))
        return parsed if parsed is not None else self._fail(SILENTLY)


def _operation(line: bytes) -> int:
    """The operation that `line` begins with, _MORE if that cannot be told yet, FAIL if it begins
    with none.
    """
    head = line[:8].upper()
    for name, code in _OPERATIONS.items():
        if head.startswith(name):
            if code not in _NEED_BLANK:
                return code
            if len(head) == len(name):
                return _MORE
            return code if head[len(name)] in _BLANKS else FAIL
        if name.startswith(head):
            return _MORE
    return FAIL


def _arguments(line: bytes, code: int) -> bytes:
    return line[len(_NAMES[code]) :].lstrip(_BLANKS).removesuffix(b"\r")


def _split(arguments: bytes) -> list[bytes]:
    """The words of `arguments`; unlike bytes.split(), vertical tabs and form feeds are text."""
    plain = arguments.replace(b"\t", b" ").replace(b"\r", b" ")
    return [word for word in plain.split(b" ") if word]


def _size(word: bytes) -> int:
    return int(word) if word.isdigit() and len(word) <= SIZE_DIGITS_MAX else -1


def _is_object(text: bytes) -> bool:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return value is None or isinstance(value, dict)


def _parse_pub(words: list[bytes]) -> Event | None:
    if len(words) not in (2, 3):
        return None
    size = _size(words[-1])
    return None if size < 0 else (PUB, words[0], words[1] if len(words) == 3 else None, 0, size)


def _parse_hpub(words: list[bytes]) -> Event | None:
    if len(words) not in (3, 4):
        return None
    header_size, size = _size(words[-2]), _size(words[-1])
    if not 0 <= header_size <= size:
        return None
    return (PUB, words[0], words[1] if len(words) == 4 else None, header_size, size)


def _parse_sub(words: list[bytes]) -> Event | None:
    if len(words) not in (2, 3):
        return None
    return (SUB, words[0], words[1] if len(words) == 3 else None, words[-1])


def _parse_unsub(words: list[bytes]) -> Event | None:
    if len(words) not in (1, 2):
        return None
    return (UNSUB, words[0], max(_size(words[1]), 0) if len(words) == 2 else 0)


_SHAPES = {PUB: _parse_pub, _HPUB: _parse_hpub, SUB: _parse_sub, UNSUB: _parse_unsub}


def encode_info(fields: dict[str, Any]) -> bytes:
    """The INFO line; nats-server puts a blank before the line's end, and some clients grew used to
    it.
    """
    return b"INFO %b \r\n" % orjson.dumps(fields)


def encode_error(text: bytes) -> bytes:
    """The -ERR line."""
    return b"-ERR '%b'\r\n" % text


def encode_message(
    subject: bytes, sid: bytes, reply: bytes | None, header: bytes | None, payload: bytes
) -> bytes:
    """One MSG, or HMSG where there is a header block."""
    return b"".join((message_head(subject, header), sid, message_tail(reply, header, payload)))


def message_head(subject: bytes, header: bytes | None) -> bytes:
    """What stands before the sid: the same for every subscriber of one message."""
    return (b"HMSG %b " if header else b"MSG %b ") % subject


def message_tail(reply: bytes | None, header: bytes | None, payload: bytes) -> bytes:
    """What stands behind the sid: the same for every subscriber of one message."""
    if header:
        size = len(header)
        total = size + len(payload)
        if reply:
            return b" %b %d %d\r\n%b%b\r\n" % (reply, size, total, header, payload)
        return b" %d %d\r\n%b%b\r\n" % (size, total, header, payload)
    if reply:
        return b" %b %d\r\n%b\r\n" % (reply, len(payload), payload)
    return b" %d\r\n%b\r\n" % (len(payload), payload)

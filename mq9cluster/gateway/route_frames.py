"""What nodes say to each other about core NATS, field by field: the bytes inside a RouteFrame.

The first byte is the kind. Used by `routes` and `telling`; no I/O here.
"""

from struct import Struct
from typing import Final, NamedTuple

from mq9cluster.gateway.outgoing import Outgoing

ASK: Final = b"A"  # tell me everything
BEGIN: Final = b"B"  # everything follows
END: Final = b"E"  # that was it
INTEREST: Final = b"I"
MESSAGE: Final = b"M"

_PLAIN, _EXACTLY, _REPLY, _HEADER = 1, 2, 4, 8
_INTEREST_HEAD: Final = Struct(">cBHhI")  # kind, account, subject, queue or -1, members
_MESSAGE_HEAD: Final = Struct(">cBBHHIH")  # kind, account, flags, subject, reply, header, queues
_QUEUE: Final = Struct(">H")


class Aim(NamedTuple):
    """What one peer is to do with a message: all its plain subscribers, one of each group."""

    plain: bool
    queues: list[bytes]


def encode_interest(account: bytes, subject: bytes, queue: bytes | None, members: int) -> bytes:
    """So many members of a group, or any plain subscription (1) or none (0), want `subject`."""
    queue_bytes = -1 if queue is None else len(queue)
    head = _INTEREST_HEAD.pack(INTEREST, len(account), len(subject), queue_bytes, members)
    return b"".join((head, account, subject, queue or b""))


def decode_interest(frame: bytes) -> tuple[bytes, bytes, bytes | None, int]:
    """(account, subject, queue, members)."""
    _, account_bytes, subject_bytes, queue_bytes, members = _INTEREST_HEAD.unpack_from(frame)
    at = _INTEREST_HEAD.size
    account = frame[at : (at := at + account_bytes)]
    subject = frame[at : (at := at + subject_bytes)]
    queue = None if queue_bytes < 0 else frame[at : at + queue_bytes]
    return account, subject, queue, members


def encode_message(account: bytes, aim: Aim, message: Outgoing, *, exactly: bool) -> bytes:
    """A message for a peer's subscribers."""
    reply, header = message.reply, message.header
    flags = (_PLAIN if aim.plain else 0) | (_EXACTLY if exactly else 0)
    flags |= (0 if reply is None else _REPLY) | (0 if header is None else _HEADER)
    reply, header = reply or b"", header or b""
    sizes = (len(message.subject), len(reply), len(header), len(aim.queues))
    parts = [_MESSAGE_HEAD.pack(MESSAGE, len(account), flags, *sizes)]
    for queue in aim.queues:
        parts += (_QUEUE.pack(len(queue)), queue)
    parts += (account, message.subject, reply, header, message.payload)
    return b"".join(parts)


def decode_message(frame: bytes) -> tuple[bytes, Aim, Outgoing, bool]:
    """(account, aim, message, exactly)."""
    _, account_bytes, flags, *sizes, queue_count = _MESSAGE_HEAD.unpack_from(frame)
    at = _MESSAGE_HEAD.size
    queues: list[bytes] = []
    for _ in range(queue_count):
        (length,) = _QUEUE.unpack_from(frame, at)
        at += _QUEUE.size
        queues.append(frame[at : (at := at + length)])
    account = frame[at : (at := at + account_bytes)]
    subject = frame[at : (at := at + sizes[0])]
    reply = frame[at : (at := at + sizes[1])]
    header = frame[at : (at := at + sizes[2])]
    message = Outgoing(
        subject,
        reply if flags & _REPLY else None,
        header if flags & _HEADER else None,
        frame[at:],
    )
    return account, Aim(bool(flags & _PLAIN), queues), message, bool(flags & _EXACTLY)

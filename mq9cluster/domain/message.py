"""Messages, priorities and what a reader is shown."""

from enum import IntEnum
from typing import NamedTuple, NewType

MsgId = NewType("MsgId", int)

DELAYED_MSG_ID = MsgId(-1)  # what SEND answers while the message is not yet visible


class Priority(IntEnum):
    """Delivery order, best first; LOW is reached only through older dialects."""

    CRITICAL = 0
    URGENT = 1
    NORMAL = 2
    LOW = 3


ALL_PRIORITIES = 0b1111  # priorities as a set: 1 << priority for each that is wanted


class Message(NamedTuple):
    """A visible message as readers get it. Times in Unix milliseconds; `expires_ms` 0: never."""

    msg_id: int
    priority: int
    created_ms: int
    expires_ms: int
    key: str
    meta: bytes  # JSON object {"tags": [...], "header": {...}}, or empty
    payload: bytes

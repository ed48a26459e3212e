"""Reads: what a shard is asked without changing it, and what it answers."""

from typing import NamedTuple

from mq9cluster.domain.command import Deliver
from mq9cluster.domain.message import Message


class Browse(NamedTuple):
    """FETCH without a group: from a start on, best first; nothing is recorded."""

    mailbox: bytes
    deliver: int = Deliver.LATEST
    from_value: int = 0
    tags: tuple[str, ...] = ()
    num_msgs: int = 100


class Query(NamedTuple):
    """QUERY: what is visible now, by msg_id; the newest `limit` of what the filters leave."""

    mailbox: bytes
    key: bytes = b""
    tags: tuple[str, ...] = ()
    since: int = 0  # Unix seconds
    limit: int = 100


class MessagesRead(NamedTuple):
    """What a FETCH or QUERY found.

    `handout` only where a group was asked and something was handed out.
    """

    messages: list[Message]
    handout: str = ""

"""Reads: what a shard is asked without changing it, and what it answers."""

from typing import NamedTuple

from mq9cluster.domain.command import Deliver
from mq9cluster.domain.message import ALL_PRIORITIES, Message


class Browse(NamedTuple):
    """FETCH without a group: from a start on, best first; nothing is recorded."""

    mailbox: bytes
    deliver: int = Deliver.LATEST
    from_value: int = 0
    tags: tuple[str, ...] = ()
    num_msgs: int = 100


class Follow(NamedTuple):
    """A push subscription reads on: what is behind `starts`, best first.

    `starts` are the first msg_id of each priority, in the mailbox of this `number`, which no other
    ever has: one that was created anew under the same address is read from its beginning. One that
    does not exist holds nothing yet.
    """

    mailbox: bytes
    number: int = 0
    starts: tuple[int, ...] = (1, 1, 1, 1)
    priorities: int = ALL_PRIORITIES
    num_msgs: int = 100

    @property
    def tags(self) -> tuple[str, ...]:
        """It wants messages with any tags, or none."""
        return ()


class Query(NamedTuple):
    """QUERY: what is visible now, by msg_id; the newest `limit` of what the filters leave.

    `bare`: payloads are left out, for listings.
    """

    mailbox: bytes
    key: bytes = b""
    tags: tuple[str, ...] = ()
    since: int = 0  # Unix seconds
    limit: int = 100
    bare: bool = False


class MessagesRead(NamedTuple):
    """What a FETCH, QUERY or Follow found.

    `handout` only where a group was asked and something was handed out; of a Follow it is the
    number of the mailbox.
    """

    messages: list[Message]
    handout: str = ""

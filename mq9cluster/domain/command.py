"""Commands: imperative, decided by the proposer, applied by every replica alike.

Named tuples instead of dataclasses: they are immutable too, and one is made for every message that
passes. `mailbox` and `agent` are references (domain/address.py). Times that depend on a clock are
not here: the entry carries the shard time.
"""

from enum import IntEnum
from typing import NamedTuple

from mq9cluster.domain.limits import DUPLICATE_WINDOW_MS_DEFAULT
from mq9cluster.domain.message import ALL_PRIORITIES, Priority


class Owner(NamedTuple):
    """Whose a hand-out is: a connection of one run (incarnation) of one node."""

    node: int
    incarnation: int
    connection: int


class Deliver(IntEnum):
    """Where a new group starts to read."""

    LATEST = 0
    EARLIEST = 1
    FROM_TIME = 2
    FROM_ID = 3


class AckScope(IntEnum):
    """What an ACK confirms."""

    BATCH = 0
    MESSAGE = 1
    PROGRESS = 2


class CreateMailbox(NamedTuple):
    """Create a mailbox; limits of 0 mean none of its own.

    A `public` one is listed, and may be created again; a `latest` one keeps only its newest
    message.
    """

    mailbox: bytes
    ttl_s: int = 0
    desc: str = ""
    max_deliver: int = 0
    max_msgs: int = 0
    max_bytes: int = 0
    retain_acked: bool = False
    public: bool = False
    latest: bool = False


class SendMessage(NamedTuple):
    """Store one message. `meta` is a JSON object of tags and header, or empty."""

    mailbox: bytes
    payload: bytes
    priority: int = Priority.NORMAL
    key: bytes = b""
    meta: bytes = b""
    ttl_s: int = 0
    delay_s: int = 0
    dedupe_id: bytes = b""
    duplicate_window_ms: int = (
        DUPLICATE_WINDOW_MS_DEFAULT  # the proposer's setting; replicas may be configured otherwise
    )


class FetchMessages(NamedTuple):
    """Hand out open messages of a group to a consumer.

    `consumer` "" means the connection itself. `ack_wait_ms` 0 binds the hand-out to the connection.
    `resume` is the place (priority, msg_id) at which a search that ran out of its row budget goes
    on. `priorities`: only messages of these are handed out (see domain.message).
    """

    mailbox: bytes
    group: str
    owner: Owner
    consumer: str = ""
    deliver: int = Deliver.LATEST
    from_value: int = 0  # from_time: Unix seconds; from_id: a msg_id
    force: bool = False
    tags: tuple[str, ...] = ()
    num_msgs: int = 100
    ack_wait_ms: int = 0
    resume: tuple[int, int] = (0, 0)
    priorities: int = ALL_PRIORITIES


class AckMessages(NamedTuple):
    """Confirm messages of a hand-out; `handout` "" means the one that holds `msg_id`."""

    mailbox: bytes
    group: str
    msg_id: int
    owner: Owner
    handout: str = ""
    scope: int = AckScope.BATCH


class NackMessage(NamedTuple):
    """Give one message back, to be open again after `delay_s` seconds."""

    mailbox: bytes
    group: str
    msg_id: int
    owner: Owner
    delay_s: int = 0


class DeleteMessage(NamedTuple):
    """Remove one message."""

    mailbox: bytes
    msg_id: int


class EndConnection(NamedTuple):
    """Release what a connection held."""

    owner: Owner


class EndIncarnation(NamedTuple):
    """Release what every connection of a node's run held, and refuse that run from now on."""

    node: int
    incarnation: int


class RegisterAgent(NamedTuple):
    """Register an agent, or replace its card. `codes` are (embedder id, code)."""

    agent: bytes
    address: str  # of its mailbox, or ""
    ttl_s: int
    body: bytes  # its card, a JSON object
    codes: tuple[tuple[str, bytes], ...] = ()


class UnregisterAgent(NamedTuple):
    """Forget an agent."""

    agent: bytes


class ReportAgent(NamedTuple):
    """An agent lives. `report_info` is JSON, or empty: what it last said stays."""

    agent: bytes
    report_info: bytes = b""


class UnregisterAgents(NamedTuple):
    """Forget the agents of a mailbox in this shard: a bounded number behind the name `after`."""

    mailbox: bytes
    after: str = ""


class ReportAgents(NamedTuple):
    """The agents of a mailbox in this shard live: a bounded number behind the name `after`."""

    mailbox: bytes
    report_info: bytes = b""
    after: str = ""


class SetAgentCode(NamedTuple):
    """An embedder's code of a card, come late: of no effect when the card is another by now.

    `digest` is `domain.agent.card_digest` of the card that was embedded.
    """

    agent: bytes
    digest: bytes
    embedder: str
    code: bytes


class DropEmbedder(NamedTuple):
    """Forget all codes of an embedder, step by step."""

    embedder: str


class Expire(NamedTuple):
    """Do what is due at the entry's time, as every entry does, and nothing else."""


Command = (
    CreateMailbox
    | SendMessage
    | FetchMessages
    | AckMessages
    | NackMessage
    | DeleteMessage
    | EndConnection
    | EndIncarnation
    | RegisterAgent
    | UnregisterAgent
    | ReportAgent
    | UnregisterAgents
    | ReportAgents
    | SetAgentCode
    | DropEmbedder
    | Expire
)

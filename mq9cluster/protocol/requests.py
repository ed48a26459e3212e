"""From subject and body to request: what a client asked, checked whole before anything is done.

Called by broker.router; raises the domain's errors. Source: docs/protocol.md, sections 1 to 3.
"""

from typing import Any, NamedTuple

import orjson

from mq9cluster.domain.address import MailAddress, parse_address
from mq9cluster.domain.command import (
    AckMessages,
    AckScope,
    CreateMailbox,
    Deliver,
    FetchMessages,
    NackMessage,
    Owner,
    SendMessage,
)
from mq9cluster.domain.errors import InvalidField, InvalidMailAddress
from mq9cluster.domain.limits import (
    ACK_WAIT_MS_MAX,
    ACK_WAIT_MS_MIN,
    ADDRESS_DEAD_LETTER_CHARS_MAX,
    DESC_BYTES_MAX,
    HEADER_BLOCK_BYTES_MAX,
    HEADER_BYTES_MAX,
    LIST_MAX,
    MAILBOX_COUNT_MAX,
    MAX_DELIVER_MAX,
    RESULTS_DEFAULT,
    RESULTS_MAX,
    TTL_SECONDS_MAX,
    WAIT_MS_DEFAULT,
    WAIT_MS_MAX,
)
from mq9cluster.domain.message import Priority
from mq9cluster.domain.read import Browse, Query
from mq9cluster.protocol import fields, nats_headers

PRIORITIES = {
    "critical": Priority.CRITICAL,
    "urgent": Priority.URGENT,
    "normal": Priority.NORMAL,
}
DELIVER = {
    "latest": Deliver.LATEST,
    "earliest": Deliver.EARLIEST,
    "from_time": Deliver.FROM_TIME,
    "from_id": Deliver.FROM_ID,
}
SCOPES = {"batch": AckScope.BATCH, "message": AckScope.MESSAGE, "progress": AckScope.PROGRESS}


class CreateRequest(NamedTuple):
    """CREATE; `address` None: the broker is to generate one. `with_token`: dialect 000 asked."""

    address: MailAddress | None
    command: CreateMailbox  # its mailbox is filled in by whoever knows the account
    with_token: bool = False


class FetchRequest(NamedTuple):
    """FETCH, and how the client wants to wait for it and read it."""

    read: FetchMessages | Browse
    wait_ms: int
    as_text: bool


class QueryRequest(NamedTuple):
    """QUERY, and how the client wants to read it."""

    query: Query
    as_text: bool


def parse_create(payload: bytes) -> CreateRequest:
    """The body of MAILBOX.CREATE."""
    body = fields.parse_body(payload)
    raw_name = fields.text(body, "name")
    address = parse_address(raw_name) if raw_name else None
    public = fields.flag(body, "public")
    if public and address is None:
        raise InvalidField("name", "required of a public mailbox")
    kind = fields.choice(body, "type", ("standard", "latest"))
    command = CreateMailbox(
        b"",
        fields.integer(body, "ttl", 0, TTL_SECONDS_MAX, 0),
        _description(body),
        fields.integer(body, "max_deliver", 1, MAX_DELIVER_MAX, 0),
        fields.integer(body, "max_msgs", 0, MAILBOX_COUNT_MAX, 0),
        fields.integer(body, "max_bytes", 0, MAILBOX_COUNT_MAX, 0),
        fields.choice(body, "retain", ("ttl", "acked")) == "acked",
        public,
        kind == "latest",
    )
    if command.max_deliver and address and len(address) > ADDRESS_DEAD_LETTER_CHARS_MAX:
        why = f"longer than {ADDRESS_DEAD_LETTER_CHARS_MAX} characters, which max_deliver needs"
        raise InvalidMailAddress(why)
    return CreateRequest(address, command, body.get("type") is not None)


def _description(body: dict[str, Any]) -> str:
    desc = fields.text(body, "desc")
    if len(desc.encode("utf-8", "surrogatepass")) > DESC_BYTES_MAX:
        raise InvalidField("desc", f"longer than {DESC_BYTES_MAX} bytes")
    return desc


# --- SEND ----------------------------------------------------------------------------------------


def parse_send(
    ref: bytes,
    block: bytes,
    payload: bytes,
    duplicate_window_ms: int,
    priority: Priority | None = None,
) -> SendMessage:
    """The header block of MSG.SEND with its payload; `priority` where the subject says it."""
    if len(block) > HEADER_BLOCK_BYTES_MAX:
        raise InvalidField("header", f"more than {HEADER_BLOCK_BYTES_MAX} bytes as sent")
    own, rest = _split_headers(nats_headers.parse(block))
    ttl_s = fields.digits("ttl", own["mq9-ttl"], 0, TTL_SECONDS_MAX) if "mq9-ttl" in own else 0
    delay_s = 0
    if "mq9-delay" in own:
        delay_s = fields.digits("delay", own["mq9-delay"], 0, TTL_SECONDS_MAX)
    key = fields.checked_name("key", own["mq9-key"]).encode() if "mq9-key" in own else b""
    dedupe_id = b""
    if "nats-msg-id" in own:
        dedupe_id = fields.checked_name("Nats-Msg-Id", own["nats-msg-id"]).encode()
    meta = _meta(own.get("mq9-tags", ""), rest)
    if priority is None:
        priority = _priority(own.get("mq9-priority", "normal"))
    return SendMessage(
        ref, payload, priority, key, meta, ttl_s, delay_s, dedupe_id, duplicate_window_ms
    )


def _split_headers(headers: list[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """The broker's own headers, names in lower case, the first of each; the sender's, joined."""
    own: dict[str, str] = {}
    rest: dict[str, str] = {}
    for header, value in headers:
        lower = header.lower()
        if lower.startswith("mq9-") or lower == "nats-msg-id":
            own.setdefault(lower, value)
        else:
            header, value = nats_headers.shown(header), nats_headers.shown(value)  # noqa: PLW2901
            rest[header] = f"{rest[header]}, {value}" if header in rest else value
    size = sum(len(name.encode()) + len(value.encode()) for name, value in rest.items())
    if size > HEADER_BYTES_MAX:
        raise InvalidField("header", f"more than {HEADER_BYTES_MAX} bytes")
    return own, rest


def _priority(value: str) -> Priority:
    priority = PRIORITIES.get(value)
    if priority is None:
        raise InvalidField("priority", f"must be one of {', '.join(PRIORITIES)}")
    return priority


def _meta(raw_tags: str, header: dict[str, str]) -> bytes:
    """What is stored beside the payload for readers: tags and header as JSON, or nothing."""
    tags = [tag for part in raw_tags.split(",") if (tag := part.strip())]
    meta: dict[str, Any] = {}
    if tags:
        meta["tags"] = fields.checked_tags(tags)
    if header:
        meta["header"] = header
    return orjson.dumps(meta) if meta else b""


# --- FETCH, ACK, NACK ----------------------------------------------------------------------------


def parse_fetch(ref: bytes, owner: Owner, payload: bytes) -> FetchRequest:
    """The body of MSG.FETCH."""
    body = fields.parse_body(payload)
    group = fields.name(body, "group_name")
    deliver = DELIVER[fields.choice(body, "deliver", tuple(DELIVER))]
    from_value = 0
    if deliver == Deliver.FROM_TIME:
        from_value = fields.required_integer(body, "from_time", 0, MAILBOX_COUNT_MAX)
    elif deliver == Deliver.FROM_ID:
        from_value = fields.required_integer(body, "from_id", 0, fields.U63_MAX)
    force = fields.flag(body, "force_deliver")
    consumer = fields.name(body, "consumer")
    tags = fields.tags(body)
    as_text = _as_text(body)
    _check_consistency(body)
    config = fields.nested(body, "config")
    num_msgs = fields.integer(config, "num_msgs", 1, RESULTS_MAX, RESULTS_DEFAULT)
    wait_ms = fields.integer(config, "max_wait_ms", 0, WAIT_MS_MAX, WAIT_MS_DEFAULT)
    ack_wait_ms = fields.integer(config, "ack_wait_ms", ACK_WAIT_MS_MIN, ACK_WAIT_MS_MAX, 0)
    read: FetchMessages | Browse
    if group:
        read = FetchMessages(
            ref, group, owner, consumer, deliver, from_value, force, tags, num_msgs, ack_wait_ms
        )
    else:
        read = Browse(ref, deliver, from_value, tags, num_msgs)
    return FetchRequest(read, wait_ms, as_text)


def _as_text(body: dict[str, Any]) -> bool:
    return fields.choice(body, "encoding", ("base64", "text")) == "text"


def _check_consistency(body: dict[str, Any]) -> None:
    fields.choice(body, "consistency", ("linearizable", "stale"))  # one node: there is no stale


def parse_ack(address: str, ref: bytes, owner: Owner, payload: bytes) -> AckMessages:
    """The body of MSG.ACK."""
    body = fields.parse_body(payload)
    group = fields.required_name(body, "group_name")
    _check_same_address(body, address)
    msg_id = fields.required_integer(body, "msg_id", 0, fields.U63_MAX)
    handout = fields.name(body, "handout")
    scope = SCOPES[fields.choice(body, "scope", tuple(SCOPES))]
    return AckMessages(ref, group, msg_id, owner, handout, scope)


def parse_nack(address: str, ref: bytes, owner: Owner, payload: bytes) -> NackMessage:
    """The body of MSG.NACK."""
    body = fields.parse_body(payload)
    group = fields.required_name(body, "group_name")
    _check_same_address(body, address)
    msg_id = fields.required_integer(body, "msg_id", 0, fields.U63_MAX)
    return NackMessage(
        ref, group, msg_id, owner, fields.integer(body, "delay", 0, TTL_SECONDS_MAX, 0)
    )


def _check_same_address(body: dict[str, Any], address: str) -> None:
    if body.get("mail_address") is not None and body["mail_address"] != address:
        raise InvalidMailAddress("the body names another mailbox than the subject")


# --- QUERY, DELETE -------------------------------------------------------------------------------


def parse_query(ref: bytes, payload: bytes) -> QueryRequest:
    """The body of MSG.QUERY."""
    body = fields.parse_body(payload)
    _check_consistency(body)
    query = Query(
        ref,
        fields.name(body, "key").encode(),
        fields.tags(body),
        fields.integer(body, "since", 0, MAILBOX_COUNT_MAX, 0),
        fields.integer(body, "limit", 1, RESULTS_MAX, RESULTS_DEFAULT),
    )
    return QueryRequest(query, _as_text(body))


def parse_list(ref: bytes, payload: bytes) -> Query:
    """The body of MAILBOX.LIST."""
    body = fields.parse_body(payload)
    limit = fields.integer(body, "limit", 1, LIST_MAX, LIST_MAX)
    return Query(ref, limit=limit, bare=True)


def parse_msg_id(raw: str) -> int:
    """The last token of MSG.DELETE."""
    return fields.digits("msg_id", raw, 1, fields.U63_MAX)

"""What readers see of a shard's state. Linearizable when the caller has waited for its read
barrier.

Time is that of the last applied entry: the leader proposes an entry the moment something falls
due, so that every replica and every reader agree on what has expired. Long searches yield None now
and then, so that the caller can let others have their turn; the rows they go on to see are those
of the moment they began.
"""

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain

from mq9cluster.domain.address import address_of
from mq9cluster.domain.command import Deliver, FetchMessages
from mq9cluster.domain.errors import MailboxNotFound
from mq9cluster.domain.limits import GROUP_TOUCH_MS, REPLY_JSON_BYTES_MAX
from mq9cluster.domain.message import Message
from mq9cluster.domain.ports import Family
from mq9cluster.domain.read import Browse, Follow, Query
from mq9cluster.machine import keys, rows
from mq9cluster.machine.consumer_group import consumer_identity
from mq9cluster.machine.rows import Mailbox
from mq9cluster.machine.search import (
    SEARCH_ROWS_MAX,
    first_created_at,
    has_tag,
    json_bytes,
    newest_visible_id,
    walk_open,
)
from mq9cluster.machine.workspace import Workspace

READ_ROWS_PER_TURN = 1_000  # about 1 ms between two Nones

Row = tuple[bytes, bytes]


def _existing(ws: Workspace, ref: bytes) -> Mailbox:
    mailbox = ws.mailbox(ref)
    if mailbox is None:
        raise MailboxNotFound(address_of(ref))
    return mailbox


def would_change(ws: Workspace, command: FetchMessages) -> bool:
    """Whether a FETCH with a group is worth an entry of the log; raises MailboxNotFound.

    It is when the group is to be created or begun anew, when the consumer holds something already,
    when something may be open, or when the group's use is to be recorded. Without tags no row is
    looked at: an id that is neither done nor held may be a message, and applying closes it if not.
    """
    mailbox = _existing(ws, command.mailbox)
    group = ws.group(mailbox, command.group)
    if group is None or command.force or consumer_identity(command) in group.active:
        return True
    if ws.now_ms - group.used_ms > GROUP_TOUCH_MS:
        return True
    if not command.tags and command.resume == (0, 0):
        lasts = enumerate(zip(group.taken, mailbox.last_of, strict=True))
        return any(
            taken.next_absent(1) <= last
            for priority, (taken, last) in lasts
            if command.priorities >> priority & 1
        )
    found = walk_open(ws, mailbox, group, command.tags, 1, command.resume, command.priorities)
    return bool(found.places) or found.resume is not None


def rows_at_most(ws: Workspace, command: FetchMessages) -> int:
    """About how many messages applying a FETCH with a group looks at, or hands out, at most."""
    mailbox = ws.mailbox(command.mailbox)
    if mailbox is None:
        return 0
    group = ws.group(mailbox, command.group)
    most = SEARCH_ROWS_MAX if command.tags else command.num_msgs
    if group is not None and not command.force:
        lasts = zip(group.taken, mailbox.last_of, strict=True)
        most = min(most, sum(max(0, last + 1 - taken.floor) for taken, last in lasts))
    return min(most, mailbox.count)


def position(ws: Workspace, ref: bytes) -> tuple[int, int]:
    """How far a mailbox is: its number, which no other ever has, and its last msg_id."""
    mailbox = ws.mailbox(ref)
    return (mailbox.number, mailbox.last_id) if mailbox else (0, 0)


def beyond(ws: Workspace, request: Browse, seen: tuple[int, int]) -> Browse:
    """The same FETCH for one who has seen that there was nothing for him up to `seen`."""
    number, last_id = seen
    if request.deliver == Deliver.FROM_TIME or position(ws, request.mailbox)[0] != number:
        return request
    first = request.from_value if request.deliver == Deliver.FROM_ID else 1
    return request._replace(deliver=Deliver.FROM_ID, from_value=max(first, last_id + 1))


def messages_at(ws: Workspace, ref: bytes, places: Iterable[tuple[int, int]]) -> list[Message]:
    """The messages at these places; those that are gone meanwhile are left out."""
    mailbox = ws.mailbox(ref)
    found: list[Message] = []
    if mailbox is None:
        return found
    for priority, first, last in rows.runs_of(list(places)):
        if first == last:  # a scan for one row costs several times as much
            row = ws.message_row(mailbox, keys.place(priority, first))
            if row is not None and rows.is_visible(row, ws.now_ms):
                found.append(rows.unpack_message(priority, first, row))
            continue
        start, stop = keys.place(priority, first), keys.place(priority, last + 1)
        for key, row in ws.messages(mailbox, start, stop):
            if rows.is_visible(row, ws.now_ms):
                found.append(rows.unpack_message(priority, keys.place_of(key)[1], row))
    return found


def browse(ws: Workspace, request: Browse) -> Iterator[Message | None]:
    """FETCH without a group, in delivery order; raises MailboxNotFound."""
    mailbox = _existing(ws, request.mailbox)
    starts = _starts(ws, mailbox, request)
    scans = [_scan(ws, mailbox, priority, starts[priority]) for priority in range(keys.PRIORITIES)]
    yield from _first(ws, chain.from_iterable(scans), request.tags, request.num_msgs)


def _first(
    ws: Workspace, found: Iterator[Row], tags: tuple[str, ...], num_msgs: int
) -> Iterator[Message | None]:
    """The first so many visible messages with one of the tags, as far as a reply holds them."""
    left, bytes_left = num_msgs, REPLY_JSON_BYTES_MAX
    for row in _paced(found):
        if row is None:
            yield None
        elif rows.is_visible(row[1], ws.now_ms) and _matches(row[1], tags):
            bytes_left -= json_bytes(row[1])
            if bytes_left < 0 and left < num_msgs:
                return
            yield rows.unpack_message(*keys.place_of(row[0]), row[1])
            left -= 1
            if not left:
                return


def follow(ws: Workspace, request: Follow) -> Iterator[Message | None]:
    """What a push subscription is given next, in delivery order."""
    mailbox = ws.mailbox(request.mailbox)
    if mailbox is None:
        return
    starts = request.starts if mailbox.number == request.number else Follow(b"").starts
    scans = [
        _scan(ws, mailbox, priority, starts[priority])
        for priority in range(keys.PRIORITIES)
        if request.priorities >> priority & 1
    ]
    yield from _first(ws, chain.from_iterable(scans), (), request.num_msgs)


def _starts(ws: Workspace, mailbox: Mailbox, request: Browse) -> list[int]:
    if request.deliver == Deliver.LATEST:
        return [newest_visible_id(ws, mailbox)] * keys.PRIORITIES
    if request.deliver == Deliver.FROM_ID:
        return [request.from_value] * keys.PRIORITIES
    if request.deliver == Deliver.FROM_TIME:
        at_ms = request.from_value * 1000
        return [
            first_created_at(ws, mailbox, priority, at_ms) for priority in range(keys.PRIORITIES)
        ]
    return [1] * keys.PRIORITIES


def query(ws: Workspace, request: Query) -> Iterator[Message | None]:
    """QUERY, newest first; raises MailboxNotFound."""
    mailbox = _existing(ws, request.mailbox)
    left, bytes_left = request.limit, REPLY_JSON_BYTES_MAX
    since_ms = request.since * 1000
    for row in _paced(_candidates(ws, mailbox, request.key)):
        if row is None:
            yield None
            continue
        if rows.created_ms_of(row[1]) < since_ms:
            return
        if rows.is_visible(row[1], ws.now_ms) and _matches(row[1], request.tags):
            message = rows.unpack_message(*keys.place_of(row[0]), row[1])
            if request.bare:
                message = message._replace(payload=b"", meta=b"")
            else:
                bytes_left -= json_bytes(row[1])
            if bytes_left < 0 and left < request.limit:
                return
            yield message
            left -= 1
            if not left:
                return


def _candidates(ws: Workspace, mailbox: Mailbox, key: bytes) -> Iterator[Row]:
    if key:
        place = ws.get(Family.INDEX, keys.by_key(mailbox.prefix, key))
        row = ws.message_row(mailbox, place) if place else None
        return iter([(mailbox.prefix + place, row)] if place and row is not None else [])
    scans = [_scan(ws, mailbox, priority, 1, reverse=True) for priority in range(keys.PRIORITIES)]
    return merge(*scans, key=_id_bytes, reverse=True)


def _id_bytes(row: Row) -> bytes:
    return row[0][-8:]


def _scan(
    ws: Workspace, mailbox: Mailbox, priority: int, first: int, *, reverse: bool = False
) -> Iterator[Row]:
    """A scan that has begun: what is written after this moment is not seen."""
    last = mailbox.last_of[priority]
    if first > last:
        return iter(())
    start, stop = keys.place(priority, first), keys.place(priority, last + 1)
    scan = ws.messages(mailbox, start, stop, reverse=reverse)
    head = next(scan, None)
    return iter(()) if head is None else chain((head,), scan)


def _paced(found: Iterator[Row]) -> Iterator[Row | None]:
    for count, row in enumerate(found, 1):
        yield row
        if count % READ_ROWS_PER_TURN == 0:
            yield None


def _matches(row: bytes, tags: tuple[str, ...]) -> bool:
    return not tags or has_tag(row, tags)

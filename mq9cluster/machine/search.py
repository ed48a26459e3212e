"""Finding messages in a mailbox: what is open for a group, where a time begins, which is the
newest.

Reads only; used by `consumer_group` while applying and by `reads` to see whether a FETCH is worth
proposing.
"""

from typing import NamedTuple

import orjson

from mq9cluster.domain.limits import REPLY_JSON_BYTES_MAX
from mq9cluster.domain.message import ALL_PRIORITIES
from mq9cluster.machine import keys, rows
from mq9cluster.machine.rows import Group, Mailbox, Run
from mq9cluster.machine.workspace import Workspace

MESSAGE_JSON_BYTES = 128  # field names, id, priority and time of one message in a reply
# What one FETCH looks at, so that a rare tag never stalls a shard; about 10 ms each.
SEARCH_ROWS_MAX = 10_000
SEARCH_BYTES_MAX = 32 << 20
SINGLY_WANTED_MAX = 2  # messages of a FETCH that is worth reading ids one by one for
SINGLE_READS_MAX = 4  # a scan costs about as much
SEEK_IDS_MIN = 16  # ids held or done that cost more to read past than a new scan behind them


class Found(NamedTuple):
    """What a walk saw: messages to hand out and ids that are not there.

    `resume`: where it stopped, if its budget ran out before anything was found.
    """

    places: list[tuple[int, int]]
    absent: list[Run]
    resume: tuple[int, int] | None


def walk_open(
    ws: Workspace,
    mailbox: Mailbox,
    group: Group,
    tags: tuple[str, ...],
    wanted: int,
    resume: tuple[int, int],
    priorities: int = ALL_PRIORITIES,
) -> Found:
    """Open, visible messages of these priorities with one of `tags` (none given: any), best
    first.
    """
    found, budget = Found([], [], None), _Budget(wanted)
    for priority in range(resume[0], keys.PRIORITIES):
        if not priorities >> priority & 1:
            continue
        at = group.taken[priority].next_absent(resume[1] if priority == resume[0] else 0)
        if wanted <= SINGLY_WANTED_MAX and not tags:
            at = _look_singly(ws, mailbox, group, (priority, at), budget, found)
        while at <= mailbox.last_of[priority] and not budget.spent:
            at = _walk(ws, mailbox, group, (priority, at), tags, budget, found)
        if budget.spent:
            return found if found.places else found._replace(resume=(priority, at))
    return found


class _Budget:
    """What a walk may still hand out, put into its reply, and look at."""

    __slots__ = ("json_bytes", "messages", "row_bytes", "rows", "spent")

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.json_bytes = REPLY_JSON_BYTES_MAX
        self.rows = SEARCH_ROWS_MAX
        self.row_bytes = SEARCH_BYTES_MAX
        self.spent = False


def _look_singly(
    ws: Workspace,
    mailbox: Mailbox,
    group: Group,
    start: tuple[int, int],
    budget: _Budget,
    found: Found,
) -> int:
    """Read the first open ids one by one; the id at which to go on. What comes of it is what a
    walk would find: most FETCHes want one message, and it is there.
    """
    priority, at = start
    last = mailbox.last_of[priority]
    for _ in range(SINGLE_READS_MAX):
        if at > last:
            return at
        row = ws.message_row(mailbox, keys.place(priority, at))
        if row is None:
            found.absent.append((priority, at, at))
        else:
            budget.rows -= 1
            budget.row_bytes -= len(row)
            if not rows.is_visible(row, ws.now_ms) or rows.created_ms_of(row) < group.start_ms:
                found.absent.append((priority, at, at))
            else:
                budget.json_bytes -= json_bytes(row)
                if budget.json_bytes < 0 and found.places:
                    budget.spent = True
                    return at
                found.places.append((priority, at))
                budget.messages -= 1
                if not budget.messages:
                    budget.spent = True
                    return at + 1
        at = group.taken[priority].next_absent(at + 1)
    return at


def _walk(
    ws: Workspace,
    mailbox: Mailbox,
    group: Group,
    start: tuple[int, int],
    tags: tuple[str, ...],
    budget: _Budget,
    found: Found,
) -> int:
    """Walk messages of one priority in one scan, reading past what is held or done; the id at
    which to go on: behind many ids that are taken, behind the last, or where the budget ended.
    """
    priority, at = start
    taken, stop = group.taken[priority], mailbox.last_of[priority] + 1
    now_ms, start_ms = ws.now_ms, group.start_ms
    for key, row in ws.messages(mailbox, keys.place(*start), keys.place(priority, stop)):
        msg_id = int.from_bytes(key[-8:], "big")
        if msg_id > at:
            found.absent.append((priority, at, msg_id - 1))
            at = msg_id
        if budget.rows <= 0 or budget.row_bytes <= 0:
            budget.spent = True
            return at
        budget.rows -= 1
        budget.row_bytes -= len(row)
        if msg_id in taken:
            at = taken.next_absent(msg_id)
            if at - msg_id > SEEK_IDS_MIN:
                return at
        elif not rows.is_visible(row, now_ms) or (start_ms and rows.created_ms_of(row) < start_ms):
            found.absent.append((priority, msg_id, msg_id))
            at = msg_id + 1
        elif not tags or has_tag(row, tags):
            budget.json_bytes -= json_bytes(row)
            if budget.json_bytes < 0 and found.places:
                budget.spent = True
                return at
            found.places.append((priority, msg_id))
            at = msg_id + 1
            budget.messages -= 1
            if not budget.messages:
                budget.spent = True
                return at
        else:
            at = msg_id + 1
    if at < stop:
        found.absent.append((priority, at, stop - 1))
    return stop


def json_bytes(row: bytes) -> int:
    """About what a message takes in a reply: base64, and the fields around it."""
    return len(row) * 4 // 3 + MESSAGE_JSON_BYTES


def has_tag(row: bytes, tags: tuple[str, ...]) -> bool:
    """Whether the message has one of the tags."""
    if not rows.has_meta(row):
        return False
    meta = orjson.loads(rows.unpack_message(0, 0, row).meta)
    return not set(tags).isdisjoint(meta.get("tags", ()))


def first_created_at(ws: Workspace, mailbox: Mailbox, priority: int, at_ms: int) -> int:
    """The smallest id of a priority from which on all were created at or after `at_ms`.

    Messages become visible in the order of their ids, so their times rise with them: halve the
    range.
    """
    low, high = 1, mailbox.last_of[priority] + 1
    while low < high:
        middle = (low + high) // 2
        row = next(
            ws.messages(mailbox, keys.place(priority, middle), keys.place(priority, high)), None
        )
        if row is None or rows.created_ms_of(row[1]) >= at_ms:
            high = middle
        else:
            low = keys.place_of(row[0])[1] + 1
    return low


def newest_visible_id(ws: Workspace, mailbox: Mailbox) -> int:
    """The highest id of a visible message, whatever its priority; the next id if there is none."""
    newest = 0
    for priority in range(keys.PRIORITIES):
        if mailbox.last_of[priority] <= newest:
            continue
        stop = keys.place(priority, mailbox.last_of[priority] + 1)
        for key, row in ws.messages(mailbox, keys.place(priority, newest + 1), stop, reverse=True):
            if rows.is_visible(row, ws.now_ms):
                newest = max(newest, keys.place_of(key)[1])
                break
    return newest or mailbox.last_id + 1

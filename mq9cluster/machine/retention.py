"""Retention "acked": messages that every group of a mailbox has done are removed.

Called by `hand_outs` and `consumer_group` for what was just done, and by `due` and `ends` when a
group came or went.

A mailbox may have a thousand groups, and must not look at all of them for every ACK. It knows, for
each priority, one group that is *behind*, and up to where all others are done. An ACK of any other
group is compared with that one only; an ACK of the one behind removes what the others are done
with. Only where that does not tell are all groups looked at, a few thousand ids at once, and
another one chosen, from the middle of those furthest behind: however they take turns, that happens
some log(groups) times a message. What is known so is a memory of the rows, and changes nothing.
"""

from typing import NamedTuple

from mq9cluster.machine import keys
from mq9cluster.machine import mailbox as mailboxes
from mq9cluster.machine.idset import BUCKET_BITS, between, ids_of
from mq9cluster.machine.keys import Due
from mq9cluster.machine.rows import Group, Mailbox
from mq9cluster.machine.workspace import Workspace

RETAIN_CHECKS_MAX = 50_000  # messages times groups looked at per step of a sweep; about 10 ms
RETAIN_REMOVED_MAX = 1_000  # messages deleted per step; about 10 ms
_FIRST_PLACE = keys.place(0, 0)


class Behind(NamedTuple):
    """A group that is behind at one priority, and the id below which all others have done all."""

    name: str
    others_floor: int


def sweep_done(
    ws: Workspace, mailbox: Mailbox, group: Group, priority: int, first: int, last: int
) -> None:
    """With retain "acked": delete what every group has done, among ids the group has just done."""
    if not mailbox.retain_acked:
        return
    behind = ws.behind.get(mailbox.prefix, {}).get(priority) or _find_behind(ws, mailbox, priority)
    laggard = ws.group(mailbox, behind.name)
    for bucket in range(first >> BUCKET_BITS, (last >> BUCKET_BITS) + 1):
        done = group.done[priority].bits_of(bucket) & between(bucket, first, last)
        if laggard:
            done &= laggard.done[priority].bits_of(bucket)
        sure = done & between(bucket, 0, behind.others_floor - 1)
        if done != sure:
            sure |= _done_by_all(ws, mailbox, priority, bucket, done ^ sure)
            behind = _find_behind(ws, mailbox, priority)
            laggard = ws.group(mailbox, behind.name)
        for msg_id in ids_of(bucket, sure):
            mailboxes.remove(ws, mailbox, keys.place(priority, msg_id))


def _groups(ws: Workspace, mailbox: Mailbox) -> list[Group]:
    return [g for name in ws.group_names(mailbox) if (g := ws.group(mailbox, name))]


def _done_by_all(ws: Workspace, mailbox: Mailbox, priority: int, bucket: int, ids: int) -> int:
    """Those of the ids, a bit set, that no group has still to do."""
    for name in ws.group_names(mailbox):
        group = ws.group(mailbox, name)
        if group:
            ids &= group.done[priority].bits_of(bucket)
            if not ids:
                break
    return ids


def _find_behind(ws: Workspace, mailbox: Mailbox, priority: int) -> Behind:
    groups = _groups(ws, mailbox)
    lowest = min(group.done[priority].floor for group in groups)
    furthest = [group for group in groups if group.done[priority].floor == lowest]
    chosen = furthest[len(furthest) // 2]
    floors = (group.done[priority].floor for group in groups if group is not chosen)
    behind = Behind(chosen.name, min(floors, default=keys.NEVER_ID))
    ws.behind.setdefault(mailbox.prefix, {})[priority] = behind
    return behind


def retain_sweep(ws: Workspace, mailbox: Mailbox, start: bytes = _FIRST_PLACE) -> None:
    """With retain "acked", after a group came or went: delete what all have done, in steps."""
    groups = _groups(ws, mailbox)
    if not groups:
        return
    left, removals_left = max(RETAIN_CHECKS_MAX // len(groups), 1), RETAIN_REMOVED_MAX
    for key, _ in ws.messages(mailbox, start, keys.place(keys.PRIORITIES, 0)):
        place = key[keys.PREFIX_BYTES :]
        if not left or not removals_left:
            ws.schedule(ws.stamp_ms, Due.RETAIN_SWEEP, mailbox.prefix + place, mailbox.ref)
            return
        left -= 1
        ws.spent += 1
        priority, msg_id = keys.place_of(key)
        if all(msg_id in group.done[priority] for group in groups):
            mailboxes.remove(ws, mailbox, place)
            removals_left -= 1

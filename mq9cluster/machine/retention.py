"""Retention "acked": messages that every group of a mailbox has done are removed.

Called by `hand_outs` and `consumer_group` for what was just done, and by `due` and `ends` when a
group came or went.
"""

from mq9cluster.machine import keys
from mq9cluster.machine import mailbox as mailboxes
from mq9cluster.machine.keys import Due
from mq9cluster.machine.rows import Group, Mailbox
from mq9cluster.machine.workspace import Workspace

RETAIN_CHECKS_MAX = 50_000  # messages times groups looked at per step of a sweep; about 10 ms
RETAIN_REMOVED_MAX = 1_000  # messages deleted per step; about 10 ms
_FIRST_PLACE = keys.place(0, 0)


def sweep_done(
    ws: Workspace, mailbox: Mailbox, group: Group, priority: int, first: int, last: int
) -> None:
    """With retain "acked": delete what every group has done, among ids the group has just done."""
    if not mailbox.retain_acked:
        return
    others = [
        g for name in ws.group_names(mailbox) if (g := ws.group(mailbox, name)) and g is not group
    ]
    for msg_id in range(first, last + 1):
        if msg_id in group.done[priority] and all(
            msg_id in other.done[priority] for other in others
        ):
            mailboxes.remove(ws, mailbox, keys.place(priority, msg_id))


def retain_sweep(ws: Workspace, mailbox: Mailbox, start: bytes = _FIRST_PLACE) -> None:
    """With retain "acked", after a group came or went: delete what all have done, in steps."""
    groups = [g for name in ws.group_names(mailbox) if (g := ws.group(mailbox, name))]
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

"""Ends: of connections and runs of nodes, which give back what they held; of hand-outs' times.

Of groups nobody uses.
"""

from itertools import islice

from mq9cluster.domain.command import Owner
from mq9cluster.domain.limits import GROUP_IDLE_MS
from mq9cluster.domain.outcome import Done
from mq9cluster.domain.ports import Family
from mq9cluster.machine import hand_outs, keys, retention
from mq9cluster.machine.keys import Due
from mq9cluster.machine.rows import Group, Mailbox
from mq9cluster.machine.workspace import Workspace

RELEASED_MAX = 10_000  # groups and messages released per step when owners end; about 20 ms


def end_connection(ws: Workspace, owner: Owner) -> Done:
    """Everything the connection held is open again, unless it is bound to a time."""
    start = keys.owner(owner)
    release(ws, start, keys.after(start))
    return Done()


def _release_owner(ws: Workspace, key: bytes, ref: bytes) -> None:
    owner, group_prefix = keys.owner_of(key)
    ws.delete(Family.GROUPS, key)
    mailbox = ws.mailbox(ref)
    if mailbox is None or not group_prefix.startswith(mailbox.prefix):
        return
    group = ws.group(mailbox, group_prefix[keys.PREFIX_BYTES : -1].decode())
    if group is None:
        return
    group.owner_rows.discard(owner)
    for handout in [h for h in group.active.values() if h.owner == owner and not h.ack_wait_ms]:
        hand_outs.give_back(ws, mailbox, group, handout, "connection")


def end_incarnation(ws: Workspace, node: int, incarnation: int) -> Done:
    """Refuse a node's runs up to this one, and release what they held, step by step."""
    ws.end_runs(node, incarnation)
    release(ws, *keys.owners_of_run(node, incarnation))
    return Done()


def release(ws: Workspace, start: bytes, stop: bytes) -> None:
    """End what the owners in this range of rows hold, in steps."""
    spent_max = ws.spent + RELEASED_MAX
    for key, ref in list(islice(ws.scan(Family.GROUPS, start, stop), RELEASED_MAX + 1)):
        if ws.spent >= spent_max:
            ws.schedule(ws.stamp_ms, Due.RELEASE, key, stop)
            return
        ws.spent += 1
        _release_owner(ws, key, ref)


def end_ack_wait(ws: Workspace, mailbox: Mailbox, group: Group, seq: int) -> None:
    """A hand-out's time is over, unless it was renewed or has ended."""
    handout = group.handouts.get(seq)
    if handout and handout.active and 0 < handout.deadline_ms <= ws.now_ms:
        hand_outs.give_back(ws, mailbox, group, handout, "ack_wait")


def idle(ws: Workspace, mailbox: Mailbox, group: Group) -> None:
    """Forget a group nobody used for a week; look again later at one that was."""
    until_ms = group.used_ms + GROUP_IDLE_MS
    if until_ms > ws.now_ms:
        ws.schedule(until_ms, Due.GROUP_IDLE, group.prefix, mailbox.ref)
        return
    ws.forget_group(group)
    mailbox.groups -= 1
    ws.mark(mailbox)
    ws.changed.add(mailbox.ref)
    if mailbox.retain_acked:
        retention.retain_sweep(ws, mailbox)

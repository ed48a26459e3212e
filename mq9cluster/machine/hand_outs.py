"""What happens to hand-outs and the messages in them: they end, are done, come back, wait, or die.

The steps that FETCH, ACK, NACK (`consumer_group`) and the ends of owners and times (`ends`, `due`)
have in common. A hand-out that ended stays remembered for late ACKs.
"""

import orjson

from mq9cluster.domain.address import address_of, dead_letter_ref
from mq9cluster.domain.command import CreateMailbox
from mq9cluster.domain.limits import HANDOUTS_REMEMBERED_MAX, HANDOUTS_UNSETTLED_MAX
from mq9cluster.domain.ports import Family
from mq9cluster.machine import keys, retention, rows
from mq9cluster.machine import mailbox as mailboxes
from mq9cluster.machine.keys import Due
from mq9cluster.machine.rows import Group, HandOut, Mailbox
from mq9cluster.machine.workspace import Workspace


def end(ws: Workspace, mailbox: Mailbox, group: Group, handout: HandOut) -> None:
    """The consumer no longer has it; what it still held is open.

    It stays remembered for late ACKs.
    """
    for priority, first, last in handout.runs:
        for msg_id in range(first, last + 1):
            if msg_id in handout.held:
                del group.holder[msg_id]
                group.reopen(priority, msg_id)
    handout.held.clear()
    remember(ws, mailbox, group, handout)


def remember(ws: Workspace, mailbox: Mailbox, group: Group, handout: HandOut) -> None:
    """Move a hand-out from the active to the remembered.

    Of these the oldest goes, unless one of its messages is not done: its consumer may yet ACK it,
    and must not be taken for whoever holds that message by then.
    """
    del group.active[handout.consumer]
    if handout.deadline_ms:
        ws.unschedule(handout.deadline_ms, Due.ACK_WAIT, group.handout_key(handout.seq))
    group.ended_seq += 1
    handout.ended_seq = group.ended_seq
    group.remembered[handout.seq] = handout
    ws.mark_handout(group, handout)
    if len(group.remembered) > HANDOUTS_REMEMBERED_MAX:
        oldest = group.remembered.pop(next(iter(group.remembered)))
        if _is_settled(ws, mailbox, group, oldest):
            _forget(ws, group, oldest)
        else:
            group.unsettled[oldest.seq] = oldest
    if len(group.unsettled) > HANDOUTS_UNSETTLED_MAX:
        oldest = group.unsettled.pop(next(iter(group.unsettled)))
        if not _is_settled(ws, mailbox, group, oldest):
            highest = max(last for _, _, last in oldest.runs)
            group.forgotten_id = max(group.forgotten_id, highest)
            ws.mark_group(group)
        _forget(ws, group, oldest)


def _is_settled(ws: Workspace, mailbox: Mailbox, group: Group, handout: HandOut) -> bool:
    """Whether nothing that the hand-out gave can be handed out again."""
    for priority, first, last in handout.runs:
        done = group.done[priority]
        msg_id = done.next_absent(first)
        while msg_id <= last:
            if is_wanted(ws, mailbox, group, priority, msg_id):
                return False
            msg_id = done.next_absent(msg_id + 1)
    return True


def is_wanted(ws: Workspace, mailbox: Mailbox, group: Group, priority: int, msg_id: int) -> bool:
    """Whether there is such a message, and the group is not done with it."""
    row = ws.message_row(mailbox, keys.place(priority, msg_id))
    return (
        row is not None
        and rows.is_visible(row, ws.now_ms)
        and rows.created_ms_of(row) >= group.start_ms
        and msg_id not in group.done[priority]
    )


def _forget(ws: Workspace, group: Group, handout: HandOut) -> None:
    del group.handouts[handout.seq]
    group.unwritten.pop(handout.seq, None)
    ws.delete(Family.GROUPS, group.handout_key(handout.seq))


def give_back(ws: Workspace, mailbox: Mailbox, group: Group, handout: HandOut, reason: str) -> None:
    """A hand-out ended against its will: its messages come back, maybe once too often."""
    came_back: list[tuple[int, int]] = []
    if mailbox.max_deliver:
        came_back = [
            (priority, msg_id)
            for priority, first, last in handout.runs
            for msg_id in range(first, last + 1)
            if msg_id in handout.held
        ]
    ws.spent += len(handout.held)
    end(ws, mailbox, group, handout)
    for priority, msg_id in came_back:
        if count_delivery(ws, mailbox, group, msg_id):
            dead_letter(ws, mailbox, group, priority, msg_id, reason)
    ws.mark_group(group)
    ws.changed.add(mailbox.ref)


def finish(ws: Workspace, group: Group, priority: int, msg_id: int) -> None:
    """The message is done for the group."""
    group.done[priority].add_range(msg_id, msg_id)
    group.taken[priority].add_range(msg_id, msg_id)
    if group.counts and group.counts.pop(msg_id, None) is not None:
        ws.delete(Family.GROUPS, group.count_key(msg_id))
    if group.delays and msg_id in group.delays:
        forget_delay(ws, group, msg_id)


def delay(
    ws: Workspace, mailbox: Mailbox, group: Group, priority: int, msg_id: int, open_ms: int
) -> None:
    """Given back with a delay: nobody gets the message before."""
    group.delays[msg_id] = (priority, open_ms)
    group.taken[priority].add_range(msg_id, msg_id)
    ws.put(Family.GROUPS, group.delay_key(msg_id), rows.pack_delay(priority, open_ms))
    ws.schedule(open_ms, Due.NACK_DELAY, group.delay_key(msg_id), mailbox.ref)


def forget_delay(ws: Workspace, group: Group, msg_id: int) -> int:
    """No longer waiting; the message's priority."""
    priority, open_ms = group.delays.pop(msg_id)
    ws.delete(Family.GROUPS, group.delay_key(msg_id))
    ws.unschedule(open_ms, Due.NACK_DELAY, group.delay_key(msg_id))
    return priority


def end_delay(ws: Workspace, mailbox: Mailbox, group: Group, msg_id: int) -> None:
    """The delay of a NACK has passed: the message is open again."""
    if msg_id in group.delays and group.delays[msg_id][1] <= ws.now_ms:
        priority = forget_delay(ws, group, msg_id)
        group.reopen(priority, msg_id)
        ws.changed.add(mailbox.ref)


def count_delivery(ws: Workspace, mailbox: Mailbox, group: Group, msg_id: int) -> bool:
    """Count that the message came back; whether that was once too often."""
    if not mailbox.max_deliver:
        return False
    count = group.counts.get(msg_id, 0) + 1
    group.counts[msg_id] = count
    ws.put(Family.GROUPS, group.count_key(msg_id), rows.pack_count(count))
    return count >= mailbox.max_deliver


def dead_letter(
    ws: Workspace, mailbox: Mailbox, group: Group, priority: int, msg_id: int, reason: str
) -> None:
    """Move the message, for this group, to the mailbox of dead letters.

    Limits there do not hold it back.
    """
    count = group.counts[msg_id]
    row = ws.message_row(mailbox, keys.place(priority, msg_id))
    finish(ws, group, priority, msg_id)
    if row is not None and rows.is_visible(row, ws.now_ms):
        message = rows.unpack_message(priority, msg_id, row)
        meta = orjson.loads(message.meta) if message.meta else {}
        meta["header"] = meta.get("header", {}) | {
            "mq9-dlq-from": address_of(mailbox.ref),
            "mq9-dlq-group": group.name,
            "mq9-dlq-count": str(count),
            "mq9-dlq-reason": reason,
        }
        letters = _dead_letter_mailbox(ws, mailbox)
        moved = rows.pack_message(
            ws.now_ms, message.expires_ms, b"", orjson.dumps(meta), message.payload
        )
        size = len(message.payload)
        mailboxes.store(ws, letters, priority, moved, b"", size, message.expires_ms)
    retention.sweep_done(ws, mailbox, group, priority, msg_id, msg_id)


def _dead_letter_mailbox(ws: Workspace, mailbox: Mailbox) -> Mailbox:
    ref = dead_letter_ref(mailbox.ref)
    letters = ws.mailbox(ref)
    if letters is None:
        mailboxes.create(ws, CreateMailbox(ref, ttl_s=mailbox.ttl_s))
        letters = mailboxes.existing(ws, ref)
    return letters

"""What time does: everything in the schedule that is due, in order, before the commands of an
entry.

Each thing is done at its own time, so that what comes of it does not depend on when the next entry
happened to come. Bounded per entry; readers compare times. What is left over is done by the next
entry, which the leader proposes at once because the schedule says so.
"""

from collections.abc import Callable

from mq9cluster.domain.ports import Family
from mq9cluster.machine import ends, hand_outs, keys, registry, retention
from mq9cluster.machine import mailbox as mailboxes
from mq9cluster.machine.keys import PREFIX_BYTES, Due
from mq9cluster.machine.rows import Group, Mailbox
from mq9cluster.machine.workspace import Workspace

DUE_WORK_MAX = 2_000  # messages and rows per entry; about 10 ms
NEVER_MS = 2**63


def run(ws: Workspace) -> None:
    """Do what is due at the workspace's time."""
    until_ms = ws.now_ms
    ws.spent = 0
    ws.now_ms = ws.shard.now_ms  # what the entry before left over is done at its time
    while ws.next_due_ms <= until_ms and ws.spent < DUE_WORK_MAX:
        _run_batch(ws, until_ms)
    ws.now_ms = until_ms


def _run_batch(ws: Workspace, until_ms: int) -> None:
    """Do what the schedule holds, until it is done, too much, or made something due before it."""
    due, next_ms = _due_rows(ws, until_ms, DUE_WORK_MAX - ws.spent)
    times = [*(keys.due_of(key)[0] for key, _ in due), next_ms]
    ws.next_due_ms = NEVER_MS  # lowered by what the work below schedules
    for at, (key, value) in enumerate(due):
        next_ms = times[at + 1]
        if ws.get(Family.SCHEDULE, key) is None:
            continue  # something before it in this very run took it back
        ws.delete(Family.SCHEDULE, key)
        at_ms, kind, detail = keys.due_of(key)
        ws.now_ms = max(ws.now_ms, at_ms)
        ws.spent += 1
        _WORK[Due(kind)](ws, detail, value)
        if ws.next_due_ms <= next_ms or ws.spent >= DUE_WORK_MAX:
            break
    ws.next_due_ms = min(ws.next_due_ms, next_ms)
    ws.due_done_ms = min(ws.next_due_ms, until_ms)


def _due_rows(ws: Workspace, until_ms: int, rows_max: int) -> tuple[list[tuple[bytes, bytes]], int]:
    """Up to `rows_max` rows due by `until_ms`, and when the one behind them is due."""
    due: list[tuple[bytes, bytes]] = []
    for row in ws.scan(Family.SCHEDULE, keys.due_from(ws.due_done_ms), keys.due_from(NEVER_MS)):
        at_ms = keys.due_of(row[0])[0]
        if len(due) == rows_max or at_ms > until_ms:
            return due, at_ms
        due.append(row)
    return due, NEVER_MS


def _mailbox(ws: Workspace, detail: bytes, ref: bytes) -> Mailbox | None:
    """The mailbox the row was written for, unless it is gone or has a successor."""
    mailbox = ws.mailbox(ref)
    return mailbox if mailbox and detail.startswith(mailbox.prefix) else None


def _group(ws: Workspace, mailbox: Mailbox, detail: bytes) -> Group | None:
    return ws.group(mailbox, detail[PREFIX_BYTES : detail.index(b"\0", PREFIX_BYTES)].decode())


def _mailbox_expiry(ws: Workspace, detail: bytes, ref: bytes) -> None:
    mailbox = ws.stored_mailbox(ref)
    if mailbox and mailbox.prefix == detail:
        mailboxes.vanish(ws, mailbox)


def _promotion(ws: Workspace, detail: bytes, ref: bytes) -> None:
    mailbox = _mailbox(ws, detail, ref)
    if mailbox:
        mailboxes.promote(ws, mailbox, detail[PREFIX_BYTES:])


def _message_expiry(ws: Workspace, detail: bytes, ref: bytes) -> None:
    mailbox = _mailbox(ws, detail, ref)
    if mailbox:
        mailboxes.expire(ws, mailbox, detail[PREFIX_BYTES:])


def _ack_wait(ws: Workspace, detail: bytes, ref: bytes) -> None:
    mailbox = _mailbox(ws, detail, ref)
    group = _group(ws, mailbox, detail) if mailbox else None
    if mailbox and group:
        ends.end_ack_wait(ws, mailbox, group, int.from_bytes(detail[-8:], "big"))


def _nack_delay(ws: Workspace, detail: bytes, ref: bytes) -> None:
    mailbox = _mailbox(ws, detail, ref)
    group = _group(ws, mailbox, detail) if mailbox else None
    if mailbox and group:
        hand_outs.end_delay(ws, mailbox, group, int.from_bytes(detail[-8:], "big"))


def _duplicate(ws: Workspace, detail: bytes, _: bytes) -> None:
    mailboxes.forget_dedupe_id(ws, detail)


def _group_idle(ws: Workspace, detail: bytes, ref: bytes) -> None:
    mailbox = _mailbox(ws, detail, ref)
    group = _group(ws, mailbox, detail) if mailbox else None
    if mailbox and group:
        ends.idle(ws, mailbox, group)


def _retain_sweep(ws: Workspace, detail: bytes, ref: bytes) -> None:
    mailbox = _mailbox(ws, detail, ref)
    if mailbox:
        retention.retain_sweep(ws, mailbox, detail[PREFIX_BYTES:])


def _purge(ws: Workspace, detail: bytes, _: bytes) -> None:
    mailboxes.purge(ws, detail)


def _release(ws: Workspace, start: bytes, stop: bytes) -> None:
    ends.release(ws, start, stop)


def _agent_expiry(ws: Workspace, ref: bytes, _: bytes) -> None:
    registry.look_at(ws, ref)


def _drop_codes(ws: Workspace, detail: bytes, _: bytes) -> None:
    registry.drop_codes(ws, detail)


_WORK: dict[Due, Callable[[Workspace, bytes, bytes], None]] = {
    Due.MAILBOX_EXPIRY: _mailbox_expiry,
    Due.PROMOTION: _promotion,
    Due.MESSAGE_EXPIRY: _message_expiry,
    Due.ACK_WAIT: _ack_wait,
    Due.NACK_DELAY: _nack_delay,
    Due.DUPLICATE: _duplicate,
    Due.GROUP_IDLE: _group_idle,
    Due.RETAIN_SWEEP: _retain_sweep,
    Due.PURGE: _purge,
    Due.RELEASE: _release,
    Due.AGENT_EXPIRY: _agent_expiry,
    Due.DROP_CODES: _drop_codes,
}

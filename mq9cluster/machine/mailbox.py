"""What commands and time do to mailboxes and their messages (docs/protocol.md, sections 2 and 3).

Each function takes the workspace and returns an outcome, or raises the error that refuses the
command before anything was written. Called by `apply` and `due`; `consumer_group` sends dead
letters through `store`.

Public mailboxes are told of in a mailbox of their own, one in each shard for each account
(`domain.address.public_list_ref`): a message for each, under its address as key, which says that it
was added or, for a while, that it was removed. Who wants the list reads those mailboxes.
"""

import orjson

from mq9cluster.domain.address import address_of, public_list_ref, slot_of
from mq9cluster.domain.command import CreateMailbox, DeleteMessage, SendMessage
from mq9cluster.domain.errors import MailboxExists, MailboxFull, MailboxNotFound, MessageNotFound
from mq9cluster.domain.limits import REMOVED_TOLD_S
from mq9cluster.domain.message import DELAYED_MSG_ID, Priority
from mq9cluster.domain.outcome import Done, MailboxCreated, MessageStored
from mq9cluster.domain.ports import Family
from mq9cluster.machine import keys, rows
from mq9cluster.machine.keys import Due
from mq9cluster.machine.rows import Mailbox
from mq9cluster.machine.workspace import Workspace

EXPIRED_ROWS_FREED_MAX = 1_000  # looked at to make room in a full mailbox before SEND is refused
PURGE_ROWS_MAX = 1_000  # rows of a mailbox that is gone deleted one by one; beyond, by range


def existing(ws: Workspace, ref: bytes) -> Mailbox:
    """The mailbox, or MailboxNotFound."""
    mailbox = ws.mailbox(ref)
    if mailbox is None:
        raise MailboxNotFound(address_of(ref))
    return mailbox


# --- CREATE --------------------------------------------------------------------------------------


def create(ws: Workspace, command: CreateMailbox) -> MailboxCreated:
    """CREATE: a new mailbox, or a public one that is there already; raises MailboxExists."""
    present = ws.mailbox(command.mailbox)
    if present and not (present.public and command.public):
        raise MailboxExists(address_of(command.mailbox))
    if present:
        return MailboxCreated(command.mailbox)
    expired = ws.stored_mailbox(command.mailbox)
    if expired:
        vanish(ws, expired)
    mailbox = _new(ws, command.mailbox)
    mailbox.ttl_s = command.ttl_s
    mailbox.desc = command.desc
    mailbox.max_deliver = command.max_deliver
    mailbox.max_msgs = command.max_msgs
    mailbox.max_bytes = command.max_bytes
    mailbox.retain_acked = command.retain_acked
    mailbox.public = command.public
    mailbox.latest = command.latest
    if command.ttl_s:
        mailbox.expires_ms = ws.now_ms + command.ttl_s * 1000
        ws.schedule(mailbox.expires_ms, Due.MAILBOX_EXPIRY, mailbox.prefix, mailbox.ref)
    if mailbox.public:
        created_s = mailbox.created_ms // 1000
        about = {"desc": mailbox.desc, "ttl": mailbox.ttl_s, "create_time": created_s}
        _tell_public(ws, mailbox, "added", about, expires_ms=0)
    return MailboxCreated(command.mailbox)


def _new(ws: Workspace, ref: bytes) -> Mailbox:
    mailbox = Mailbox(ref, slot_of(ref), ws.shard.next_number)
    ws.shard.next_number += 1
    mailbox.created_ms = ws.now_ms
    ws.add_mailbox(mailbox)
    return mailbox


def _tell_public(
    ws: Workspace, mailbox: Mailbox, event: str, about: dict[str, object], expires_ms: int
) -> None:
    """Tell who reads the list of public mailboxes, in place of what was told of this one before."""
    address = address_of(mailbox.ref)
    ref = public_list_ref(mailbox.ref)
    told = ws.mailbox(ref) or _new(ws, ref)
    payload = orjson.dumps({"event": event, "mail_id": address, **about})
    key = address.encode()
    row = rows.pack_message(ws.now_ms, expires_ms, key, b"", payload)
    store(ws, told, Priority.NORMAL, row, key, len(payload), expires_ms)


def vanish(ws: Workspace, mailbox: Mailbox) -> None:
    """Remove an expired mailbox.

    Its own row goes now; the rows of its messages and groups by a purge that falls due at once.
    """
    ws.forget_mailbox(mailbox)
    ws.forget_groups_of(mailbox)
    ws.changed.add(mailbox.ref)
    ws.schedule(ws.stamp_ms, Due.PURGE, mailbox.prefix, b"")
    if mailbox.public:
        until_ms = ws.now_ms + REMOVED_TOLD_S * 1000
        _tell_public(ws, mailbox, "removed", {}, expires_ms=until_ms)


def purge(ws: Workspace, prefix: bytes) -> None:
    """Delete what a mailbox that is gone left behind.

    Nobody can reach these rows: its number is never used again.
    """
    for family in (Family.MESSAGES, Family.INDEX, Family.GROUPS):
        left = PURGE_ROWS_MAX
        for key, row in ws.scan(family, prefix, keys.after(prefix)):
            left -= 1
            if left < 0:
                ws.drop(family, prefix)
                break
            if family is Family.MESSAGES:
                _unschedule_message(ws, key, row)
            ws.delete(family, key)
            ws.spent += 1


def _unschedule_message(ws: Workspace, key: bytes, row: bytes) -> None:
    """Forget the expiry of a message whose mailbox is gone.

    What a range drops instead falls due and finds nothing.
    """
    priority, _ = keys.place_of(key)
    if priority == keys.DELAYED:
        return
    expires_ms = rows.unpack_message(priority, 0, row).expires_ms
    if expires_ms:
        ws.unschedule(expires_ms, Due.MESSAGE_EXPIRY, key)


# --- SEND ----------------------------------------------------------------------------------------


def send(ws: Workspace, command: SendMessage) -> MessageStored:
    """SEND: store a message now or to become visible later; raises MailboxNotFound, MailboxFull."""
    mailbox = existing(ws, command.mailbox)
    if command.dedupe_id:
        first = _first_with_id(ws, mailbox, command)
        if first is not None:
            return MessageStored(first, duplicate=True)
    if mailbox.max_msgs or mailbox.max_bytes:
        _make_room(ws, mailbox, command)
    expires_ms = ws.now_ms + command.ttl_s * 1000 if command.ttl_s else 0
    if command.delay_s:
        _store_delayed(ws, mailbox, command, expires_ms)
        msg_id = int(DELAYED_MSG_ID)
    else:
        row = rows.pack_message(ws.now_ms, expires_ms, command.key, command.meta, command.payload)
        msg_id = store(
            ws, mailbox, command.priority, row, command.key, len(command.payload), expires_ms
        )
    if command.dedupe_id:
        _remember_id(ws, mailbox, command, msg_id)
    return MessageStored(msg_id)


def store(
    ws: Workspace,
    mailbox: Mailbox,
    priority: int,
    row: bytes,
    key: bytes,
    payload_bytes: int,
    expires_ms: int,
) -> int:
    """Make a message visible: the next msg_id, the row, its key, its expiry."""
    if key:
        _replace(ws, mailbox, key)
    if mailbox.latest:
        newest = newest_place(mailbox)
        if newest:
            remove(ws, mailbox, newest)
    mailbox.last_id = msg_id = mailbox.last_id + 1
    mailbox.last_of[priority] = msg_id
    mailbox.count += 1
    mailbox.payload_bytes += payload_bytes
    ws.shard.messages += 1
    place = keys.place(priority, msg_id)
    ws.put_message(mailbox, place, row)
    if key:
        ws.put(Family.INDEX, keys.by_key(mailbox.prefix, key), place)
    if expires_ms:
        ws.schedule(expires_ms, Due.MESSAGE_EXPIRY, mailbox.prefix + place, mailbox.ref)
    ws.mark(mailbox)
    ws.changed.add(mailbox.ref)
    return msg_id


def newest_place(mailbox: Mailbox) -> bytes:
    """Where the message stands, or stood, that became visible last; b"" for none."""
    if not mailbox.last_id:
        return b""
    return keys.place(mailbox.last_of.index(mailbox.last_id), mailbox.last_id)


def _replace(ws: Workspace, mailbox: Mailbox, key: bytes) -> None:
    place = ws.get(Family.INDEX, keys.by_key(mailbox.prefix, key))
    if place:
        remove(ws, mailbox, place)


def _store_delayed(ws: Workspace, mailbox: Mailbox, command: SendMessage, expires_ms: int) -> None:
    mailbox.delayed_seq += 1
    place = keys.place(keys.DELAYED, mailbox.delayed_seq)
    row = rows.pack_message(ws.now_ms, expires_ms, command.key, command.meta, command.payload)
    ws.put_message(mailbox, place, rows.pack_delayed(command.priority, row))
    visible_ms = ws.now_ms + command.delay_s * 1000
    if expires_ms:
        visible_ms = min(visible_ms, expires_ms)  # never visible: dropped when it expires
    ws.schedule(visible_ms, Due.PROMOTION, mailbox.prefix + place, mailbox.ref)
    mailbox.count += 1
    mailbox.payload_bytes += len(command.payload)
    ws.shard.messages += 1
    ws.mark(mailbox)


def promote(ws: Workspace, mailbox: Mailbox, place: bytes) -> None:
    """A delayed message becomes visible, or has expired meanwhile and is dropped."""
    delayed = ws.message_row(mailbox, place)
    if delayed is None:
        return
    priority, row = rows.unpack_delayed(delayed)
    message = rows.unpack_message(priority, 0, row)
    ws.put_message(mailbox, place, None)
    mailbox.count -= 1
    mailbox.payload_bytes -= len(message.payload)
    ws.shard.messages -= 1
    ws.mark(mailbox)
    if rows.is_visible(row, ws.now_ms):
        row = rows.with_created_ms(row, ws.now_ms)
        key, size = message.key.encode(), len(message.payload)
        store(ws, mailbox, priority, row, key, size, message.expires_ms)


# --- the duplicate window ------------------------------------------------------------------------


def _first_with_id(ws: Workspace, mailbox: Mailbox, command: SendMessage) -> int | None:
    row = ws.get(Family.INDEX, keys.by_dedupe_id(mailbox.prefix, command.dedupe_id))
    if row is None or int.from_bytes(row[8:], "big") <= ws.now_ms:
        return None
    return int.from_bytes(row[:8], "big", signed=True)


def _remember_id(ws: Workspace, mailbox: Mailbox, command: SendMessage, msg_id: int) -> None:
    until_ms = ws.now_ms + command.duplicate_window_ms
    key = keys.by_dedupe_id(mailbox.prefix, command.dedupe_id)
    ws.put(Family.INDEX, key, msg_id.to_bytes(8, "big", signed=True) + until_ms.to_bytes(8, "big"))
    ws.schedule(until_ms, Due.DUPLICATE, key, b"")


def forget_dedupe_id(ws: Workspace, index_key: bytes) -> None:
    """The window of a sender's id has passed, unless a later message opened it anew."""
    row = ws.get(Family.INDEX, index_key)
    if row is not None and int.from_bytes(row[8:], "big") <= ws.now_ms:
        ws.delete(Family.INDEX, index_key)


# --- room ----------------------------------------------------------------------------------------


def _make_room(ws: Workspace, mailbox: Mailbox, command: SendMessage) -> None:
    """Refuse what does not fit.

    Messages that have expired but are not yet swept do not count: they are swept now.
    """
    if _too_many(ws, mailbox, command) is None:
        return
    _free_expired(ws, mailbox)
    why = _too_many(ws, mailbox, command)
    if why:
        raise MailboxFull(why)


def _too_many(ws: Workspace, mailbox: Mailbox, command: SendMessage) -> str | None:
    """Which limit the message would break, if any.

    A keyed replacement takes the place of what it replaces, as every message of a `latest` mailbox
    does.
    """
    replaced_count, replaced_bytes = 0, 0
    if (command.key or mailbox.latest) and not command.delay_s:
        place: bytes | None = newest_place(mailbox)
        if not mailbox.latest:
            place = ws.get(Family.INDEX, keys.by_key(mailbox.prefix, command.key))
        row = ws.message_row(mailbox, place) if place else None
        if row is not None and rows.is_visible(row, ws.now_ms):
            replaced_count, replaced_bytes = 1, len(rows.unpack_message(0, 0, row).payload)
    growth = len(command.payload) - replaced_bytes
    if (
        mailbox.max_msgs
        and mailbox.count + 1 - replaced_count > mailbox.max_msgs
        and not replaced_count
    ):
        return f"max_msgs {mailbox.max_msgs} reached"
    if mailbox.max_bytes and growth > 0 and mailbox.payload_bytes + growth > mailbox.max_bytes:
        return f"max_bytes {mailbox.max_bytes} reached"
    return None


def _free_expired(ws: Workspace, mailbox: Mailbox) -> None:
    """Sweep expired messages of this mailbox before their turn in the schedule comes."""
    start = keys.due_from(ws.due_done_ms)
    left = EXPIRED_ROWS_FREED_MAX
    for key, _ in ws.scan(Family.SCHEDULE, start, keys.due_until(ws.now_ms)):
        left -= 1
        if left < 0:
            return
        _, kind, rest = keys.due_of(key)
        if kind == Due.MESSAGE_EXPIRY and rest.startswith(mailbox.prefix):
            expire(ws, mailbox, rest[keys.PREFIX_BYTES :])


# --- removal -------------------------------------------------------------------------------------


def delete(ws: Workspace, command: DeleteMessage) -> Done:
    """DELETE: raises MailboxNotFound, MessageNotFound."""
    mailbox = existing(ws, command.mailbox)
    for priority in range(keys.PRIORITIES):
        if command.msg_id > mailbox.last_of[priority]:
            continue
        place = keys.place(priority, command.msg_id)
        row = ws.message_row(mailbox, place)
        if row is not None and rows.is_visible(row, ws.now_ms):
            remove(ws, mailbox, place)
            return Done()
    raise MessageNotFound(f"no message {command.msg_id} in {address_of(command.mailbox)}")


def remove(ws: Workspace, mailbox: Mailbox, place: bytes) -> None:
    """Take a visible message's row away, with its key and its place in the schedule.

    Missing is fine.
    """
    row = ws.message_row(mailbox, place)
    if row is None:
        return
    message = rows.unpack_message(place[0], 0, row)
    ws.put_message(mailbox, place, None)
    if message.key:
        index_key = keys.by_key(mailbox.prefix, message.key.encode())
        if ws.get(Family.INDEX, index_key) == place:
            ws.delete(Family.INDEX, index_key)
    if message.expires_ms:
        ws.unschedule(message.expires_ms, Due.MESSAGE_EXPIRY, mailbox.prefix + place)
    mailbox.count -= 1
    mailbox.payload_bytes -= len(message.payload)
    ws.shard.messages -= 1
    ws.mark(mailbox)


def expire(ws: Workspace, mailbox: Mailbox, place: bytes) -> None:
    """A message's ttl has passed."""
    row = ws.message_row(mailbox, place)
    if row is not None and not rows.is_visible(row, ws.now_ms):
        remove(ws, mailbox, place)

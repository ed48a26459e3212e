"""Hand-outs: what FETCH gives to whom, and what ACK, NACK and ends make of it (docs/protocol.md,
section 3).

A group knows of each message whether it is open, held by a consumer, or done. `done` and `taken`
(done or held) are `IdSet`s per priority, so a FETCH walks only the gaps of `taken`, and what was
acknowledged costs nothing. A search that sees all of a gap marks the ids that are not there as
done, so gaps close behind deleted and expired messages and behind the ids that other priorities
use.

One FETCH: the consumer's own hand-out ends, the gaps are walked best first, what was found becomes
the new hand-out. One failure: the connection ends; `ends.end_connection` finds the owner's rows,
each group's hand-outs of that owner end, their messages leave `taken`, and the next FETCH finds
them in their old places.
"""

from collections.abc import Iterable

from mq9cluster.domain.address import address_of
from mq9cluster.domain.command import (
    AckMessages,
    AckScope,
    Deliver,
    FetchMessages,
    NackMessage,
    Owner,
)
from mq9cluster.domain.errors import InvalidField, MessageNotFound, Overloaded, Unavailable
from mq9cluster.domain.limits import (
    GROUP_IDLE_MS,
    GROUPS_PER_MAILBOX_MAX,
    HELD_PER_GROUP_MAX,
)
from mq9cluster.domain.outcome import Done, HandedOut
from mq9cluster.domain.ports import Family
from mq9cluster.machine import hand_outs, keys, retention, rows
from mq9cluster.machine import mailbox as mailboxes
from mq9cluster.machine.keys import Due
from mq9cluster.machine.rows import Group, HandOut, Mailbox, Run
from mq9cluster.machine.search import Found, first_created_at, newest_visible_id, walk_open
from mq9cluster.machine.workspace import Workspace


def consumer_identity(command: FetchMessages) -> str:
    """Who holds: the named consumer, or the connection.

    Names have no control characters, so the two never meet.
    """
    if command.consumer:
        return command.consumer
    owner = command.owner
    return f"\1{owner.node}.{owner.incarnation}.{owner.connection}"


# --- FETCH ---------------------------------------------------------------------------------------


def fetch(ws: Workspace, command: FetchMessages) -> HandedOut:
    """FETCH with a group; raises MailboxNotFound, Unavailable, InvalidField, Overloaded."""
    mailbox = mailboxes.existing(ws, command.mailbox)
    _refuse_ended_run(ws, command.owner)
    group = ws.group(mailbox, command.group)
    consumer = consumer_identity(command)
    own = group.active.get(consumer) if group and not command.force else None
    room = HELD_PER_GROUP_MAX
    if group and not command.force:
        room -= len(group.holder) - (len(own.held) if own else 0)
    if room <= 0:
        raise Overloaded(
            f"group {command.group} holds {HELD_PER_GROUP_MAX} messages unacknowledged"
        )
    if group is None or command.force:
        group = _new_group(ws, mailbox, command, group)
    elif own:
        hand_outs.end(ws, mailbox, group, own)
    group.used_ms = ws.now_ms
    ws.mark_group(group)
    wanted = min(command.num_msgs, room)
    found = walk_open(ws, mailbox, group, command.tags, wanted, command.resume, command.priorities)
    _close(group, found)
    if not found.places:
        if own:
            ws.changed.add(mailbox.ref)
        return HandedOut("", (), found.resume)
    handout = _hand_out(ws, mailbox, group, consumer, command, found)
    if own:
        ws.changed.add(mailbox.ref)
    return HandedOut(f"{group.birth}-{handout.seq}", tuple(found.places))


def _refuse_ended_run(ws: Workspace, owner: Owner) -> None:
    if ws.is_ended(owner.node, owner.incarnation):
        raise Unavailable("this run of the node was ended")


def _new_group(ws: Workspace, mailbox: Mailbox, command: FetchMessages, old: Group | None) -> Group:
    """Create the group, or with force_deliver begin it anew."""
    if old is None and mailbox.groups >= GROUPS_PER_MAILBOX_MAX:
        raise InvalidField("group_name", f"the mailbox has {GROUPS_PER_MAILBOX_MAX} groups already")
    starts = _starts(ws, mailbox, command)
    if old:
        for handout in list(old.active.values()):
            hand_outs.end(ws, mailbox, old, handout)
        group = old.started_anew(mailbox)
        for kind in Group.PROGRESS_KINDS:
            ws.drop(Family.GROUPS, group.prefix + kind)
    else:
        group = Group(mailbox, command.group, ws.shard.next_number)
        ws.shard.next_number += 1
        mailbox.groups += 1
        ws.mark(mailbox)
        ws.schedule(ws.now_ms + GROUP_IDLE_MS, Due.GROUP_IDLE, group.prefix, mailbox.ref)
    if command.deliver == Deliver.FROM_TIME and command.from_value * 1000 > ws.now_ms:
        group.start_ms = command.from_value * 1000
    for priority, start in enumerate(starts):
        group.done[priority].add_range(1, start - 1)
        group.taken[priority].add_range(1, start - 1)
    ws.add_group(group)
    ws.changed.add(mailbox.ref)
    if mailbox.retain_acked and (old or mailbox.groups == 1):
        retention.retain_sweep(ws, mailbox)  # one more group beside others makes nothing done
    return group


def _starts(ws: Workspace, mailbox: Mailbox, command: FetchMessages) -> list[int]:
    """The first id of each priority that the group is to read."""
    if command.deliver == Deliver.EARLIEST:
        return [1] * keys.PRIORITIES
    if command.deliver == Deliver.FROM_ID:
        return [min(command.from_value, keys.NEVER_ID)] * keys.PRIORITIES
    if command.deliver == Deliver.FROM_TIME:
        at_ms = command.from_value * 1000
        return [
            first_created_at(ws, mailbox, priority, at_ms) for priority in range(keys.PRIORITIES)
        ]
    return [newest_visible_id(ws, mailbox)] * keys.PRIORITIES


def _close(group: Group, found: Found) -> None:
    """Ids the search showed not to be there are done: nothing will ever be stored under them."""
    for priority, first, last in found.absent:
        group.done[priority].add_range(first, last)
        group.taken[priority].add_range(first, last)


def _hand_out(
    ws: Workspace,
    mailbox: Mailbox,
    group: Group,
    consumer: str,
    command: FetchMessages,
    found: Found,
) -> HandOut:
    group.seq += 1
    handout = HandOut(group.seq, consumer, command.owner, rows.runs_of(found.places))
    handout.held = {msg_id for _, msg_id in found.places}
    for priority, first, last in handout.runs:
        group.taken[priority].add_range(first, last)
    group.holder.update(dict.fromkeys(handout.held, handout))
    group.active[consumer] = handout
    group.handouts[handout.seq] = handout
    if command.ack_wait_ms:
        handout.ack_wait_ms = command.ack_wait_ms
        _set_deadline(ws, mailbox, group, handout)
    elif command.owner not in group.owner_rows:
        group.owner_rows.add(command.owner)
        ws.put(Family.GROUPS, keys.owner(command.owner) + group.prefix, mailbox.ref)
    ws.mark_handout(group, handout)
    return handout


def _set_deadline(ws: Workspace, mailbox: Mailbox, group: Group, handout: HandOut) -> None:
    handout.deadline_ms = ws.now_ms + handout.ack_wait_ms
    rest = group.handout_key(handout.seq)
    ws.schedule(handout.deadline_ms, Due.ACK_WAIT, rest, mailbox.ref)


# --- ACK -----------------------------------------------------------------------------------------

Confirmed = tuple[HandOut, list[Run]]
"""A hand-out, and what of it an ACK in scope batch confirms; the message it names is the last."""


def ack(ws: Workspace, command: AckMessages) -> Done:
    """ACK; raises MailboxNotFound, Unavailable, MessageNotFound."""
    mailbox = mailboxes.existing(ws, command.mailbox)
    _refuse_ended_run(ws, command.owner)
    group = _existing_group(ws, mailbox, command.group)
    if not 1 <= command.msg_id <= mailbox.last_id:
        raise MessageNotFound(f"no message {command.msg_id} in {address_of(command.mailbox)}")
    if command.scope == AckScope.PROGRESS:
        _renew(ws, mailbox, group, command)
        return Done()
    confirmed = _named(group, command) if command.handout else _meant(ws, mailbox, group, command)
    group.used_ms = ws.now_ms
    ws.mark_group(group)
    if confirmed is None:
        return Done()
    handout, runs = confirmed
    if command.scope == AckScope.MESSAGE:
        runs = runs[-1:] and [(runs[-1][0], command.msg_id, command.msg_id)]
    _confirm(ws, mailbox, group, handout, runs)
    return Done()


def _existing_group(ws: Workspace, mailbox: Mailbox, name: str) -> Group:
    group = ws.group(mailbox, name)
    if group is None:
        raise MessageNotFound(f"group {name} has been handed nothing")
    return group


def _named(group: Group, command: AckMessages) -> Confirmed:
    """What an ACK confirms that names its hand-out; raises MessageNotFound."""
    birth, _, seq = command.handout.partition("-")
    handout = None
    if birth == str(group.birth) and seq.isascii() and seq.isdecimal() and len(seq) < 20:
        handout = group.handouts.get(int(seq))
    if handout is None or f"{group.birth}-{handout.seq}" != command.handout:
        raise MessageNotFound(f"no hand-out {command.handout} is known")
    if handout.priority_of(command.msg_id) is None:
        raise MessageNotFound(f"message {command.msg_id} is not in hand-out {command.handout}")
    _refuse_if_passed_on(group, handout, command.msg_id)
    return handout, handout.up_to(command.msg_id)


def _meant(ws: Workspace, mailbox: Mailbox, group: Group, command: AckMessages) -> Confirmed | None:
    """What an ACK without a name confirms; None if there is nothing left.

    Raises MessageNotFound.
    """
    msg_id, owner = command.msg_id, command.owner
    # Whoever holds a message is the only active one that could: who had it before has given it
    # back, and with it its place on the list, or is done with it, and then nobody holds it.
    active = group.holder.get(msg_id)
    if active is None:
        active = next(iter(_with_message(group.active.values(), msg_id)), None)
    if active and active.owner == owner:
        return active, active.up_to(msg_id)
    # A connection speaks of what it was itself given, even if that has ended: only with its own
    # list does its ACK never confirm what it has not seen.
    ended = group.ended_with(msg_id)
    own = _last_of(ended, owner)
    if own:
        _refuse_if_passed_on(group, own, msg_id)
        return own, own.up_to(msg_id)
    known = [*ended, active] if active else ended
    if known:
        return known[-1], _common(group, known, msg_id)
    if any(hand_outs.is_wanted(ws, mailbox, group, p, msg_id) for p in range(keys.PRIORITIES)):
        raise MessageNotFound(f"message {msg_id} was not handed out")
    return None


def _common(group: Group, known: list[HandOut], msg_id: int) -> list[Run]:
    """What is confirmed by a connection that may speak for any of these: what all of them hold.

    Of one consumer's only the last counts. Who holds a message that was lost before may have been
    given better ones beside it, which the loser never saw: its late ACK must not confirm those.
    """
    runs = known[-1].up_to(msg_id)
    if msg_id <= group.forgotten_id:
        return [(runs[-1][0], msg_id, msg_id)]
    for handout in {each.consumer: each for each in known}.values():
        if handout is not known[-1]:
            runs = rows.in_both(runs, handout.up_to(msg_id))
    return runs


def _refuse_if_passed_on(group: Group, ended: HandOut, msg_id: int) -> None:
    """A consumer that lost a message to another member must not speak for it."""
    holder = group.holder.get(msg_id)
    if holder and holder.consumer != ended.consumer:
        raise MessageNotFound(f"message {msg_id} is held by another consumer")


def _refuse_loser(group: Group, holder: HandOut, msg_id: int, owner: Owner) -> None:
    """Refuse a connection to which another consumer's message was handed out before."""
    if holder.owner == owner:
        return
    ended = group.ended_with(msg_id)
    own = _last_of(ended, owner)
    if own:
        _refuse_if_passed_on(group, own, msg_id)


def _last_of(ended: list[HandOut], owner: Owner) -> HandOut | None:
    """Of the hand-outs that were the connection's, the one that ended last."""
    return next((handout for handout in reversed(ended) if handout.owner == owner), None)


def _with_message(handouts: Iterable[HandOut], msg_id: int) -> list[HandOut]:
    """Those of the hand-outs whose list has the message."""
    return [handout for handout in handouts if handout.priority_of(msg_id) is not None]


def _confirm(
    ws: Workspace, mailbox: Mailbox, group: Group, handout: HandOut, runs: Iterable[Run]
) -> None:
    """Mark what `runs` say as done, leaving out what another consumer holds now."""
    touched: dict[int, HandOut] = {}
    holder = group.holder
    for priority, first, last in runs:
        for msg_id in range(first, last + 1):
            holding = holder.get(msg_id)
            if holding is not None:
                if holding.consumer != handout.consumer:
                    continue
                del holder[msg_id]
                holding.held.discard(msg_id)
                touched[holding.seq] = holding
            hand_outs.finish(ws, group, priority, msg_id)
        retention.sweep_done(ws, mailbox, group, priority, first, last)
    for holding in touched.values():
        if holding.held:
            ws.mark_handout(group, holding)
        else:
            hand_outs.remember(ws, mailbox, group, holding)


def _renew(ws: Workspace, mailbox: Mailbox, group: Group, command: AckMessages) -> None:
    """Scope progress: more time for the hand-out that holds the message."""
    handout = group.holder.get(command.msg_id)
    if command.handout:
        named, _ = _named(group, command)
        handout = handout if handout is named else None
    if handout is None:
        raise MessageNotFound(f"message {command.msg_id} is not held")
    _refuse_loser(group, handout, command.msg_id, command.owner)
    group.used_ms = ws.now_ms
    ws.mark_group(group)
    if handout.ack_wait_ms:
        ws.unschedule(handout.deadline_ms, Due.ACK_WAIT, group.handout_key(handout.seq))
        _set_deadline(ws, mailbox, group, handout)
        ws.mark_handout(group, handout)


# --- NACK ----------------------------------------------------------------------------------------


def nack(ws: Workspace, command: NackMessage) -> Done:
    """NACK; raises MailboxNotFound, Unavailable, MessageNotFound."""
    mailbox = mailboxes.existing(ws, command.mailbox)
    _refuse_ended_run(ws, command.owner)
    group = _existing_group(ws, mailbox, command.group)
    msg_id = command.msg_id
    handout = group.holder.get(msg_id)
    priority = handout.priority_of(msg_id) if handout else None
    if handout is None or priority is None:
        raise MessageNotFound(f"message {msg_id} is not held")
    _refuse_loser(group, handout, msg_id, command.owner)
    del group.holder[msg_id]
    handout.held.discard(msg_id)
    group.reopen(priority, msg_id)
    _strike(ws, group, handout.consumer, msg_id)
    if not handout.held:
        hand_outs.remember(ws, mailbox, group, handout)
    if hand_outs.count_delivery(ws, mailbox, group, msg_id):
        hand_outs.dead_letter(ws, mailbox, group, priority, msg_id, "nack")
    elif command.delay_s:
        hand_outs.delay(ws, mailbox, group, priority, msg_id, ws.now_ms + command.delay_s * 1000)
    group.used_ms = ws.now_ms
    ws.mark_group(group)
    ws.changed.add(mailbox.ref)
    return Done()


def _strike(ws: Workspace, group: Group, consumer: str, msg_id: int) -> None:
    """Take the message off every list of the consumer that gave it back."""
    for handout in _with_message(group.handouts.values(), msg_id):
        if handout.consumer == consumer:
            handout.strike(msg_id)
            ws.mark_handout(group, handout)

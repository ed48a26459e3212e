"""Judges the history of one mailbox through faults: nothing lost, made up, doubled, out of order,
brought back, given to two, or kept from whom it is for.

Pure. Called by `run`, by the crash tests, and by its own tests, which hand it histories that are
wrong on purpose. Source of the rules: docs/protocol.md section 3.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from chaos.history import NEVER, PRIORITIES, History, Send, Told

MENTIONED_MAX = 5  # of a thousand lost messages the first few tell enough


class Violation(NamedTuple):
    """One broken rule: `kind` in a word, and what it is about."""

    kind: str
    mailbox: str
    detail: str


def check(history: History) -> list[Violation]:
    """Every violation in the history of one mailbox; empty when all is well."""
    if not history.exists:
        if history.create.told is Told.DONE:
            return [Violation("mailbox lost", history.mailbox, "CREATE was acknowledged")]
        return []
    if history.create.told is Told.REFUSED:
        return [Violation("phantom", history.mailbox, "the mailbox, whose CREATE was refused")]
    found = (
        *(("lost", detail) for detail in _lost(history)),
        *(("phantom", detail) for detail in _phantoms(history)),
        *(("doubled", detail) for detail in _doubled(history)),
        *(("renumbered", detail) for detail in _renumbered(history)),
        *(("reordered", detail) for detail in _reordered(history)),
        *(("resurrected", detail) for detail in _resurrected(history)),
        *(("came back", detail) for detail in _came_back(history)),
        *(("shared", detail) for detail in _shared(history)),
        *(("withheld", detail) for detail in _withheld(history)),
        *(("forgotten", detail) for detail in _forgotten(history)),
    )
    return [Violation(kind, history.mailbox, detail) for kind, detail in found]


def summary(violations: list[Violation]) -> str:
    """Counts by kind, and the first few of each."""
    lines = []
    for kind, count in Counter(violation.kind for violation in violations).items():
        first = [one for one in violations if one.kind == kind][:MENTIONED_MAX]
        lines.append(f"{count} {kind}")
        lines += [f"  {one.mailbox}: {one.detail}" for one in first]
    return "\n".join(lines)


def _replacing(history: History) -> dict[str, int]:
    """For each key the highest msg_id that is known to have been stored under it."""
    newest: dict[str, int] = defaultdict(int)
    for send in history.sends:
        if send.key and send.told is Told.DONE:
            newest[send.key] = max(newest[send.key], send.msg_id)
    for stored in history.found:
        if stored.key:
            newest[stored.key] = max(newest[stored.key], stored.msg_id)
    return newest


def _may_be_gone(history: History) -> Iterator[Send]:
    """Acknowledged messages that may be absent: deleted (perhaps), or replaced (perhaps)."""
    deleted = {delete.msg_id for delete in history.deletes if delete.told is not Told.REFUSED}
    newest = _replacing(history)
    for send in history.sends:
        if send.msg_id in deleted or (send.key and send.msg_id < newest[send.key]):
            yield send


def _lost(history: History) -> Iterator[str]:
    there = {stored.payload for stored in history.found}
    excused = {send.payload for send in _may_be_gone(history)}
    missing = [
        send
        for send in history.sends
        if send.told is Told.DONE and send.payload not in there and send.payload not in excused
    ]
    acknowledged = sorted(
        (send for send in history.sends if send.told is Told.DONE), key=lambda send: send.ended
    )
    place = {send.payload: number for number, send in enumerate(acknowledged, 1)}
    for send in missing:
        yield (
            f"{send.payload} (msg_id {send.msg_id}), acknowledged as number "
            f"{place[send.payload]} of {len(acknowledged)}"
        )


def _phantoms(history: History) -> Iterator[str]:
    sent = {send.payload: send for send in history.sends if send.told is not Told.REFUSED}
    for stored in history.found:
        send = sent.get(stored.payload)
        if send is None:
            yield f"{stored.payload} (msg_id {stored.msg_id}) was never sent"
        elif (send.priority, send.key) != (stored.priority, stored.key):
            yield f"{stored.payload} was sent as {send.priority} {send.key!r}, found as {stored}"
    for hand_out in history.hand_outs:
        for msg_id, payload in zip(hand_out.msg_ids, hand_out.payloads, strict=True):
            if payload not in sent:
                yield f"{payload} (msg_id {msg_id}), handed out to {hand_out.group}, never sent"


def _doubled(history: History) -> Iterator[str]:
    for payload, count in Counter(stored.payload for stored in history.found).items():
        if count > 1:
            yield f"{payload} is there {count} times"
    for msg_id, count in Counter(stored.msg_id for stored in history.found).items():
        if count > 1:
            yield f"msg_id {msg_id} was given {count} times"
    for repeat in history.repeats:
        first = repeat.of
        if first is None or repeat.told is not Told.DONE or first.told is not Told.DONE:
            continue
        if (repeat.msg_id, repeat.duplicate) != (first.msg_id, True) and first.before(repeat):
            yield (
                f"{first.payload}, stored as {first.msg_id}, was repeated under its Nats-Msg-Id "
                f"and answered {repeat.msg_id}, duplicate {repeat.duplicate}"
            )


def _renumbered(history: History) -> Iterator[str]:
    by_payload = {stored.payload: stored for stored in history.found}
    for send in history.sends:
        stored = by_payload.get(send.payload)
        if send.told is not Told.DONE or send.delay_s or stored is None:
            continue
        if stored.msg_id != send.msg_id:
            yield f"{send.payload} was acknowledged as {send.msg_id}, is {stored.msg_id}"
    for msg_id, count in Counter(
        send.msg_id for send in history.sends if send.told is Told.DONE and send.msg_id > 0
    ).items():
        if count > 1:
            yield f"msg_id {msg_id} was given to {count} messages"


def _reordered(history: History) -> Iterator[str]:
    rank = {send.payload: PRIORITIES.index(send.priority) for send in history.sends}
    for hand_out in history.hand_outs:
        places = [
            (rank.get(payload, 0), msg_id)
            for msg_id, payload in zip(hand_out.msg_ids, hand_out.payloads, strict=True)
        ]
        for earlier, later in pairwise(places):
            if earlier > later:
                yield f"(priority, msg_id) {earlier} was delivered before {later}"
    told = [send for send in history.sends if send.told is Told.DONE and send.msg_id > 0]
    highest: Send | None = None
    # by end; the highest id that was told before `send` began must be lower than its own
    ended = sorted(told, key=lambda send: send.ended)
    pending = iter(ended)
    following = next(pending, None)
    for send in sorted(told, key=lambda send: send.began):
        while following is not None and following.before(send):
            if highest is None or following.msg_id > highest.msg_id:
                highest = following
            following = next(pending, None)
        if highest is not None and highest.msg_id > send.msg_id:
            yield f"msg_id {send.msg_id} was given after {highest.msg_id} had been told"


def _resurrected(history: History) -> Iterator[str]:
    there = {stored.msg_id: stored for stored in history.found}
    for delete in history.deletes:
        if delete.told is Told.DONE and delete.msg_id in there:
            yield f"msg_id {delete.msg_id} was deleted, and is there"
        for hand_out in history.hand_outs:
            if (
                delete.told is Told.DONE
                and delete.before(hand_out)
                and delete.msg_id in hand_out.msg_ids
            ):
                yield f"msg_id {delete.msg_id} was deleted, then handed out to {hand_out.group}"
    newest = _replacing(history)
    for stored in history.found:
        if stored.key and stored.msg_id < newest[stored.key]:
            yield f"msg_id {stored.msg_id} was replaced by {newest[stored.key]}, and is there"


def _came_back(history: History) -> Iterator[str]:
    confirmed: dict[tuple[str, int], float] = {}
    for confirmation in history.confirmations:
        if confirmation.told is Told.DONE:
            for msg_id in confirmation.msg_ids:
                place = (confirmation.group, msg_id)
                confirmed[place] = min(confirmed.get(place, confirmation.ended), confirmation.ended)
    for hand_out in history.hand_outs:
        for msg_id in hand_out.msg_ids:
            if confirmed.get((hand_out.group, msg_id), hand_out.began) < hand_out.began:
                yield f"msg_id {msg_id} was acknowledged by {hand_out.group}, and came again"


def _shared(history: History) -> Iterator[str]:
    """Handed out to one consumer while another surely held it."""
    holders: dict[tuple[str, int], list[tuple[float, float, str]]] = defaultdict(list)
    for hand_out in history.hand_outs:
        for msg_id in hand_out.msg_ids:
            if not hand_out.timed or hand_out.sure_until < NEVER:
                place = (hand_out.group, msg_id)
                until = min(hand_out.released, hand_out.sure_until)
                holders[place].append((hand_out.ended, until, hand_out.consumer))
    for hand_out in history.hand_outs:
        for msg_id in hand_out.msg_ids:
            for held_from, held_until, consumer in holders[hand_out.group, msg_id]:
                if (
                    consumer != hand_out.consumer
                    and held_from < hand_out.began
                    and hand_out.ended < held_until
                ):
                    yield (
                        f"msg_id {msg_id} of {hand_out.group} was given to {hand_out.consumer} "
                        f"while {consumer} held it"
                    )


def _withheld(history: History) -> Iterator[str]:
    """Not acknowledged, still there, and yet the group was not given it to the end."""
    for group in sorted(history.drained):
        possibly_confirmed = {
            msg_id
            for confirmation in history.confirmations
            if confirmation.group == group and confirmation.told is not Told.REFUSED
            for msg_id in confirmation.msg_ids
        }
        for stored in history.found:
            if stored.msg_id not in possibly_confirmed:
                yield f"msg_id {stored.msg_id} never came to {group}, nor was it acknowledged"


def _forgotten(history: History) -> Iterator[str]:
    """An ACK of unknown outcome, asked again and refused: its hand-out is not remembered."""
    for confirmation in history.confirmations:
        if confirmation.repeats and confirmation.told is Told.REFUSED:
            yield (
                f"an ACK of {confirmation.group} up to {confirmation.msg_ids[-1:]} was refused "
                f"when it was repeated (hand-out {confirmation.handout})"
            )

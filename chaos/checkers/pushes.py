"""Push subscriptions: everything that was acknowledged is given, nothing made up; a plain one is
given nothing twice, and a queue group's members only where one may have lost what it had. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from chaos.history import Told

SHOWN: Final = 5  # of what is missing: the rest is in the history


@dataclass(slots=True)
class Given:
    """What one subscription was given, in order: (msg_id, payload). `group`: of a queue group.
    `lost`: the cluster may have given to others what was held over its node.
    """

    node: str
    began: float
    group: bool = False
    lost: bool = False
    messages: list[tuple[int, str]] = field(default_factory=list)


def judge(
    mailbox: str,
    sent: Mapping[str, Told],
    subscriptions: Sequence[Given],
    last: Given | None,
) -> list[str]:
    """What cannot be. `last`: a plain subscription that was there long enough in the end."""
    wrong = [f"{mailbox}: {text}" for text in [*_each(sent, subscriptions), *_names(subscriptions)]]
    done = {payload for payload, told in sent.items() if told is Told.DONE}
    if last is not None:
        wrong += _missing(mailbox, "no plain subscription", done, [last])
    in_groups = [one for one in subscriptions if one.group]
    if in_groups:
        wrong += _missing(mailbox, "no member of the group", done, in_groups)
    return wrong


def _missing(mailbox: str, who: str, done: set[str], given: Iterable[Given]) -> list[str]:
    found = {payload for one in given for _, payload in one.messages}
    left = sorted(done - found)
    if not left:
        return []
    return [f"{mailbox}: {who} was given {', '.join(left[:SHOWN])} of {len(left)} acknowledged"]


def _each(sent: Mapping[str, Told], subscriptions: Sequence[Given]) -> Iterable[str]:
    """Of each subscription by itself."""
    for one in subscriptions:
        what = f"{'member' if one.group else 'subscription'} of {one.began:.2f} at {one.node}"
        before = 0
        seen: set[int] = set()
        for msg_id, payload in one.messages:
            told = sent.get(payload)
            if told is None:
                yield f"{what}: {payload} was never sent"
            elif told is Told.REFUSED:
                yield f"{what}: {payload} was refused, and given"
            if one.group:
                if msg_id in seen and not one.lost:
                    yield f"{what}: {msg_id} was given twice"
                seen.add(msg_id)
            elif msg_id <= before:
                yield f"{what}: {msg_id} was given behind {before}"
            before = msg_id


def _names(subscriptions: Sequence[Given]) -> Iterable[str]:
    """An id is one message's, and a message has one id."""
    payload_of: dict[int, str] = {}
    id_of: dict[str, int] = {}
    for one in subscriptions:
        for msg_id, payload in one.messages:
            if payload_of.setdefault(msg_id, payload) != payload:
                yield f"{msg_id} is {payload_of[msg_id]} and {payload}"
            if id_of.setdefault(payload, msg_id) != msg_id:
                yield f"{payload} has the ids {id_of[payload]} and {msg_id}"

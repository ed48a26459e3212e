"""Delays and ttls: nothing is seen early or late, by more than a second. Pure.

Moments are a client's; an answer tells of some moment between its question and itself, so what is
judged is what no such moment would allow. An hour's error of one node's clock may not show.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from chaos.history import NEVER

TOLERANCE_S: Final = 1.0  # what the cluster promises of its clock


@dataclass(slots=True)
class Timed:
    """A message with a delay or a ttl (0: without). `ended` is NEVER while its SEND is unknown."""

    payload: str
    began: float
    ended: float = NEVER
    delay_s: float = 0.0
    ttl_s: float = 0.0
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A QUERY that was answered, and the payloads it showed."""

    began: float
    ended: float
    payloads: frozenset[str] = field(default_factory=frozenset)


def judge(
    mailbox: str,
    sent: Iterable[Timed],
    seen: Sequence[Seen],
    tolerance_s: float = TOLERANCE_S,
) -> list[str]:
    """Every message that was seen when it could not be, or not seen when it had to be."""
    wrong: list[str] = []
    known: set[str] = set()
    for one in sent:
        known.add(one.payload)
        wrong += [f"{mailbox}: {one.payload} {text}" for text in _of(one, seen, tolerance_s)]
    for look in seen:
        wrong += [f"{mailbox}: {text} was never sent" for text in sorted(look.payloads - known)]
    return wrong


def _of(one: Timed, seen: Sequence[Seen], tolerance_s: float) -> Iterable[str]:
    earliest = one.began + one.delay_s
    latest = one.ended + one.delay_s
    gone_from = one.began + one.ttl_s if one.ttl_s else NEVER
    gone_by = one.ended + one.ttl_s if one.ttl_s else NEVER
    for look in seen:
        if one.payload in look.payloads:
            if one.refused:
                yield f"was refused, and seen at {look.ended:.2f}"
            elif look.ended < earliest - tolerance_s:
                yield f"was seen early: {earliest - look.ended:.2f} s before its time"
            elif look.began > gone_by + tolerance_s:
                yield f"was seen {look.began - gone_by:.2f} s after its end"
        elif one.ended < NEVER and not one.refused:
            due = look.began > latest + tolerance_s
            if due and look.ended < gone_from - tolerance_s:
                yield (
                    f"was missing at {look.began:.2f}, {look.began - latest:.2f} s after its time"
                )

"""Whether what clients were told of one register or name fits one order in time (linearizability).

Wing and Gong's search as Lowe made it: take operations one by one in an order that their times
allow, remember which sets were tried at which state, go back where the model refuses. Pure. One key
at a time, at most ten clients and a thousand operations; *not decided* counts as wrong.

An operation whose answer never came may take effect at any time after it began, or never.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chaos.history import NEVER

STEPS_MAX: Final = 2_000_000  # some seconds; beyond it, not decided
ONLY_LOOK: Final = frozenset(["read", "look", "touch", "seek"])  # in any model: they change nothing

State = Hashable
Step = Callable[[State, "Operation"], tuple[bool, State]]
"""Whether the operation, taking effect in this state, is told what it was told; the next state."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`value` is what was written, `told` what was answered: None of an unknown one."""

    began: float
    ended: float  # NEVER: unknown
    does: str
    value: Any = None
    told: Any = None

    @property
    def unknown(self) -> bool:
        """Whether nobody knows if it took effect."""
        return self.ended == NEVER


# ------------------------------------------------------------------------------------- models


def register(state: State, operation: Operation) -> tuple[bool, State]:
    """A value that is written, deleted (None) and read."""
    if operation.does == "read":
        return operation.told == state, state
    return True, operation.value


def entry(state: State, operation: Operation) -> tuple[bool, State]:
    """A register whose deletion, and whose `touch`, is told whether there was something."""
    if operation.does in ("read", "write"):
        return register(state, operation)
    fits = operation.unknown or operation.told == (state is not None)
    return fits, None if operation.does == "delete" else state


def name(state: State, operation: Operation) -> tuple[bool, State]:
    """A name that is taken once: `take` is told whether it got it, `look` whether it is taken."""
    if operation.does == "look":
        return operation.told == state, state
    if operation.unknown:
        return True, True
    return operation.told == (state is False), True


# ------------------------------------------------------------------------------------- search


def judge(key: str, operations: Sequence[Operation], step: Step, start: State) -> list[str]:
    """What is wrong with the history of `key`; nothing if it is linearizable."""
    needed = _needed(operations)
    if _find(needed, step, start):
        return []
    return [f"{key}: {_what(needed, step, start)}"]


def _needed(operations: Sequence[Operation]) -> list[Operation]:
    """Without what nobody knows of and nobody can have met: it may as well never have happened.

    An unknown write that nobody read is such a one only among reads and writes. Another operation
    may have met it: a sweep of a mailbox's agents takes it out or not, by what was written.
    """
    needed = [one for one in operations if not (one.unknown and one.does in ONLY_LOOK)]
    if any(one.does not in ("read", "write") for one in needed):
        return needed
    read = {repr(one.told) for one in needed if one.does == "read"}
    return [one for one in needed if not (one.unknown and _unread(one, read))]


def _unread(one: Operation, read: set[str]) -> bool:
    return one.does == "write" and repr(one.value) not in read


def _find(operations: Sequence[Operation], step: Step, start: State) -> bool:
    """Depth first; `done` is a set of operations as bits. Raises nothing: no answer is False."""
    ordered = sorted(operations, key=lambda one: one.began)
    must = sum(1 << number for number, one in enumerate(ordered) if not one.unknown)
    seen: set[tuple[int, State]] = set()
    stack: list[tuple[int, State, int]] = [(0, start, 0)]  # done, state, all before this are done
    steps = 0
    while stack:
        done, state, first = stack.pop()
        if done & must == must:
            return True
        while done >> first & 1:
            first += 1
        # whoever takes effect next began before any that is still to come had ended
        bound = NEVER
        number = first
        while number < len(ordered) and ordered[number].began <= bound:
            if not done >> number & 1:
                one = ordered[number]
                bound = min(bound, one.ended)
            number += 1
        for candidate in range(number - 1, first - 1, -1):
            one = ordered[candidate]
            if done >> candidate & 1 or one.began > bound:
                continue
            steps += 1
            fits, after = step(state, one)
            key = (done | 1 << candidate, after)
            if fits and key not in seen:
                seen.add(key)
                stack.append((*key, first))
        if steps > STEPS_MAX:
            return False
    return False


def _what(operations: Sequence[Operation], step: Step, start: State) -> str:
    """The first moment at which no order is left, for whoever looks into it."""
    ended = sorted((one for one in operations if not one.unknown), key=lambda one: one.ended)
    low, high = 0, len(ended)
    while low < high:  # a prefix of a linearizable history is linearizable
        middle = (low + high) // 2
        until = ended[middle].ended
        if _find(_prefix(operations, until), step, start):
            low = middle + 1
        else:
            high = middle
    if low == len(ended):
        return "not decided in time"
    one = ended[low]
    return (
        f"{one.does} {one.value!r} told {one.told!r} at {one.began:.3f} to {one.ended:.3f} "
        "fits no order of what happened before"
    )


def _prefix(operations: Sequence[Operation], until: float) -> list[Operation]:
    """What was known at a moment: of what had not ended then nothing is."""
    return [
        one if one.ended <= until else Operation(one.began, NEVER, one.does, one.value)
        for one in operations
        if one.began <= until and (one.ended <= until or one.does not in ONLY_LOOK)
    ]

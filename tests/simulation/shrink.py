"""A failing seed of whole nodes, made small: the fewest faults and features that still fail.

Leaves out what it can, half of what is left at a time and then one by one (ddmin), as long as the
run still breaks a property; which one may change on the way. Every step is a whole run.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.simulation.checker import Violation
from tests.simulation.whole import simulate_whole
from tests.simulation.whole_options import WholeOptions

Part = TypeVar("Part")
Fails = Callable[[WholeOptions], str]  # why a run fails, "" if it does not


def smallest(parts: Sequence[Part], fails: Callable[[Sequence[Part]], bool]) -> Sequence[Part]:
    """The fewest of `parts`, in their order, that still fail: none of them can be left out."""
    size = max(1, len(parts) // 2)
    while parts and size:
        at = 0
        while at < len(parts):
            fewer = (*parts[:at], *parts[at + size :])
            if fails(fewer):
                parts = fewer
            else:
                at += size
        size //= 2
    return parts


def shrink(options: WholeOptions, fails: Fails, say: Callable[[str], None]) -> WholeOptions:
    """Options with as little in them as still fails."""

    def tried(smaller: WholeOptions) -> bool:
        why = fails(smaller)
        if why:
            say(f"{len(smaller.plan)} faults, {len(smaller.features)} features: {why}")
        return bool(why)

    plan = smallest(options.plan, lambda plan: tried(replace(options, plan=tuple(plan))))
    options = replace(options, plan=tuple(plan))
    features = smallest(
        options.features, lambda names: tried(replace(options, features=tuple(names)))
    )
    options = replace(options, features=tuple(features))
    simpler = (
        {"leave_one_out": False},
        {"tiny": False},
        {"clock_rates": (1.0,) * options.nodes},
        {"clock_offsets_ms": (0,) * options.nodes},
        {"sync_us": (200,) * options.nodes},
        {"shards": 1},
        {"clients": 2},
    )
    for change in simpler:
        simple = replace(options, **change)
        if simple != options and tried(simple):
            options = simple
    return options


def failure(options: WholeOptions) -> str:
    """Why a run of these fails, in one line; "" if it does not."""
    try:
        simulate_whole(options)
    except Violation as broken:
        return str(broken).partition("\n")[0]
    return ""

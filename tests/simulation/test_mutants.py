"""What the simulation is for: brokers broken on purpose are noticed, and a failing seed made small.

RESULTS.md has all mutants with the seeds they take; here are some that take few.
"""

import gc
import shlex
from dataclasses import replace
from itertools import count

import pytest

from tests.simulation import __main__ as command_line
from tests.simulation.checker import Violation
from tests.simulation.mutants import MUTANTS
from tests.simulation.replay import printed
from tests.simulation.shrink import shrink, smallest
from tests.simulation.whole import simulate_whole
from tests.simulation.whole_faults import FAULTS
from tests.simulation.whole_mutants import ALL, simulate_mutant
from tests.simulation.whole_options import (
    EMBEDDER_FAULTS,
    FEATURES,
    PUSHES,
    STANDSTILL,
    WholeOptions,
)
from tests.simulation.whole_options import FAULTS as FAULT_NAMES

SEEDS_TO_CATCH_MAX = 200
IN_CI = (
    "the sync is skipped",
    "parcels are applied twice",
    "a state is sent with a row missing",
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", IN_CI)
def test_a_broker_broken_on_purpose_is_noticed(mutant: str) -> None:
    for seed in range(SEEDS_TO_CATCH_MAX):
        try:
            ALL[mutant](seed)
        except Violation:
            return
        gc.collect()
    pytest.fail(f"not noticed within {SEEDS_TO_CATCH_MAX} seeds")


def test_there_are_enough_mutants() -> None:
    assert len(ALL) + len(MUTANTS) >= 25


def test_the_smallest_part_that_still_fails_is_found() -> None:
    tried: list[tuple[int, ...]] = []

    def fails(parts: tuple[int, ...]) -> bool:
        tried.append(tuple(parts))
        return {3, 11} <= set(parts)

    assert tuple(smallest(range(16), fails)) == (3, 11)
    assert len(tried) < 40
    assert tuple(smallest(range(4), lambda _: True)) == ()
    assert tuple(smallest((), lambda _: True)) == ()


@pytest.mark.timeout(600)
def test_a_failing_seed_is_made_small_and_can_be_run_again() -> None:
    mutant = "the sync is skipped"

    def why(options: WholeOptions) -> str:
        try:
            simulate_mutant(mutant, options)
        except Violation as broken:
            return str(broken)
        return ""

    failing = next(
        options for options in map(WholeOptions.draw, range(200)) if options.plan and why(options)
    )
    small = shrink(failing, why, lambda _: None)
    assert why(small)
    assert len(small.plan) <= 2
    words = shlex.split(command_line.command(small))
    only, features = words[words.index("--only") + 1], words[words.index("--features") + 1]
    again = command_line.chosen(failing, only, features)
    assert (again.plan, again.features) == (small.plan, small.features)


def test_every_fault_and_feature_is_drawn() -> None:
    drawn = [WholeOptions.draw(seed) for seed in range(200)]
    assert {fault.kind for options in drawn for fault in options.plan} == set(FAULTS)
    assert {*FAULT_NAMES, *EMBEDDER_FAULTS, STANDSTILL} == set(FAULTS)
    assert {name for options in drawn for name in options.features} == {*FEATURES, PUSHES}


def test_a_failing_run_names_all_it_expands_to() -> None:
    options = WholeOptions.draw(1)
    with pytest.raises(Violation) as failure:
        simulate_mutant("the sync is skipped", replace(options, seed=1, nodes=0))
    told = str(failure.value)
    assert told.startswith("seed 1 at ")
    assert f"  features = {options.features}" in told


@pytest.mark.timeout(300)
def test_a_seed_says_everything() -> None:
    """Neither the order of sets nor anything of the process has a say."""
    everything = {"registry", "embedder", "core"}
    seeds = (seed for seed in count() if everything <= {*WholeOptions.draw(seed).features})
    seed = next(seeds)
    program = (
        "from tests.simulation.whole import simulate_whole\n"
        f"world = simulate_whole({seed})\n"
        "print(world.watch.trace, world.scheduler.events, sorted(world.seen.items()))"
    )
    world = simulate_whole(seed)
    told = f"{world.watch.trace} {world.scheduler.events} {sorted(world.seen.items())}\n"
    assert printed(program, "1", "2") == {told}

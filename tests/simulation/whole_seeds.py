"""Whole nodes, seed after seed: shared by the two files that pytest runs side by side.

`MQ9_SIM_WHOLE_SEEDS` says how many seeds (default 500, or `MQ9_SIM_SEEDS`), `MQ9_SIM_FIRST` which
is the first.
"""

import gc
import os
from collections import Counter
from collections.abc import Sequence

from tests.simulation.whole import simulate_whole

SEEDS = int(os.environ.get("MQ9_SIM_WHOLE_SEEDS", os.environ.get("MQ9_SIM_SEEDS", "500")))
FIRST = int(os.environ.get("MQ9_SIM_FIRST", "0"))
SEEDS_PER_TEST = 25


def firsts(half: int) -> Sequence[int]:
    """Where the tests of one file begin: every other batch of seeds is its own."""
    return range(FIRST + half * SEEDS_PER_TEST, FIRST + SEEDS, 2 * SEEDS_PER_TEST)


def run_batch(first: int) -> Counter[str]:
    """Run a batch; what it did."""
    seen: Counter[str] = Counter()
    for seed in range(first, min(first + SEEDS_PER_TEST, FIRST + SEEDS)):
        world = simulate_whole(seed)
        gc.collect()
        seen.update(world.seen)
        seen["acknowledged"] += world.acknowledged
        seen["states compared"] += world.watch.states_compared
        seen["leaders"] += sum(len(group.leaders) for group in world.watch.groups.values())
        seen["starts"] += sum(node.starts for node in world.nodes)
    return seen


def check_enough(seen: Counter[str]) -> None:
    """A run with too little going on proves nothing."""
    if SEEDS >= SEEDS_PER_TEST:
        floors = {"acknowledged": 500, "states compared": 3_000, "leaders": 60, "starts": 60}
        floors |= {"faults": 50, "queried": 40, "handed out": 50, "acked": 8}
        few = {name: seen[name] for name, least in floors.items() if seen[name] < least}
        assert not few

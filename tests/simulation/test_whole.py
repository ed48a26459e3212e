"""Whole nodes under seeded faults: what was acknowledged is there, once, on every replica alike.

`MQ9_SIM_WHOLE_SEEDS` says how many seeds (default 20), `MQ9_SIM_FIRST` which is the first.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from mq9cluster.storage.state import ShardState
from tests.simulation.checker import Violation
from tests.simulation.disk import Disk
from tests.simulation.mutants import MUTANTS
from tests.simulation.whole import simulate_whole

SEEDS = int(os.environ.get("MQ9_SIM_WHOLE_SEEDS", "20"))
FIRST = int(os.environ.get("MQ9_SIM_FIRST", "0"))
SEEDS_PER_TEST = 10
SEEDS_TO_CATCH_MAX = 100


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, SEEDS_PER_TEST))
def test_what_was_acknowledged_is_there_once_on_every_replica_alike(first: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(first, min(first + SEEDS_PER_TEST, FIRST + SEEDS)):
        world = simulate_whole(seed)
        seen["acknowledged"] += len(world.acknowledged)
        seen["states compared"] += world.compared
        seen["leaders"] += len(world.leaders)
        seen["starts"] += sum(node.incarnation for node in world.nodes)
        seen["states taken"] += sum(node.states_taken for node in world.nodes)
    if SEEDS >= SEEDS_PER_TEST:  # a run with too little going on proves nothing
        assert seen["acknowledged"] > 3_000
        assert seen["states compared"] > 500
        assert seen["leaders"] > 40
        assert seen["starts"] > 50
        assert seen["states taken"] > 10


def catch(simulated: Callable[[int], object]) -> None:
    for seed in range(SEEDS_TO_CATCH_MAX):
        try:
            simulated(seed)
        except Violation:
            return
    pytest.fail(f"not caught within {SEEDS_TO_CATCH_MAX} seeds")


@pytest.mark.timeout(300)
def test_a_replica_that_trusts_its_log_after_a_restart_is_caught() -> None:
    catch(lambda seed: simulate_whole(seed, MUTANTS["E"]))


@pytest.mark.timeout(300)
def test_a_disk_that_only_says_it_synced_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "honest", False)
    catch(simulate_whole)


@pytest.mark.timeout(300)
def test_a_state_that_is_sent_with_a_row_missing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ShardState.everything

    def but_one(state: ShardState) -> Iterator[tuple[int, bytes, bytes]]:
        rows = list(whole(state))
        del rows[len(rows) // 2]
        return iter(rows)

    monkeypatch.setattr(ShardState, "everything", but_one)
    catch(simulate_whole)


def test_a_seed_says_everything() -> None:
    one, other = simulate_whole(3), simulate_whole(3)
    assert one.acknowledged == other.acknowledged
    assert one.leaders == other.leaders
    assert one.scheduler.events == other.scheduler.events

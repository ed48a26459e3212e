"""Whole nodes whose wall clocks are all set back while a leader is away: a ttl is a ttl all the
same.

Found by chaos (soak, seed 32). Such a fault is not in the swarm: where every process has ended
since, nobody can know how long that was, and time is late by as much.
"""

import random
from dataclasses import replace

import pytest

from tests.simulation import whole_faults
from tests.simulation.whole import World, simulate_whole
from tests.simulation.whole_options import Fault, WholeOptions

SET_BACK_MS = 3_000


def _set_back(world: World, _: random.Random) -> None:
    for node in world.nodes:
        node.clock.offset_ms -= SET_BACK_MS


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", ["crash leader", "pause leader"])
def test_no_message_outlives_its_ttl_by_a_time_without_a_leader(
    monkeypatch: pytest.MonkeyPatch, seed: int, fault: str
) -> None:
    monkeypatch.setitem(whole_faults.FAULTS, "set back", _set_back)
    plan = (
        Fault(1, 2_500, "set back", ""),
        Fault(2, 2_800, fault, f"{seed}/2"),
        Fault(3, 2_900, fault, f"{seed}/3"),
    )
    options = replace(
        WholeOptions.draw(seed),
        nodes=3,
        clients=5,
        think_ms=30,
        faults_ms=6_000,
        features=("ttl",),
        clock_offsets_ms=(0,) * 3,
        clock_rates=(1.0,) * 3,
        sync_us=(200,) * 3,
        leave_one_out=False,
        tiny=False,
        plan=plan,
    )
    assert simulate_whole(options).seen["queried"] > 0

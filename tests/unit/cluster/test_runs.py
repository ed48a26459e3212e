"""Leases of runs: when a node may promise anything, and when it has to begin another run."""

from types import SimpleNamespace
from typing import Any

import pytest

from mq9cluster.cluster.meta import Meta, Run
from mq9cluster.cluster.runs import LEASE_HELD_S, Runs

ME, INCARNATION = "n1", 7


class Scene:
    """One node's runs, over a clock and a `meta` that tests set."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.closed = 0
        self.meta: Any = SimpleNamespace(
            meta=Meta(runs={ME: Run(1, INCARNATION, "")}), engine=SimpleNamespace(is_leader=False)
        )
        peers: Any = SimpleNamespace(silent_ms=lambda name: 0)
        self.runs = Runs(ME, self.meta, peers, lambda command: None, self._close)
        loop: Any = SimpleNamespace(time=lambda: self.now_s)
        self.runs._loop = loop

    def _close(self) -> None:
        self.closed += 1

    def watch(self) -> bool:
        return self.runs.watch(INCARNATION, [])


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_a_run_in_contact_goes_on(scene: Scene) -> None:
    scene.runs.begin()
    for _ in range(10):
        scene.now_s += LEASE_HELD_S / 2
        scene.runs.renew(0)
        assert scene.watch() is False
    assert (scene.runs.in_lease, scene.closed) == (True, 0)


async def test_a_run_that_the_others_ended_is_followed_by_another(scene: Scene) -> None:
    scene.runs.begin()
    scene.meta.meta.runs[ME] = Run(1, INCARNATION, "", ended=True)
    assert scene.watch() is True


async def test_a_lease_that_ran_out_is_no_reason_to_begin_again_while_cut_off(
    scene: Scene,
) -> None:
    scene.runs.begin()
    scene.now_s += LEASE_HELD_S + 0.1
    assert scene.watch() is False
    assert (scene.runs.in_lease, scene.closed) == (False, 1)


async def test_a_node_back_in_contact_begins_again_though_nobody_ended_its_run(
    scene: Scene,
) -> None:
    # Cut off for less than the others wait, or they were all gone. Found by chaos, kill-majority.
    scene.runs.begin()
    scene.now_s += LEASE_HELD_S + 0.1
    assert scene.watch() is False
    scene.runs.renew(0)
    assert scene.watch() is True
    assert scene.runs.in_lease is False  # not before the new run is known
    scene.runs.begin()
    assert (scene.runs.in_lease, scene.watch(), scene.closed) == (True, False, 1)


async def test_what_was_handed_out_between_lease_and_new_run_is_given_up_too(scene: Scene) -> None:
    # Found by chaos, kill-majority: given to two, for the first one's connection lived on.
    scene.runs.begin()
    scene.now_s += LEASE_HELD_S + 0.1
    scene.watch()
    scene.now_s += 1
    scene.watch()  # still cut off: contact may have been back in between
    assert scene.closed == 2
    scene.runs.renew(0)
    assert scene.watch() is True
    scene.runs.lose()  # as the cluster does before it announces another run
    assert scene.closed == 3


async def test_a_run_that_is_only_beginning_is_left_alone(scene: Scene) -> None:
    scene.runs.renew(0)
    assert scene.watch() is False

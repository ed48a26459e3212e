"""Whole nodes under seeded faults: the other half of the seeds of `test_whole`."""

import pytest

from tests.simulation.whole_seeds import SEEDS, SEEDS_PER_TEST, check_enough, firsts, run_batch


@pytest.mark.skipif(SEEDS <= SEEDS_PER_TEST, reason="one batch is test_whole's")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", firsts(1))
def test_what_was_acknowledged_is_there_once_and_handed_out_to_one(first: int) -> None:
    check_enough(run_batch(first))

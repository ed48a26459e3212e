"""Whole nodes under seeded faults: what was acknowledged is there, once, on every replica alike.

Half of the seeds; `test_whole_too` has the others, so that two workers share them.
"""

import pytest

from tests.simulation.whole_seeds import check_enough, firsts, run_batch


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", firsts(0))
def test_what_was_acknowledged_is_there_once_and_handed_out_to_one(first: int) -> None:
    check_enough(run_batch(first))

"""How long clients waited: silences between acknowledgements, and what is too long. Pure."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from chaos.checkers.verdict import Verdict


class Acknowledged(NamedTuple):
    """A request that was answered with success: seconds of the run."""

    began: float
    ended: float


def longest_silence(times: Sequence[Acknowledged], since: float, until: float) -> float:
    """The longest span from `since` to `until` in which nothing was acknowledged."""
    ends = [since, *(one.ended for one in times if since < one.ended < until), until]
    return max(later - earlier for earlier, later in pairwise(ends))


def judge_outages(outages_s: Sequence[float], most_s: float) -> Verdict:
    """Nine in ten must be shorter than `most_s`."""
    long = [outage for outage in outages_s if outage >= most_s]
    if len(long) * 10 <= len(outages_s):
        return Verdict("outages", len(outages_s))
    told = ", ".join(f"{outage:.1f}" for outage in long)
    return Verdict("outages", len(outages_s), [f"longer than {most_s:g} s: {told}"])


def judge_healing(healed_at: float, whole_at: float, within_s: float) -> Verdict:
    """After the faults, everybody must be served again within a deadline."""
    took = whole_at - healed_at
    if took <= within_s:
        return Verdict("progress", 1)
    said = "never" if took == float("inf") else f"only after {took:.1f} s"
    return Verdict("progress", 1, [f"full service after the faults {said}, {within_s:g} s allowed"])

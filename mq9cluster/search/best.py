"""The best of many scores, by score and then by name: over one shard, or over several at once.

Owned by `index` and `together`, which add the scores of one ranking shard by shard. Only what can
still be among the best is kept, and only that gets a name: a shard costs a few passes over its
scores, whatever is found in it.
"""

from collections.abc import Sequence
from heapq import nsmallest

import numpy as np
import numpy.typing as npt

from mq9cluster.search.query import Ranked

LEAST = 5e-324  # the smallest score that is more than nothing

Slots = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


class Best:
    """The best `depth` of one ranking; what scores nothing, or less than `min_score`, is no hit."""

    __slots__ = ("_depth", "_edge", "_least", "_parts", "_total")

    def __init__(self, depth: int, min_score: float = 0.0) -> None:
        self._depth = depth
        self._least = max(min_score, LEAST)
        self._edge = self._least  # what scores less is not among the best
        self._total = 0
        self._parts: list[tuple[Sequence[str], Slots, Scores]] = []

    def add(self, names: Sequence[str], scores: Scores, slots: Slots | None = None) -> None:
        """Scores of a shard whose agents have `names` by slot; without `slots` there is one for
        each slot, 0 or less where it is no hit.
        """
        found = scores >= self._least
        self._total += int(np.count_nonzero(found))
        at = np.flatnonzero(found if self._edge == self._least else scores >= self._edge)
        if not len(at):
            return
        chosen = scores[at]
        if len(at) > self._depth:
            self._edge = _depth_th(chosen, self._depth)
            kept = chosen >= self._edge
            at, chosen = at[kept], chosen[kept]
        self._parts.append((names, at if slots is None else slots[at], chosen))
        if len(self._parts) > 1:
            self._raise_edge()

    def _raise_edge(self) -> None:
        """Drop what cannot be among the best any more."""
        scores = np.concatenate([scores for _, _, scores in self._parts])
        if len(scores) <= self._depth:
            return
        edge = self._edge = _depth_th(scores, self._depth)
        parts = [(names, slots, scores, scores >= edge) for names, slots, scores in self._parts]
        self._parts = [
            (names, slots[kept], scores[kept]) for names, slots, scores, kept in parts if kept.any()
        ]

    def ranked(self) -> Ranked:
        """The best in order, and how many hits there were in all."""
        hits = [
            (-score, names[slot])
            for names, slots, scores in self._parts
            for slot, score in zip(slots.tolist(), scores.tolist(), strict=True)
        ]
        if len(hits) > self._depth:
            edge = -self._edge
            above = [hit for hit in hits if hit[0] < edge]
            ties = nsmallest(self._depth - len(above), (hit for hit in hits if hit[0] == edge))
            hits = above + ties
        hits.sort()
        return Ranked(tuple([(name, -score) for score, name in hits]), self._total)


def _depth_th(scores: Scores, depth: int) -> float:
    """The score that `depth` of these reach."""
    at = len(scores) - depth
    return float(np.partition(scores, at)[at])

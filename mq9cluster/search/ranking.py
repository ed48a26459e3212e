"""Merging the shards' answers at the asking node: one order, fused once, in stable pages.

With one ranking the score is that ranking's own (BM25, or the cosine); with several it is
reciprocal rank fusion, divided by its best possible value. A text hit counts in it by how much of
the question it covers, squared: the best of many agents that share one word with a long question is
no good hit. Fusion looks at the same depth of each ranking, whatever page is asked for: a page
never changes what another one shows.
"""

from collections.abc import Iterable
from heapq import nsmallest
from typing import NamedTuple

from mq9cluster.search.lexical import unit_weights
from mq9cluster.search.query import NO_STATISTICS, TEXT, Answer, Question, Statistics

RANK_CONSTANT = 20  # of reciprocal rank fusion; 60 in its paper, whose rankings were 1,000 deep
FUSION_DEPTH = 200  # of each ranking, or a page if that is longer: further down ranks say nothing
WINDOW_MAX = 10_000  # hits one ranking is read to; pages beyond are empty


Orders = dict[str, list[tuple[str, float]]]  # by ranking: names and scores, the best first


class Hit(NamedTuple):
    """An agent found. `scores` are those of the rankings it was found in, by ranking."""

    name: str
    score: float
    scores: tuple[tuple[str, float], ...]


class Page(NamedTuple):
    """One page of hits, and how many there are in all."""

    hits: tuple[Hit, ...]
    total: int


def depth_of(limit: int, page: int, rankings: int, *, by_name: bool = False) -> int:
    """How many hits each shard is asked for, so that the page can be merged exactly."""
    if by_name:
        return limit * page
    return max(FUSION_DEPTH, limit) if rankings > 1 else min(limit * page, WINDOW_MAX)


def merge(
    question: Question,
    answers: Iterable[Answer],
    limit: int,
    page: int = 1,
    min_score: float = 0.0,
    statistics: Statistics = NO_STATISTICS,
) -> Page:
    """The page of hits the shards' answers come to.

    `min_score` applies to a fused score (the question's own to each ranking's), `statistics` are
    the sum that the shards were sent.
    """
    rankings: dict[str, list[tuple[float, str]]] = {}
    totals: dict[str, int] = {}
    for answer in answers:
        for by, ranked in answer.rankings:
            found = rankings.setdefault(by, [])
            found += [(-score, name) for name, score in ranked.hits]
            totals[by] = totals.get(by, 0) + ranked.total
    orders = {
        by: [(name, -score) for score, name in nsmallest(question.depth, found)]
        for by, found in rankings.items()
    }
    start = limit * (page - 1)
    if len(orders) > 1:
        fused = _fuse(orders, sum(unit_weights(statistics)), min_score)
        total = len(fused) if min_score > 0.0 else max(len(fused), *totals.values())
        chosen = fused[start : start + limit]
        return Page(tuple(Hit(name, -s, _scores(orders, name)) for s, name in chosen), total)
    for by, order in orders.items():
        chosen_here = order[start : start + limit]
        return Page(tuple(Hit(name, s, ((by, s),)) for name, s in chosen_here), totals[by])
    return Page((), 0)


def _fuse(orders: Orders, ideal: float, min_score: float) -> list[tuple[float, str]]:
    """Fused scores, negated, and names, in order; `ideal` is about what a card with all of the
    question scores.
    """
    fused: dict[str, float] = {}
    for by, order in orders.items():
        if by == TEXT and ideal:
            for rank, (name, score) in enumerate(order, RANK_CONSTANT + 1):
                fused[name] = fused.get(name, 0.0) + min(1.0, score / ideal) ** 2 / rank
        else:
            for rank, (name, _) in enumerate(order, RANK_CONSTANT + 1):
                fused[name] = fused.get(name, 0.0) + 1.0 / rank
    best = len(orders) / (RANK_CONSTANT + 1)
    hits = [(-score / best, name) for name, score in fused.items() if score / best >= min_score]
    hits.sort()
    return hits


def _scores(orders: Orders, name: str) -> tuple[tuple[str, float], ...]:
    """What a hit scored in each ranking it is in."""
    return tuple((by, score) for by, order in orders.items() for one, score in order if one == name)

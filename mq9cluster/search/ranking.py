"""Merging the shards' answers at the asking node: one order, fused once, in stable pages.

With one ranking the score is that ranking's own (BM25, or the cosine); with several it is
reciprocal rank fusion, divided by its best possible value. A text hit counts in it by how much of
the question it covers, squared: the best of many agents that share one word with a long question is
no good hit. Fusion looks at the same depth of each ranking, whatever page is asked for: a page
never changes what another one shows.
"""

from collections.abc import Iterable
from typing import NamedTuple

from mq9cluster.search.lexical import unit_weights
from mq9cluster.search.query import NO_STATISTICS, TEXT, Answer, Question, Statistics

RANK_CONSTANT = 20  # of reciprocal rank fusion; 60 in its paper, whose rankings were 1,000 deep
FUSION_DEPTH = 200  # of each ranking, or a page if that is longer: further down ranks say nothing
WINDOW_MAX = 10_000  # hits one ranking is read to; pages beyond are empty


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
        by: [(name, -score) for score, name in sorted(found)[: question.depth]]
        for by, found in rankings.items()
    }
    start = limit * (page - 1)
    if len(orders) > 1:
        hits = [
            hit for hit in _fuse(orders, sum(unit_weights(statistics))) if hit.score >= min_score
        ]
        total = len(hits) if min_score > 0.0 else max(len(hits), *totals.values())
        return Page(tuple(hits[start : start + limit]), total)
    for by, order in orders.items():
        chosen = order[start : start + limit]
        return Page(tuple(Hit(name, s, ((by, s),)) for name, s in chosen), totals[by])
    return Page((), 0)


def _fuse(orders: dict[str, list[tuple[str, float]]], ideal: float) -> list[Hit]:
    """Hits of several rankings; `ideal` is about what a card with all of the question scores."""
    fused: dict[str, float] = {}
    scores: dict[str, list[tuple[str, float]]] = {}
    for by, order in orders.items():
        for rank, (name, score) in enumerate(order, 1):
            covered = min(1.0, score / ideal) ** 2 if by == TEXT and ideal else 1.0
            fused[name] = fused.get(name, 0.0) + covered / (RANK_CONSTANT + rank)
            scores.setdefault(name, []).append((by, score))
    best = len(orders) / (RANK_CONSTANT + 1)
    hits = [Hit(name, score / best, tuple(scores[name])) for name, score in fused.items()]
    hits.sort(key=lambda hit: (-hit.score, hit.name))
    return hits

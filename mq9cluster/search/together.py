"""Several shards of one node searched at once, as if they were one.

`cluster.finding_here` calls it. The sum of what each shard would have answered, found with less:
what a unit finds is looked up once for frequencies and scores, and only the best of all shards
together get names.
"""

from collections.abc import Sequence
from heapq import nsmallest

from mq9cluster.search.index import ShardIndex, answer, new_rankings
from mq9cluster.search.lexical import unit_weights
from mq9cluster.search.query import (
    NAME,
    NO_STATISTICS,
    Answer,
    Question,
    Ranked,
    Statistics,
    add_statistics,
)

Asked = Sequence[tuple[ShardIndex, Question]]  # the same question, at each shard's time


def search_together(
    asked: Asked, statistics: Statistics | None = None
) -> tuple[Statistics, Answer]:
    """The best of all, by the statistics given (they are of more shards), or else by these
    shards' own; and those statistics.
    """
    if not asked:
        return statistics or NO_STATISTICS, Answer(())
    question = asked[0][1]
    if question.by_name:
        return NO_STATISTICS, Answer(((NAME, _by_name(asked)),))
    found = [index.find(one) for index, one in asked]
    if statistics is None:
        statistics = add_statistics(part for part, _ in found)
    weights = unit_weights(statistics)
    rankings = new_rankings(question)
    for (index, one), (_, units) in zip(asked, found, strict=True):
        index.rank(one, units, weights, rankings)
    return statistics, answer(rankings)


def _by_name(asked: Asked) -> Ranked:
    parts = [index.by_name(question) for index, question in asked]
    hits = nsmallest(asked[0][1].depth, (hit for part in parts for hit in part.hits))
    return Ranked(tuple(hits), sum(part.total for part in parts))

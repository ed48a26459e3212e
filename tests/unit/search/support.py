"""What the tests of search share: cards, an embedder of three dimensions, one call for a search."""

from collections.abc import Sequence

from mq9cluster.domain.agent import AgentCard, parse_card
from mq9cluster.search.filter import parse_filter
from mq9cluster.search.index import ShardIndex
from mq9cluster.search.query import Question, add_statistics, parse_units
from mq9cluster.search.ranking import Page, merge
from mq9cluster.search.text import Analyzer
from mq9cluster.search.vectors import quantize

ANALYZER = Analyzer()
TINY = "tiny"
DIMENSIONS = 3


def card(name: str, text: str = "", **fields: object) -> AgentCard:
    return parse_card({"name": name, "description": text, **fields})


def code(*values: float) -> bytes:
    return quantize(list(values), len(values))


def new_index(**options: int) -> ShardIndex:
    return ShardIndex(ANALYZER, {TINY: DIMENSIONS}, **options)


def ask(
    shards: Sequence[ShardIndex],
    text: str = "",
    *,
    vector: Sequence[float] = (),
    condition: object = None,
    limit: int = 10,
    page: int = 1,
    **options,
) -> Page:
    question = Question(
        units=parse_units(text, ANALYZER),
        vectors=((TINY, code(*vector)),) if vector else (),
        filter=parse_filter(condition),
        depth=options.pop("depth", 1_000),
        by_name=not text and not vector,
        **options,
    )
    statistics = add_statistics(shard.statistics(question) for shard in shards)
    answers = [shard.search(question, statistics) for shard in shards]
    return merge(question, answers, limit, page, statistics=statistics)


def names(page: Page) -> list[str]:
    return [hit.name for hit in page.hits]

"""Guards the table in docs/discovery.md: the page is fresh, and ours stays above the baselines."""

import functools

import pytest

from mq9cluster.search.lexicon import load_lexicon
from tests.quality.evaluation import BEGIN, END, PAGE, PARTS, as_markdown, read_cards, read_queries
from tests.quality.evaluation import table as compute_table

table = functools.cache(compute_table)
THINNED = "semantic, 40% of the lexicon forgotten (mean of 5)"
PLAIN = [
    "FTS5, unicode61",
    "FTS5, porter",
    "FTS5, trigram",
    "tf-idf cosine, words",
    "tf-idf cosine, character 2-4-grams",
]


def test_every_graded_agent_exists_and_every_part_has_queries():
    cards = {card.name for card in read_cards()}
    queries = read_queries()
    assert len(cards) >= 150
    assert {name for query in queries for name in query.grades} <= cards
    assert {part: sum(q.part == part for q in queries) >= 40 for part in PARTS} == dict.fromkeys(
        PARTS, True
    )
    assert all(set(query.grades.values()) <= {1, 2, 3} for query in queries)


def test_the_lexicon_has_at_least_300_concepts_and_words_of_every_language():
    concepts = load_lexicon().concepts
    assert len(concepts) >= 300
    languages = [{alias.language for alias in concept.aliases} for concept in concepts]
    assert all(found == {"en", "zh", "ja", "ko", "de", "es", "fr"} for found in languages)


def test_semantic_search_reaches_its_targets():
    semantic = table()["**semantic**"]
    targets = {"overall": 0.75, "held out": 0.75, "cross": 0.9}
    assert {part: semantic[part] >= least for part, least in targets.items()} == dict.fromkeys(
        targets, True
    )


@pytest.mark.parametrize("baseline", PLAIN)
def test_a_thinned_lexicon_is_still_above_every_plain_baseline(baseline):
    rows = table()
    assert rows[THINNED]["overall"] > rows[baseline]["overall"]
    assert rows["**hybrid**"]["overall"] > rows[baseline]["overall"]


def test_the_table_on_the_page_is_the_one_computed():
    on_page = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip()
    assert on_page == as_markdown(table()), "run python -m tests.quality.evaluation --write"

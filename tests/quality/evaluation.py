"""nDCG@5 of every ranking over the query set. `python -m tests.quality.evaluation --write` puts the
table into docs/discovery.md; `--show` prints single results of the *development* queries only.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mq9cluster.domain.agent import AgentCard, parse_card
from mq9cluster.search.concepts import ConceptEmbedder
from mq9cluster.search.index import ShardIndex
from mq9cluster.search.lexicon import Lexicon, load_lexicon
from mq9cluster.search.query import Question, add_statistics, parse_units
from mq9cluster.search.ranking import FUSION_DEPTH, merge
from mq9cluster.search.text import Analyzer
from tests.quality import baselines

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "discovery.md"
BEGIN, END = "<!-- table: quality -->", "<!-- end: quality -->"
PARTS = ("keyword", "paraphrase", "cross")
AT = 5
SHOW_BELOW = 0.8
SHARDS = 3
THIN_SHARE = 0.4
THIN_SEEDS = range(5)

Search = Callable[[str], list[str]]
Scores = dict[str, float]


class Query(NamedTuple):
    part: str
    text: str
    grades: dict[str, int]
    held_out: bool


def read_queries() -> list[Query]:
    lines = (HERE / "queries.txt").read_text().splitlines()
    rows = [line.split("|") for line in lines if line and not line.startswith("#")]
    queries = []
    for number, (part, text, answers) in enumerate(rows, 1):
        grades = {name: int(grade) for name, grade in (a.split("=") for a in answers.split())}
        queries.append(Query(part.strip(), text.strip(), grades, held_out=number % 2 == 0))
    return queries


def read_cards() -> list[AgentCard]:
    lines = (HERE / "agents.jsonl").read_text().splitlines()
    return [parse_card(json.loads(line)) for line in lines]


def ndcg(found: list[str], grades: dict[str, int]) -> float:
    gain = [2 ** grades.get(name, 0) - 1 for name in found[:AT]]
    best = sorted((2**grade - 1 for grade in grades.values()), reverse=True)[:AT]
    return _discounted(gain) / _discounted(best)


def _discounted(gains: list[int]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


def measure(search: Search) -> Scores:
    """Mean nDCG@5 by part, over all, and over the held-out half."""
    results = [(query, ndcg(search(query.text), query.grades)) for query in read_queries()]
    mean = {part: _mean([s for q, s in results if q.part == part]) for part in PARTS}
    mean["overall"] = _mean([score for _, score in results])
    mean["held out"] = _mean([score for query, score in results if query.held_out])
    return mean


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


class Ours:
    """The three modes over the cards, in SHARDS shards."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.analyzer = Analyzer(lexicon.empty_words)
        self.embedder = ConceptEmbedder(lexicon)
        self.by = str(self.embedder.id)
        dimensions = {self.by: self.embedder.id.dimensions}
        self.shards = [ShardIndex(self.analyzer, dimensions) for _ in range(SHARDS)]
        for number, card in enumerate(read_cards()):
            code = self.embedder.card_code(card)
            self.shards[number % SHARDS].put(card, {self.by: code} if code else {})

    def search(self, mode: str) -> Search:
        def run(text: str) -> list[str]:
            code = self.embedder.question_code(text) if mode != "text" else None
            question = Question(
                units=parse_units(text, self.analyzer) if mode != "semantic" else (),
                vectors=((self.by, code),) if code else (),
                depth=FUSION_DEPTH,
                floor=self.embedder.floor,
            )
            statistics = add_statistics(shard.statistics(question) for shard in self.shards)
            answers = [shard.search(question, statistics) for shard in self.shards]
            return [hit.name for hit in merge(question, answers, AT, statistics=statistics).hits]

        return run


def baseline_searches() -> dict[str, Search]:
    documents = []
    for card in read_cards():
        text = card.search_text()
        body = " ".join([*text.tags, *text.skills, text.description, *text.examples])
        documents.append((card.name, f"{body} {text.provider}"))
    return {
        "FTS5, unicode61": baselines.fts5(documents, "unicode61"),
        "FTS5, porter": baselines.fts5(documents, "porter unicode61"),
        "FTS5, trigram": baselines.fts5(documents, "trigram"),
        "tf-idf cosine, words": baselines.tf_idf(documents, baselines.words),
        "tf-idf cosine, character 2-4-grams": baselines.tf_idf(
            documents, baselines.character_grams
        ),
    }


def table() -> dict[str, Scores]:
    rows = {name: measure(search) for name, search in baseline_searches().items()}
    lexicon = load_lexicon()
    ours = Ours(lexicon)
    for mode in ("text", "semantic", "hybrid"):
        rows[f"**{mode}**"] = measure(ours.search(mode))
    thin = [measure(Ours(lexicon.thinned(THIN_SHARE, s)).search("semantic")) for s in THIN_SEEDS]
    rows[f"semantic, {THIN_SHARE:.0%} of the lexicon forgotten (mean of {len(thin)})"] = {
        key: _mean([scores[key] for scores in thin]) for key in thin[0]
    }
    bare = Ours(lexicon.thinned(1.0, 0))
    rows["semantic, all of the lexicon forgotten"] = measure(bare.search("semantic"))
    return rows


def as_markdown(rows: dict[str, Scores]) -> str:
    columns = [*PARTS, "overall", "held out"]
    lines = ["| nDCG@5 | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [
        f"| {name} | " + " | ".join(f"{scores[column]:.3f}" for column in columns) + " |"
        for name, scores in rows.items()
    ]
    return "\n".join(lines)


def show_development() -> None:
    ours = Ours(load_lexicon())
    for query in read_queries():
        if not query.held_out:
            found = ours.search("semantic")(query.text)
            score = ndcg(found, query.grades)
            if score < SHOW_BELOW:
                print(f"{score:.2f} {query.text}\n     {ours.embedder.concepts(query.text)[:5]}")
                print(f"     found {found}\n     want  {query.grades}")


if __name__ == "__main__":
    if "--show" in sys.argv:
        show_development()
    else:
        markdown = as_markdown(table())
        print(markdown)
        if "--write" in sys.argv:
            page = PAGE.read_text()
            head, tail = page.split(BEGIN)[0], page.split(END)[1]
            PAGE.write_text(f"{head}{BEGIN}\n{markdown}\n{END}{tail}")

"""DISCOVER in one process: what registering costs, what asking costs, what an agent weighs.

`python -m bench.discovery` fills shards with made-up agents (phrases of the lexicon among words of
nobody's language) and asks in every mode; `--agents 1000000 --held 3` fills three of eight shards
of a million agents, which is one node's third of them. `--fts5` also measures SQLite's FTS5 over
the same text. By hand; figures for docs/discovery.md are printed as Markdown. Times are those of
the thread on its core, so that other work on the machine does not count; `--wall` counts it.
"""

import argparse
import gc
import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from bench.servers import rss_bytes
from mq9cluster.domain.agent import AgentCard, parse_card
from mq9cluster.search.concepts import ConceptEmbedder
from mq9cluster.search.explain import Explainer
from mq9cluster.search.filter import parse_filter
from mq9cluster.search.index import ShardIndex
from mq9cluster.search.lexicon import Lexicon, load_lexicon
from mq9cluster.search.query import Question, parse_units
from mq9cluster.search.ranking import FUSION_DEPTH, depth_of, merge
from mq9cluster.search.text import Analyzer
from mq9cluster.search.together import search_together

LIMIT = 20
QUESTIONS = 300
RARE_WORDS = 50_000
SAMPLE_RECALL = 50


Clock = Callable[[], float]


class Spread(NamedTuple):
    """Milliseconds."""

    p50: float
    p99: float


class Maker:
    """Agents and questions out of the lexicon's English, in a reproducible mix."""

    def __init__(self, lexicon: Lexicon, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.concepts = [
            (concept.id, [alias.phrase for alias in concept.aliases if alias.language == "en"])
            for concept in lexicon.concepts
        ]
        letters = "bdfgklmnprstvz", "aeiou"
        self.rare = [
            "".join(self.chance.choice(letters[i % 2]) for i in range(self.chance.randint(4, 9)))
            for _ in range(RARE_WORDS)
        ]

    def words(self, count: int) -> list[str]:
        """Words of nobody's language, few of them often and most rarely."""
        return [
            self.rare[min(int(self.chance.paretovariate(0.7)) - 1, RARE_WORDS - 1)]
            for _ in range(count)
        ]

    def card(self, number: int) -> AgentCard:
        """An agent of two or three skills, about 60 words."""
        skills, phrases = [], []
        for name, aliases in self.chance.sample(self.concepts, self.chance.randint(2, 3)):
            mine = self.chance.sample(aliases, min(4, len(aliases)))
            phrases += [*mine[:2], *self.words(3)]
            skills.append({"id": name, "name": mine[0], "tags": mine[2:3], "examples": mine[3:4]})
        text = " ".join(["An agent that can", *phrases, "and", *self.words(12)])
        return parse_card(
            {
                "name": f"{self.rare[number % RARE_WORDS]}-{number}",
                "description": text,
                "version": f"1.{number % 10}",
                "provider": {"organization": f"org {number % 500}"},
                "tags": [f"region-{number % 20}"],
                "skills": skills,
            }
        )

    def question(self) -> str:
        """One or two phrases of the lexicon, sometimes with a rare word."""
        phrases = [
            self.chance.choice(aliases)
            for _, aliases in self.chance.sample(self.concepts, self.chance.randint(1, 2))
        ]
        return " ".join(phrases + self.words(self.chance.randint(0, 1)))


class Registry:
    """`held` of `shards` shards, and the asking node over them."""

    def __init__(self, shards: int, held: int) -> None:
        lexicon = load_lexicon()
        self.maker = Maker(lexicon)
        self.analyzer = Analyzer(lexicon.empty_words)
        self.embedder = ConceptEmbedder(lexicon)
        self.by = str(self.embedder.id)
        self.all = shards
        self.shards = [
            ShardIndex(self.analyzer, {self.by: self.embedder.id.dimensions}) for _ in range(held)
        ]

    def fill(self, agents: int, clock: Clock) -> tuple[float, float, float]:
        """Seconds of embedding, of indexing, and of building graphs."""
        embedding = indexing = graphs = 0.0
        for number in range(agents * len(self.shards) // self.all):
            card = self.maker.card(number)
            start = clock()
            code = self.embedder.card_code(card)
            middle = clock()
            self.shards[number % len(self.shards)].put(card, {self.by: code} if code else {})
            indexing += clock() - middle
            embedding += middle - start
        for shard in self.shards:
            for by, job in shard.maintenance():
                start = clock()
                job.run()
                shard.adopt(by, job)
                graphs += clock() - start
        return embedding, indexing, graphs

    def discover(
        self, text: str, mode: str, *, condition: object = None, exact: bool = False
    ) -> list[str]:
        """One DISCOVER: the page's names."""
        code = self.embedder.question_code(text) if mode != "text" else None
        question = Question(
            units=parse_units(text, self.analyzer) if mode != "semantic" else (),
            vectors=((self.by, code),) if code else (),
            filter=parse_filter(condition),
            now_ms=1,
            depth=depth_of(LIMIT, 1, rankings=2 if mode == "hybrid" else 1),
            floor=self.embedder.floor,
            exact=exact,
        )
        known, answer = search_together([(shard, question) for shard in self.shards])
        return [h.name for h in merge(question, [answer], LIMIT, statistics=known).hits]


def spread(clock: Clock, run: Callable[[str], object], questions: list[str]) -> Spread:
    times = []
    for text in questions:
        start = clock()
        run(text)
        times.append((clock() - start) * 1e3)
    cuts = statistics.quantiles(times, n=100)
    return Spread(cuts[49], cuts[98])


def rows(clock: Clock, registry: Registry, questions: list[str]) -> Iterator[tuple[str, Spread]]:
    for mode in ("text", "semantic", "hybrid"):
        yield mode, spread(clock, partial(registry.discover, mode=mode), questions)
    narrow = {"tags": "region-7", "not": {"version": "1.3"}}
    yield (
        "hybrid, a filter that leaves 5 %",
        spread(clock, lambda text: registry.discover(text, "hybrid", condition=narrow), questions),
    )
    yield (
        "semantic, exact",
        spread(clock, lambda text: registry.discover(text, "semantic", exact=True), questions),
    )


def explaining(clock: Clock, registry: Registry, questions: list[str]) -> Spread:
    """Explaining a page of hits."""
    explainer = Explainer(registry.analyzer, registry.embedder)
    cards = [registry.maker.card(number) for number in range(LIMIT)]

    def run(text: str) -> None:
        units = parse_units(text, registry.analyzer)
        concepts = registry.embedder.concepts(text)
        for card in cards:
            explainer.explain(card, units, concepts)

    return spread(clock, run, questions)


def recall(registry: Registry, questions: list[str]) -> float:
    """Share of the exact page that the graph finds."""
    shares = []
    for text in questions[:SAMPLE_RECALL]:
        exact = set(registry.discover(text, "semantic", exact=True))
        found = set(registry.discover(text, "semantic"))
        shares.append(len(exact & found) / max(1, len(exact)))
    return statistics.mean(shares)


def fts5(clock: Clock, agents: int, questions: list[str]) -> tuple[float, Spread]:
    """Microseconds to insert a card, and asking for the best by bm25(), in one table."""
    maker, analyzer = Maker(load_lexicon()), Analyzer()
    database = sqlite3.connect(":memory:")
    database.execute("create virtual table agents using fts5(name, text, tokenize='ascii')")
    spent = 0.0
    for number in range(agents):
        card = maker.card(number)
        text = card.search_text()
        joined = " ".join([text.description, *text.skills, *text.tags, *text.examples])
        row = (card.name, " ".join(analyzer.terms(joined)))
        start = clock()
        database.execute("insert into agents values (?, ?)", row)
        spent += clock() - start

    def run(text: str) -> None:
        match = " OR ".join(f'"{unit.terms[0]}"' for unit in parse_units(text, analyzer))
        database.execute(
            "select name from agents where agents match ? order by rank limit ?", (match, LIMIT)
        ).fetchall()

    return spent / agents * 1e6, spread(clock, run, questions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--held", type=int, default=0, help="shards held here; all by default")
    parser.add_argument("--fts5", action="store_true")
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args()
    clock = time.perf_counter if options.wall else time.thread_time
    held = options.held or options.shards

    registry = Registry(options.shards, held)
    questions = [registry.maker.question() for _ in range(QUESTIONS)]
    before = rss_bytes(os.getpid())
    embedding, indexing, graphs = registry.fill(options.agents, clock)
    count = sum(map(len, registry.shards))
    gc.collect()
    weight = (rss_bytes(os.getpid()) - before) / count
    vectors = sum(shard.memory_bytes() for shard in registry.shards) / count
    print(f"{count:,} agents in {held} of {options.shards} shards; fusion depth {FUSION_DEPTH:,}")
    print(f"embed {embedding / count * 1e6:.0f} µs, index {indexing / count * 1e6:.0f} µs a card;")
    print(
        f"graph {graphs / count * 1e6:.0f} µs a card; {weight:.0f} B an agent, {vectors:.0f} B of"
    )
    print("it vectors and graph")
    print("| DISCOVER, in process | p50 ms | p99 ms |\n|---|---:|---:|")
    for name, figures in rows(clock, registry, questions):
        print(f"| {name} | {figures.p50:.2f} | {figures.p99:.2f} |")
    figures = explaining(clock, registry, questions)
    print(f"| explaining a page of {LIMIT} | {figures.p50:.2f} | {figures.p99:.2f} |")
    print(f"recall of the page: {recall(registry, questions):.3f}")
    if options.fts5:
        insert, figures = fts5(clock, options.agents, questions)
        print(
            f"| FTS5, one table, {insert:.0f} µs a card | {figures.p50:.2f} | {figures.p99:.2f} |"
        )


if __name__ == "__main__":
    main()

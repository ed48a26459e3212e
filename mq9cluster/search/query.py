"""Questions and answers of a search, as plain values that travel between nodes.

A DISCOVER is parsed once at the asking node into a `Question`; every shard is asked first for
`Statistics` of its units (where there is text), then for an `Answer` with their sum. Both sides of
each message are JSON (`to_wire`, `*_from_wire`): no shard sees a client's raw words.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mq9cluster.domain.errors import InvalidField
from mq9cluster.search.filter import Filter, filter_from_wire, filter_to_wire
from mq9cluster.search.text import Analyzer, bigrams, is_cjk, runs

MODES = ("text", "semantic", "hybrid")
QUERY_CHARS_MAX = 4_096  # a question, not a document
UNITS_MAX = 64  # each is one posting list read in every shard; the rest of a long question is cut
PHRASE_TERMS_MAX = 16
PREFIX_CHARS_MIN = 3  # a shorter beginning stands for thousands of words; it is read as a word

TEXT = "text"  # names of rankings; an embedder's ranking has the embedder's id
NAME = "name"
WORD, PREFIX, PHRASE = 0, 1, 2
_PARTS = re.compile(r'"([^"]*)"?|(\S+)')


class Unit(NamedTuple):
    """One thing a text question asks for: a word, words beginning so, or words in this order.

    The terms of a PREFIX are what the word begins with, and its stem.
    """

    kind: int
    terms: tuple[str, ...]


class Question(NamedTuple):
    """What every shard is asked alike. `vectors` are codes of the question, by embedder id.

    `by_name` asks for all agents in order of their names, and for nothing else. `depth` hits of
    each ranking come back; `now_ms` 0 also finds agents that have not reported in time. A cosine
    below `floor` (the embedder's) says nothing and is no hit, whatever `min_score` is asked for.
    `stand_in` ranks agents by another embedder, with a floor of its own, in the first of `vectors`'
    rankings, as long as they have no vector there.
    """

    units: tuple[Unit, ...] = ()
    vectors: tuple[tuple[str, bytes], ...] = ()
    filter: Filter | None = None
    now_ms: int = 0
    depth: int = 20
    min_score: float = 0.0
    floor: float = 0.0
    exact: bool = False
    by_name: bool = False
    stand_in: tuple[str, bytes, float] | None = None


class Statistics(NamedTuple):
    """How many agents there are, and how many of them each unit finds."""

    agents: int
    frequencies: tuple[int, ...]


NO_STATISTICS = Statistics(0, ())


class Ranked(NamedTuple):
    """One ranking of one shard: its best, and how many it found in all."""

    hits: tuple[tuple[str, float], ...]
    total: int


class Answer(NamedTuple):
    """A shard's answer: rankings by what they rank by ("text", an embedder id, or "name")."""

    rankings: tuple[tuple[str, Ranked], ...]


def parse_units(text: str, analyzer: Analyzer) -> tuple[Unit, ...]:
    """The units of a text question: words, `begin*` and "phrases". Everything else is no syntax."""
    if len(text) > QUERY_CHARS_MAX:
        raise InvalidField("text", f"longer than {QUERY_CHARS_MAX} characters")
    units: dict[Unit, None] = {}
    empty: dict[Unit, None] = {}
    for quoted, plain in _PARTS.findall(text):
        for unit in _phrase(quoted, analyzer) if quoted else _words(plain, analyzer):
            without_content = not quoted and analyzer.is_empty(plain.casefold())
            (empty if without_content else units)[unit] = None
    return tuple(units or empty)[:UNITS_MAX]


def _phrase(quoted: str, analyzer: Analyzer) -> Iterable[Unit]:
    terms = tuple(analyzer.terms(quoted)[:PHRASE_TERMS_MAX])
    if len(terms) > 1:
        return [Unit(PHRASE, terms)]
    return [Unit(WORD, (term,)) for term in terms]


def _words(plain: str, analyzer: Analyzer) -> Iterable[Unit]:
    found = runs(plain)
    if (
        plain.endswith("*")
        and found
        and len(found[-1]) >= PREFIX_CHARS_MIN
        and not is_cjk(found[-1])
    ):
        last = found.pop()
        begins = (analyzer.prefix(last), *analyzer.terms(last))
        yield Unit(PREFIX, tuple(dict.fromkeys(begins)))
    for run in found:
        for term in bigrams(run) if is_cjk(run) else analyzer.terms(run):
            yield Unit(WORD, (term,))


def add_statistics(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of all shards together."""
    agents = 0
    frequencies: list[int] = []
    for part in parts:
        agents += part.agents
        if not frequencies:
            frequencies = [0] * len(part.frequencies)
        frequencies = [a + b for a, b in zip(frequencies, part.frequencies, strict=True)]
    return Statistics(agents, tuple(frequencies))


def to_wire(message: Question | Statistics | Answer) -> Any:
    """A message as JSON has it, for a peer."""
    if isinstance(message, Question):
        instead = message.stand_in
        return message._asdict() | {
            "units": [tuple(unit) for unit in message.units],
            "vectors": [(by, _text(code)) for by, code in message.vectors],
            "filter": filter_to_wire(message.filter),
            "stand_in": instead and (instead[0], _text(instead[1]), instead[2]),
        }
    if isinstance(message, Statistics):
        return tuple(message)
    return [(by, tuple(ranked)) for by, ranked in message.rankings]


def question_from_wire(wire: dict[str, Any]) -> Question:
    """The question a peer asked; ValueError, KeyError or TypeError when it is none."""
    instead = wire["stand_in"]
    return Question(
        units=tuple(Unit(kind, tuple(terms)) for kind, terms in wire["units"]),
        vectors=tuple((name, base64.b64decode(code)) for name, code in wire["vectors"]),
        filter=filter_from_wire(wire["filter"]),
        now_ms=wire["now_ms"],
        depth=wire["depth"],
        min_score=wire["min_score"],
        floor=wire["floor"],
        exact=wire["exact"],
        by_name=wire["by_name"],
        stand_in=instead and (instead[0], base64.b64decode(instead[1]), instead[2]),
    )


def statistics_from_wire(wire: Sequence[Any]) -> Statistics:
    """The statistics a peer answered."""
    agents, frequencies = wire
    return Statistics(agents, tuple(frequencies))


def answer_from_wire(wire: Iterable[Any]) -> Answer:
    """The rankings a peer answered."""
    return Answer(
        tuple(
            (name, Ranked(tuple((who, score) for who, score in hits), total))
            for name, (hits, total) in wire
        )
    )


def _text(code: bytes) -> str:
    return base64.b64encode(code).decode()

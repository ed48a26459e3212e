"""The lexical index of one shard: posting lists with BM25 impacts, phrases and prefixes.

A document's length is compared with a constant average, so what a term is worth in a document
(its *impact*) is known when the document arrives and never changes; a query only adds up `inverse
document frequency * impact` along its posting lists, vectorised. The frequencies are summed over
all shards by the asking node, so scores do not depend on how agents fall into shards. Impacts are
integers and every score is added up in the order of the query's units: replicas agree to the last
bit.

Why not SQLite's FTS5: its ranking knows only its own shard, costs about a microsecond per matching
row, and `contentless_delete` needs SQLite 3.43 (docs/discovery.md has the figures).

Owned by `index.ShardIndex`, which gives out slots: one per registered version of a card, never used
twice until `compact` numbers them anew. One thread at a time.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import log

import numpy as np
import numpy.typing as npt

from mq9cluster.search.query import PREFIX, WORD, Statistics, Unit

SATURATION = 1.2  # BM25's k1
LENGTH_WEIGHT = 0.5  # BM25's b; low, because a long card is an able agent, not a wordy one
AVERAGE_LENGTH = 40.0  # weighted terms of a card; a constant, so that impacts never change
IMPACT_ONE = 16_384  # impacts are below k1 + 1 = 2.2: they fit 16 bits as fixed point
FIELD_END = 0  # stands between fields in a document's terms: no phrase crosses it

_IMPACT_BITS = 16
_IMPACT_MASK = (1 << _IMPACT_BITS) - 1

Slots = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def inverse_frequency(agents: int, found: int) -> float:
    """BM25's weight of a unit that `found` of `agents` documents have; always positive."""
    return log(1.0 + (agents - found + 0.5) / (found + 0.5))


def unit_weights(statistics: Statistics) -> tuple[float, ...]:
    """The weight of each unit of a question."""
    return tuple(inverse_frequency(statistics.agents, n) for n in statistics.frequencies)


class LexicalIndex:
    """Posting lists of one shard."""

    __slots__ = ("_documents", "_live", "_ordered", "_postings", "_terms")

    def __init__(self) -> None:
        self._terms: dict[str, int] = {"": FIELD_END}
        self._postings: list[array[int]] = [array("Q")]  # slot << 16 | impact, by term
        self._live: array[int] = array("I", [0])  # documents that have the term, by term
        self._documents: list[bytes] = []  # a document's terms in order, by slot; empty when gone
        self._ordered: list[str] | None = None  # the terms sorted, made when a prefix asks

    def put(self, slot: int, fields: Iterable[tuple[float, Sequence[str]]]) -> None:
        """Index a document of weighted fields at `slot`, the next one."""
        terms = self._terms
        order: array[int] = array("I")
        counts: dict[int, float] = {}
        length = 0.0
        for weight, words in fields:
            for word in words:
                term = terms.get(word)
                if term is None:
                    term = self._new_term(word)
                order.append(term)
                counts[term] = counts.get(term, 0.0) + weight
            length += weight * len(words)
            order.append(FIELD_END)
        postings, live = self._postings, self._live
        norm = SATURATION * (1.0 - LENGTH_WEIGHT + LENGTH_WEIGHT * length / AVERAGE_LENGTH)
        place = slot << _IMPACT_BITS
        scale = IMPACT_ONE * (SATURATION + 1.0)
        for term, count in counts.items():
            postings[term].append(place | int(scale * count / (count + norm)))
            live[term] += 1
        documents = self._documents
        while len(documents) < slot:
            documents.append(b"")
        documents.append(order.tobytes())

    def _new_term(self, word: str) -> int:
        self._terms[word] = term = len(self._postings)
        self._postings.append(array("Q"))
        self._live.append(0)
        self._ordered = None
        return term

    def remove(self, slot: int) -> None:
        """Forget the document at `slot`; its postings stay until `compact`, and are skipped."""
        live = self._live
        for term in set(np.frombuffer(self._documents[slot], np.uint32).tolist()):
            if term != FIELD_END:
                live[term] -= 1
        self._documents[slot] = b""

    def frequency(self, unit: Unit, alive: Mask) -> int:
        """How many documents have `unit`."""
        if unit.kind == WORD:
            return self._live[self._terms.get(unit.terms[0], FIELD_END)]
        return len(self._find(unit, alive)[0])

    def score(self, units: Sequence[Unit], weights: Sequence[float], alive: Mask) -> Scores:
        """The score of every slot; 0 where nothing was found. Removed slots may score."""
        scores = np.zeros(len(alive))
        for unit, weight in zip(units, weights, strict=True):
            slots, impacts = self._find(unit, alive)
            scores[slots] += impacts * (weight / IMPACT_ONE)
        return scores

    def compact(self, numbers: Slots) -> None:
        """Number slots anew: `numbers[slot]` is the new one, or -1 for a removed one."""
        for term, posting in enumerate(self._postings):
            if posting:
                packed = np.frombuffer(posting, np.uint64)
                slots = numbers[(packed >> _IMPACT_BITS).astype(np.int64)]
                kept = slots >= 0
                moved = (slots[kept].astype(np.uint64) << np.uint64(_IMPACT_BITS)) | (
                    packed[kept] & np.uint64(_IMPACT_MASK)
                )
                del packed
                fresh: array[int] = array("Q")
                fresh.frombytes(moved.tobytes())
                self._postings[term] = fresh
        self._documents = [words for words in self._documents if words]

    def _find(self, unit: Unit, alive: Mask) -> tuple[Slots, npt.NDArray[np.int64]]:
        """Slots that have `unit`, each once, and the impacts there."""
        if unit.kind == WORD:
            return self._posting(self._terms.get(unit.terms[0], FIELD_END))
        if unit.kind == PREFIX:
            return self._prefix(unit.terms, alive)
        return self._phrase(unit.terms, alive)

    def _posting(self, term: int) -> tuple[Slots, npt.NDArray[np.int64]]:
        packed = np.frombuffer(self._postings[term], np.uint64).astype(np.int64)
        return packed >> _IMPACT_BITS, packed & _IMPACT_MASK

    def _prefix(self, begins: tuple[str, ...], alive: Mask) -> tuple[Slots, npt.NDArray[np.int64]]:
        if self._ordered is None:
            self._ordered = sorted(self._terms)
        ordered = self._ordered
        at = bisect_left(ordered, begins[0])
        words = set(begins[1:])
        while at < len(ordered) and ordered[at].startswith(begins[0]):
            words.add(ordered[at])
            at += 1
        best = np.zeros(len(alive), np.int64)
        for word in words:
            slots, impacts = self._posting(self._terms.get(word, FIELD_END))
            best[slots] = np.maximum(best[slots], impacts)
        best[~alive] = 0
        found = np.flatnonzero(best)
        return found, best[found]

    def _phrase(self, terms: tuple[str, ...], alive: Mask) -> tuple[Slots, npt.NDArray[np.int64]]:
        """Documents with the terms side by side; worth the sum of what the terms are worth."""
        numbers = [self._terms.get(term, FIELD_END) for term in terms]
        nothing = np.zeros(0, np.int64)
        if FIELD_END in numbers:
            return nothing, nothing
        rarest = min(numbers, key=lambda term: self._live[term])
        candidates, _ = self._posting(rarest)
        candidates = candidates[alive[candidates]]
        needle = np.array(numbers, np.uint32).tobytes()
        found = np.array(
            [slot for slot in candidates.tolist() if _contains(self._documents[slot], needle)],
            np.int64,
        )
        worth = np.zeros(len(found), np.int64)
        for term in set(numbers):
            slots, impacts = self._posting(term)
            order = np.searchsorted(slots, found)
            worth += impacts[order]
        return found, worth


def _contains(document: bytes, needle: bytes) -> bool:
    """Whether the terms of `needle` follow each other in `document`: a find at whole terms."""
    at = document.find(needle)
    while at >= 0 and at % 4:
        at = document.find(needle, at + 1)
    return at >= 0

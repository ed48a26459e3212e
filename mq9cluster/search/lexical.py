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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from math import log
from typing import Any, Self

import numpy as np
import numpy.ma  # np.unique would load it later, when files may have run out
import numpy.typing as npt

from mq9cluster.search.query import PREFIX, WORD, Statistics, Unit
from mq9cluster.search.text import END_OF_FIELD

SATURATION = 1.2  # BM25's k1
LENGTH_WEIGHT = 0.5  # BM25's b; low, because a long card is an able agent, not a wordy one
AVERAGE_LENGTH = 40.0  # weighted terms of a card; a constant, so that impacts never change
IMPACT_ONE = 16_384  # impacts are below k1 + 1 = 2.2: they fit 16 bits as fixed point
FIELD_END = 0  # stands between fields in a document's terms: no phrase crosses it
NEW_DOCUMENTS_MAX = 64  # added at once, in 2 ms: a question may have to wait for that

_IMPACT_BITS = 16
_IMPACT_MASK = (1 << _IMPACT_BITS) - 1
_SLOT_BITS = 32  # of a term and a slot in one number
_SLOT_MASK = (1 << _SLOT_BITS) - 1

Slots = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Found = tuple[Slots, npt.NDArray[np.int64]]  # slots that have a unit, each once; impacts there


def inverse_frequency(agents: int, found: int) -> float:
    """BM25's weight of a unit that `found` of `agents` documents have; always positive."""
    return log(1.0 + (agents - found + 0.5) / (found + 0.5))


def unit_weights(statistics: Statistics) -> tuple[float, ...]:
    """The weight of each unit of a question."""
    return tuple(inverse_frequency(statistics.agents, n) for n in statistics.frequencies)


def score(found: Sequence[Found], weights: Sequence[float], size: int) -> Scores:
    """The score of each of `size` slots by what a question's units found; 0 where that is nothing.

    Removed slots may score.
    """
    scores = np.zeros(size)
    for (slots, impacts), weight in zip(found, weights, strict=True):
        scores[slots] += impacts * (weight / IMPACT_ONE)
    return scores


class _Terms(dict[str, int]):
    """Numbers of terms; a new term is given the next one."""

    def __init__(self, new: Callable[[str], int]) -> None:
        super().__init__({END_OF_FIELD: FIELD_END})
        self._new = new

    def __missing__(self, word: str) -> int:
        return self._new(word)


class LexicalIndex:
    """Posting lists of one shard."""

    __slots__ = (
        "_buried",
        "_documents",
        "_live",
        "_new_fields",
        "_new_ids",
        "_new_slots",
        "_new_weights",
        "_ordered",
        "_postings",
        "_terms",
    )

    def __init__(self) -> None:
        self._terms = _Terms(self._new_term)
        self._postings: list[array[int]] = [array("Q")]  # slot << 16 | impact, by term
        self._live: array[int] = array("I", [0])  # documents that have the term, by term
        self._documents: list[bytes] = []  # a document's terms in order, by slot; empty when gone
        self._ordered: list[str] | None = None  # the terms sorted, made when a prefix asks
        # What came since the posting lists were last brought up to date: documents, their slots,
        # how many fields each has and the weights of these, and documents that went.
        self._new_ids: list[bytes] = []
        self._new_slots: list[int] = []
        self._new_fields: list[int] = []
        self._new_weights: array[float] = array("d")
        self._buried: list[bytes] = []

    def kept(self) -> dict[str, Any]:
        """All of it, to be saved: what `restored` takes. Copies, and nothing that waits."""
        self._settle()
        return {
            "terms": list(self._terms)[1:],
            "live": self._live.tobytes(),
            "posting_lengths": _lengths(self._postings),
            "postings": b"".join(self._postings),
            "document_lengths": _lengths(self._documents),
            "documents": b"".join(self._documents),
        }

    @classmethod
    def restored(cls, kept: Mapping[str, Any]) -> Self:
        """The index that `kept` was told of."""
        self = cls()
        terms: list[str] = kept["terms"]
        self._terms.update(zip(terms, range(1, len(terms) + 1), strict=True))
        self._live = array("I", bytes(kept["live"]))
        cuts = cut(kept["postings"], kept["posting_lengths"], self._postings[0].itemsize)
        self._postings = [array("Q", part) for part in cuts]
        self._documents = list(cut(kept["documents"], kept["document_lengths"]))
        return self

    def put(self, slot: int, terms: Iterable[str], weights: Sequence[float]) -> None:
        """Index a document at `slot`, the next one: each field's terms end with END_OF_FIELD."""
        ids = array("I", map(self._terms.__getitem__, terms)).tobytes()
        documents = self._documents
        while len(documents) < slot:
            documents.append(b"")
        documents.append(ids)
        self._new_ids.append(ids)
        self._new_slots.append(slot)
        self._new_fields.append(len(weights))
        self._new_weights.extend(weights)
        if len(self._new_ids) >= NEW_DOCUMENTS_MAX:
            self._settle()

    def _new_term(self, word: str) -> int:
        self._terms[word] = term = len(self._postings)
        self._postings.append(array("Q"))
        self._live.append(0)
        self._ordered = None
        return term

    def _settle(self) -> None:
        """Bring posting lists and frequencies up to date."""
        if self._new_ids:
            new, self._new_ids = self._new_ids, []
            slots, self._new_slots = self._new_slots, []
            fields, self._new_fields = self._new_fields, []
            weights, self._new_weights = self._new_weights, array("d")
            self._add(new, np.repeat(slots, fields), np.frombuffer(weights, np.float64))
        if self._buried:
            buried, self._buried = self._buried, []
            live = self._live
            for term, count in zip(*_frequencies(buried), strict=True):
                live[term] -= count

    def _add(self, new: list[bytes], slots: Slots, weights: Scores) -> None:
        """Add what documents are worth: all at once, since numpy minds each call, not its size."""
        ids = np.frombuffer(b"".join(new), np.uint32)
        ends = ids == FIELD_END
        field = np.cumsum(ends) - ends  # of each place
        ids, field = ids[~ends].astype(np.int64), field[~ends]
        slots, weights = slots[field], weights[field]
        first = int(slots[0]) if len(slots) else 0
        lengths = np.bincount(slots - first, weights)
        keys = (ids << _SLOT_BITS) | slots
        order = keys.argsort()
        keys = keys[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        if not len(starts):
            return
        counts = np.add.reduceat(weights[order], starts)
        keys = keys[starts]
        terms, slots = keys >> _SLOT_BITS, keys & _SLOT_MASK
        norms = SATURATION * (1.0 - LENGTH_WEIGHT + LENGTH_WEIGHT * lengths / AVERAGE_LENGTH)
        scale = IMPACT_ONE * (SATURATION + 1.0)
        impacts = (scale * counts / (counts + norms[slots - first])).astype(np.int64)
        packed = ((slots << _IMPACT_BITS) | impacts).tobytes()
        starts = np.flatnonzero(np.diff(terms, prepend=-1))
        terms = terms[starts]
        np.frombuffer(self._live, np.uint32)[terms] += np.diff(starts, append=len(slots)).astype(
            np.uint32
        )
        cuts = (8 * starts).tolist()
        parts = map(packed.__getitem__, map(slice, cuts, [*cuts[1:], len(packed)]))
        postings = map(self._postings.__getitem__, terms.tolist())
        deque(map(array.frombytes, postings, parts), maxlen=0)  # a loop would take twice as long

    def remove(self, slot: int) -> None:
        """Forget the document at `slot`; its postings stay until `compact`, and are skipped."""
        self._buried.append(self._documents[slot])
        self._documents[slot] = b""

    def frequency(self, unit: Unit, alive: Mask) -> int:
        """How many documents have `unit`."""
        self._settle()
        if unit.kind == WORD:
            return self._live[self._terms.get(unit.terms[0], FIELD_END)]
        return len(self._find(unit, alive)[0])

    def find(self, units: Sequence[Unit], alive: Mask) -> list[Found]:
        """What each unit finds; removed slots may be among it, as far as `count` does not count."""
        self._settle()
        return [self._find(unit, alive) for unit in units]

    def count(self, units: Sequence[Unit], found: Sequence[Found]) -> tuple[int, ...]:
        """How many documents have each unit, by what `find` gave."""
        return tuple(
            self._live[self._terms.get(unit.terms[0], FIELD_END)]
            if unit.kind == WORD
            else len(slots)
            for unit, (slots, _) in zip(units, found, strict=True)
        )

    def compact(self, numbers: Slots) -> None:
        """Number slots anew: `numbers[slot]` is the new one, or -1 for a removed one."""
        self._settle()
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

    def _find(self, unit: Unit, alive: Mask) -> Found:
        if unit.kind == WORD:
            return self._posting(self._terms.get(unit.terms[0], FIELD_END))
        if unit.kind == PREFIX:
            return self._prefix(unit.terms, alive)
        return self._phrase(unit.terms, alive)

    def _posting(self, term: int) -> Found:
        packed = np.frombuffer(self._postings[term], np.int64)  # slots are far below 2**47
        return packed >> _IMPACT_BITS, packed & _IMPACT_MASK

    def _prefix(self, begins: tuple[str, ...], alive: Mask) -> Found:
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

    def _phrase(self, terms: tuple[str, ...], alive: Mask) -> Found:
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


def _frequencies(documents: list[bytes]) -> tuple[list[int], list[int]]:
    """Terms of `documents`, and in how many of them each stands."""
    ids = np.frombuffer(b"".join(documents), np.uint32).astype(np.int64)
    owner = np.repeat(np.arange(len(documents)), [len(words) // 4 for words in documents])
    pairs = np.unique((ids << _SLOT_BITS) | owner)
    terms, counts = np.unique(pairs >> _SLOT_BITS, return_counts=True)
    real = terms != FIELD_END
    return terms[real].tolist(), counts[real].tolist()


def _lengths(parts: Sequence[Sized]) -> bytes:
    return np.fromiter(map(len, parts), np.uint32, len(parts)).tobytes()


def cut(data: memoryview, lengths: memoryview, size: int = 1) -> Iterator[bytes]:
    """Cut `data` into parts of so many items of `size` bytes."""
    at = 0
    for length in np.frombuffer(lengths, np.uint32).tolist():
        end = at + length * size
        yield bytes(data[at:end])
        at = end


def _contains(document: bytes, needle: bytes) -> bool:
    """Whether the terms of `needle` follow each other in `document`: a find at whole terms."""
    at = document.find(needle)
    while at >= 0 and at % 4:
        at = document.find(needle, at + 1)
    return at >= 0

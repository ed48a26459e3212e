"""The built-in embedder: concepts of the lexicon, words, and pieces of words, as one vector.

No neural model, and it does not pretend to be one: it knows what the lexicon says, in the lexicon's
languages, and otherwise compares words and their spelling. Deterministic, without downloads, about
100 µs a card.

A vector has a dimension for each concept, so that concepts do not blur each other, and words and
their character n-grams hashed over all dimensions. A phrase matches when its words stand near each
other in any order. Each word is stemmed in every language (its own is unknown), and German
compounds are taken apart.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mq9cluster.domain.agent import AgentCard
from mq9cluster.search.embedder import EmbedderId
from mq9cluster.search.lexicon import Alias, Lexicon
from mq9cluster.search.text import Stems, bare, bigrams, is_cjk, runs
from mq9cluster.search.vectors import CODE_LENGTH, code_of

DIMENSIONS = 512  # at most as many concepts; a code is as many bytes
VERSION = "1"
CONCEPT_SHARE = 0.85  # of the vector's length; words have the rest of the square
NEAR_SHARE = 0.3  # of a concept's strength goes to concepts near it, in questions only
REPEAT_EXPONENT = 0.7  # strength of evidence seen again and again
PHRASE_BONUS = 1.25  # several words together are better evidence than one
GENERIC_SHARE = 0.25  # what a generic word counts as a word
PIECES_SHARE = 0.5  # what a word's character n-grams count beside the word itself
NEIGHBOURS = 3  # words on either side in which a phrase's other words are looked for
WORDS_CACHED_MAX = 32_768  # of each generation: some 20 MB
PIECES_CACHED_MAX = 65_536  # of words, each three or four characters: some 8 MB
QUESTIONS_KEPT_MAX = 64  # whose hits are being explained, card by card
COMPOUND_CHARS_MIN = 9
PART_CHARS_MIN = 4
BEGINNING_CHARS = 3  # no stemmer touches them: words that begin otherwise need not be stemmed
RUN_CHARS_MAX = 512  # of a text written without spaces
TOKENS_MAX = 1_024  # of one field
READING_CHARS_MAX = 64  # of a text that is remembered whole: a tag, the name of a skill
ROWS_MIN = 256  # words of a card, usually fewer; those of the longest card need some 20 MB
READINGS_MAX = 16_384  # some 10 MB
FLOOR = 0.06  # hashed words of unrelated texts meet by chance: two deviations of that

# What a field's evidence counts.
FIELD_WEIGHTS = {"name": 0.7, "tags": 1.0, "skills": 1.0, "description": 1.0, "examples": 0.5}

_STEMMERS = {"en": "english", "de": "german", "es": "spanish", "fr": "french"}
_JOINTS = ("", "s", "n", "en", "es", "er", "e")  # what German puts between parts of a compound
_WORD_FEATURES = 16
_PIECE_FEATURES = 8
_SIGNS = np.array([1.0, -1.0])  # by a place's highest bit
_PLACES = struct.Struct(f"<{_WORD_FEATURES}H")
_PLUS = round(CODE_LENGTH / _WORD_FEATURES**0.5)  # of a code whose features share its length
_MINUS = 256 - _PLUS  # as a signed byte

Vector = npt.NDArray[np.float32]


class _Hit(NamedTuple):
    """An alias by one of its keys: the other keys it needs nearby."""

    others: frozenset[str]
    concept: int
    weight: float


_Evidence = tuple[int, float]  # a concept, and how strongly it is meant


class _Known(NamedTuple):
    """Aliases by one of their keys: those of one word, and phrases by another key they need."""

    words: list[_Evidence]
    phrases: dict[str, list[_Hit]]


class _Token(NamedTuple):
    """What is known of a word or CJK run: lexicon keys in it, what they stand for, codes of its
    words, their weight.
    """

    keys: tuple[str, ...]  # in order: sums of evidence must not depend on a set's
    known: tuple[_Known, ...]
    codes: tuple[bytes, ...]
    weight: float
    empty: bool


class _Reading(NamedTuple):
    """What a text says: the codes of its words, the weight of each, and concepts. Not to be
    changed: it is remembered.
    """

    codes: list[bytes]
    weights: list[float]
    evidence: list[_Evidence]


class _Words(dict[str, _Token]):
    """Words that were met; others are learnt when they are asked for."""

    def __init__(self, learn: Callable[[str], _Token]) -> None:
        super().__init__()
        self._learn = learn

    def __missing__(self, run: str) -> _Token:
        return self._learn(run)


def concept_id(lexicon: Lexicon) -> EmbedderId:
    """The id of the embedder that `lexicon` compiles to."""
    return EmbedderId("concept", "lexicon", VERSION, DIMENSIONS, lexicon.content_hash)


class ConceptEmbedder:
    """The compiled lexicon. One per node; its caches are shared by all shards."""

    floor = FLOOR

    def __init__(self, lexicon: Lexicon) -> None:
        if len(lexicon.concepts) > DIMENSIONS:
            raise ValueError(f"more than {DIMENSIONS} concepts")
        self.id = concept_id(lexicon)
        self._names = [concept.id for concept in lexicon.concepts]
        number = {name: i for i, name in enumerate(self._names)}
        self._near = [tuple(number[name] for name in concept.near) for concept in lexicon.concepts]
        self._empty = lexicon.empty_words
        self._generic = frozenset(lexicon.generic_words)
        self._stems = {code: Stems(language) for code, language in _STEMMERS.items()}
        self._vocabulary: dict[str, set[str]] = {code: set() for code in _STEMMERS}
        self._surfaces: dict[str, set[str]] = {code: set() for code in _STEMMERS}
        self._beginnings: dict[str, set[str]] = {code: set() for code in _STEMMERS}
        self._pieces: dict[str, list[str]] = {}  # CJK aliases by first character
        self._known: dict[str, _Known] = {}
        self._keys_by_concept: dict[str, set[str]] = {}
        self._keys_of = lru_cache(maxsize=QUESTIONS_KEPT_MAX)(self._rarest_keys)
        compiled = [
            (i, self._keys(alias), alias.weight)
            for i, concept in enumerate(lexicon.concepts)
            for alias in concept.aliases
        ]
        uses = Counter(key for _, keys, _ in compiled for key in keys)
        for i, keys, weight in compiled:
            if keys:
                rarest, *others = sorted(keys, key=lambda key: (uses[key], key))
                self._keys_by_concept.setdefault(self._names[i], set()).add(rarest)
                known = self._known.setdefault(rarest, _Known([], {}))
                if others:
                    hit = _Hit(frozenset(others[1:]), i, weight * PHRASE_BONUS)
                    known.phrases.setdefault(others[0], []).append(hit)
                else:
                    known.words.append((i, weight))
        # Two generations: when the young one is full it becomes the old one, from which a word that
        # is met again comes back.
        self._young = _Words(self._learn)
        self._old: dict[str, _Token] = {}
        # Room for the codes of a card's words: asking the system for it costs more than the sums.
        self._rows = np.empty((ROWS_MIN, DIMENSIONS), np.float32)
        self._short = lru_cache(maxsize=READINGS_MAX)(self._read)

    # ---- compiling

    def _keys(self, alias: Alias) -> set[str]:
        """The keys of an alias, which is remembered as vocabulary."""
        keys: set[str] = set()
        for run in runs(alias.phrase):
            if is_cjk(run):
                keys.add("c:" + run)
                pieces = self._pieces.setdefault(run[0], [])
                if run not in pieces:
                    pieces.append(run)
            elif run not in self._empty:
                known = alias.language in _STEMMERS and run.isalpha()
                code = alias.language if known else "en"
                stem = self._stems[code].stem(run)
                self._vocabulary[code].add(stem)
                self._surfaces[code].add(bare(run))
                self._beginnings[code].add(bare(run)[:BEGINNING_CHARS])
                keys.add(f"{code}:{stem}")
        return keys

    # ---- embedding

    def card_code(self, card: AgentCard) -> bytes | None:
        """The code of a card; None when it has no word at all."""
        text = card.search_text()
        often = self._often
        readings = [(FIELD_WEIGHTS["name"], self._read(text.name))]
        readings += [(FIELD_WEIGHTS["tags"], often(tag)) for tag in text.tags]
        readings += [(FIELD_WEIGHTS["skills"], often(skill)) for skill in text.skills]
        readings.append((FIELD_WEIGHTS["description"], self._read(text.description)))
        readings += [(FIELD_WEIGHTS["examples"], often(example)) for example in text.examples]
        return self._code(readings, question=False)

    def question_code(self, text: str) -> bytes | None:
        """The code of a question; None when it has no word at all."""
        return self._code([(1.0, self._read(text))], question=True)

    def concepts(self, text: str) -> tuple[str, ...]:
        """Names of the concepts in `text`, strongest first."""
        strengths: dict[int, float] = {}
        for concept, strength in self._read(text).evidence:
            strengths[concept] = strengths.get(concept, 0.0) + strength
        order = sorted(strengths.items(), key=lambda item: (-item[1], item[0]))
        return tuple(self._names[concept] for concept, _ in order)

    def shared(self, text: str, concepts: Sequence[str]) -> list[str]:
        """Which of these concepts are in `text`, in their order."""
        keys = self._keys_of(tuple(concepts))
        tokens = self._tokens(text)
        evidence: list[_Evidence] = []
        for at, token in enumerate(tokens):
            if not keys.isdisjoint(token.keys):
                around = tokens[max(0, at - NEIGHBOURS) : at + NEIGHBOURS + 1]
                for words, phrases in token.known:
                    evidence += words
                    evidence += _phrases_among(phrases, around)
        there = {self._names[concept] for concept, _ in evidence}
        return [concept for concept in concepts if concept in there]

    def _rarest_keys(self, concepts: tuple[str, ...]) -> frozenset[str]:
        """The keys under which aliases of these concepts are known."""
        return frozenset().union(*(self._keys_by_concept.get(name, ()) for name in concepts))

    async def embed_cards(self, cards: Sequence[AgentCard]) -> list[bytes | None]:
        """The port's form of `card_code`."""
        return [self.card_code(card) for card in cards]

    async def embed_question(self, text: str) -> bytes | None:
        """The port's form of `question_code`."""
        return self.question_code(text)

    def _code(self, readings: Iterable[tuple[float, _Reading]], *, question: bool) -> bytes | None:
        strengths: dict[int, float] = {}
        codes: list[bytes] = []
        weights: list[float] = []
        for field_weight, reading in readings:
            codes += reading.codes
            weights += [field_weight * weight for weight in reading.weights]
            for concept, strength in reading.evidence:
                strengths[concept] = strengths.get(concept, 0.0) + field_weight * strength
        if not weights:
            return None
        rows = np.frombuffer(b"".join(codes), np.int8).reshape(-1, DIMENSIONS)
        if len(rows) > len(self._rows):
            self._rows = np.empty((len(rows), DIMENSIONS), np.float32)
        numbers = self._rows[: len(rows)]
        numbers[...] = rows
        words = np.array(weights, np.float32) @ numbers
        length = float(np.sqrt(words @ words))
        vector = words * (((1.0 - CONCEPT_SHARE**2) ** 0.5) / length) if length else words
        if strengths:
            vector = vector + CONCEPT_SHARE * self._concept_part(strengths, question=question)
        if not vector.any():
            return None
        return code_of(vector)

    def _concept_part(self, strengths: dict[int, float], *, question: bool) -> Vector:
        part = np.zeros(DIMENSIONS, np.float32)
        for concept, evidence in strengths.items():
            part[concept] += evidence**REPEAT_EXPONENT
        if question:
            for concept, evidence in strengths.items():
                for other in self._near[concept]:
                    part[other] += NEAR_SHARE * evidence**REPEAT_EXPONENT
        return part / np.float32(np.sqrt(part @ part))

    def _often(self, text: str) -> _Reading:
        """What a tag, a skill or an example says: many agents have the same, if they are short."""
        return self._short(text) if len(text) <= READING_CHARS_MAX else self._read(text)

    def _read(self, text: str) -> _Reading:
        """What `text` says."""
        tokens = self._tokens(text)
        return _Reading(
            [code for token in tokens for code in token.codes],
            [token.weight for token in tokens for _ in token.codes],
            _understood(tokens),
        )

    def _tokens(self, text: str) -> list[_Token]:
        """What is known of each word of `text` that has content."""
        return [
            token
            for token in map(self._young.__getitem__, runs(text)[:TOKENS_MAX])
            if not token.empty
        ]

    # ---- words

    def _learn(self, run: str) -> _Token:
        if len(self._young) >= WORDS_CACHED_MAX:
            self._old, self._young = self._young, _Words(self._learn)
        token = self._old.get(run) or self._token(run)
        self._young[run] = token
        return token

    def _token(self, run: str) -> _Token:
        if is_cjk(run):
            run = run[:RUN_CHARS_MAX]
            codes = tuple(_word_code(pair) for pair in bigrams(run))
            return self._meaning(sorted(set(self._cjk_keys(run))), codes, 1.0)
        if run in self._empty:
            return _Token((), (), (), 0.0, empty=True)
        if not run.isalpha():  # numbers and ids are many: they mean themselves, if anything
            keys = [f"en:{run}"] if run in self._vocabulary["en"] else []
            return self._meaning(keys, (_number_code(run),), 1.0)
        weight = GENERIC_SHARE if run in self._generic else 1.0
        code = _word_code(self._stems["en"].stem(run))
        return self._meaning(self._word_keys(run), (code,), weight)

    def _meaning(self, keys: list[str], codes: tuple[bytes, ...], weight: float) -> _Token:
        known = tuple(self._known[key] for key in keys if key in self._known)
        return _Token(tuple(keys), known, codes, weight, empty=False)

    def _cjk_keys(self, run: str) -> list[str]:
        """Every alias piece that stands in `run`."""
        return [
            "c:" + piece
            for at, char in enumerate(run)
            for piece in self._pieces.get(char, ())
            if run.startswith(piece, at)
        ]

    def _word_keys(self, word: str) -> list[str]:
        """Keys of a word in every language. Where English knows it, others must know it exactly:
        "restaurant" is not what the stem of Spanish "restaurar" would have it.
        """
        surface = bare(word)
        beginning = surface[:BEGINNING_CHARS]
        english = False
        keys = []
        for code, stems in self._stems.items():  # English first
            if beginning in self._beginnings[code] and (
                not english or surface in self._surfaces[code]
            ):
                stem = stems.stem(word)
                if stem in self._vocabulary[code]:
                    keys.append(f"{code}:{stem}")
                    english = english or code == "en"
        if not keys and len(word) >= COMPOUND_CHARS_MIN and beginning in self._beginnings["de"]:
            keys = [f"de:{part}" for part in self._compound(surface)]
        return keys

    def _compound(self, word: str) -> list[str]:
        """Stems of the German words `word` is put together from, or nothing."""
        german, stems = self._vocabulary["de"], self._stems["de"]
        german_words = self._surfaces["de"]
        for end in range(len(word) - PART_CHARS_MIN, PART_CHARS_MIN - 1, -1):
            head = word[:end]
            joint = next(
                (
                    joint
                    for joint in _JOINTS
                    if head.endswith(joint) and head.removesuffix(joint) in german_words
                ),
                None,
            )
            if joint is None:
                continue
            head_stem = stems.stem(head.removesuffix(joint))
            tail_stem = stems.stem(word[end:])
            heads = [head_stem] if head_stem in german else []
            if tail_stem in german:
                return [*heads, tail_stem]
            if len(word) - end >= COMPOUND_CHARS_MIN:
                tails = self._compound(word[end:])
                if tails:
                    return [*heads, *tails]
        return []


def _understood(tokens: list[_Token]) -> list[_Evidence]:
    """The evidence for concepts in `tokens`, in their order."""
    evidence: list[_Evidence] = []
    present = set().union(*[token.keys for token in tokens])
    for at, token in enumerate(tokens):
        for words, phrases in token.known:
            if words:
                evidence += words
            if phrases and not phrases.keys().isdisjoint(present):
                around = tokens[max(0, at - NEIGHBOURS) : at + NEIGHBOURS + 1]
                evidence += _phrases_among(phrases, around)
    return evidence


def _phrases_among(phrases: dict[str, list[_Hit]], around: list[_Token]) -> list[_Evidence]:
    """The phrases whose other words stand around."""
    nearby = dict.fromkeys([key for token in around for key in token.keys])
    return [
        (concept, weight)
        for key in nearby  # in their order: sums of evidence must not depend on a set's
        if key in phrases
        for others, concept, weight in phrases[key]
        if others <= nearby.keys()
    ]


def _number_code(word: str) -> bytes:
    """The code of what has no spelling to compare."""
    digest = _digest(word, _WORD_FEATURES)
    code = bytearray(DIMENSIONS)
    for place in _PLACES.unpack(digest):
        code[place % DIMENSIONS] = _MINUS if place & 0x8000 else _PLUS
    if code.count(0) == DIMENSIONS - _WORD_FEATURES:
        return bytes(code)
    return code_of(_hashed(digest, _WORD_FEATURES))  # two features at one place


@lru_cache(maxsize=WORDS_CACHED_MAX)
def _word_code(word: str) -> bytes:
    """The code of the hashed vector of a word and of its character n-grams."""
    digest = _digest(word, _WORD_FEATURES)
    if len(word) <= 2:
        return code_of(_hashed(digest, _WORD_FEATURES))
    marked = f"<{word}>"
    pieces = {marked[i : i + 3] for i in range(len(marked) - 2)}
    pieces.update([marked[i : i + 4] for i in range(len(marked) - 3)])
    # The word's sums and those of its pieces side by side: numpy minds each call.
    places = np.frombuffer(b"".join([digest, *map(_piece, pieces)]), "<u2")
    at = (places % DIMENSIONS).astype(np.int64)
    at[_WORD_FEATURES:] += DIMENSIONS
    sums = np.bincount(at, _SIGNS[places >> 15], 2 * DIMENSIONS)
    vector = sums[:DIMENSIONS] / _WORD_FEATURES**0.5
    scale = PIECES_SHARE / len(pieces) ** 0.5
    vector += scale * (sums[DIMENSIONS:] / _PIECE_FEATURES**0.5)
    return code_of(vector)


@lru_cache(maxsize=PIECES_CACHED_MAX)
def _piece(piece: str) -> bytes:
    return _digest("#" + piece, _PIECE_FEATURES)


def _digest(feature: str, count: int) -> bytes:
    data = feature.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=2 * count).digest()


def _hashed(digests: bytes, count: int) -> npt.NDArray[np.float64]:
    """The sum of features' vectors: `count` places of each are plus or minus one, scaled."""
    places = np.frombuffer(digests, "<u2").astype(np.int64)
    sums = np.bincount(places % DIMENSIONS, _SIGNS[places >> 15], DIMENSIONS)
    result: npt.NDArray[np.float64] = sums / count**0.5
    return result

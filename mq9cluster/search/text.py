"""From text to terms: NFKC, case, accents, English stems, bigrams of CJK. No I/O.

Used by the lexical index, by the concept embedder and to explain hits, so that all three see the
same words. Caches hold what stemming costs (20 to 50 µs a word) and are bounded.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import snowballstemmer

END_OF_FIELD = "\0"  # ends the terms of a field; no text has it as a term
TERM_CHARS_MAX = 64  # longer runs are no words; they still match by their beginning
WORDS_CACHED_MAX = 65_536  # some 10 MB; a registry's working vocabulary is smaller

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_RUNS = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+")
_IS_CJK = re.compile(f"[{CJK}]")
_ASCII_FOLDED = bytes(ord(c.lower()) if c.isalnum() else ord(" ") for c in map(chr, range(128)))
_FOLDED = _ASCII_FOLDED.ljust(256)  # folds ASCII, and leaves of it only runs, between spaces
_FOLDED_FIELDS = b"\0" + _FOLDED[1:]  # ends of fields are left too
_END_APART = f" {END_OF_FIELD} "
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STEM_CHARS_MIN = 4  # shorter words are stems, or abbreviations


def runs(text: str) -> list[str]:
    """Words and CJK runs of `text`, in order, folded by NFKC and case."""
    if text.isascii():
        return _ascii_runs(text)
    return _RUNS.findall(unicodedata.normalize("NFKC", text).casefold())


def _ascii_runs(text: str, folded: bytes = _FOLDED) -> list[str]:
    """`runs` of ASCII in half the time."""
    return text.encode("ascii").translate(folded).decode("ascii").split()


def is_cjk(run: str) -> bool:
    """Whether a run is written without spaces (a run is of one kind)."""
    return _IS_CJK.match(run) is not None


def bigrams(run: str) -> list[str]:
    """Overlapping pairs of a CJK run; a single character is itself."""
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def bare(word: str) -> str:
    """A folded word without accents."""
    return word if word.isascii() else _without_accents(word)


@lru_cache(maxsize=WORDS_CACHED_MAX)
def _without_accents(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


class Stems(dict[str, str]):
    """Stems of one language's folded words, without accents: remembered ones, and others when they
    are asked for.
    """

    def __init__(self, language: str = "english") -> None:
        super().__init__()
        self._stemmer = snowballstemmer.stemmer(language)

    def __missing__(self, word: str) -> str:
        short = word[:TERM_CHARS_MAX]
        if len(short) >= _STEM_CHARS_MIN and not short.isalpha():  # numbers: not remembered
            return bare(short)
        if len(self) >= WORDS_CACHED_MAX:
            self.clear()
        long = len(short) >= _STEM_CHARS_MIN
        result = self[word] = bare(self._stemmer.stemWord(short) if long else short)
        return result

    def stem(self, word: str) -> str:
        """The stem of a folded word, without accents."""
        return self[word]


class Analyzer:
    """Terms of the lexical index. One per node: its cache is shared by all shards.

    `empty_words` (of the lexicon) are indexed, so that phrases find them, but a question with other
    words does not ask for them.
    """

    __slots__ = ("_empty", "_stems")

    def __init__(self, empty_words: frozenset[str] = frozenset()) -> None:
        self._stems = Stems()
        self._stems[END_OF_FIELD] = END_OF_FIELD
        self._empty = empty_words

    def is_empty(self, run: str) -> bool:
        """Whether a word of a question is without content."""
        return run in self._empty

    def terms(self, text: str) -> list[str]:
        """The terms of `text`, in order: stems of words, bigrams of CJK runs."""
        stem = self._stems.__getitem__
        if text.isascii():
            return list(map(stem, _ascii_runs(text)))
        found: list[str] = []
        for run in runs(text):
            if is_cjk(run):
                found += bigrams(run[: TERM_CHARS_MAX * 16])
            else:
                found.append(stem(bare(run)))
        return found

    def name_terms(self, name: str) -> list[str]:
        """Terms of a name, which also splits where camelCase does."""
        split = _CAMEL.sub(" ", name)
        terms = self.terms(name)
        return terms if split == name else terms + self.terms(split)

    def name_text(self, name: str) -> str:
        """A text whose terms are those of a name."""
        split = _CAMEL.sub(" ", name)
        return name if split == name else f"{name} {split}"

    def fields(self, texts: Sequence[str]) -> list[str]:
        """The terms of all `texts`, each followed by END_OF_FIELD."""
        whole = _END_APART.join([*texts, ""])
        if whole.isascii() and whole.count(END_OF_FIELD) == len(texts):
            return list(map(self._stems.__getitem__, _ascii_runs(whole, _FOLDED_FIELDS)))
        return [term for text in texts for term in (*self.terms(text), END_OF_FIELD)]

    def prefix(self, word: str) -> str:
        """What terms beginning like `word` begin with: folded, not stemmed."""
        return bare(word)[:TERM_CHARS_MAX]

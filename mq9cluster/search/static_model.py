"""`model2vec:DIR`: static embeddings from a directory, read here, without torch.

A directory as model2vec saves it: `tokenizer.json` (WordPiece or Unigram), `model.safetensors`
with `embeddings` and perhaps `weights` and `mapping`, and perhaps `config.json`. A text is the mean
of its tokens' vectors. Built by `embedders.open_embedder`; a question takes some 50 µs.
"""

import hashlib
import struct
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mq9cluster.domain.agent import AgentCard
from mq9cluster.search.embedder import EmbedderId, EmbedderMisconfigured, card_text
from mq9cluster.search.text import bare
from mq9cluster.search.vectors import DIMENSIONS_MAX, quantize

TOKENS_MAX = 2_048  # of one text: a card's searchable text has no more words
WORD_CHARS_MAX = 100  # longer words are unknown to WordPiece models
HEADER_BYTES_MAX = 1 << 24
WORDS_CACHED_MAX = 32_768

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U32": "<u4"}
_SPACE = "\u2581"  # how Unigram models write the space before a word

Array = npt.NDArray[Any]
Split = Callable[[str], list[int]]


def read_safetensors(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file: a header's length, the header as JSON, the data."""
    data = path.read_bytes()
    if len(data) < 8 or (size := struct.unpack_from("<Q", data)[0]) > HEADER_BYTES_MAX:
        raise EmbedderMisconfigured(f"{path}: no safetensors file")
    body = memoryview(data)[8 + size :]
    try:
        header = orjson.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        return {
            name: np.frombuffer(
                body[slice(*entry["data_offsets"])], _DTYPES[entry["dtype"]]
            ).reshape(entry["shape"])
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmbedderMisconfigured(f"{path}: {error!r}") from error


class Tokenizer:
    """What a `tokenizer.json` says, for the two kinds of models that static embeddings have."""

    def __init__(self, source: dict[str, Any]) -> None:
        model = source.get("model") or {}
        normalizers = list(_flat(source.get("normalizer"), "normalizers"))
        kinds = {one.get("type") for one in normalizers}
        self._lower = "Lowercase" in kinds or any(one.get("lowercase") for one in normalizers)
        self._strip = "StripAccents" in kinds or any(
            one.get("strip_accents") or (one.get("strip_accents") is None and one.get("lowercase"))
            for one in normalizers
            if one.get("type") == "BertNormalizer"
        )
        self._known: dict[str, tuple[int, ...]] = {}
        kind = model.get("type") or ("WordPiece" if "max_input_chars_per_word" in model else None)
        if kind == "WordPiece":
            self._vocabulary: dict[str, int] = model["vocab"]
            self._prefix = model.get("continuing_subword_prefix", "##")
            self._split: Split = self._word_pieces
        elif kind == "Unigram":
            pieces = model["vocab"]
            self._vocabulary = {piece: number for number, (piece, _) in enumerate(pieces)}
            self._scores = [float(score) for _, score in pieces]
            self._longest = max(map(len, self._vocabulary))
            self._split = self._unigrams
        else:
            raise EmbedderMisconfigured(f"tokenizer.json: model type {kind!r} is not supported")

    def tokens(self, text: str) -> list[int]:
        """Token numbers of `text`, without unknown ones."""
        text = unicodedata.normalize("NFKC", text)
        if self._lower:
            text = text.lower()
        if self._strip:
            text = bare(text)
        found: list[int] = []
        for word in _words(text) if self._split == self._word_pieces else text.split():
            known = self._known.get(word)
            if known is None:
                if len(self._known) >= WORDS_CACHED_MAX:
                    self._known.clear()
                known = self._known[word] = tuple(self._split(word))
            found += known
            if len(found) >= TOKENS_MAX:
                return found[:TOKENS_MAX]
        return found

    def _word_pieces(self, word: str) -> list[int]:
        """Greedily the longest piece at each place; nothing when a place has none."""
        if len(word) > WORD_CHARS_MAX:
            return []
        found = []
        start = 0
        while start < len(word):
            prefix = self._prefix if start else ""
            for end in range(len(word), start, -1):
                number = self._vocabulary.get(prefix + word[start:end])
                if number is not None:
                    break
            else:
                return []
            found.append(number)
            start = end
        return found

    def _unigrams(self, word: str) -> list[int]:
        """The pieces of the greatest likelihood (Viterbi); what no piece covers is left out."""
        text = (_SPACE + word)[: WORD_CHARS_MAX * 4]
        unknown = min(self._scores) - 10.0
        best = [0.0] + [float("-inf")] * len(text)
        back: list[tuple[int, int | None]] = [(0, None)] * (len(text) + 1)
        for start in range(len(text)):
            for end in range(start + 1, min(len(text), start + self._longest) + 1):
                number = self._vocabulary.get(text[start:end])
                if number is None and end > start + 1:
                    continue
                score = best[start] + (unknown if number is None else self._scores[number])
                if score > best[end]:
                    best[end], back[end] = score, (start, number)
        found = []
        end = len(text)
        while end:
            end, number = back[end]
            if number is not None:
                found.append(number)
        return found[::-1]


class StaticModel:
    """The embedder over a directory."""

    floor = 0.0

    def __init__(self, directory: Path) -> None:
        try:
            raw = (directory / "tokenizer.json").read_bytes()
            self._tokenizer = Tokenizer(orjson.loads(raw))
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EmbedderMisconfigured(f"{directory}: tokenizer.json: {error}") from error
        path = directory / "model.safetensors"
        try:
            tensors = read_safetensors(path)
            digest = hashlib.sha256(raw + path.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise EmbedderMisconfigured(f"{path}: {error}") from error
        rows = tensors.get("embeddings")
        if rows is None or rows.ndim != 2 or not 1 <= rows.shape[1] <= DIMENSIONS_MAX:
            raise EmbedderMisconfigured(f"{path}: no embeddings of 1 to {DIMENSIONS_MAX} columns")
        self._rows = rows
        self._weights = tensors.get("weights")
        self._mapping = tensors.get("mapping")
        self.id = EmbedderId("model2vec", directory.name, "1", int(rows.shape[1]), digest)

    async def embed_cards(self, cards: Sequence[AgentCard]) -> list[bytes | None]:
        """Codes of cards."""
        return [self.card_code(card) for card in cards]

    async def embed_question(self, text: str) -> bytes | None:
        """The code of a question."""
        return self.question_code(text)

    def card_code(self, card: AgentCard) -> bytes | None:
        """The code of a card."""
        return self.code(card_text(card))

    def question_code(self, text: str) -> bytes | None:
        """The code of a question."""
        return self.code(text)

    def code(self, text: str) -> bytes | None:
        """The code of a text; None when the model knows none of its tokens."""
        tokens = np.array(self._tokenizer.tokens(text), np.int64)
        rows = tokens if self._mapping is None else self._mapping[tokens].astype(np.int64)
        rows = rows[rows < len(self._rows)]
        if not len(rows):
            return None
        vectors = self._rows[rows].astype(np.float32)
        if self._weights is not None:
            vectors *= self._weights[tokens[: len(rows)], None].astype(np.float32)
        vector = vectors.sum(axis=0)
        if not np.isfinite(vector).all() or not vector.any():
            return None
        return quantize(vector, self.id.dimensions)


def _flat(one: dict[str, Any] | None, inner: str) -> Iterable[dict[str, Any]]:
    """A normalizer, or those of a sequence."""
    if one:
        for part in one.get(inner, [one]):
            yield from [part] if part is one else _flat(part, inner)


def _words(text: str) -> list[str]:
    """BERT's words: split at spaces, around punctuation and around Chinese characters."""
    spaced = [
        f" {char} "
        if unicodedata.category(char)[0] in "PS" or "\u3400" <= char <= "\u9fff"
        else char
        for char in text
    ]
    return "".join(spaced).split()

"""Embedders that ask somebody else: `openai:URL` over HTTP, `fastembed:DIR` in a thread.

The HTTP client is handed in, so nothing here opens a socket. A failure is EmbedderUnavailable: the
caller registers the agent with the built-in codes at once and brings these later
(`ShardIndex.missing_codes`, `ShardIndex.put_code`).
"""

import asyncio
import hashlib
import importlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from mq9cluster.domain.agent import AgentCard
from mq9cluster.domain.errors import EmbedderMismatch, InvalidField
from mq9cluster.search.embedder import (
    EmbedderId,
    EmbedderMisconfigured,
    EmbedderUnavailable,
    card_text,
)
from mq9cluster.search.vectors import DIMENSIONS_MAX, quantize

BATCH_TEXTS_MAX = 64  # of one request: services refuse more than some hundreds
TEXT_CHARS_MAX = 8_000  # models read 512 to 8,192 tokens; the rest of a card says little
REQUEST_TIMEOUT_S = 10.0  # of a batch; a DISCOVER waits less and goes on without

Post = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
"""Posts JSON to a URL and gives status and body; raises OSError or TimeoutError."""


class OpenAiService:
    """Any service with `POST /v1/embeddings`. `dimensions` are learnt by `open`."""

    floor = 0.0

    def __init__(
        self, url: str, model: str, post: Post, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        self._url = url
        self._model = model
        self._post = post
        self._timeout_s = timeout_s
        self.id = EmbedderId("openai", model, "1", 0, "")

    async def open(self) -> None:
        """Learn the dimensions by embedding a word; EmbedderUnavailable."""
        vector = (await self._ask(["dimensions"]))[0]
        if not 1 <= len(vector) <= DIMENSIONS_MAX:
            raise EmbedderUnavailable(f"{self._url}: {len(vector)} dimensions")
        self.id = self.id._replace(dimensions=len(vector))

    async def embed_cards(self, cards: Sequence[AgentCard]) -> list[bytes | None]:
        """Codes of cards, in batches of BATCH_TEXTS_MAX."""
        codes: list[bytes | None] = []
        for start in range(0, len(cards), BATCH_TEXTS_MAX):
            texts = [card_text(card) for card in cards[start : start + BATCH_TEXTS_MAX]]
            codes += self._codes(await self._ask(texts))
        return codes

    async def embed_question(self, text: str) -> bytes | None:
        """The code of a question; None for an empty one."""
        if not text.strip():
            return None
        return self._codes(await self._ask([text]))[0]

    def _codes(self, vectors: Sequence[object]) -> list[bytes]:
        try:
            return [quantize(vector, self.id.dimensions) for vector in vectors]
        except (EmbedderMismatch, InvalidField) as error:
            raise EmbedderUnavailable(f"{self._url}: {error}") from error

    async def _ask(self, texts: Sequence[str]) -> list[Any]:
        inputs = [text[:TEXT_CHARS_MAX] for text in texts]
        body = orjson.dumps({"model": self._model, "input": inputs})
        try:
            async with asyncio.timeout(self._timeout_s):
                status, answer = await self._post(self._url, body)
        except (OSError, TimeoutError) as error:
            raise EmbedderUnavailable(f"{self._url}: {error!r}") from error
        if status != 200:
            raise EmbedderUnavailable(f"{self._url}: status {status}")
        try:
            rows = sorted(orjson.loads(answer)["data"], key=lambda row: row["index"])
            vectors = [row["embedding"] for row in rows]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EmbedderUnavailable(f"{self._url}: no embeddings in the answer") from error
        if len(vectors) != len(texts):
            raise EmbedderUnavailable(f"{self._url}: {len(vectors)} vectors for {len(texts)}")
        return vectors


class FastEmbedModel:
    """A local ONNX model through the `fastembed` package, if that is installed.

    Seen to work with fastembed 0.9.1, which takes the files of a model of its list only: `model`
    names that one where the files' config.json has another name.
    """

    floor = 0.0

    def __init__(self, directory: Path, model: str = "") -> None:
        """Raises EmbedderMisconfigured."""
        try:
            package = importlib.import_module("fastembed")
        except ImportError as error:
            raise EmbedderMisconfigured("fastembed:DIR needs the fastembed package") from error
        try:
            config = orjson.loads((directory / "config.json").read_bytes())
            name = model or config.get("_name_or_path") or directory.name
            content_hash = _hash_of(directory)
            self._model = package.TextEmbedding(
                model_name=name, specific_model_path=str(directory), local_files_only=True
            )
            dimensions = len(next(iter(self._model.embed(["dimensions"]))))
        except Exception as error:  # tokenizers and the runtime raise Exception itself
            raise EmbedderMisconfigured(f"{directory}: {error}") from error
        self.id = EmbedderId("fastembed", str(name), "1", dimensions, content_hash)

    async def embed_cards(self, cards: Sequence[AgentCard]) -> list[bytes | None]:
        """Codes of cards."""
        return await asyncio.to_thread(self._embed, [card_text(card) for card in cards])

    async def embed_question(self, text: str) -> bytes | None:
        """The code of a question; None for an empty one."""
        if not text.strip():
            return None
        return (await asyncio.to_thread(self._embed, [text]))[0]

    def _embed(self, texts: Sequence[str]) -> list[bytes | None]:
        cut = [text[:TEXT_CHARS_MAX] for text in texts]
        try:
            return [quantize(vector, self.id.dimensions) for vector in self._model.embed(cut)]
        except Exception as error:  # as above
            raise EmbedderUnavailable(f"{self.id}: {error}") from error


def _hash_of(directory: Path) -> str:
    """Of all that decides what a model makes of a text."""
    digest = hashlib.sha256()
    for path in sorted([*directory.glob("*.onnx*"), directory / "tokenizer.json"]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]

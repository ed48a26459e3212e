"""Embedders that tests make: a static model in a directory, an embedding service over HTTP.

Both know a few words and nothing else, each word one direction, so that a test can tell by what is
found which embedder was asked: `swapped` models understand "dog" as "cat" and the other way round.
"""

import asyncio
import json
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from aiohttp import web

WORDS = ("dog", "cat", "bird", "fish")


def safetensors(rows: np.ndarray) -> bytes:
    """A safetensors file with `embeddings`, of 32-bit floats."""
    data = np.ascontiguousarray(rows, "<f4").tobytes()
    entry = {"dtype": "F32", "shape": list(rows.shape), "data_offsets": [0, len(data)]}
    header = json.dumps({"embeddings": entry}).encode()
    return struct.pack("<Q", len(header)) + header + data


def make_model(directory: Path, *, dimensions: int = 8, swapped: bool = False) -> Path:
    """A model2vec directory: a WordPiece tokenizer of WORDS, and a row for each."""
    directory.mkdir(parents=True, exist_ok=True)
    order = ("cat", "dog", *WORDS[2:]) if swapped else WORDS
    tokenizer = {
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "model": {
            "type": "WordPiece",
            "vocab": {word: number for number, word in enumerate(order)},
            "unk_token": "[UNK]",
            "max_input_chars_per_word": 100,
        },
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "model.safetensors").write_bytes(safetensors(np.eye(len(WORDS), dimensions)))
    return directory


class EmbeddingService:
    """`POST /v1/embeddings` as OpenAI's; `asked` counts texts. `broken`: it answers 503."""

    def __init__(self, dimensions: int = 6) -> None:
        self.dimensions = dimensions
        self.asked = 0
        self.keys: set[str] = set()
        self.broken = False
        self.delay_s = 0.0
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/embeddings"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, again on the port it had."""
        app = web.Application()
        app.router.add_post("/v1/embeddings", self._embed)
        # Whoever hung up is not answered: else stop() would wait a minute for a slow answer.
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Answer nobody any more."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _embed(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("Authorization", ""))
        body = await request.json()
        await asyncio.sleep(self.delay_s)
        if self.broken:
            return web.Response(status=503)
        self.asked += len(body["input"])
        data = [
            {"index": index, "embedding": self._vector(text)}
            for index, text in enumerate(body["input"])
        ]
        return web.json_response({"data": data})

    def _vector(self, text: str) -> list[float]:
        vector = [0.01] * self.dimensions
        for number, word in enumerate(WORDS):
            vector[number] += text.lower().count(word)
        return vector

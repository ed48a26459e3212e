"""Which embedder a setting names: `concept`, `model2vec:DIR`, `fastembed:DIR`, `openai:URL` or
`vectors:DIMENSIONS`.

Called once by the node. The built-in embedder is always there beside another one: an agent whose
vector is still missing is found by concepts.
"""

import asyncio
from pathlib import Path

from mq9cluster.search.embedder import Embedder, EmbedderMisconfigured, GivenVectors
from mq9cluster.search.services import FastEmbedModel, OpenAiService, Post
from mq9cluster.search.static_model import StaticModel
from mq9cluster.search.vectors import DIMENSIONS_MAX

MODEL_DEFAULT = "default"  # of an openai:URL without a fragment: services of one model ignore it


BUILT_IN = "concept"  # needs no opening: `language.Language` has it


async def open_embedder(setting: str, post: Post) -> Embedder:
    """The embedder beside the built-in one that `setting` names.

    Raises EmbedderMisconfigured, EmbedderUnavailable.
    The model of an `openai:` service stands behind `#`: `openai:http://host/v1/embeddings#bge-m3`;
    so may the name under which `fastembed` knows the files of a directory.
    """
    kind, _, where = setting.partition(":")
    if kind == "model2vec" and where:
        return await asyncio.to_thread(StaticModel, Path(where))
    if kind == "fastembed" and where:
        directory, _, model = where.partition("#")
        return await asyncio.to_thread(FastEmbedModel, Path(directory), model)
    if kind == "vectors":
        dimensions, _, name = where.partition("#")
        if not dimensions.isdecimal() or not 1 <= int(dimensions) <= DIMENSIONS_MAX:
            raise EmbedderMisconfigured(f"{setting!r}: not vectors:1 to vectors:{DIMENSIONS_MAX}")
        return GivenVectors(int(dimensions), name or MODEL_DEFAULT)
    if kind == "openai" and where:
        url, _, model = where.partition("#")
        service = OpenAiService(url, model or MODEL_DEFAULT, post)
        await service.open()
        return service
    raise EmbedderMisconfigured(f"{setting!r} names no embedder")

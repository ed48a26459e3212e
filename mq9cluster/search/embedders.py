"""Which embedder a setting names: `concept`, `model2vec:DIR`, `fastembed:DIR` or `openai:URL`.

Called once by the node. The built-in embedder is always there beside another one: an agent whose
vector is still missing is found by concepts.
"""

from pathlib import Path

from mq9cluster.search.concepts import ConceptEmbedder
from mq9cluster.search.embedder import Embedder, EmbedderMisconfigured
from mq9cluster.search.lexicon import Lexicon
from mq9cluster.search.services import FastEmbedModel, OpenAiService, Post
from mq9cluster.search.static_model import StaticModel

MODEL_DEFAULT = "default"  # of an openai:URL without a fragment: services of one model ignore it


async def open_embedder(setting: str, lexicon: Lexicon, post: Post) -> Embedder:
    """The embedder `setting` names; EmbedderMisconfigured or EmbedderUnavailable.

    The model of an `openai:` service stands behind `#`: `openai:http://host/v1/embeddings#bge-m3`.
    """
    kind, _, where = setting.partition(":")
    if kind == "concept" and not where:
        return ConceptEmbedder(lexicon)
    if kind == "model2vec" and where:
        return StaticModel(Path(where))
    if kind == "fastembed" and where:
        return FastEmbedModel(Path(where))
    if kind == "openai" and where:
        url, _, model = where.partition("#")
        service = OpenAiService(url, model or MODEL_DEFAULT, post)
        await service.open()
        return service
    raise EmbedderMisconfigured(f"{setting!r} names no embedder")

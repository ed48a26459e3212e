"""The embedder port, and the id by which vectors of different embedders are kept apart."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mq9cluster.domain.agent import AgentCard


class EmbedderUnavailable(Exception):
    """An embedding service did not answer, or not with vectors; ask again later."""


class EmbedderMisconfigured(Exception):
    """A setting names no embedder, or its files are none; the text names file and reason."""


class EmbedderId(NamedTuple):
    """What a vector depends on: two embedders with the same id make the same vectors."""

    kind: str
    name: str
    version: str
    dimensions: int
    content_hash: str

    def __str__(self) -> str:
        return (
            f"{self.kind}:{self.name}:{self.version}:{self.dimensions}:{self.content_hash or '-'}"
        )

    @classmethod
    def parse(cls, text: str) -> "EmbedderId":
        """The id that `str` wrote; ValueError when it is none."""
        kind, _, rest = text.partition(":")
        name, version, dimensions, content_hash = rest.rsplit(":", 3)
        return cls(kind, name, version, int(dimensions), content_hash.removeprefix("-"))

    def to_wire(self) -> dict[str, object]:
        """The `embedder` of a DISCOVER reply."""
        return self._asdict()


class Embedder(Protocol):
    """Makes codes (`vectors.quantize`) of cards and questions."""

    id: EmbedderId
    floor: float  # cosines below it are noise of this embedder: `Question.floor`

    async def embed_cards(self, cards: Sequence[AgentCard]) -> list[bytes | None]:
        """A code for each card, None where there is nothing to embed; EmbedderUnavailable."""

    async def embed_question(self, text: str) -> bytes | None:
        """The code of a question, None where there is nothing to embed; EmbedderUnavailable."""


def card_text(card: AgentCard) -> str:
    """A card as one text, for embedders that read texts: what it does first, names last."""
    text = card.search_text()
    parts = [text.description, *text.skills, *text.tags, *text.examples, text.name]
    return "\n".join(part for part in parts if part.strip())


class GivenVectors:
    """`vectors:DIMENSIONS`: embeds nothing; agents and those who look for them bring vectors."""

    floor = 0.0

    def __init__(self, dimensions: int, name: str) -> None:
        self.id = EmbedderId("vectors", name, "1", dimensions, "")

    async def embed_cards(self, cards: Sequence[AgentCard]) -> list[bytes | None]:
        """None for each: found by concepts until it brings one."""
        return [None] * len(cards)

    async def embed_question(self, text: str) -> bytes | None:
        """None: a question that brings no vector is answered by concepts."""
        return None

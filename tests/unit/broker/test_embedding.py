"""Cards that are registered, where embedding them goes wrong."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mq9cluster.broker.embedding import Embedding
from mq9cluster.cluster.embedders import Embedders
from mq9cluster.domain.agent import AgentCard, parse_card
from mq9cluster.domain.outcome import Refused
from tests.support.searching import AtOnce

CONCEPT = "concept:lexicon:1:512:-"
SERVICE = "openai:pets:1:6:-"


def card_of(name: str) -> AgentCard:
    return parse_card({"name": name, "payload": "text"})


async def codes_of(embedding: Embedding, *names: str) -> list[Any]:
    """What is given for cards that are registered in one turn."""
    loop = asyncio.get_running_loop()
    given: list[asyncio.Future[Any]] = [loop.create_future() for _ in names]
    for name, future in zip(names, given, strict=True):
        embedding.embed(card_of(name), future.set_result)
    async with asyncio.timeout(30.0):
        codes = await asyncio.gather(*given)
    assert not any(isinstance(one, Refused) for one in codes)
    return list(codes)


@pytest.mark.parametrize("where", ["the lexicon", "a service"])
async def test_a_mistake_leaves_cards_without_a_vector_and_nobody_waiting(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    trouble = True

    def card_code(card: AgentCard) -> bytes:
        if trouble and where == "the lexicon" and card.name == "b":
            raise ZeroDivisionError
        return b"c" + card.name.encode()

    async def embed_cards(cards: list[AgentCard]) -> list[bytes]:
        if trouble and where == "a service":
            raise ZeroDivisionError
        return [b"s" + card.name.encode() for card in cards]

    embedders = Embedders()
    embedders.announce("n1", {"concept": CONCEPT, "model": SERVICE}, ["n1"])
    language: Any = SimpleNamespace(id=CONCEPT, concepts=SimpleNamespace(card_code=card_code))
    asking: Any = None
    embedding = Embedding(AtOnce(), language, lambda: embedders, asking)
    model: Any = SimpleNamespace(id=SERVICE, embed_cards=embed_cards)
    embedding.model = model
    codes = await codes_of(embedding, "a", "b")
    if where == "a service":
        assert codes == [{CONCEPT: b"ca"}, {CONCEPT: b"cb"}]
    else:
        assert codes == [{CONCEPT: b"ca", SERVICE: b"sa"}, {SERVICE: b"sb"}]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    trouble = False
    assert await codes_of(embedding, "b") == [{CONCEPT: b"cb", SERVICE: b"sb"}]
    assert (embedding._count, embedding._bytes) == (0, 0)

"""Cards that are registered, where embedding them goes wrong."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mq9cluster.broker.embedding import CARDS_PER_STEP, STEPS_TOGETHER, Embedding
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


async def test_cards_that_wait_are_given_together_and_no_more_than_four_steps_of_them() -> None:
    begun: list[str] = []

    def card_code(card: AgentCard) -> bytes:
        begun.append(card.name)
        return b"c"

    embedders = Embedders()
    embedders.announce("n1", {"concept": CONCEPT, "model": ""}, ["n1"])
    language: Any = SimpleNamespace(id=CONCEPT, concepts=SimpleNamespace(card_code=card_code))
    asking: Any = None
    embedding = Embedding(AtOnce(), language, lambda: embedders, asking)
    count = STEPS_TOGETHER * CARDS_PER_STEP + 1
    given: list[int] = []
    all_given = asyncio.Event()

    def give(_: Any) -> None:
        given.append(len(begun))
        if len(given) == count:
            all_given.set()

    for number in range(count):
        embedding.embed(card_of(str(number)), give)
    async with asyncio.timeout(30.0):
        await all_given.wait()
    assert given == [count - 1] * (count - 1) + [count]

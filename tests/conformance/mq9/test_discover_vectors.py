"""PROTOCOL section 4, DISCOVER: vectors that clients bring."""

import pytest

from tests.conformance.mq9.discovering import Agents
from tests.support.mq9 import Mq9, failure, fresh


async def test_a_vector_may_stand_for_card_and_question(agents: Agents) -> None:
    east, north = [1.0] + [0.0] * 511, [0, 1] + [0] * 510
    await agents.add("east", description="violins", vector=east)
    await agents.add("north", description="violins", vector=north)
    reply = await agents.ask(vector=[0.9, 0.1] + [0] * 510)
    assert [hit["name"] for hit in reply["agents"]] == [agents.name("east"), agents.name("north")]
    assert reply["agents"][0]["_mq9"]["score"] == pytest.approx(0.994, abs=0.01)
    assert reply["embedder"]["kind"] == "concept"
    assert reply["agents"][0]["vector"] == east
    assert await agents.find(vector=north, mode="semantic", limit=1) == ["north"]


@pytest.mark.parametrize(
    ("vector", "text", "code"),
    [
        ([1, 2], "embedder mismatch: the vector has 2 dimensions, not 512", "embedder_mismatch"),
        ([], "embedder mismatch: the vector has 0 dimensions, not 512", "embedder_mismatch"),
        ([0] * 512, "invalid vector: must not be zero", "invalid_field"),
        ([0.0] * 512, "invalid vector: must not be zero", "invalid_field"),
        (["1"] * 512, "invalid vector: must be a list of numbers", "invalid_field"),
        ([True] * 512, "invalid vector: must be a list of numbers", "invalid_field"),
        ([None] * 512, "invalid vector: must be a list of numbers", "invalid_field"),
        ([[1]] * 512, "invalid vector: must be a list of numbers", "invalid_field"),
        ("1,2,3", "invalid vector: must be a list of numbers", "invalid_field"),
        ({"a": 1}, "invalid vector: must be a list of numbers", "invalid_field"),
        (7, "invalid vector: must be a list of numbers", "invalid_field"),
    ],
)
async def test_a_vector_that_is_none_is_refused(
    mq9: Mq9, vector: object, text: str, code: str
) -> None:
    name = fresh("agent")
    for command, body in (
        ("REGISTER", {"name": name, "vector": vector}),
        ("DISCOVER", {"vector": vector}),
    ):
        assert failure(await mq9.ask(f"AGENT.{command}", body)) == (text, code)
    assert (await mq9.ask("AGENT.DISCOVER", {"filter": {"name": name}}))["total"] == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_json_does_not_have_are_refused(mq9: Mq9, number: str) -> None:
    vector = "[" + ",".join([number] * 512) + "]"
    for command in ("REGISTER", "DISCOVER"):
        body = f'{{"name":"{fresh()}","vector":{vector}}}'.encode()
        reply = await mq9.ask(f"AGENT.{command}", body)
        assert failure(reply) == ("invalid request: the body is not JSON", "invalid_request")


async def test_huge_and_tiny_vectors_count_by_their_direction(agents: Agents) -> None:
    await agents.add("huge", vector=[1e300] + [0] * 511)
    await agents.add("tiny", vector=[0, 1e-300] + [0] * 510)
    assert await agents.find(vector=[1e-300] + [0] * 511) == ["huge"]
    assert await agents.find(vector=[0, 1e300] + [0] * 510) == ["tiny"]


async def test_a_vector_of_another_embedder_is_refused(mq9: Mq9) -> None:
    body = {"vector": [1] * 512, "embedder": "openai:other:1:512:-"}
    for command in ("REGISTER", "DISCOVER"):
        reply = await mq9.ask(f"AGENT.{command}", {"name": fresh(), **body})
        assert reply["code"] == "embedder_mismatch"
        assert "openai:other:1:512:-" in reply["error"]

"""PROTOCOL section 4, DISCOVER: who is found by words, by meaning and by both, in what order."""

import pytest

from tests.conformance.mq9.discovering import Agents


async def test_words_count_more_in_names_and_tags(agents: Agents) -> None:
    await agents.add("plain", description="knows all about invoices and much else besides")
    await agents.add("tagged", description="papers and much else besides", tags=["invoices"])
    await agents.add("none", description="paints houses")
    assert await agents.find(text="invoice") == ["tagged", "plain"]


async def test_phrases_and_beginnings(agents: Agents) -> None:
    await agents.add("a", description="reads bank statements")
    await agents.add("b", description="statements of the river bank")
    assert await agents.find(text='"bank statements"') == ["a"]
    assert sorted(await agents.find(text="stat*")) == ["a", "b"]
    assert await agents.find(text="staz*") == []


async def test_meaning_crosses_languages(agents: Agents) -> None:
    await agents.add("flights", description="Books flights and hotels")
    await agents.add("code", description="Reviews Python code and finds bugs")
    await agents.add("doctor", description="请描述症状, 提供医疗建议")
    for question, expected in (
        ("ich möchte einen Flug buchen", "flights"),
        ("代码审查", "code"),
        ("medical advice about symptoms", "doctor"),
        ("revisar código", "code"),
    ):
        assert (await agents.find(semantic=question))[:1] == [expected], question


async def test_semantic_wins_without_a_mode_and_each_mode_uses_only_its_own(
    agents: Agents,
) -> None:
    await agents.add("flights", description="Books flights and hotels")
    await agents.add("violin", description="restores violins")
    both = {"text": "violins", "semantic": "book a plane ticket"}
    assert (await agents.find(**both))[0] == "flights"
    assert await agents.find(**both, mode="text") == ["violin"]
    assert (await agents.find(**both, mode="semantic"))[0] == "flights"
    assert sorted(await agents.find(**both, mode="hybrid"))[:2] == ["flights", "violin"]
    assert "embedder" not in await agents.ask(**both, mode="text")


async def test_hybrid_makes_do_with_one_of_the_two(agents: Agents) -> None:
    await agents.add("flights", description="Books flights and hotels")
    await agents.add("violin", description="restores violins")
    for asked in ({"text": "book flights"}, {"semantic": "book flights"}):
        reply = await agents.ask(**asked, mode="hybrid")
        assert reply["agents"][0]["name"] == agents.name("flights")
        assert reply["agents"][0]["_mq9"]["score"] == pytest.approx(1.0)
        assert reply["agents"][0]["_mq9"]["matched"]["terms"] == ["book", "flight"]


async def test_a_question_without_any_word_finds_nothing(agents: Agents) -> None:
    await agents.add("a", description="violins")
    for asked in ({"text": "?!"}, {"semantic": " … "}, {"text": '""'}, {"text": "***"}):
        reply = await agents.ask(**asked)
        assert (reply["agents"], reply["total"]) == ([], 0)


async def test_neither_text_nor_semantic_is_everybody_by_name(agents: Agents) -> None:
    for name in ("c", "a", "B", "é", "b"):
        await agents.add(name)
    for asked in ({}, {"text": ""}, {"semantic": ""}, {"mode": "hybrid"}, {"text": None}):
        assert await agents.find(**asked) == ["B", "a", "b", "c", "é"]


async def test_exact_finds_the_same_here(agents: Agents) -> None:
    await agents.add("flights", description="Books flights and hotels")
    await agents.add("violin", description="restores violins")
    for mode in ("semantic", "hybrid"):
        asked = {"semantic": "plane tickets", "text": "violins", "mode": mode}
        assert await agents.ask(**asked, exact=True) == await agents.ask(**asked)


async def test_scores_fall_and_min_score_cuts(agents: Agents) -> None:
    await agents.add("a", description="violins violins violins")
    await agents.add("b", description="violins, and a hundred other instruments of the orchestra")
    for asked in (
        {"text": "violins"},
        {"semantic": "violins"},
        {"text": "violins", "semantic": "violins", "mode": "hybrid"},
    ):
        hits = (await agents.ask(**asked))["agents"]
        scores = [hit["_mq9"]["score"] for hit in hits]
        assert len(scores) == 2
        assert scores[0] > scores[1] > 0
        reply = await agents.ask(**asked, min_score=(scores[0] + scores[1]) / 2)
        assert [hit["name"] for hit in reply["agents"]] == [hits[0]["name"]]
        assert reply["total"] == 1
        assert (await agents.ask(**asked, min_score=scores[0] * 1.01))["agents"] == []

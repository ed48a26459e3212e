"""PROTOCOL section 4, DISCOVER: what is refused, and what harms nobody."""

from typing import Any

import pytest

from tests.conformance.mq9.discovering import Agents
from tests.support.mq9 import Mq9, checked, fresh
from tests.support.raw_nats import RawNats, publication

FLOOD = 2_000  # far more than a connection may have under way


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"limit": 0}, "invalid limit: "),
        ({"limit": 1001}, "invalid limit: "),
        ({"limit": "5"}, "invalid limit: "),
        ({"limit": True}, "invalid limit: "),
        ({"page": 0}, "invalid page: "),
        ({"page": 10_001}, "invalid page: "),
        ({"page": 1.5}, "invalid page: "),
        ({"mode": "fuzzy"}, "invalid mode: "),
        ({"mode": 1}, "invalid mode: "),
        ({"mode": "text", "semantic": "x"}, "invalid text: required"),
        ({"mode": "semantic", "text": "x"}, "invalid semantic: required"),
        ({"mode": "hybrid", "vector": [1] * 512}, "invalid text: required"),
        ({"text": 5}, "invalid text: "),
        ({"text": ["x"]}, "invalid text: "),
        ({"text": "x" * 4097}, "invalid text: "),
        ({"semantic": {}}, "invalid semantic: "),
        ({"semantic": "x" * 4097}, "invalid semantic: "),
        ({"min_score": "0.5"}, "invalid min_score: "),
        ({"min_score": True}, "invalid min_score: "),
        ({"min_score": -0.1}, "invalid min_score: "),
        ({"exact": 1}, "invalid exact: "),
        ({"exact": "yes"}, "invalid exact: "),
        ({"live": "no"}, "invalid live: "),
        ({"consistency": "eventual"}, "invalid consistency: "),
        ({"embedder": 7}, "invalid embedder: "),
        ({"filter": []}, "invalid filter: "),
        ({"filter": "tags"}, "invalid filter: "),
        ({"filter": {"colour": "red"}}, "invalid filter: "),
        ({"filter": {"tags": []}}, "invalid filter: "),
        ({"filter": {"tags": [1]}}, "invalid filter: "),
        ({"filter": {"tags": ""}}, "invalid filter: "),
        ({"filter": {"tags": {"any": "x"}}}, "invalid filter: "),
        ({"filter": {"tags": ["x"] * 65}}, "invalid filter: "),
        ({"filter": {"name": "x" * 257}}, "invalid filter: "),
        ({"filter": {"not": 5}}, "invalid filter: "),
        ({"filter": {"not": {"not": {"bad": 1}}}}, "invalid filter: "),
    ],
    ids=str,
)
async def test_a_malformed_field_is_refused_by_name(
    mq9: Mq9, body: dict[str, Any], text: str
) -> None:
    reply = await mq9.ask("AGENT.DISCOVER", body)
    assert reply["error"].startswith(text), reply
    assert reply["code"] == "invalid_field"


async def test_limits_are_inclusive(mq9: Mq9) -> None:
    for body in (
        {"limit": 1},
        {"limit": 1000},
        {"page": 1},
        {"page": 10_000},
        {"text": "x" * 4096},
        {"semantic": "x" * 4096},
        {"min_score": 0},
        {"filter": {"tags": ["x"] * 64, "name": "x" * 256}},
    ):
        assert (await mq9.ask("AGENT.DISCOVER", body))["error"] == "", body


async def test_nots_may_stand_in_each_other_but_not_without_end(mq9: Mq9) -> None:
    def nested(depth: int) -> dict[str, Any]:
        condition: dict[str, Any] = {"tags": fresh()}
        for _ in range(depth):
            condition = {"not": condition}
        return condition

    assert (await mq9.ask("AGENT.DISCOVER", {"filter": nested(8)}))["error"] == ""
    for depth in (9, 300):
        reply = await mq9.ask("AGENT.DISCOVER", {"filter": nested(depth)})
        assert reply["error"].startswith("invalid filter: "), reply


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"5",
        b'"text"',
        b"{",
        b"\xff\xfe",
        b'{"text":"\\ud800"}',
        b'{"filter":' * 2000 + b"1" + b"}" * 2000,
        b'{"filter":' + b"[" * 60_000,
        b'{"x":"' + b"x" * 140_000 + b'"}',
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_a_body_that_is_no_object_is_refused(mq9: Mq9, body: bytes) -> None:
    reply = await mq9.ask("AGENT.DISCOVER", body)
    assert reply["code"] == "invalid_request", reply
    assert (await mq9.ask("AGENT.DISCOVER", {"limit": 1}))["error"] == ""


@pytest.mark.parametrize(
    "question",
    [
        '" OR 1=1 --',
        "violins AND NOT (x",
        "name:violins",
        "^violins NEAR(a b)",
        '"""""violins"""',
        "violins* * ** a*",
        "{violins} [x] \\ / '; drop table agents; --",
        "\x00violins\x00\x1f",
        "violins\u202e\u0000\ud7ff\U0010ffff",
        " ".join(["violins"] * 500),
        " ".join(f"w{n}" for n in range(700)),
        '"' + " ".join(["violins"] * 400) + '"',
        " ".join(f'"a{n} the of"' for n in range(200)),
        "翻译" * 1000,
        "é" * 4000,
    ],
    ids=lambda question: repr(question[:16]),
)
async def test_a_question_is_words_and_has_no_syntax_to_break(
    agents: Agents, question: str
) -> None:
    await agents.add("a", description="restores violins")
    for asked in ({"text": question}, {"semantic": question}, {"text": question, "mode": "hybrid"}):
        reply = await agents.ask(**asked)
        assert len(reply["agents"]) == reply["total"] <= 1


async def test_a_question_that_is_cut_still_finds_by_its_beginning(agents: Agents) -> None:
    await agents.add("a", description="restores violins")
    many = " ".join(f"w{n}" for n in range(700))
    assert await agents.find(text="violins " + many) == ["a"]


async def test_hostile_cards_are_kept_and_do_not_disturb_the_others(agents: Agents) -> None:
    await agents.add("good", description="restores violins")
    await agents.add("words", description="violins " * 10_000)
    await agents.add("long", description="x" * 100_000)
    await agents.add("cjk", description="小提琴" * 5_000)
    await agents.add("odd", description="\u202e\u200b\ufeff\U000e0001 violins", notes="\u2028")
    deep: Any = "violins"
    for _ in range(28):
        deep = [deep]
    await agents.add("deep", payload=deep)
    await agents.add("many", payload=[f"word{n}" for n in range(9_000)])
    found = await agents.find(text="violins", limit=100)
    assert sorted(found) == ["deep", "good", "odd", "words"]
    assert await agents.find() == ["cjk", "deep", "good", "long", "many", "odd", "words"]


async def test_more_discovers_than_a_connection_may_have_under_way_are_told(
    raw: RawNats, mq9: Mq9
) -> None:
    answers = raw.subscribe("answers")
    await raw.flush()
    asked = publication("$mq9.AI.AGENT.DISCOVER", b'{"text":"x"}', reply="answers")
    raw.post(asked * FLOOD)  # in one write: nearly all are there before the first is answered
    replies = [checked((await answers.get()).payload) for _ in range(FLOOD)]
    codes = [reply.get("code", "") for reply in replies]
    assert set(codes) == {"", "overloaded"}
    assert codes.count("") >= 128
    assert (await mq9.ask("AGENT.DISCOVER", {"text": "x"}))["error"] == ""

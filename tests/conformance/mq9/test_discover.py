"""PROTOCOL section 4, DISCOVER: who is found, in what order, and what is told of them.

Agents of other tests are in the same registry: each test marks its own with a tag or a name of its
own and filters by that. What is registered at one node is looked for at a random one, at once.
"""

import asyncio
import json
import time
from typing import Any

import pytest

from tests.support.mq9 import Mq9, Reply, checked, failure, fresh
from tests.support.raw_nats import RawNats, publication

FLOOD = 2_000  # far more than a connection may have under way


class Agents:
    """The agents of one test, by a tag that no other has."""

    def __init__(self, mq9: Mq9) -> None:
        self.mq9 = mq9
        self.mark = fresh("mark")

    def name(self, name: str) -> str:
        return f"{self.mark}/{name}"

    async def add(self, name: str, **fields: Any) -> dict[str, Any]:
        """Register an agent; the object that was registered."""
        tags = [self.mark, *fields.pop("tags", [])]
        body = {"name": self.name(name), "tags": tags, **fields}
        reply = await self.mq9.ask("AGENT.REGISTER", body)
        assert reply["error"] == "", reply
        return body

    async def ask(self, **fields: Any) -> Reply:
        """DISCOVER among them."""
        condition = {"tags": self.mark, **fields.pop("filter", {})}
        reply = await self.mq9.ask("AGENT.DISCOVER", {"filter": condition, **fields})
        assert reply["error"] == "", reply
        assert "partial" not in reply, reply
        return reply

    async def find(self, **fields: Any) -> list[str]:
        """Their names, in order."""
        reply = await self.ask(**fields)
        return [agent["name"].removeprefix(self.mark + "/") for agent in reply["agents"]]


@pytest.fixture
def agents(mq9: Mq9) -> Agents:
    return Agents(mq9)


def without_own(agent: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in agent.items() if key != "_mq9"}


# --- what is shown -------------------------------------------------------------------------------


async def test_a_hit_is_the_registered_object_and_what_the_broker_knows(agents: Agents) -> None:
    registered = await agents.add(
        "scanner",
        mailbox="mq9://broker/scan",
        payload={"does": ["OCR of scanned pages", {"π": 3.25, "none": None, "big": 2**53}]},
        skills=[{"id": "ocr", "name": "Read scans", "tags": ["ocr"]}],
        _mq9={"score": 99, "forged": True},
    )
    del registered["_mq9"]
    before_s = time.time()
    await agents.mq9.ask(
        "AGENT.REPORT", {"name": registered["name"], "report_info": {"load": [0.5, "ok"]}}
    )
    reply = await agents.ask(text="scans")
    [hit] = reply["agents"]
    assert without_own(hit) == registered
    own = hit["_mq9"]
    assert own.keys() == {"score", "last_seen", "report_info", "matched"}
    assert own["score"] > 0
    assert before_s - 3 <= own["last_seen"] <= time.time() + 3
    assert own["report_info"] == {"load": [0.5, "ok"]}
    assert own["matched"]["skill"] == "ocr"
    assert own["matched"]["terms"] == ["scan"]
    assert reply["total"] == 1
    assert "embedder" not in reply


async def test_the_reply_names_the_embedder_that_was_asked_and_that_it_is_a_lexicon(
    agents: Agents,
) -> None:
    await agents.add("t", payload="Multilingual translation; EN/ZH/JA/KO")
    for asked in ({"semantic": "translate Chinese to English"}, {"text": "x", "mode": "hybrid"}):
        reply = await agents.ask(**asked)
        embedder = reply["embedder"]
        assert (embedder["kind"], embedder["name"], embedder["dimensions"]) == (
            "concept",
            "lexicon",
            512,
        )
        assert embedder["content_hash"]


async def test_matched_names_concepts_of_a_question_by_meaning(agents: Agents) -> None:
    await agents.add("t", payload="Übersetzung von Verträgen ins Englische")
    [hit] = (await agents.ask(semantic="translation of contracts"))["agents"]
    assert "translation" in hit["_mq9"]["matched"]["concepts"]
    assert 0 < hit["_mq9"]["score"] <= 1


async def test_an_agent_that_never_reported_has_no_report_info(agents: Agents) -> None:
    await agents.add("quiet")
    [hit] = (await agents.ask())["agents"]
    assert hit["_mq9"]["report_info"] is None


async def test_a_discover_without_a_reply_subject_harms_nobody(agents: Agents) -> None:
    await agents.add("a")
    await agents.mq9.connection.publish("$mq9.AI.AGENT.DISCOVER", b'{"text": "x"}')
    await agents.mq9.connection.publish("$mq9.AI.AGENT.DISCOVER", b"{")
    assert await agents.find() == ["a"]


# --- at once -------------------------------------------------------------------------------------


async def test_what_is_registered_is_found_at_once_everywhere(agents: Agents) -> None:
    for number in range(20):
        await agents.add(f"a{number}", description="restores damaged violins")
        found = await asyncio.gather(
            agents.find(text="violins", limit=100), agents.find(semantic="violins", limit=100)
        )
        assert [len(names) for names in found] == [number + 1] * 2


async def test_a_new_card_is_found_by_its_new_words_only(agents: Agents) -> None:
    await agents.add("a", description="restores violins")
    await agents.add("a", description="repairs bicycles")
    assert await agents.find(text="violins") == []
    assert await agents.find(text="bicycles") == ["a"]
    [hit] = (await agents.ask())["agents"]
    assert hit["description"] == "repairs bicycles"


async def test_an_unregistered_agent_is_found_no_more_at_once(agents: Agents) -> None:
    for number in range(10):
        await agents.add(f"a{number}")
    for number in range(10):
        reply = await agents.mq9.ask("AGENT.UNREGISTER", {"name": agents.name(f"a{number}")})
        assert reply["error"] == ""
        assert len(await agents.find()) == 9 - number


async def test_an_agent_that_does_not_report_in_time_is_gone_unless_asked_for(
    agents: Agents,
) -> None:
    await agents.add("late", ttl=1)
    await agents.add("here", ttl=0)

    async def gone() -> None:
        while await agents.find() != ["here"]:  # noqa: ASYNC110  time has to pass
            await asyncio.sleep(0.1)

    await asyncio.wait_for(gone(), 30)
    assert await agents.find(live=False) == ["here", "late"]
    assert await agents.find(live=True) == ["here"]
    assert (await agents.ask(filter={"name": agents.mark}))["total"] == 1
    await agents.add("late", ttl=60)
    assert await agents.find() == ["here", "late"]


async def test_a_report_keeps_an_agent(agents: Agents) -> None:
    await agents.add("a", ttl=2)
    started_s = time.monotonic()
    while time.monotonic() - started_s < 4:
        reply = await agents.mq9.ask("AGENT.REPORT", {"name": agents.name("a")})
        if reply["error"]:  # a machine that slow: it was away for 2 s
            await agents.add("a", ttl=2)
        assert await agents.find(live=False) == ["a"]
        await asyncio.sleep(0.5)


async def test_a_stale_answer_comes_from_whatever_is_there(agents: Agents) -> None:
    await agents.add("a", description="violins")

    async def there() -> None:
        asked = {"text": "violins", "consistency": "stale"}
        while await agents.find(**asked) != ["a"]:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.05)

    await asyncio.wait_for(there(), 30)


# --- by words, by meaning, by both ---------------------------------------------------------------


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


# --- filters -------------------------------------------------------------------------------------


@pytest.fixture
async def staff(agents: Agents) -> Agents:
    acme, globex = {"organization": "Acme"}, {"organization": "Globex"}
    ocr = {"id": "ocr", "name": "Read scans", "tags": ["vision"]}
    await agents.add("a1", tags=["red"], provider=acme, version="1.0", skills=[ocr])
    await agents.add("a2", tags=["red", "blue"], provider=globex, version="1.1", skills=["ocr"])
    await agents.add("b1", tags=["blue"], provider=acme, version="2.0")
    await agents.add("b2", version=2.5)
    return agents


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"tags": ["red", "blue"]}, ["a1", "a2", "b1"]),
        ({"provider": "Acme"}, ["a1", "b1"]),
        ({"provider": ["Acme", "Globex"], "version": ["1.1", "2.0"]}, ["a2", "b1"]),
        ({"skills": "ocr"}, ["a1", "a2"]),
        ({"skills": "Read scans"}, ["a1"]),
        ({"version": "2.5"}, ["b2"]),
        ({"provider": "acme"}, []),
        ({"not": {"provider": "Acme"}}, ["a2", "b2"]),
        ({"not": {"tags": "red", "provider": "Acme"}}, ["a2", "b1", "b2"]),
        ({"not": {"provider": ["Acme", "Globex"]}}, ["b2"]),
        ({"skills": "ocr", "not": {"tags": "blue"}}, ["a1"]),
        ({"not": {"skills": "ocr", "not": {"version": "1.1"}}}, ["a2", "b1", "b2"]),
    ],
)
async def test_filters(staff: Agents, condition: dict[str, Any], expected: list[str]) -> None:
    asked: dict[str, Any] = {"tags": staff.mark, **condition}
    if "tags" in condition:
        asked = {"name": staff.mark, **condition}
    reply = await staff.mq9.ask("AGENT.DISCOVER", {"filter": asked})
    assert [hit["name"].removeprefix(staff.mark + "/") for hit in reply["agents"]] == expected
    assert reply["total"] == len(expected)


async def test_a_skills_tag_is_a_tag_of_the_agent(staff: Agents) -> None:
    reply = await staff.mq9.ask(
        "AGENT.DISCOVER", {"filter": {"name": staff.mark, "tags": "vision"}}
    )
    assert [hit["name"] for hit in reply["agents"]] == [staff.name("a1")]


async def test_names_are_filtered_by_how_they_begin(staff: Agents) -> None:
    assert await staff.find(filter={"name": staff.name("a")}) == ["a1", "a2"]
    assert await staff.find(filter={"name": [staff.name("a1"), staff.name("b")]}) == [
        "a1",
        "b1",
        "b2",
    ]
    assert await staff.find(filter={"name": "a1"}) == []


async def test_filters_go_with_every_mode(staff: Agents) -> None:
    await staff.add("x", description="reads scans", provider={"organization": "Acme"})
    for asked in ({"text": "scans"}, {"semantic": "scans"}, {"text": "scans", "mode": "hybrid"}):
        assert sorted(await staff.find(**asked, filter={"provider": "Acme"})) == ["a1", "x"]


# --- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"text": "violins"},
        {"semantic": "violins"},
        {"text": "violins", "semantic": "music", "mode": "hybrid"},
    ],
)
async def test_pages_put_together_are_the_whole_list_once(
    agents: Agents, asked: dict[str, Any]
) -> None:
    await asyncio.gather(
        *(
            agents.add(f"a{number:02}", description="violins " + "and cellos " * (number % 5))
            for number in range(25)
        )
    )
    whole = await agents.ask(**asked, limit=100)
    assert (len(whole["agents"]), whole["total"]) == (25, 25)
    pages = [await agents.ask(**asked, limit=7, page=page) for page in range(1, 6)]
    assert [len(page["agents"]) for page in pages] == [7, 7, 7, 4, 0]
    assert [page["total"] for page in pages] == [25] * 5
    assert [hit for page in pages for hit in page["agents"]] == whole["agents"]
    default = await agents.ask(**asked)
    assert default["agents"] == whole["agents"][:20]


async def test_agents_that_score_alike_stand_by_name(agents: Agents) -> None:
    for name in ("c", "a", "b", "d"):
        await agents.add(name, description="violins")
    # the mark is part of each name, and as long in each
    assert await agents.find(text="violins") == ["a", "b", "c", "d"]


async def test_a_reply_holds_what_fits_and_names_the_rest(agents: Agents) -> None:
    await asyncio.gather(*(agents.add(f"a{n:03}", notes="x" * 120_000) for n in range(75)))
    reply = await agents.ask(limit=100)
    assert [hit["name"] for hit in reply["agents"]] == [agents.name(f"a{n:03}") for n in range(75)]
    omitted = [hit for hit in reply["agents"] if hit["_mq9"].get("omitted")]
    assert 0 < len(omitted) < 75
    assert all(hit.keys() == {"name", "_mq9"} for hit in omitted)
    assert len(json.dumps(reply)) < 9 << 20


# --- vectors -------------------------------------------------------------------------------------


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


# --- rubbish -------------------------------------------------------------------------------------


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

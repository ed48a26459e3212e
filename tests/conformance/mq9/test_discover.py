"""PROTOCOL section 4, DISCOVER: what is told of an agent, and that it is found at once."""

import asyncio
import time
from typing import Any

from tests.conformance.mq9.discovering import Agents


def without_own(agent: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in agent.items() if key != "_mq9"}


# --- what is shown --------------------------------------------------------------------------------


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


# --- at once --------------------------------------------------------------------------------------


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

"""DISCOVER's mistakes: whoever asked is answered all the same."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from mq9cluster.broker.call import Call, Counted
from mq9cluster.broker.discovery import Discovery
from mq9cluster.domain.measures import Histogram
from tests.support.searching import ANALYZER, AtOnce


async def test_a_mistake_while_an_answer_is_searched_for_is_told_to_who_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_: object) -> None:
        raise ZeroDivisionError

    finder: Any = SimpleNamespace(find=fail, shards=1)
    language: Any = SimpleNamespace(analyzer=ANALYZER)
    discovery = Discovery(finder, cast(Any, None), language, AtOnce())
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    counted = Counted(Histogram(), {}, lambda: 0.0)
    discovery.discover("", 1, None, b'{"text": "a"}', Call(answers.put_nowait, counted))
    async with asyncio.timeout(30.0):
        answer = orjson.loads(await answers.get())
    assert answer["code"] == "unavailable"
    assert counted.refused == {"unavailable": 1}
    assert (discovery.under_way, discovery._by_connection) == (0, {})
    assert [r.levelname for r in caplog.records] == ["ERROR"]

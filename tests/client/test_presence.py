"""Agents that the SDK keeps known, at real nodes."""

import asyncio

import pytest

from mq9cluster.client import Mq9Client
from mq9cluster.client.presence import TTL_SECONDS_MIN
from mq9cluster.domain.errors import InvalidField
from tests.support.mq9 import fresh

LOOK_S = 0.1
LOOKS_MAX = 600


async def info_of(mq9: Mq9Client, name: str) -> list[object]:
    """What it reported, of each agent of that name."""
    return [one["_mq9"]["report_info"] for one in await mq9.agent_discover(filter={"name": name})]


async def until_reported(mq9: Mq9Client, name: str, info: object) -> None:
    for _ in range(LOOKS_MAX):
        if await info_of(mq9, name) == [info]:
            return
        await asyncio.sleep(LOOK_S)
    raise AssertionError(f"{name} never reported {info}")


async def test_an_agent_is_found_for_as_long_as_it_is_present(mq9: Mq9Client) -> None:
    name = fresh("agent")
    loads = iter(range(1_000))
    async with mq9.present({"name": name}, ttl=3, report=lambda: {"load": next(loads)}):
        assert len(await info_of(mq9, name)) == 1  # at once
        await until_reported(mq9, name, {"load": 0})
        await until_reported(mq9, name, {"load": 3})  # beyond its first ttl
    assert await info_of(mq9, name) == []


async def test_an_agent_that_was_forgotten_registers_anew(mq9: Mq9Client) -> None:
    name = fresh("agent")
    async with mq9.present({"name": name}, ttl=3):
        await mq9.agent_unregister(name)
        await until_reported(mq9, name, None)


async def test_leaving_twice_is_harmless(mq9: Mq9Client) -> None:
    name = fresh("agent")
    async with mq9.present({"name": name}):
        await mq9.agent_unregister(name)
    assert await info_of(mq9, name) == []


async def test_what_ends_the_reports_is_told(mq9: Mq9Client) -> None:
    asked = asyncio.Event()

    def broken() -> object:
        asked.set()
        raise RuntimeError("no load to report")

    with pytest.raises(RuntimeError, match="no load to report"):
        async with mq9.present({"name": fresh("agent")}, ttl=3, report=broken):
            await asked.wait()


async def test_a_ttl_leaves_time_for_a_report_a_second(mq9: Mq9Client) -> None:
    with pytest.raises(InvalidField, match="invalid ttl: must be at least 3"):
        mq9.present({"name": fresh("agent")}, ttl=TTL_SECONDS_MIN - 1)
    async with mq9.present({"name": fresh("agent")}, ttl=TTL_SECONDS_MIN):
        pass

"""Groups tick at beats; who is to stand for election does so in between, in its own moment."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import cast

from mq9cluster.cluster.beat import TICK_MS, Beat
from mq9cluster.cluster.durability import Group
from mq9cluster.cluster.ticking import AHEAD_S, TICK_S, Ticking


class Engine:
    """Remembers when it was told that time passes."""

    def __init__(self, stands_in_s: float | None) -> None:
        self._at_s = asyncio.get_running_loop().time() + (stands_in_s or 0.0)
        self._leads = stands_in_s is None
        self.ticks_s: list[float] = []
        self.ticked = asyncio.Event()

    def tick(self) -> None:
        """Note when."""
        self.ticks_s.append(self._at_s - asyncio.get_running_loop().time())
        self.ticked.set()

    def stands_in_s(self) -> float | None:
        """As a clock that goes on."""
        return None if self._leads else self._at_s - asyncio.get_running_loop().time()


def nobody(number: int) -> Group:
    """Stands for a group; nothing of it is looked at."""
    return cast(Group, number)


@asynccontextmanager
async def ticking(
    engines: list[Engine], wake: Callable[[Group], None] = lambda _: None, *, every_ms: int
) -> AsyncIterator[Ticking]:
    """Running inside."""
    groups = {number: (nobody(number), engine) for number, engine in enumerate(engines)}
    ticks = Ticking(groups, wake, Beat(every_ms))
    task = asyncio.create_task(ticks.run())
    try:
        yield ticks
    finally:
        ticks.stop()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_all_groups_tick_together_and_are_woken() -> None:
    engines = [Engine(None), Engine(10.0)]
    woken: list[Group] = []
    async with ticking(engines, woken.append, every_ms=5):
        for engine in engines:
            for _ in range(3):
                engine.ticked.clear()
                await engine.ticked.wait()
    assert set(woken) == {nobody(0), nobody(1)}
    assert len(woken) >= 6


async def test_who_is_to_stand_before_the_next_tick_does_so_in_its_own_moment() -> None:
    hour_ms = 3_600_000
    soon, later, overdue, leader = (
        Engine(0.6 * TICK_S),
        Engine(2 * TICK_S),
        Engine(-1.0),
        Engine(None),
    )
    async with ticking([soon, later, overdue, leader], every_ms=hour_ms):
        await soon.ticked.wait()  # the first tick is at once
        soon.ticked.clear()
        await soon.ticked.wait()
    assert len(soon.ticks_s) == 2
    assert soon.ticks_s[1] <= 0  # no sooner than it said
    assert [len(one.ticks_s) for one in (later, overdue, leader)] == [1, 1, 1]


async def test_it_looks_as_far_ahead_as_the_next_tick_can_be() -> None:
    """Else who is to stand just before a late tick would stand at it, as others do."""
    longest_ms = max(Beat.of_ticks(partial(int, now_ms))._next_ms() for now_ms in range(TICK_MS))
    assert TICK_S < longest_ms / 1000 <= AHEAD_S


async def test_a_lost_peer_makes_who_it_led_stand_without_a_tick() -> None:
    engine = Engine(10.0)
    async with ticking([engine], every_ms=3_600_000) as ticks:
        await engine.ticked.wait()
        engine.ticked.clear()
        engine._at_s = asyncio.get_running_loop().time() + 0.01  # its leader's process is gone
        ticks.look_ahead()
        await engine.ticked.wait()


async def test_after_the_end_nobody_stands() -> None:
    engine = Engine(0.01)
    async with ticking([engine], every_ms=3_600_000):
        await engine.ticked.wait()
    await asyncio.sleep(0.05)  # timers come in their order: it would have before this one
    assert len(engine.ticks_s) == 1

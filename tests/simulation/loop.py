"""asyncio on virtual time, for simulations of whole nodes: no sleep takes any time.

The loop's clock is a `Scheduler`'s. Whenever no task can run, the loop does the next thing due, be
it a timer of its own or an event of the scheduler (a message, a finished sync), and time jumps
there. Sockets, threads and signals do not work, and are not missed: the network and the disk are
virtual, too.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from tests.simulation.clock import Scheduler, Storm

Result = TypeVar("Result")
_NEVER_US = 10**15


class Deadlock(Exception):
    """Every task waits for something that will not happen."""


class _NoSelector:
    """Stands where the loop would wait for the operating system."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[NoReturn]:
        """The loop has nothing to do for `timeout` seconds; None: for ever."""
        self._loop.skip(_NEVER_US if timeout is None else round(timeout * 1_000_000))
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that takes its time from `scheduler`."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._selector = _NoSelector(self)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Virtual seconds."""
        return self._scheduler.now_us / 1_000_000

    def skip(self, most_us: int) -> None:
        """Go on to the next event, at most `most_us` ahead."""
        if most_us <= 0:
            return
        next_us = self._scheduler.next_us
        until_us = self._scheduler.now_us + most_us
        if next_us is None and most_us == _NEVER_US:
            raise Deadlock
        self._scheduler.run(until_us if next_us is None else min(until_us, next_us))

    def _process_events(self, event_list: list[NoReturn]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def run(scheduler: Scheduler, main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` to its end on virtual time. Raises Deadlock."""
    loop = VirtualLoop(scheduler)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        with suppress(Storm):
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()

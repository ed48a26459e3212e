"""asyncio on virtual time, for simulations of whole nodes: no sleep takes any time.

The loop's clock is a `Scheduler`'s. Whenever no task can run, the loop does the next thing due, be
it a timer of its own or an event of the scheduler (a message, a finished sync), and time jumps
there. Sockets, threads and signals do not work, and are not missed: the network and the disk are
virtual, too.

What belongs to a `Process` runs while that does, by a clock of its rate. What anything raises that
nobody catches ends the run: in a simulation there is no log to be overlooked.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

from tests.simulation.clock import Scheduler
from tests.simulation.process import PROCESS, Died

Result = TypeVar("Result")


class Deadlock(Exception):
    """Every task waits for something that will not happen."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that takes its time from `scheduler`."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._selector = None
        self._clock_resolution = 1e-6
        self.failures: list[BaseException] = []  # of tasks nobody awaited
        self.set_task_factory(_known_to_its_process)

    def time(self) -> float:
        """Virtual seconds, by the clock of the process that asks."""
        process = PROCESS.get()
        seconds = self._scheduler.now_us / 1_000_000
        return seconds if process is None else seconds * process.rate

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call when the clock of the process that asks stands there."""
        process = PROCESS.get()
        if process is not None:
            when /= process.rate
        now_s = self._scheduler.now_us / 1_000_000
        if when > now_s - 1e-9:  # what waits at all waits until the clock has moved
            when = max(when, now_s + 0.000_001)
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        """What a thread is asked to do is done by a virtual one, or else soon."""
        if executor is not None:
            return asyncio.wrap_future(executor.submit(func, *args), loop=self)
        done = self.create_future()

        def work() -> None:
            if not done.done():
                try:
                    result = func(*args)
                except Exception as error:  # noqa: BLE001  for whoever waits
                    done.set_exception(error)
                else:
                    done.set_result(result)

        self.call_soon(work)
        return done

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A task failed and nobody asked how it ended."""
        error = context.get("exception")
        if error is not None and not isinstance(error, Died):
            self.failures.append(error)

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready and not self._stopping:
            self._skip(round(scheduled[0]._when * 1_000_000) if scheduled else None)
        now_s = (self._scheduler.now_us + 0.5) / 1_000_000
        while scheduled and scheduled[0]._when <= now_s:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            self._run(ready.popleft())
        if self.failures:
            raise self.failures[0]

    def _run(self, handle: asyncio.Handle) -> None:
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)
        if process is not None and (process.paused or not process.alive):
            if process.alive:
                timer = isinstance(handle, asyncio.TimerHandle)
                process.hold(lambda: self._ready.append(handle), timer=timer)
            return
        with suppress(Died):
            handle._context.run(handle._callback, *handle._args)

    def _skip(self, until_us: int | None) -> None:
        """Go on to the next event, or to the next timer."""
        next_us = self._scheduler.next_us
        if next_us is None and until_us is None:
            raise Deadlock
        times = [us for us in (next_us, until_us) if us is not None]
        self._scheduler.run(max(min(times), self._scheduler.now_us))

    def _write_to_self(self) -> None:
        pass


def _known_to_its_process(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **given: Any
) -> "asyncio.Task[Any]":
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **given)
    process = PROCESS.get()
    if process is not None:
        process.keep(task)
    return task


def run(scheduler: Scheduler, main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` to its end on virtual time. Raises Deadlock."""
    loop = VirtualLoop(scheduler)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        for task in asyncio.all_tasks(loop):  # nothing more is to happen, not even a tidy end
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with suppress(Exception, Died, BaseExceptionGroup):
                task.get_coro().close()  # type: ignore[union-attr]
        asyncio.set_event_loop(None)
        loop.close()

"""A process of a simulated node: what runs in it can be stopped, and can end, at any point.

Whatever a node does runs with `PROCESS` set, and tasks, timers and callbacks made there inherit it.
`loop.VirtualLoop` runs nothing of a process that is dead, and keeps what belongs to a paused one
until it goes on; so a crash needs to know nothing of what it ends, and a pause is one as after
SIGSTOP: time goes on, and everything that fell due meanwhile comes at once.
"""

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class Died(BaseException):
    """Unwinds what runs in a process that is gone. Nothing but the loop catches it."""


class Process:
    """One life of a node."""

    def __init__(self, rate: float = 1.0, on_pause: Callable[[], None] = lambda: None) -> None:
        """`on_pause` is called whenever it begins to stand still, whatever has it do so."""
        self.rate = rate  # of its monotonic clock
        self.on_pause = on_pause
        self.alive = True
        self.paused = False
        self.trap: Callable[[str], None] | None = None  # told of every failpoint that is passed
        self._held: list[Callable[[], None]] = []
        self._held_timers: list[Callable[[], None]] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._failed: list[asyncio.Task[Any]] = []

    def enter(self, call: Callable[..., object], *args: Any) -> None:
        """Run `call` here: now, when the pause is over, or never."""
        if not self.alive:
            return
        if self.paused:
            self._held.append(lambda: self.enter(call, *args))
            return
        token = PROCESS.set(self)
        try:
            call(*args)
        except Died:
            if self.alive:
                raise
        finally:
            PROCESS.reset(token)

    def hold(self, call: Callable[[], None], *, timer: bool = False) -> None:
        """Keep what falls due during a pause. When it is over asyncio looks at sockets first, then
        at `timer`s: what was asked meanwhile comes before anything notices how late it is.
        """
        (self._held_timers if timer else self._held).append(call)

    def pause(self) -> None:
        """Stand still."""
        self.paused = True
        self.on_pause()

    def resume(self) -> None:
        """Go on, with all that was held, in order."""
        self.paused = False
        held, self._held, self._held_timers = [*self._held, *self._held_timers], [], []
        for at, call in enumerate(held):
            if self.paused:  # what was held has it stand still again
                self._held[:0] = held[at:]
                return
            call()

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Know a task, to end it."""
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task._log_traceback:  # type: ignore[attr-defined]
            self._failed.append(task)

    def unheard(self) -> BaseException | None:
        """What ended a task, if nobody asked how that one ended: here no log tells of it."""
        failed, self._failed = self._failed, []
        for task in failed:
            if task._log_traceback and self.alive:  # type: ignore[attr-defined]
                return task.exception()
        return None

    def die(self) -> None:
        """Nothing of it runs any more."""
        if not self.alive:
            return
        self.alive = False
        self._held.clear()
        self._held_timers.clear()
        token = PROCESS.set(self)  # what their ends still start belongs to the dead, too
        try:
            for task in list(self._tasks):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                try:
                    with suppress(Exception, Died):  # the one that runs now ends by itself
                        task.get_coro().close()  # type: ignore[union-attr]
                except* GeneratorExit:
                    pass  # a TaskGroup tells of its end so
        finally:
            PROCESS.reset(token)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)

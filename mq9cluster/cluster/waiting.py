"""FETCHes that wait at a shard's leader until something becomes readable.

They cost a timer and a place in a queue, and nothing while nothing happens. A change of a mailbox
wakes one waiter of each group and set of tags and priorities, and that one, once it has been
served, the next, so that a message does not wake a thousand workers, nor stay with one who does not
want it; those who read without a group are all woken, for each sees every message.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from mq9cluster.domain.command import FetchMessages, Owner
from mq9cluster.domain.message import ALL_PRIORITIES
from mq9cluster.domain.outcome import Refused
from mq9cluster.domain.read import Browse, Follow, MessagesRead

if TYPE_CHECKING:
    import asyncio

WAITING_PER_SHARD_MAX: Final = 100_000  # about 1 kB each with its timer

# A group, "" for none, and the tags and priorities that are asked for.
Queue = tuple[str, tuple[str, ...], int]
FetchDone = Callable[[MessagesRead | Refused], None]


class Waiter:
    """One FETCH under way. `finish` answers it once; later answers are dropped.

    `client` is on whose account it reads (see turns). `seen` is how far a search without a group
    has looked. `woken`: a change had it look again, and it is not parked since.
    """

    __slots__ = ("client", "done", "request", "seen", "timer", "until_s", "wait_ms", "woken")

    def __init__(
        self,
        request: FetchMessages | Browse | Follow,
        wait_ms: int,
        done: FetchDone,
        client: Owner | None = None,
    ) -> None:
        self.request = request
        self.wait_ms = wait_ms
        self.client = request.owner if isinstance(request, FetchMessages) else client
        self.seen = (0, 0)
        self.woken = False
        self.until_s = 0.0  # set by the shard it waits at
        self.done: FetchDone | None = done
        self.timer: asyncio.TimerHandle | None = None

    @property
    def queue(self) -> Queue:
        """The queue it waits in."""
        request = self.request
        if isinstance(request, FetchMessages):
            return request.group, request.tags, request.priorities
        return "", request.tags, ALL_PRIORITIES

    def finish(self, answer: MessagesRead | Refused) -> None:
        """Answer, unless that was done or nobody is left to hear it."""
        done = self.forget()
        if done:
            done(answer)

    def forget(self) -> FetchDone | None:
        """Give up waiting without an answer."""
        done, self.done = self.done, None
        self.stop_timer()
        return done

    def stop_timer(self) -> None:
        """Its time does not run out any more, until it is parked again."""
        if self.timer:
            self.timer.cancel()
            self.timer = None


class WaitingRoom:
    """The waiters of one shard, by mailbox and queue."""

    def __init__(self) -> None:
        self._queues: dict[bytes, dict[Queue, OrderedDict[Waiter, None]]] = {}
        self.count = 0

    def park(self, waiter: Waiter, *, first: bool = False) -> None:
        """Queue a waiter; `first` puts one that was woken for nothing back to its place."""
        queues = self._queues.setdefault(waiter.request.mailbox, {})
        queue = queues.setdefault(waiter.queue, OrderedDict())
        queue[waiter] = None
        if first:
            queue.move_to_end(waiter, last=False)
        self.count += 1

    def leave(self, waiter: Waiter) -> None:
        """Take a waiter out, if it is parked."""
        queue = self._queues.get(waiter.request.mailbox, {}).get(waiter.queue)
        if queue and waiter in queue:
            del queue[waiter]
            self.count -= 1
            self._tidy(waiter.request.mailbox, waiter.queue)

    def wake(self, changed: Iterable[bytes]) -> list[Waiter]:
        """Those to look again after these mailboxes changed; they are no longer parked."""
        woken: list[Waiter] = []
        if not self._queues:
            return woken
        for ref in sorted(self._queues.keys() & changed):  # so that every run does the same
            for name in list(self._queues.get(ref, ())):
                woken += self.wake_queue(ref, name)
        return woken

    def wake_queue(self, ref: bytes, name: Queue) -> list[Waiter]:
        """The next waiter of a queue; without a group all of them."""
        queue = self._queues.get(ref, {}).get(name)
        if not queue:
            return []
        group, _, _ = name
        woken = [queue.popitem(last=False)[0]] if group else list(queue)
        if not group:
            queue.clear()
        self.count -= len(woken)
        self._tidy(ref, name)
        return woken

    def clear(self) -> list[Waiter]:
        """All of them; none is parked any more."""
        waiters = [
            waiter
            for queues in self._queues.values()
            for queue in queues.values()
            for waiter in queue
        ]
        self._queues.clear()
        self.count = 0
        return waiters

    def _tidy(self, ref: bytes, name: Queue) -> None:
        queues = self._queues[ref]
        if not queues[name]:
            del queues[name]
            if not queues:
                del self._queues[ref]

"""The one thread of a node in which everything about search happens: cards and questions are
embedded, indexes follow the registry, questions are answered.

Analyzer, lexicon and indexes are made for one thread at a time; with a single one they need no
locks, and what is asked stands in order: a search that is posted behind a change sees it. The event
loop goes on meanwhile. Graphs are built in a second thread, in native code, out of copies.

`node` makes one. `directory`, `finding` and the broker's embedding post to it; callers bound what
they post.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from mq9cluster.search.text import Analyzer

# What is done soon is put off to be done together: each time the thread begins, it has lost the
# processor's caches to the event loop. A question that comes first finds no more than this to do.
SOON_CHANGES_MAX: Final = 64  # some 6 ms of cards
SOON_S: Final = 0.05  # nobody waits for it: a question follows what is behind by itself

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Searching(Protocol):
    """Where the work of search is done."""

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` behind all that was posted before, and give what it gives."""

    def post(self, work: Callable[[], object]) -> None:
        """Do `work` behind all that was posted before; nobody waits for it."""

    def post_soon(self, work: Callable[[], object], changes: int) -> None:
        """Post `work` in SOON_S, once however often it is handed in meanwhile; or as soon as
        SOON_CHANGES_MAX changes wait so. From the event loop; `run` does not wait behind it.
        """

    def build(self, work: Callable[[], object], then: Callable[[], object]) -> None:
        """Do `work`, which touches nothing of anybody else, beside all others; then post `then`."""


class Searchable(NamedTuple):
    """What makes a node's shards searchable. `analyzer` is called in the search thread.

    `saved_in`: a folder for indexes, where they are to be there after a restart.
    """

    thread: Searching
    analyzer: Callable[[], Analyzer]
    saved_in: Path | None = None


class SearchThread:
    """The thread, and the one beside it that builds graphs; implements `Searching`."""

    def __init__(self) -> None:
        self._posted: deque[Callable[[], object]] = deque()
        self._awake = False  # the thread will look at what is posted
        self._soon: dict[Callable[[], object], None] = {}  # touched in the event loop only
        self._soon_changes = 0
        self._timer: asyncio.TimerHandle | None = None  # then what is done soon is posted
        self._stopped = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="graphs")

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` behind all that was posted before, and give what it gives."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def post(self, work: Callable[[], object]) -> None:
        """Do `work` behind all that was posted before; nobody waits for it."""
        self._posted.append(work)
        if not self._awake:  # handing in each by itself would cost more than many of them do
            self._wake()

    def post_soon(self, work: Callable[[], object], changes: int) -> None:
        """Post `work` in SOON_S, once however often it is handed in meanwhile; or as soon as
        SOON_CHANGES_MAX changes wait so. From the event loop; `run` does not wait behind it.
        """
        self._soon[work] = None
        self._soon_changes += changes
        if self._soon_changes >= SOON_CHANGES_MAX:
            self._post_all_soon()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON_S, self._post_all_soon)

    def _post_all_soon(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        soon, self._soon, self._soon_changes = self._soon, {}, 0
        if not self._stopped:
            for work in soon:
                self.post(work)

    def _wake(self) -> None:
        self._awake = True
        self._thread.submit(self._do_posted).add_done_callback(_show_failure)

    def _do_posted(self) -> None:
        """In the thread: do what was posted by now; somebody may wait behind it."""
        self._awake = False  # first: what is posted from now on is looked at again
        try:
            for _ in range(len(self._posted)):
                self._posted.popleft()()
        finally:
            if self._posted and not self._awake:  # one of them failed
                self._wake()

    def build(self, work: Callable[[], object], then: Callable[[], object]) -> None:
        """Do `work`, which touches nothing of anybody else, beside all others; then post `then`."""

        def built(done: "Future[object]") -> None:
            _show_failure(done)
            if not done.cancelled() and done.exception() is None:
                self.post(then)

        self._builder.submit(work).add_done_callback(built)

    def stop(self) -> None:
        """Do nothing more of what waits; returns when what is under way is done."""
        self._stopped = True
        self._builder.shutdown(cancel_futures=True)
        self._thread.shutdown(cancel_futures=True)


def _show_failure(done: "Future[Any]") -> None:
    """An index that fails is a mistake of ours; the registry itself is not touched by it."""
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.error("search failed", exc_info=error)

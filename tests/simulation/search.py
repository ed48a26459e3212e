"""What search needs of a machine, virtually: threads that take virtual time, the lexicon read once
for all nodes and runs, and an embedding service that can fail.

`installed` lays it under the nodes of one world; `whole.World` calls it where agents are simulated.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from zlib import crc32

import orjson

from mq9cluster.broker import search_side
from mq9cluster.cluster import directory_file, search_thread
from mq9cluster.cluster.directory import NotBuilt
from mq9cluster.domain.errors import Mq9Error
from mq9cluster.search.language import Language
from mq9cluster.search.lexicon import load_lexicon

if TYPE_CHECKING:
    from tests.simulation.whole import World

WORK_S = 0.000_3  # of a virtual thread, for each piece of work
SERVICE_S_MAX = 0.02
SLOW_S = 0.7  # longer than a REGISTER waits
DIMENSIONS = 4
SERVICE = "openai:http://embedder/v1/embeddings#"


class SimExecutor:
    """A `ThreadPoolExecutor` of one thread. What fails there ends the run."""

    def __init__(self, max_workers: int = 1, thread_name_prefix: str = "") -> None:
        del max_workers, thread_name_prefix
        self._loop: Any = asyncio.get_running_loop()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, work: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Do `work` behind all that was handed in before."""
        future: Future[Any] = Future()
        self._waiting.append((future, lambda: work(*args)))
        if len(self._waiting) == 1:
            self._loop.call_later(WORK_S, self._do)
        return future

    def _do(self) -> None:
        if not self._waiting:
            return
        future, work = self._waiting[0]
        if future.set_running_or_notify_cancel():
            try:
                result = work()
            except (Mq9Error, NotBuilt) as error:  # a client's mistake, or to be asked again
                future.set_exception(error)
            except Exception as error:
                self._loop.failures.append(error)
                raise
            else:
                future.set_result(result)
        self._waiting.popleft()
        if self._waiting:
            self._loop.call_later(WORK_S, self._do)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing more."""
        del wait, cancel_futures
        for future, _ in self._waiting:
            future.cancel()
        self._waiting.clear()


class SimService:
    """An embedding service over HTTP; stands for `broker.http_post.HttpPost`."""

    def __init__(self, world: "World", _: str = "") -> None:
        self._world = world

    async def __call__(self, url: str, body: bytes) -> tuple[int, bytes]:
        """Vectors that depend on model and text alone. Raises OSError."""
        del url
        world = self._world
        if world.service == "slow":
            await asyncio.sleep(SLOW_S)
        await asyncio.sleep(world.random.uniform(0.001, SERVICE_S_MAX))
        if world.service == "down":
            raise ConnectionRefusedError
        if world.service == "broken":
            return 500, b""
        asked = orjson.loads(body)
        rows = [
            {"index": index, "embedding": vector_of(asked["model"], text)}
            for index, text in enumerate(asked["input"])
        ]
        world.seen["embedded by the service"] += len(rows)
        return 200, orjson.dumps({"data": rows})

    async def close(self) -> None:
        """Nothing is open."""


def vector_of(model: str, text: str) -> list[float]:
    """A vector for a text."""
    digest = crc32(f"{model}/{text}".encode())
    return [1.0 + (digest >> 8 * place & 255) / 256 for place in range(DIMENSIONS)]


@cache
def language() -> Language:
    """The lexicon at work: pure, so all nodes share it."""
    return Language(load_lexicon())


@contextmanager
def installed(world: "World") -> Iterator[None]:
    """Virtual threads and services for the nodes of `world`."""
    with ExitStack() as patches:
        for owner, name, virtual in (
            (search_thread, "ThreadPoolExecutor", SimExecutor),
            (directory_file, "time", SimpleNamespace(monotonic=float)),  # written in no time
            (search_side, "HttpPost", lambda _="": SimService(world)),
            (search_side, "load_lexicon", lambda: None),
            (search_side, "Language", lambda _: language()),
        ):
            patches.enter_context(patch.object(owner, name, virtual))
        yield

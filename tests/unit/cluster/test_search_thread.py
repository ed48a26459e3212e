"""What is done soon in the search thread waits for more of it, but only so much."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mq9cluster.cluster import search_thread
from mq9cluster.cluster.search_thread import SOON_CHANGES_MAX, SearchThread

NEVER_S = 1e6


@pytest_asyncio.fixture
async def thread() -> AsyncIterator[SearchThread]:
    one = SearchThread()
    yield one
    one.stop()


@pytest.fixture
def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_thread, "SOON_S", NEVER_S)


async def test_fewer_changes_than_a_batch_wait(thread: SearchThread, no_timer: None) -> None:
    done: list[int] = []

    def work() -> None:
        done.append(1)

    for _ in range(SOON_CHANGES_MAX - 1):
        thread.post_soon(work, 1)
    await thread.run(lambda: None)
    assert done == []


async def test_a_batch_of_changes_is_done_at_once_and_the_same_work_once(
    thread: SearchThread, no_timer: None
) -> None:
    done: list[str] = []

    def work() -> None:
        done.append("work")

    def other() -> None:
        done.append("other")

    thread.post_soon(other, 1)
    for _ in range(SOON_CHANGES_MAX - 1):
        thread.post_soon(work, 1)
    await thread.run(lambda: None)
    assert done == ["other", "work"]


async def test_what_waits_is_done_in_a_while_and_again_when_it_is_handed_in_again(
    thread: SearchThread,
) -> None:
    for _ in range(2):
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        work = lambda done=done, loop=loop: loop.call_soon_threadsafe(done.set)  # noqa: E731
        thread.post_soon(work, 1)
        async with asyncio.timeout(30):
            await done.wait()


async def test_what_waits_when_it_stops_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_thread, "SOON_S", 0.0)
    thread = SearchThread()
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))
    thread.post_soon(failures.clear, 1)
    thread.stop()
    for _ in range(3):
        await asyncio.sleep(0)
    assert failures == []

"""A cluster of one in this process: what a mistake in its own tasks does."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mq9cluster.cluster import meta, snapshots
from mq9cluster.cluster.cluster import Cluster
from mq9cluster.cluster.durability import Durability
from mq9cluster.cluster.membership import Membership
from mq9cluster.node import SystemClock, SystemRandom
from mq9cluster.storage.errors import StorageFailed
from mq9cluster.storage.store import Store, open_store


class Nobody:
    """Above the cluster; wants to know nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Failed:
    """What the durability loop's owner is told."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.told = asyncio.Event()

    def __call__(self, error: BaseException) -> None:
        self.errors.append(error)
        self.told.set()


@pytest.fixture
async def failed() -> Failed:
    return Failed()


@pytest.fixture
async def cluster(tmp_path: Path, failed: Failed) -> AsyncIterator[Cluster]:
    store = open_store(tmp_path, "n1", lambda: "07")
    cluster = cluster_of_one(store, failed)
    await cluster.start("")
    yield cluster
    await cluster.stop()
    store.close()


def cluster_of_one(store: Store, failed: Failed) -> Cluster:
    loop = asyncio.get_running_loop()
    clock = SystemClock()

    def offload(work: Callable[[], None]) -> "asyncio.Future[None]":
        return loop.run_in_executor(None, work)

    return Cluster(
        Membership("n1", 7, "127.0.0.1:4222", {"n1": "127.0.0.1:7422"}, 1),
        store.database,
        Durability(store.database, failed, offload, clock.seconds),
        clock,
        SystemRandom(),
        store.incarnation,
        store.sentinel.count_start,
        Nobody(),
    )


@pytest.mark.parametrize("part", ["tick", "watch_clocks", "lose"])
async def test_a_mistake_in_what_keeps_a_node_going_ends_the_node(
    cluster: Cluster,
    failed: Failed,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mistake = ValueError("a mistake")

    def fail() -> None:
        raise mistake

    on = {"tick": cluster.meta.engine, "watch_clocks": cluster._leading, "lose": cluster._runs}
    monkeypatch.setattr(on[part], part, fail)
    if part == "lose":  # what another run begins with
        monkeypatch.setattr(cluster._runs, "watch", lambda *_: True)
    async with asyncio.timeout(30):
        await failed.told.wait()
    assert failed.errors == [mistake]
    (told,) = (r for r in caplog.records if r.levelno == logging.CRITICAL)
    assert told.exc_info is not None


async def test_an_orderly_stop_is_no_mistake(cluster: Cluster, failed: Failed) -> None:
    await cluster.stop()
    assert failed.errors == []


def end_at_once(cluster: Cluster, *incarnations: int) -> None:
    """Have the others end these runs before this node hears that they have begun."""
    propose = cluster.meta.propose

    def propose_both(command: bytes) -> None:
        propose(command)
        for incarnation in incarnations:
            propose(meta.end_run("n1", incarnation))

    cluster.meta.propose = propose_both  # type: ignore[method-assign]


async def has_run(cluster: Cluster, incarnation: int) -> None:
    """Wait until the node has contact as this run, of which everybody knows."""
    while cluster.why_not_ready() or cluster.incarnation != incarnation:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    run = cluster.meta.meta.runs["n1"]
    assert (run.incarnation, run.ended) == (incarnation, False)


async def test_a_start_whose_runs_are_ended_before_it_hears_of_them_ends_as_a_later_run(
    tmp_path: Path, failed: Failed
) -> None:
    """Simulator, seed 9652: cut off while it announced its first run, a node never served."""
    store = open_store(tmp_path, "n1", lambda: "07")
    cluster = cluster_of_one(store, failed)
    end_at_once(cluster, 1, 2)
    async with asyncio.timeout(30):
        await cluster.start("")
        await has_run(cluster, 3)
    assert failed.errors == []
    await cluster.stop()
    store.close()


async def test_a_new_run_that_is_ended_before_the_node_hears_of_it_is_followed_by_another(
    cluster: Cluster, failed: Failed
) -> None:
    end_at_once(cluster, 2, 3)
    async with asyncio.timeout(30):
        cluster._propose_to_meta(meta.end_run("n1", 1))
        await has_run(cluster, 4)
    assert failed.errors == []


async def test_a_disk_that_fails_while_a_group_is_opened_leaves_no_half_of_it(
    tmp_path: Path, failed: Failed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulator, seed 1904: the durability loop went on with a replica that had no engine."""

    def fail(*_: object) -> bool:
        raise StorageFailed("no")

    monkeypatch.setattr(snapshots, "drop_other_epochs", fail)
    store = open_store(tmp_path, "n1", lambda: "07")
    cluster = cluster_of_one(store, failed)
    with pytest.raises(StorageFailed):
        await cluster.start("")
    assert cluster._groups == {}
    await cluster.stop()
    store.close()

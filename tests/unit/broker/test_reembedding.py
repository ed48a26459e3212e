"""The background work that brings codes, where the cluster's state changes under it."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from mq9cluster.broker import reembedding
from mq9cluster.broker.reembedding import Reembedding
from mq9cluster.cluster.embedders import Embedders
from mq9cluster.domain.command import Command, DropEmbedder
from mq9cluster.domain.outcome import Done, Outcome

T = TypeVar("T")

CONCEPT = "concept:lexicon:1:512:-"
MODEL = "openai:pets:1:6:-"


class Node:
    """One node with one shard, its leader; `during` is called while the directories are counted."""

    def __init__(self) -> None:
        self.embedders = Embedders()
        self.usable = [CONCEPT]
        self.during: Callable[[], None] = lambda: None
        self.counted: list[list[str]] = []
        self.told = asyncio.Event()
        self.embedders.announce("node1", {"concept": CONCEPT, "model": None}, ["node1"])
        directory = SimpleNamespace(
            ready=SimpleNamespace(is_set=lambda: True),
            accounts=1,
            missing_count=lambda _: 0,
            embedders=lambda: [],
        )
        self.cluster = SimpleNamespace(
            me=SimpleNamespace(name="node1"),
            meta=SimpleNamespace(meta=SimpleNamespace(embedders=self.embedders)),
            directories={0: directory},
            leader_of=lambda _: "node1",
            announce=lambda _: None,
            tell_meta=lambda _: self.told.set(),
        )

    def work(self) -> Reembedding:
        embedding = SimpleNamespace(
            announced=lambda: {}, differs=lambda: "", usable=lambda: list(self.usable)
        )
        return Reembedding(cast(Any, self.cluster), cast(Any, embedding), cast(Any, self), None)

    async def run(self, work: Callable[[], T]) -> T:
        """As the search thread does, with something else meanwhile."""
        self.during()
        return work()


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reembedding, "LOOK_S", 0.0)


async def test_an_embedder_that_becomes_usable_while_a_look_is_on_is_looked_after_by_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = Node()

    def announced() -> None:
        if MODEL not in node.usable:
            node.usable.append(MODEL)
            node.embedders.announce("node1", {"concept": CONCEPT, "model": "old"}, ["node1"])
            node.embedders.announce("node1", {"concept": CONCEPT, "model": MODEL}, ["node1"])

    node.during = announced
    looking = asyncio.create_task(node.work().run())
    async with asyncio.timeout(30.0):
        await node.told.wait()  # that the shard lacks no code of the one that follows
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []


async def test_a_look_that_fails_by_a_mistake_is_told_of_and_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, looks = Node(), asyncio.Queue[None]()

    def fail() -> None:
        looks.put_nowait(None)
        raise ZeroDivisionError

    node.during = fail
    looking = asyncio.create_task(node.work().run())
    async with asyncio.timeout(30.0):
        await looks.get()
        await looks.get()
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert [r.levelname for r in caplog.records][:1] == ["ERROR"]


async def test_a_new_leader_has_dropped_what_its_own_directory_has_forgotten_once() -> None:
    node, looks = Node(), asyncio.Queue[None]()
    proposed: list[Command] = []
    node.embedders.retired.append(MODEL)
    node.during = lambda: looks.put_nowait(None)
    node.cluster.directories[0].drop = lambda _: None

    def propose(command: Command, done: Callable[[Outcome], None]) -> None:
        proposed.append(command)
        done(Done())

    node.cluster.shards = SimpleNamespace(all=[SimpleNamespace(propose=propose)])
    node.cluster.leader_of = lambda _: "node2"
    looking = asyncio.create_task(node.work().run())
    async with asyncio.timeout(30.0):
        await looks.get()
        await looks.get()
        assert proposed == []
        node.cluster.leader_of = lambda _: "node1"
        for _ in range(5):
            await looks.get()
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert proposed == [DropEmbedder(MODEL)]

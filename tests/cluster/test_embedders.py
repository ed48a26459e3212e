"""Embedders as cluster state: models and services that are up, slow, down and back; a node that has
another one; a change of model, in the background, without a moment in which nobody is found.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chaos.cluster.process import ServedNode
from tests.cluster.conftest import Connect
from tests.conftest import ServeCluster, ServeNode
from tests.support.embedders import EmbeddingService, make_model
from tests.support.mq9 import Mq9, Reply

PETS = ("dog", "cat", "bird", "fish")
SOON_S = 60.0  # generous: looked after once a second


async def register(mq9: Mq9, name: str, text: str, **fields: Any) -> None:
    reply = await mq9.ask("AGENT.REGISTER", {"name": name, "description": text, **fields})
    assert reply["error"] == "", reply


async def register_pets(mq9: Mq9) -> None:
    for pet in PETS:
        await register(mq9, pet, f"a {pet}")


async def ask(mq9: Mq9, semantic: str, **fields: Any) -> Reply:
    reply = await mq9.ask("AGENT.DISCOVER", {"semantic": semantic, **fields})
    assert reply["error"] == "", reply
    assert "partial" not in reply, reply
    return reply


def names(reply: Reply) -> list[str]:
    return [agent["name"] for agent in reply["agents"]]


def by(reply: Reply) -> str:
    return f"{reply['embedder']['kind']}:{reply['embedder']['name']}"


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SOON_S):
        while not await holds():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.1)


async def until_by(mq9: Mq9, embedder: str, found: list[str]) -> None:
    """Until "dog" is asked by this embedder and finds exactly these."""

    async def holds() -> bool:
        reply = await ask(mq9, "dog", min_score=0.5)
        return by(reply) == embedder and names(reply) == found

    await until(holds)


# --- a model in a directory ----------------------------------------------------------------------


async def test_a_static_model_embeds_cards_and_questions(
    serve_node: ServeNode, connect: Connect, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "pets", swapped=False)
    node = await serve_node(embedder=f"model2vec:{model}")
    mq9 = await connect(node)
    await register_pets(mq9)
    reply = await ask(mq9, "dog")
    assert by(reply) == "model2vec:pets"
    assert reply["embedder"]["dimensions"] == 8
    assert names(reply) == ["dog"]
    assert reply["agents"][0]["_mq9"]["score"] == pytest.approx(1.0)
    # What the model knows no word of is found by concepts, beside what it does know.
    await register(mq9, "flights", "Books flights and hotels")
    assert names(await ask(mq9, "dog", min_score=0.5)) == ["dog"]
    reply = await ask(mq9, "plane tickets")
    assert (by(reply), names(reply)) == ("concept:lexicon", ["flights"])


async def test_codes_are_kept_so_a_restart_embeds_nothing_again(
    serve_node: ServeNode,
    connect: Connect,
) -> None:
    async with EmbeddingService() as service:
        node = await serve_node(embedder=f"openai:{service.url}#pets", embedder_key="s3cret")
        mq9 = await connect(node)
        await register_pets(mq9)
        await until_by(mq9, "openai:pets", ["dog"])
        assert service.keys == {"Bearer s3cret"}
        await node.kill()
        asked = service.asked
        await node.start()
        mq9 = await connect(node)
        reply = await ask(mq9, "dog", min_score=0.5)
        assert (by(reply), names(reply)) == ("openai:pets", ["dog"])
        assert service.asked == asked + 2  # its dimensions, and the question


@pytest.mark.parametrize(
    "setting",
    ["model2vec:/nowhere", "openai:not a url", "fastembed:/nowhere", "bert:x", "vectors:0"],
)
async def test_a_setting_that_cannot_be_meant_is_one_line(setting: str, tmp_path: Path) -> None:
    node = ServedNode(tmp_path / "node", embedder=setting)
    if setting.startswith("openai:"):  # a service that does not answer is not a mistake
        await node.start()
        await node.kill()
        return
    with pytest.raises(Exception, match="--embedder: "):
        await node.start()


# --- a service -----------------------------------------------------------------------------------


async def test_a_service_that_is_down_holds_nobody_up_and_brings_vectors_when_it_is_back(
    serve_node: ServeNode,
    connect: Connect,
) -> None:
    async with EmbeddingService() as service:
        node = await serve_node(embedder=f"openai:{service.url}#pets")
        mq9 = await connect(node)
        await register(mq9, "dog", "a dog")
        await until_by(mq9, "openai:pets", ["dog"])
        await service.stop()
        await register(mq9, "puppy", "also a dog; books flights")
        reply = await ask(mq9, "plane tickets")
        assert by(reply) == "concept:lexicon"
        assert names(reply)[0] == "puppy"
        assert names(await ask(mq9, "dog", mode="hybrid"))[0] in {"dog", "puppy"}
        await service.start()
        await until_by(mq9, "openai:pets", ["dog", "puppy"])


async def test_a_service_that_is_slow_or_broken_is_not_waited_for(
    serve_node: ServeNode, connect: Connect
) -> None:
    async with EmbeddingService() as service:
        node = await serve_node(embedder=f"openai:{service.url}#pets")
        mq9 = await connect(node)
        for trouble in ("slow", "broken"):
            service.delay_s = 60.0 if trouble == "slow" else 0.0
            service.broken = trouble == "broken"
            await register(mq9, trouble, "a dog that books flights")
            reply = await ask(mq9, "plane tickets")
            assert by(reply) == "concept:lexicon"
            assert trouble in names(reply)
        service.broken = False
        await until_by(mq9, "openai:pets", ["broken", "slow"])


async def test_a_service_that_is_down_when_the_node_starts_is_used_once_it_is_up(
    serve_node: ServeNode,
    connect: Connect,
) -> None:
    service = EmbeddingService()
    await service.start()
    await service.stop()  # its port is known
    node = await serve_node(embedder=f"openai:{service.url}#pets")
    mq9 = await connect(node)
    await register(mq9, "dog", "a dog")
    await register(mq9, "cat", "a cat")
    reply = await ask(mq9, "dog")
    assert (by(reply), names(reply)[0]) == ("concept:lexicon", "dog")
    await service.start()
    try:
        await until_by(mq9, "openai:pets", ["dog"])
    finally:
        await service.stop()


# --- vectors of the clients' own -----------------------------------------------------------------


async def test_clients_may_bring_all_vectors_themselves(
    serve_node: ServeNode, connect: Connect
) -> None:
    node = await serve_node(embedder="vectors:3#ours")
    mq9 = await connect(node)
    await register(mq9, "east", "books flights", vector=[1, 0, 0])
    await register(mq9, "north", "books flights", vector=[0, 1, 0])
    reply = await mq9.ask("AGENT.DISCOVER", {"vector": [2, 1, 0]})
    assert (by(reply), names(reply)) == ("vectors:ours", ["east", "north"])
    refused = await mq9.ask("AGENT.DISCOVER", {"vector": [2, 1]})
    assert refused["code"] == "embedder_mismatch"
    # A question in words is answered by concepts.
    reply = await ask(mq9, "plane tickets")
    assert (by(reply), sorted(names(reply))) == ("concept:lexicon", ["east", "north"])


# --- a change of embedder ------------------------------------------------------------------------


async def test_another_model_takes_over_in_the_background(
    serve_node: ServeNode, connect: Connect, tmp_path: Path
) -> None:
    first = make_model(tmp_path / "first")
    second = make_model(tmp_path / "second", dimensions=16, swapped=True)
    node = await serve_node(embedder=f"model2vec:{first}")
    mq9 = await connect(node)
    for number in range(150):
        await register(mq9, f"dog{number:03}", "a dog")
    assert (await ask(mq9, "dog"))["total"] == 150
    await node.kill()
    await node.restart(embedder=f"model2vec:{second}")
    mq9 = await connect(node)

    async def taken_over() -> bool:
        # Nobody has the first model any more: concepts stand in until the second has all agents.
        reply = await ask(mq9, "dog")
        assert by(reply) in {"concept:lexicon", "model2vec:second"}
        assert reply["total"] == 150
        return by(reply) == "model2vec:second"

    await until(taken_over)
    assert (await ask(mq9, "dog"))["agents"][0]["_mq9"]["score"] == pytest.approx(1.0)
    await register(mq9, "dog999", "a dog")
    assert (await ask(mq9, "dog"))["total"] == 151

    async def old_codes_dropped() -> bool:
        text = node.get_now("/cluster").json()["embedders"]
        return text["codes"] == [text["concept"], text["model"]]

    await until(old_codes_dropped)


async def test_a_node_with_another_model_says_so_and_has_others_embed(
    serve_cluster: ServeCluster, connect: Connect, tmp_path: Path
) -> None:
    first = make_model(tmp_path / "first")
    second = make_model(tmp_path / "second", dimensions=16, swapped=True)
    cluster = await serve_cluster(3, shards=4, embedder=f"model2vec:{first}")
    mq9 = await connect(cluster[1])
    await register_pets(mq9)
    odd = cluster[0]
    await odd.restart(embedder=f"model2vec:{second}")
    await cluster.until_ready()
    at_odd = await connect(odd)
    # Questions that are asked there are embedded elsewhere, and so are cards.
    await until_by(at_odd, "model2vec:first", ["dog"])
    await register(at_odd, "puppy", "a dog, books flights")
    await until_by(mq9, "model2vec:first", ["dog", "puppy"])
    facts = odd.get_now("/cluster").json()["embedders"]
    assert facts["model"].startswith("model2vec:first:")
    assert "model2vec:second:" in facts["differs"]
    assert cluster[1].get_now("/cluster").json()["embedders"]["differs"] == ""
    assert any(line.get("event") == "this node's embedder is not the cluster's" for line in odd.log)
    # The others follow, one after the other, and then the cluster does.
    for node in cluster.others(odd):
        await node.restart(embedder=f"model2vec:{second}")
        await cluster.until_ready()
    for node in cluster:
        await until_by(await connect(node), "model2vec:second", ["dog", "puppy"])
    # "dog" is what the second model calls its second word: by the first one's vectors it were a cat
    assert odd.get_now("/cluster").json()["embedders"]["differs"] == ""

"""Codes that come late: of a service that did not answer, of a node that does not have the
cluster's embedder, of a model that is to take over.

`node` runs it. Once a second it tells `meta` what this node embeds with, looks which agents of its
shards lack a code the cluster wants, embeds them a few at a time and proposes the codes; for an
embedder that follows, it says when a shard lacks none. Of each shard and embedder one node does
this: the shard's leader where it can, else the first that can. Codes of embedders that the cluster
gave up are dropped.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from mq9cluster.broker.embedding import Embedding
from mq9cluster.cluster import meta
from mq9cluster.cluster.cluster import Cluster
from mq9cluster.cluster.directory import Missing, parse_registered
from mq9cluster.cluster.embedders import Embedders
from mq9cluster.cluster.search_thread import Searching
from mq9cluster.domain.address import agent_ref
from mq9cluster.domain.agent import card_digest
from mq9cluster.domain.command import Command, DropEmbedder, SetAgentCode
from mq9cluster.domain.outcome import Outcome, Refused
from mq9cluster.machine.agents_read import agents_at
from mq9cluster.search.embedder import Embedder, EmbedderMisconfigured, EmbedderUnavailable

LOOK_S: Final = 1.0
CARDS_PER_STEP: Final = 64  # of one request to a service, or some 15 ms of the search thread
CARDS_PER_LOOK_MAX: Final = 2_048  # of one shard and embedder; then the others have their turn

Open = Callable[[], Awaitable[Embedder]]

_log = logging.getLogger(__name__)


class _Need(NamedTuple):
    """What a shard lacks, and has too much."""

    shard: int
    missing: dict[str, int]  # agents, by embedder
    retired: list[str]


class Reembedding:
    """The background work of one node."""

    def __init__(
        self, cluster: Cluster, embedding: Embedding, thread: Searching, open_model: Open | None
    ) -> None:
        """`open_model` opens the model that is set, where that did not answer yet."""
        self._cluster = cluster
        self._embedding = embedding
        self._thread = thread
        self._open_model = open_model
        self._said = ""
        self._nothing: dict[tuple[int, str], dict[Missing, bytes]] = {}  # digests of wordless cards
        self._dropped: set[tuple[int, str]] = set()  # this node, as leader, had them dropped

    async def run(self) -> None:
        """Look after it until cancelled.

        A look that fails by a mistake is told of and repeated: it must not end the node, whose
        mailboxes have nothing to do with it, nor all later looks, unheard.
        """
        while True:
            look = asyncio.create_task(self._look())
            try:
                await asyncio.wait([look])
            finally:
                look.cancel()
            if error := look.exception():
                _log.error("a mistake while vectors were looked after", exc_info=error)
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        if self._open_model:
            await self._try_to_open(self._open_model)
        self._cluster.announce(self._embedding.announced())
        self._say_what_differs()
        for need in await self._needs():
            await self._drop(need)
            for by in need.missing:  # another one may have become usable since these were counted
                if self._is_mine(need.shard, by):
                    await self._bring(need, by)

    async def _try_to_open(self, open_model: Open) -> None:
        try:
            self._embedding.model = await open_model()
        except (EmbedderUnavailable, EmbedderMisconfigured) as error:
            _log.debug("the embedder does not answer yet", extra={"why": str(error)})
            return
        self._embedding.model_known = True
        self._open_model = None
        _log.info("embedder open", extra={"embedder": str(self._embedding.model.id)})

    def _say_what_differs(self) -> None:
        differs = self._embedding.differs()
        if differs != self._said:
            self._said = differs
            if differs:
                _log.warning("this node's embedder is not the cluster's", extra={"why": differs})

    @property
    def _state(self) -> Embedders:
        return self._cluster.meta.meta.embedders

    async def _needs(self) -> list[_Need]:
        """What the directories lack that are built."""
        ready = {
            shard: directory
            for shard, directory in self._cluster.directories.items()
            if directory.ready.is_set()
        }
        usable, retired = self._embedding.usable(), list(self._state.retired)
        if not any(directory.accounts for directory in ready.values()):
            return [_Need(shard, dict.fromkeys(usable, 0), []) for shard in ready]

        self._dropped = {dropped for dropped in self._dropped if dropped[1] in retired}
        me = self._cluster.me.name
        led = {shard for shard in ready if self._cluster.leader_of(shard) == me}

        def left(shard: int, by: str) -> bool:
            """A node that did not lead forgot them itself; the one that led may have died first."""
            return shard in led and (shard, by) not in self._dropped

        def look() -> list[_Need]:
            return [
                _Need(
                    shard,
                    {by: directory.missing_count(by) for by in usable},
                    [by for by in retired if by in directory.embedders() or left(shard, by)],
                )
                for shard, directory in ready.items()
            ]

        return await self._thread.run(look)

    def _is_mine(self, shard: int, by: str) -> bool:
        """Whether it is for this node to bring the shard's codes."""
        me = self._cluster.me.name
        having = self._state.having(by)
        leader = self._cluster.leader_of(shard)
        if leader in having:
            return leader == me
        first = (
            name
            for name in self._cluster.meta.meta.placement[shard]
            if name in having and self._cluster.is_alive(name)
        )
        return next(first, "") == me

    # --- too much --------------------------------------------------------------------------------

    async def _drop(self, need: _Need) -> None:
        """Forget codes of embedders the cluster does not want any more."""
        directory = self._cluster.directories[need.shard]
        for by in need.retired:
            if self._cluster.leader_of(need.shard) == self._cluster.me.name:
                outcome = await self._propose(need.shard, [DropEmbedder(by)])
                if isinstance(outcome[0], Refused):
                    continue
                self._dropped.add((need.shard, by))
            if by in self._state.retired:
                await self._thread.run(lambda by=by: directory.drop(by))  # type: ignore[misc]

    # --- too little ------------------------------------------------------------------------------

    async def _bring(self, need: _Need, by: str) -> None:
        """Embed what lacks a code, and say when nothing does."""
        if need.missing[by] and self._embedding.makes(by):
            try:
                if await self._fill(need.shard, by):
                    return  # the next look finds what came meanwhile
            except EmbedderUnavailable as error:
                _log.debug("vectors have to wait", extra={"why": str(error)})
                return
        if by in (self._state.concept.following, self._state.model.following):
            self._cluster.tell_meta(meta.embedded(by, need.shard))

    async def _fill(self, shard: int, by: str) -> bool:
        """Bring some codes that a shard lacks; False when there are none to bring."""
        directory = self._cluster.directories[shard]
        missing = await self._thread.run(lambda: directory.missing(by))
        nothing = self._nothing.setdefault((shard, by), {})
        for gone in nothing.keys() - set(missing):
            del nothing[gone]
        did = False
        for start in range(0, min(len(missing), CARDS_PER_LOOK_MAX), CARDS_PER_STEP):
            step = missing[start : start + CARDS_PER_STEP]
            cards = [
                card
                for card in self._read(shard, step)
                if nothing.get(Missing(card.account, card.name)) != card.digest
            ]
            if cards:
                did = True
                await self._fill_step(shard, by, cards, nothing)
        return did

    def _read(self, shard: int, missing: Sequence[Missing]) -> list["_Card"]:
        replica = self._cluster.shards.all[shard].replica
        if replica is None:
            return []
        workspace = replica.machine.workspace
        return [
            _Card(one.account, found.name, found.body, card_digest(found.body))
            for one in missing
            for found in agents_at(workspace, one.account, [one.name])
        ]

    async def _fill_step(
        self, shard: int, by: str, cards: Sequence["_Card"], nothing: dict[Missing, bytes]
    ) -> None:
        parsed = [parse_registered(card.body) for card in cards]
        known = [card for card in parsed if card]
        made = iter(await self._embedding.codes_by(by, known))
        codes = [next(made) if card else None for card in parsed]
        commands: list[Command] = []
        for card, code in zip(cards, codes, strict=True):
            if code:
                ref = agent_ref(card.account, card.name)
                commands.append(SetAgentCode(ref, card.digest, by, code))
            else:
                nothing[Missing(card.account, card.name)] = card.digest
        await self._propose(shard, commands)

    async def _propose(self, shard: int, commands: Sequence[Command]) -> list[Outcome]:
        """Have them applied, and wait for what they come to."""
        loop = asyncio.get_running_loop()
        outcomes: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in commands]
        for command, future in zip(commands, outcomes, strict=True):
            self._cluster.shards.all[shard].propose(command, partial(_settle, future))
        return list(await asyncio.gather(*outcomes))


class _Card(NamedTuple):
    """A card to embed, and what tells it from the agent's next one."""

    account: str
    name: str
    body: bytes
    digest: bytes


def _settle(future: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)

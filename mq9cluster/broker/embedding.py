"""Embedding on this node: cards that are registered here, questions that are asked here or sent on
by nodes that cannot embed them.

Two embedders at most: the built-in one, and the model that is set. `meta` says which ids the
cluster wants; what this node has of another id it announces, and does not use. Everything that only
computes is done in the search thread, some cards at a time. A service is waited for a moment;
cards that it did not answer for are registered with their concepts, and `reembedding` brings the
rest.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from mq9cluster.cluster.embedders import CONCEPT, MODEL, Announced, Embedders
from mq9cluster.cluster.search_thread import Searching
from mq9cluster.domain.agent import AgentCard
from mq9cluster.domain.errors import EmbedderMismatch, Overloaded
from mq9cluster.domain.outcome import Refused
from mq9cluster.search.concepts import FLOOR as CONCEPT_FLOOR
from mq9cluster.search.embedder import (
    Embedder,
    EmbedderId,
    EmbedderUnavailable,
    GivenVectors,
)
from mq9cluster.search.language import Language
from mq9cluster.search.static_model import StaticModel
from mq9cluster.search.vectors import quantize

CARDS_PER_STEP: Final = 64  # some 15 ms of the search thread; then questions have their turn
STEPS_TOGETHER: Final = 4  # of cards that waited: proposed in one turn, in fewer and larger entries
WAITING_CARDS_MAX: Final = 8_192  # one or two seconds' worth
WAITING_BYTES_MAX: Final = 64 << 20
SERVICE_WAIT_S: Final = 0.3  # a REGISTER waits so long for a service; the vector may come later
QUESTION_WAIT_S: Final = 1.0  # a DISCOVER does; then concepts stand in
SERVICE_REST_S: Final = 2.0  # after a failure nobody waits for it

Codes = Mapping[str, bytes]  # by embedder id
Done = Callable[[Codes | Refused], None]
Step = Sequence[tuple[AgentCard, Done]]
AskPeer = Callable[[str, str], Awaitable[bytes | None]]
"""The code of a question by an embedder (its id), from a node that has it; None: no such node."""

_log = logging.getLogger(__name__)


class Embedded(NamedTuple):
    """A question's vectors. `floor` is that of the first; `by` says by what it was embedded."""

    by: str
    vectors: tuple[tuple[str, bytes], ...]
    floor: float
    stand_in: tuple[str, bytes, float] | None = None


class Embedding:
    """This node's embedders. Called from the event loop."""

    def __init__(
        self,
        thread: Searching,
        language: Language,
        wanted: Callable[[], Embedders],
        ask_peer: AskPeer,
    ) -> None:
        self._thread = thread
        self._language = language
        self._wanted = wanted  # what `meta` says now
        self._ask_peer = ask_peer
        self._loop = asyncio.get_running_loop()
        self.model: Embedder | None = None
        self.model_known = True  # False while a service has not said yet what it is
        self._waiting: list[tuple[AgentCard, Done]] = []
        self._embedding = False  # cards are being embedded; what comes meanwhile is the next step
        self._count = self._bytes = 0
        self._service_rests_until_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what there is ---------------------------------------------------------------------------

    def announced(self) -> Announced:
        """What this node can embed with."""
        model = str(self.model.id) if self.model else ("" if self.model_known else None)
        return {CONCEPT: self._language.id, MODEL: model}

    def usable(self) -> list[str]:
        """Embedders of the cluster that this node has."""
        state = self._wanted()
        mine = [self._language.id, *([str(self.model.id)] if self.model else [])]
        return [by for by in mine if by in state.wanted()]

    def differs(self) -> str:
        """How this node's embedders are not the cluster's; "" where they are."""
        state = self._wanted()
        for name, mine in self.announced().items():
            role = state.role(name)
            if mine is not None and role.current is not None and mine != role.current:
                return f"{mine or 'none'} here, {role.current or 'none'} in the cluster"
        return ""

    def stop(self) -> None:
        """Embed nothing more."""
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()

    # --- cards -----------------------------------------------------------------------------------

    def embed(self, card: AgentCard, done: Done) -> None:
        """Give the codes there are for a card that is registered; raises the domain's errors."""
        given = self._given(card)
        if self._count >= WAITING_CARDS_MAX or self._bytes >= WAITING_BYTES_MAX:
            raise Overloaded(f"{self._count} cards wait to be embedded")
        if given:
            done = _with(given, done)
        if not self._embedding:
            self._embedding = True
            self._loop.call_soon(self._begin)
        self._waiting.append((card, done))
        self._count += 1
        self._bytes += len(card.body)

    def _given(self, card: AgentCard) -> Codes:
        """The `vector` that a card brings, as a code; it has to be one of the cluster's."""
        if b'"vector"' not in card.body:
            return {}
        body = orjson.loads(card.body)
        if body.get("vector") is None:
            return {}
        named = body.get("embedder")
        return dict([self.vector(body["vector"], named if isinstance(named, str) else "")])

    def vector(self, raw: object, embedder: str = "") -> tuple[str, bytes]:
        """A client's own vector, of the embedder it names, or else the cluster's.

        EmbedderMismatch, InvalidField.
        """
        state = self._wanted()
        by = embedder or state.current()
        if not by or by not in state.wanted():
            raise EmbedderMismatch(f"{embedder or 'none'} is not an embedder of this cluster")
        return by, quantize(raw, EmbedderId.parse(by).dimensions)

    def _begin(self) -> None:
        self._start(self._embed_all())

    def _start(self, work: "Awaitable[None]") -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _embed_all(self) -> None:
        """Embed what waits, a step at a time: the more waits, the less each costs."""
        try:
            while self._waiting:
                cards: list[tuple[AgentCard, Done]] = []
                found: list[dict[str, bytes]] = []
                while self._waiting and len(cards) < STEPS_TOGETHER * CARDS_PER_STEP:
                    step = self._waiting[:CARDS_PER_STEP]
                    del self._waiting[:CARDS_PER_STEP]
                    codes: list[dict[str, bytes]] = [{} for _ in step]
                    await self._surely(self._compute([card for card, _ in step], codes))
                    cards += step
                    found += codes
                    if self._service():
                        break  # which is asked for one step meanwhile
                if self._service():
                    self._start(self._finish_with_service(cards, found))
                else:
                    self._finish(cards, found)
        finally:
            self._embedding = bool(self._waiting)
            if self._embedding:
                self._loop.call_soon(self._begin)

    async def _finish_with_service(self, step: Step, found: list[dict[str, bytes]]) -> None:
        await self._surely(self._add_served([card for card, _ in step], found, SERVICE_WAIT_S))
        self._finish(step, found)

    async def _surely(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`. What it leaves out by a mistake, `reembedding` brings later: whoever
        registers must not wait for ever, nor those behind.
        """
        task = asyncio.create_task(work)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        if error := task.exception():
            _log.error("a mistake while cards were embedded", exc_info=error)

    def _finish(self, step: Step, found: list[dict[str, bytes]]) -> None:
        self._count -= len(step)
        self._bytes -= sum(len(card.body) for card, _ in step)
        for (_, done), codes in zip(step, found, strict=True):
            done(codes)

    async def codes_of(self, cards: Sequence[AgentCard], wait_s: float) -> list[dict[str, bytes]]:
        """What this node's embedders make of cards; a service may be waited for so long."""
        found: list[dict[str, bytes]] = [{} for _ in cards]
        await self._compute(cards, found)
        await self._add_served(cards, found, wait_s)
        return found

    def _service(self) -> Embedder | None:
        """The model, where it is a service that may be asked now."""
        model = self.model
        if model is None or isinstance(model, StaticModel) or str(model.id) not in self.usable():
            return None
        return model if self._loop.time() >= self._service_rests_until_s else None

    async def _compute(self, cards: Sequence[AgentCard], found: list[dict[str, bytes]]) -> None:
        """Add what embedders make of cards that need nobody else."""
        usable = self.usable()
        model = self.model
        local = model if isinstance(model, StaticModel) and str(model.id) in usable else None
        with_concepts = self._language.id in usable

        def compute() -> None:
            for card, codes in zip(cards, found, strict=True):
                if with_concepts and (code := self._language.concepts.card_code(card)):
                    codes[self._language.id] = code
                if local and (code := local.card_code(card)):
                    codes[str(local.id)] = code

        await self._thread.run(compute)

    async def _add_served(
        self, cards: Sequence[AgentCard], found: list[dict[str, bytes]], wait_s: float
    ) -> None:
        model = self._service()
        if model:
            for codes, code in zip(found, await self._serve(model, cards, wait_s), strict=True):
                if code:
                    codes[str(model.id)] = code

    async def _serve(
        self, model: Embedder, cards: Sequence[AgentCard], wait_s: float
    ) -> Sequence[bytes | None]:
        """The codes of a service, or none where it fails; then it is left alone for a while."""
        try:
            async with asyncio.timeout(wait_s):
                return await model.embed_cards(cards)
        except (EmbedderUnavailable, TimeoutError) as error:
            self._service_failed(error)
            return [None] * len(cards)

    def _service_failed(self, error: Exception) -> None:
        self._service_rests_until_s = self._loop.time() + SERVICE_REST_S
        _log.warning("the embedder did not answer", extra={"why": str(error) or "too slow"})

    def makes(self, embedder: str) -> bool:
        """Whether this node's embedder makes vectors, instead of leaving that to clients."""
        return embedder == self._language.id or not isinstance(self.model, GivenVectors)

    async def codes_by(self, embedder: str, cards: Sequence[AgentCard]) -> Sequence[bytes | None]:
        """What one of this node's embedders makes of cards; EmbedderUnavailable."""
        model = self.model
        local = model if isinstance(model, StaticModel) else None
        if embedder == self._language.id or local:

            def compute() -> list[bytes | None]:
                by = local or self._language.concepts
                if embedder == self._language.id:
                    by = self._language.concepts
                return [by.card_code(card) for card in cards]

            return await self._thread.run(compute)
        if model is None or embedder != str(model.id):
            raise EmbedderUnavailable(f"{embedder} is not here")
        codes = await model.embed_cards(cards)
        self._service_rests_until_s = 0.0
        return codes

    # --- questions -------------------------------------------------------------------------------

    async def question(self, text: str) -> Embedded:
        """A question's vectors by the cluster's embedder; by concepts where that is not possible.

        EmbedderMismatch where no node that can be reached has any of the cluster's embedders.
        """
        state = self._wanted()
        model, concept = state.model.current or "", state.concept.current or ""
        code = await self.code_of(model, text) if model else None
        instead = await self.code_of(concept, text) if concept else None
        floor = self._floor(concept)
        if code:
            stand_in = (concept, instead, floor) if instead else None
            return Embedded(model, ((model, code),), self._floor(model), stand_in)
        if instead:
            return Embedded(concept, ((concept, instead),), floor)
        if text.strip() and concept and not self._has(concept) and not state.having(concept):
            raise EmbedderMismatch(f"no node embeds with {concept}, the cluster's embedder")
        return Embedded(concept or model, (), 0.0)

    async def code_of(self, embedder: str, text: str) -> bytes | None:
        """A question's code, here or at a node that can; None where there is none to be had."""
        if self._has(embedder):
            return await self.code_here(embedder, text)
        return await self._ask_peer(embedder, text)

    async def code_here(self, embedder: str, text: str) -> bytes | None:
        """A question's code by an embedder of this node; None also where it is none."""
        if embedder == self._language.id:
            return await self._thread.run(lambda: self._language.concepts.question_code(text))
        model = self.model
        if model is None or embedder != str(model.id):
            return None
        if isinstance(model, StaticModel):
            return await self._thread.run(lambda: model.question_code(text))
        if self._loop.time() < self._service_rests_until_s:
            return None
        try:
            async with asyncio.timeout(QUESTION_WAIT_S):
                return await model.embed_question(text)
        except (EmbedderUnavailable, TimeoutError) as error:
            self._service_failed(error)
            return None

    def _has(self, embedder: str) -> bool:
        return embedder in {self._language.id, str(self.model.id) if self.model else ""}

    def _floor(self, embedder: str) -> float:
        """Below it cosines say nothing; an embedder of the same kind here knows."""
        if embedder.startswith("concept:"):
            return CONCEPT_FLOOR
        return self.model.floor if self.model else 0.0


def _with(given: Codes, done: Done) -> Done:
    """Codes that a client brought count more than what was made of its card."""

    def finish(codes: Codes | Refused) -> None:
        done(codes if isinstance(codes, Refused) else {**codes, **given})

    return finish

"""AGENT.DISCOVER: from request to page.

Called by `router`. The question is parsed and embedded once, here; `cluster.finding` asks all
shards and puts together what they say; why each agent of the page was found is worked out here
again, from its card. A DISCOVER is a task: it takes milliseconds of the search thread, and a
bounded number wait for it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Final

import orjson

from mq9cluster.broker.call import Call
from mq9cluster.broker.embedding import Embedded, Embedding
from mq9cluster.cluster.finding import Finder, Found, Search
from mq9cluster.cluster.search_thread import Searching
from mq9cluster.domain.agent import parse_card
from mq9cluster.domain.errors import Mq9Error, Overloaded, Unavailable
from mq9cluster.protocol.discovery import DiscoverRequest, Shown, discovered, parse_discover
from mq9cluster.search.embedder import EmbedderId
from mq9cluster.search.explain import Matched
from mq9cluster.search.filter import parse_filter
from mq9cluster.search.language import Language
from mq9cluster.search.query import Question, Unit, parse_units
from mq9cluster.search.ranking import Hit, depth_of

UNDER_WAY_MAX: Final = 512  # some seconds of the search thread
UNDER_WAY_PER_CONNECTION_MAX: Final = 128  # so that one client does not fill it alone

Matches = Mapping[str, Matched]
NOTHING_MATCHED: Final = Matched((), (), None)

_log = logging.getLogger(__name__)


class _Asked:
    """A DISCOVER, understood."""

    __slots__ = ("concepts", "embedded", "request", "units")

    def __init__(
        self,
        request: DiscoverRequest,
        units: tuple[Unit, ...],
        concepts: tuple[str, ...],
        embedded: Embedded | None,
    ) -> None:
        self.request = request
        self.units = units
        self.concepts = concepts
        self.embedded = embedded


class Discovery:
    """What clients look for."""

    def __init__(
        self, finder: Finder, embedding: Embedding, language: Language, thread: Searching
    ) -> None:
        self._finder = finder
        self._embedding = embedding
        self._language = language
        self._thread = thread
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_connection: Counter[int] = Counter()

    @property
    def under_way(self) -> int:
        """DISCOVERs that are not answered yet."""
        return len(self._tasks)

    def stop(self) -> None:
        """Answer nothing more."""
        for task in self._tasks:
            task.cancel()

    def discover(
        self, account: str, connection: int, _: bytes | None, payload: bytes, call: Call
    ) -> None:
        """AGENT.DISCOVER."""
        request = parse_discover(payload)
        condition = parse_filter(request.filter)
        given = None
        if request.vector is not None:
            given = self._embedding.vector(request.vector, request.embedder)
        if len(self._tasks) >= UNDER_WAY_MAX:
            raise Overloaded(f"{UNDER_WAY_MAX} DISCOVERs are under way")
        if self._by_connection[connection] >= UNDER_WAY_PER_CONNECTION_MAX:
            why = f"{UNDER_WAY_PER_CONNECTION_MAX} DISCOVERs of this connection are under way"
            raise Overloaded(why)
        question = Question(
            filter=condition,
            now_ms=int(request.live),
            exact=request.exact,
            vectors=(given,) if given else (),
        )
        task = asyncio.create_task(self._answer(account, request, question, call))
        self._tasks.add(task)
        self._by_connection[connection] += 1
        task.add_done_callback(partial(self._over, connection, call))

    def _over(self, connection: int, call: Call, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            _log.error("a mistake while an answer was searched for", exc_info=error)
            call.refuse(Unavailable("this question could not be answered here; nothing was done"))
        self._tasks.discard(task)
        self._by_connection[connection] -= 1
        if not self._by_connection[connection]:
            del self._by_connection[connection]

    async def _answer(
        self, account: str, request: DiscoverRequest, question: Question, call: Call
    ) -> None:
        try:
            call.reply(await self._discover(account, request, question))
        except Mq9Error as error:
            call.refuse(error)

    async def _discover(self, account: str, request: DiscoverRequest, question: Question) -> bytes:
        # Leaders are asked to confirm while the question is made out.
        placing = asyncio.create_task(self._finder.places(account, stale=request.stale))
        try:
            asked = await self._understand(request, question)
            places = await placing
        finally:
            placing.cancel()
        search = self._search(account, asked, question)
        found = await self._finder.find(search, places)
        if found.missing and len(found.missing) == self._finder.shards:
            raise Unavailable("no shard answered")
        shown = await self._show(asked, found)
        embedder = None
        if asked.embedded:
            embedder = EmbedderId.parse(asked.embedded.by).to_wire()
        return discovered(shown, found.page.total, embedder, found.missing)

    async def _understand(self, request: DiscoverRequest, question: Question) -> _Asked:
        """Its words, its concepts and its vectors."""

        def read() -> tuple[tuple[Unit, ...], tuple[str, ...]]:
            language = self._language
            units = parse_units(request.text, language.analyzer) if request.text else ()
            text = request.semantic
            return units, language.concepts.concepts(text) if text else ()

        if question.vectors or not request.semantic:
            units, concepts = await self._thread.run(read)
            embedded = None
            if question.vectors:
                embedded = Embedded(question.vectors[0][0], question.vectors, 0.0)
            return _Asked(request, units, concepts, embedded)
        embedding = asyncio.create_task(self._embedding.question(request.semantic))
        try:
            units, concepts = await self._thread.run(read)
            return _Asked(request, units, concepts, await embedding)
        finally:
            embedding.cancel()

    @staticmethod
    def _search(account: str, asked: _Asked, question: Question) -> Search:
        request, embedded = asked.request, asked.embedded
        by_name = not request.text and embedded is None
        fused = bool(request.text) and embedded is not None and bool(embedded.vectors)
        question = question._replace(
            units=asked.units,
            vectors=embedded.vectors if embedded else (),
            stand_in=embedded.stand_in if embedded else None,
            floor=embedded.floor if embedded else 0.0,
            depth=depth_of(request.limit, request.page, 2 if fused else 1, by_name=by_name),
            min_score=0.0 if fused else request.min_score,
            by_name=by_name,
        )
        min_score = request.min_score if fused else 0.0
        return Search(
            account, question, request.limit, request.page, min_score, stale=request.stale
        )

    async def _show(self, asked: _Asked, found: Found) -> list[Shown]:
        """The hits that are still there, and why they are hits."""
        hits = [hit for hit in found.page.hits if hit.name in found.agents]
        explained: Matches = {}
        if asked.units or asked.concepts:
            explained = await self._thread.run(lambda: self._explain(asked, hits, found))
        return [
            Shown(
                found.agents[hit.name],
                hit.score,
                *explained.get(hit.name, NOTHING_MATCHED),
            )
            for hit in hits
        ]

    def _explain(self, asked: _Asked, hits: list[Hit], found: Found) -> Matches:
        """In the search thread: what of each card matches."""
        explain = self._language.explainer.explain
        matches: dict[str, Matched] = {}
        for hit in hits:
            body = found.agents[hit.name].body
            if body:
                card = parse_card(orjson.loads(body))
                matches[hit.name] = explain(card, asked.units, asked.concepts)
        return matches

"""What other nodes ask of this one to find agents: the far side of `finding`.

`cluster` hands on what arrives. Every request is a task, a bounded number at a time, that ends when
its asker no longer waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from mq9cluster.cluster import wire
from mq9cluster.cluster.finding import agents_to_wire
from mq9cluster.cluster.finding_here import Here, Stand
from mq9cluster.cluster.wire import Kind
from mq9cluster.domain.errors import Overloaded, Unavailable
from mq9cluster.domain.outcome import Refused
from mq9cluster.machine.codec import UnknownFormat
from mq9cluster.search.query import question_from_wire, statistics_from_wire, to_wire

SERVED_MAX: Final = 1_024  # at a time: each holds a question and waits for the search thread

Respond = Callable[[bytes], None]
Answered = dict[str, Any]
Embed = Callable[[str, str], Awaitable[bytes | None]]


class FindingService:
    """Answers for this node's replicas."""

    def __init__(self, here: Here) -> None:
        self._here = here
        self._tasks: set[asyncio.Task[None]] = set()
        self.embed: Embed | None = None  # (embedder id, question) → code; set by the broker

    def on_request(self, kind: int, data: bytes, respond: Respond) -> Callable[[], None] | None:
        """Serve a request; the function returned ends it when nobody waits any more."""
        if len(self._tasks) >= SERVED_MAX:
            respond(wire.refused(Refused(Overloaded(f"{SERVED_MAX} searches are under way"))))
            return None
        task = asyncio.create_task(self._serve(kind, data, respond))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def cancel() -> None:
            task.cancel()

        return cancel

    def stop(self) -> None:
        """Answer nothing more."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, kind: int, data: bytes, respond: Respond) -> None:
        try:
            answer = await _SERVED[kind](self, wire.read_find_request(data))
        except (UnknownFormat, KeyError, TypeError, ValueError) as error:
            why = Unavailable(f"the question cannot be read: {error!r}")
            respond(wire.refused(Refused(why)))
        else:
            respond(wire.given(orjson.dumps(answer)))

    async def _confirm(self, asked: Mapping[str, Any]) -> Answered:
        terms = {int(shard): term for shard, term in asked.get("terms", {}).items()}
        confirmed = self._here.confirmed_by(asked.get("from", ""), terms)
        left = [shard for shard in asked["shards"] if shard not in confirmed]
        if left:
            confirmed |= await self._here.confirm(left)
        answer: Answered = {str(shard): list(stand) for shard, stand in confirmed.items()}
        if asked.get("wanted"):  # by a node that knows what `terms` in the answer are
            terms = self._here.terms(asked["wanted"])
            answer["terms"] = {str(shard): term for shard, term in terms.items()}
        return answer

    async def _standing(self, asked: Mapping[str, Any]) -> dict[int, Stand]:
        """The shards asked for, once they stand where the asker was told they do."""
        stands = {int(shard): Stand(*stand) for shard, stand in asked["shards"].items()}
        held = {shard: stand for shard, stand in stands.items() if self._here.holds(shard)}
        await asyncio.gather(*(self._here.reached(one, held[one].index) for one in held))
        return held

    async def _statistics(self, asked: Mapping[str, Any]) -> Answered:
        question = question_from_wire(asked["question"])
        stands = await self._standing(asked)
        found = await self._here.statistics(asked["account"], question, list(stands))
        return {str(shard): to_wire(part) for shard, part in found.items()}

    async def _answers(self, asked: Mapping[str, Any]) -> Answered:
        question = question_from_wire(asked["question"])
        statistics = statistics_from_wire(asked["statistics"])
        stands = await self._standing(asked)
        found = await self._here.answers(asked["account"], question, statistics, stands)
        return {str(shard): to_wire(part) for shard, part in found.items()}

    async def _cards(self, asked: Mapping[str, Any]) -> Answered:
        names: Mapping[str, Sequence[str]] = asked["names"]
        stands = await self._standing(asked)
        wanted = {shard: names.get(str(shard), ()) for shard in stands}
        found = await self._here.cards(asked["account"], wanted)
        return {str(shard): agents_to_wire(agents) for shard, agents in found.items()}

    async def _embed(self, asked: Mapping[str, Any]) -> Answered:
        code = await self.embed(asked["embedder"], asked["text"]) if self.embed else None
        return {"code": None if code is None else code.hex()}


_SERVED: Final[dict[int, Callable[[FindingService, Mapping[str, Any]], Awaitable[Answered]]]] = {
    Kind.FIND_CONFIRM: FindingService._confirm,
    Kind.FIND_STATISTICS: FindingService._statistics,
    Kind.FIND_ANSWERS: FindingService._answers,
    Kind.FIND_CARDS: FindingService._cards,
    Kind.EMBED: FindingService._embed,
}
SERVED: Final = frozenset(_SERVED)

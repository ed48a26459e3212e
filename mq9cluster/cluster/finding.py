"""DISCOVER over all shards: where each is searched, what they say, put together once.

The broker asks `Finder.find`. First every shard gets a place: its leader's node confirms an index
(one request per leader node for all its shards, usually settled by the asker's word), and this
node's own replica is searched once it has applied that much; where it has none, or that one is far
behind, the leader's. Where all of them are here, they are searched together, at one go; else the
places are asked for statistics, and with their sum for answers. Then they are asked for the cards
of the page that comes of it.
`finding_here` answers on either side; `finding_service` brings questions of other nodes there.
A shard that does not answer in time is named, never silently left out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from mq9cluster.cluster import wire
from mq9cluster.cluster.finding_here import ANYWHERE, Here, Stand
from mq9cluster.cluster.links import Links, Requests
from mq9cluster.cluster.peers import Answered, PeerReply
from mq9cluster.cluster.search_thread import Searching
from mq9cluster.cluster.wire import Answer as AnswerKind
from mq9cluster.cluster.wire import Kind
from mq9cluster.domain.address import agent_ref, slot_of
from mq9cluster.domain.limits import SLOTS
from mq9cluster.domain.registry import AgentFound
from mq9cluster.search.query import (
    NO_STATISTICS,
    Answer,
    Question,
    Statistics,
    add_statistics,
    answer_from_wire,
    statistics_from_wire,
    to_wire,
)
from mq9cluster.search.ranking import Page, merge

PLACES_S: Final = 2.5  # a lost leader is replaced in one or two seconds
FIND_S: Final = 4.0  # in all: below the request timeouts that clients use
BEHIND_S: Final = 0.5  # the own replica may be so far behind before the leader's is searched
RETRY_S: Final = 0.05  # between two looks for a leader
SAID_S: Final = 0.1  # other leaders' words are waited for before voters are asked in a round

T = TypeVar("T")
Places = dict[int, str]  # by shard: the node on which it is searched


class Search(NamedTuple):
    """What to find; `min_score` is of the fused score, `question.min_score` of each ranking."""

    account: str
    question: Question
    limit: int
    page: int = 1
    min_score: float = 0.0
    stale: bool = False


class Found(NamedTuple):
    """A page. `agents` are those of its hits that are still there, `missing` names shards."""

    page: Page
    agents: Mapping[str, AgentFound]
    missing: Sequence[int]


class Asking:
    """One search under way: where shards are asked, and which fell out."""

    __slots__ = ("account", "places", "stands", "until_s")

    def __init__(self, account: str, until_s: float) -> None:
        self.account = account
        self.until_s = until_s
        self.places: Places = {}
        self.stands: dict[int, Stand] = {}

    def at(self, node: str) -> list[int]:
        """The shards that are asked there."""
        return [shard for shard, place in self.places.items() if place == node]


class Finder:
    """All shards, as one who looks for agents sees them."""

    def __init__(
        self,
        me: str,
        shards: int,
        here: Here,
        links: Links,
        peers: Requests,
        thread: Searching,
    ) -> None:
        self.shards = shards
        self._me = me
        self._shards = range(shards)
        self._here = here
        self._links = links
        self._peers = peers
        self._thread = thread

    async def places(self, account: str, *, stale: bool) -> Asking:
        """Where to look for agents of an account, for `find`: replicas that are as new as anything
        acknowledged before now, unless `stale`.
        """
        loop = asyncio.get_running_loop()
        asking = Asking(account, loop.time() + FIND_S)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(loop.time() + PLACES_S):
                await (self._any_places(asking) if stale else self._current_places(asking))
        return asking

    async def find(self, search: Search, asking: Asking | None = None) -> Found:
        """The page of agents, as of `asking`, or of now."""
        if asking is None:
            asking = await self.places(search.account, stale=search.stale)
        if all(node == self._me for node in asking.places.values()):
            page = await self._page_here(asking, search)
        else:
            page = await self._page(asking, search)
        agents = await self._cards(asking, [hit.name for hit in page.hits])
        missing = [shard for shard in self._shards if shard not in asking.places]
        return Found(page, agents, missing)

    async def _page_here(self, asking: Asking, search: Search) -> Page:
        """The page where this node has all there is to be searched: at one go."""

        def merged(statistics: Statistics, answer: Answer) -> Page:
            return _merged(search, [answer], statistics)

        with suppress(TimeoutError):
            async with asyncio.timeout_at(asking.until_s):
                return await self._here.answer(
                    search.account, search.question, asking.stands, None, merged
                )
        asking.places.clear()
        return Page((), 0)

    async def _page(self, asking: Asking, search: Search) -> Page:
        """The page where several nodes are asked: for frequencies, then for the best by these."""
        statistics = NO_STATISTICS
        if search.question.units:
            parts = await self._statistics(asking, search.question)
            statistics = add_statistics(parts.values())
        answers = await self._answers(asking, search.question, statistics)
        return await self._thread.run(lambda: _merged(search, answers.values(), statistics))

    # --- places ----------------------------------------------------------------------------------

    async def _any_places(self, asking: Asking) -> None:
        """Whatever replica is there: this node's own, or one of a node that is up."""
        for shard in self._shards:
            node = self._me if self._here.holds(shard) else self._links.some_node_of(shard)
            if node:
                asking.places[shard] = node
                asking.stands[shard] = ANYWHERE

    async def _current_places(self, asking: Asking) -> None:
        """Until every shard has one, or time is up."""
        waiting = set(self._shards)
        while waiting:
            by_leader: dict[str, list[int]] = {}
            for shard in sorted(waiting):
                by_leader.setdefault(self._links.likely_leader(shard), []).append(shard)
            by_leader.pop("", None)
            mine = by_leader.pop(self._me, [])
            said: dict[int, Stand] = {}  # where those led here stand, by what other leaders say
            others = [
                asyncio.ensure_future(self._place(asking, waiting, leader, led, mine, said))
                for leader, led in by_leader.items()
            ]
            await asyncio.gather(*others, self._place_mine(asking, waiting, mine, others, said))
            if waiting:
                await asyncio.sleep(RETRY_S)

    async def _place(
        self,
        asking: Asking,
        waiting: set[int],
        leader: str,
        led: Sequence[int],
        mine: Sequence[int],
        said: dict[int, Stand],
    ) -> None:
        """Have another node confirm what it leads, and see to it that a replica stands there.

        Each says which terms it is in of what the other leads: usually that is all the confirmation
        it takes, and no leader has to ask around.
        """
        terms = {str(shard): term for shard, term in self._here.terms(led).items()}
        asked = {"shards": led, "from": self._me, "terms": terms, "wanted": mine}
        answer = dict(await self._request(leader, Kind.FIND_CONFIRM, asked) or {})
        said_terms = {int(shard): term for shard, term in answer.pop("terms", {}).items()}
        said.update(self._here.confirmed_by(leader, said_terms))
        stands = {int(shard): Stand(*stand) for shard, stand in answer.items()}
        await self._stand(asking, waiting, leader, led, stands)

    async def _place_mine(
        self,
        asking: Asking,
        waiting: set[int],
        mine: Sequence[int],
        others: "Sequence[asyncio.Future[None]]",
        said: Mapping[int, Stand],
    ) -> None:
        """Confirm what is led here: by what the others say, or by asking voters in a round."""
        if not mine:
            return
        if others:
            await asyncio.wait(others, timeout=SAID_S)
        left = [shard for shard in mine if shard not in said]
        stands = {**said, **(await self._here.confirm(left) if left else {})}
        await self._stand(asking, waiting, self._me, mine, stands)

    async def _stand(
        self,
        asking: Asking,
        waiting: set[int],
        leader: str,
        led: Sequence[int],
        stands: Mapping[int, Stand],
    ) -> None:
        """Wait for replicas to stand where `leader` said."""
        for shard in led:
            if shard not in stands:
                self._links.not_there(shard, leader)
        places = [self._place_one(asking, one, leader, stand) for one, stand in stands.items()]
        await asyncio.gather(*places)
        waiting.difference_update(stands)

    async def _place_one(self, asking: Asking, shard: int, leader: str, stand: Stand) -> None:
        place = leader
        if self._me == leader:
            await self._here.reached(shard, stand.index)
        elif self._here.holds(shard):
            with suppress(TimeoutError):
                async with asyncio.timeout(BEHIND_S):
                    await self._here.reached(shard, stand.index)
                    place = self._me
        asking.stands[shard] = stand
        asking.places[shard] = place

    # --- what they say ---------------------------------------------------------------------------

    async def _statistics(self, asking: Asking, question: Question) -> dict[int, Statistics]:
        return await self._everywhere(
            asking,
            lambda shards: self._here.statistics(asking.account, question, shards),
            Kind.FIND_STATISTICS,
            {"question": to_wire(question)},
            statistics_from_wire,
        )

    async def _answers(
        self, asking: Asking, question: Question, statistics: Statistics
    ) -> dict[int, Answer]:
        return await self._everywhere(
            asking,
            lambda shards: self._here.answers(
                asking.account, question, statistics, {one: asking.stands[one] for one in shards}
            ),
            Kind.FIND_ANSWERS,
            {"question": to_wire(question), "statistics": to_wire(statistics)},
            answer_from_wire,
        )

    async def _cards(self, asking: Asking, names: Iterable[str]) -> dict[str, AgentFound]:
        wanted: dict[int, list[str]] = {}
        for name in names:
            slot = slot_of(agent_ref(asking.account, name))
            wanted.setdefault(slot * len(self._shards) // SLOTS, []).append(name)
        asked = Asking(asking.account, asking.until_s)
        asked.stands = asking.stands
        asked.places = {shard: asking.places[shard] for shard in wanted if shard in asking.places}
        found = await self._everywhere(
            asked,
            lambda shards: self._here.cards(asking.account, {one: wanted[one] for one in shards}),
            Kind.FIND_CARDS,
            {"names": {str(shard): some for shard, some in wanted.items()}},
            agents_from_wire,
        )
        for shard in wanted:
            if shard not in asked.places:
                asking.places.pop(shard, None)
        return {agent.name: agent for agents in found.values() for agent in agents}

    async def _everywhere(
        self,
        asking: Asking,
        here: Callable[[Sequence[int]], Awaitable[dict[int, T]]],
        kind: Kind,
        fields: Mapping[str, Any],
        read: Callable[[Any], T],
    ) -> dict[int, T]:
        """Ask all places at once; a shard that does not answer has no place any more."""

        async def there(node: str) -> dict[int, T]:
            shards = asking.at(node)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(asking.until_s):
                    if node == self._me:
                        return await here(shards)
                    told = {
                        **fields,
                        "account": asking.account,
                        "shards": {str(shard): list(asking.stands[shard]) for shard in shards},
                    }
                    answer = await self._request(node, kind, told)
                    return {int(shard): read(part) for shard, part in (answer or {}).items()}
            return {}

        nodes = sorted(set(asking.places.values()), key=lambda node: node != self._me)
        found: dict[int, T] = {}
        for part in await asyncio.gather(*map(there, nodes)):
            found.update(part)
        asking.places = {shard: node for shard, node in asking.places.items() if shard in found}
        return {shard: found[shard] for shard in sorted(asking.places)}

    async def _request(
        self, node: str, kind: Kind, fields: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Ask another node; None where there is no answer to be had."""
        return await ask(self._peers, node, kind, fields)


def _merged(search: Search, answers: Iterable[Answer], statistics: Statistics) -> Page:
    limit, page, min_score = search.limit, search.page, search.min_score
    return merge(search.question, answers, limit, page, min_score, statistics)


async def ask(
    peers: Requests, node: str, kind: Kind, fields: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Ask `node` in JSON; None where there is no answer to be had."""
    future: asyncio.Future[PeerReply] = asyncio.get_running_loop().create_future()
    data = wire.find_request(fields)
    pending = peers.request(node, kind, data, partial(_finish, future))
    try:
        reply = await future
    except asyncio.CancelledError:
        pending.cancel()
        raise
    if not isinstance(reply, Answered):
        return None
    what, rest = wire.open_answer(reply.data)
    if what is not AnswerKind.GIVEN:
        return None
    answer: Mapping[str, Any] = orjson.loads(rest)
    return answer


def _finish(future: "asyncio.Future[PeerReply]", reply: PeerReply) -> None:
    if not future.done():
        future.set_result(reply)


def agents_to_wire(agents: Iterable[AgentFound]) -> list[list[Any]]:
    """Cards for a peer; bodies and what was reported are JSON themselves, as text."""
    return [
        [name, mailbox, seen_ms, expires_ms, body.decode(), report_info.decode()]
        for name, mailbox, body, seen_ms, expires_ms, report_info in agents
    ]


def agents_from_wire(wired: Iterable[Sequence[Any]]) -> list[AgentFound]:
    """What `agents_to_wire` wrote."""
    return [
        AgentFound(name, mailbox, body.encode(), seen_ms, expires_ms, report_info.encode())
        for name, mailbox, seen_ms, expires_ms, body, report_info in wired
    ]

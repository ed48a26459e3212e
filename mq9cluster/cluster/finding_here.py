"""What this node's replicas say to those who look for agents, on this node or another.

`finding.Finder` asks it for its own node, `finding_service` for others. Shards that cannot answer
are left out of what is returned: who asked knows what is missing.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from mq9cluster.cluster.directory import Directory, NotBuilt
from mq9cluster.cluster.engine import NotLeader
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.search_thread import Searching
from mq9cluster.domain.limits import REPLY_JSON_BYTES_MAX
from mq9cluster.domain.registry import AgentFound
from mq9cluster.machine import agents_read
from mq9cluster.search.query import NO_STATISTICS, Answer, Question, Statistics
from mq9cluster.search.together import search_together

T = TypeVar("T")

CONFIRM_S: Final = 1.0  # a round trip, usually; who asked asks again, perhaps another leader
CARDS_PER_TURN: Final = 100  # read in about a millisecond


class Stand(NamedTuple):
    """What a reader of a shard must see at least, and the shard time to judge expiry by.

    All zero: whatever there is, at its own time.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    now_ms: int


ANYWHERE: Final = Stand(0, 0)


class Here:
    """This node's replicas and their directories."""

    def __init__(
        self,
        replicas: Mapping[int, Replica],
        directories: Mapping[int, Directory],
        thread: Searching,
    ) -> None:
        self._replicas = replicas
        self._directories = directories
        self._thread = thread

    def holds(self, shard: int) -> bool:
        """Whether there is a replica that can be searched."""
        directory = self._directories.get(shard)
        return directory is not None and directory.ready.is_set()

    def terms(self, shards: Iterable[int]) -> dict[int, int]:
        """The terms that this node's replicas of these shards are in."""
        return {shard: self._replicas[shard].term for shard in shards if shard in self._replicas}

    def confirmed_by(self, peer: str, terms: Mapping[int, int]) -> dict[int, Stand]:
        """Of those led here, what `confirm` would give, as far as it follows from what `peer` just
        said: which terms it is in.
        """
        stands: dict[int, Stand] = {}
        for shard, term in terms.items():
            replica = self._replicas.get(shard)
            index = replica.confirmed_by(peer, term) if replica else None
            if replica and index is not None:
                stands[shard] = Stand(index, replica.now_ms())
        return stands

    async def confirm(self, shards: Iterable[int]) -> dict[int, Stand]:
        """ReadIndex of those led here: what has been acknowledged by now stands there."""
        asked = {shard: self._confirmation(shard) for shard in shards}
        if asked:
            _, late = await asyncio.wait(asked.values(), timeout=CONFIRM_S)
            for future in late:
                future.cancel()
        return {
            shard: Stand(index, self._replicas[shard].now_ms())
            for shard, future in asked.items()
            if not future.cancelled() and (index := future.result()) is not None
        }

    def _confirmation(self, shard: int) -> "asyncio.Future[int | None]":
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        def confirmed(index: int | None) -> None:
            if not future.done():
                future.set_result(index)

        replica = self._replicas.get(shard)
        if replica is None:
            confirmed(None)
            return future
        try:
            replica.confirm(confirmed)
        except NotLeader:
            confirmed(None)
        return future

    async def reached(self, shard: int, index: int) -> None:
        """Wait until the replica has applied this entry, and its directory is built."""
        replica = self._replicas[shard]
        if replica.machine.applied_index < index:
            applied = asyncio.Event()
            replica.when_applied(index, applied.set)
            await applied.wait()
        await self._directories[shard].ready.wait()

    async def statistics(
        self, account: str, question: Question, shards: Sequence[int]
    ) -> dict[int, Statistics]:
        """Of each shard, whose directory must be ready."""

        def count() -> dict[int, Statistics]:
            nothing = NO_STATISTICS._replace(frequencies=(0,) * len(question.units))
            indexes = {shard: self._directories[shard].index(account) for shard in shards}
            return {
                shard: index.statistics(question) if index else nothing
                for shard, index in indexes.items()
            }

        return await self._when_built(shards, count)

    async def answers(
        self,
        account: str,
        question: Question,
        statistics: Statistics,
        stands: Mapping[int, Stand],
    ) -> dict[int, Answer]:
        """Of each shard, at its own time: `question.now_ms` only says whether time matters."""
        asked = self._at_their_times(question, stands)

        def search() -> dict[int, Answer]:
            indexes = {shard: self._directories[shard].index(account) for shard in asked}
            return {
                shard: index.search(asked[shard], statistics) if index else Answer(())
                for shard, index in indexes.items()
            }

        return await self._when_built(stands, search)

    async def answer(
        self,
        account: str,
        question: Question,
        stands: Mapping[int, Stand],
        statistics: Statistics | None,
        then: Callable[[Statistics, Answer], T],
    ) -> T:
        """What these shards say together, by statistics given or their own; and in the same breath
        of the search thread what `then` makes of it.
        """
        asked = self._at_their_times(question, stands)

        def search() -> T:
            indexes = ((self._directories[shard].index(account), asked[shard]) for shard in asked)
            held = [(index, one) for index, one in indexes if index is not None]
            return then(*search_together(held, statistics))

        return await self._when_built(stands, search)

    async def _when_built(self, shards: Iterable[int], work: Callable[[], T]) -> T:
        """Do it in the search thread, again if a directory has begun anew before it came to it."""
        while True:
            for shard in shards:
                await self._directories[shard].ready.wait()
            try:
                return await self._thread.run(work)
            except NotBuilt:
                continue

    def _at_their_times(
        self, question: Question, stands: Mapping[int, Stand]
    ) -> dict[int, Question]:
        return {shard: self._at_its_time(question, shard, stand) for shard, stand in stands.items()}

    def _at_its_time(self, question: Question, shard: int, stand: Stand) -> Question:
        if not question.now_ms:
            return question
        return question._replace(now_ms=stand.now_ms or self._replicas[shard].now_ms())

    async def cards(
        self, account: str, wanted: Mapping[int, Sequence[str]]
    ) -> dict[int, list[AgentFound]]:
        """The agents of these names that are there; bodies past a reply's size are empty."""
        found: dict[int, list[AgentFound]] = {}
        left = REPLY_JSON_BYTES_MAX
        for shard, names in wanted.items():
            agents = found[shard] = []
            for start in range(0, len(names), CARDS_PER_TURN):
                workspace = self._replicas[shard].machine.workspace
                some = names[start : start + CARDS_PER_TURN]
                for agent in agents_read.agents_at(workspace, account, some):
                    left -= len(agent.body)
                    agents.append(agent if left >= 0 else agent._replace(body=b""))
                if len(some) == CARDS_PER_TURN:
                    await asyncio.sleep(0)
        return found

"""The directory of one replica: its shard's agents, searchable, by account.

Derived from the registry and never saved: `Replica` hands on what each entry changed (`follow`) and
has it built anew from the state at the start and when another state was installed (`rebuild`).
Vectors live in the state, so nothing is ever embedded again for it. All work is done in the search
thread, in order; `finding` posts its questions behind what an index has to follow, so a question
sees every entry that was applied before it was asked.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

import orjson

from mq9cluster.cluster.search_thread import Searchable
from mq9cluster.domain.agent import AgentCard, parse_card
from mq9cluster.domain.errors import EmbedderMismatch, Mq9Error
from mq9cluster.domain.registry import AgentChange, AgentRow, Change
from mq9cluster.search.index import ShardIndex

ROWS_PER_STEP: Final = 128  # read in the event loop in about a millisecond while building
BEHIND_CHANGES_MAX: Final = 100_000  # then building anew from the state is cheaper to hold
BEHIND_BYTES_MAX: Final = 64 << 20

_log = logging.getLogger(__name__)

Indexes = dict[str, ShardIndex]


class Missing(NamedTuple):
    """An agent that has no code of an embedder."""

    account: str
    name: str


class _Version:
    """The indexes, and what they have still to follow. Another state begins another version."""

    __slots__ = ("behind", "indexes", "posted", "ready")

    def __init__(self) -> None:
        self.indexes: Indexes = {}  # touched in the search thread only
        self.behind: deque[Sequence[AgentChange]] = deque()
        self.posted = False  # the search thread will look at what is behind
        self.ready = asyncio.Event()


class Directory:
    """The searchable agents of one replica. Called from the event loop, but for what says so."""

    def __init__(
        self,
        searchable: Searchable,
        all_agents: Callable[[], Iterator[AgentRow]],
    ) -> None:
        self._thread, self._analyzer = searchable
        self._all_agents = all_agents
        self._version = _Version()
        self._building: asyncio.Task[None] | None = None
        self._posted = [0, 0]  # changes and bytes handed on since the start
        self._done = [0, 0]  # of these; written in the search thread

    # --- following -------------------------------------------------------------------------------

    @property
    def ready(self) -> asyncio.Event:
        """Set once it is built; another event after every `rebuild`."""
        return self._version.ready

    @property
    def behind_bytes(self) -> int:
        """Bytes of cards that were applied and are not searchable yet."""
        return self._posted[1] - self._done[1]

    @property
    def accounts(self) -> int:
        """How many accounts have agents here that are searchable."""
        return len(self._version.indexes)

    def rebuild(self) -> None:
        """Begin anew from the state as it is now."""
        self.stop()
        version = self._version = _Version()
        self._posted, self._done = [0, 0], [0, 0]
        rows = self._all_agents()
        first = list(islice(rows, ROWS_PER_STEP))
        if first:
            self._building = asyncio.create_task(self._build(version, first, rows))
        else:
            version.ready.set()

    def stop(self) -> None:
        """Build no further."""
        if self._building:
            self._building.cancel()
            self._building = None

    async def _build(
        self, version: _Version, step: list[AgentRow], rows: Iterator[AgentRow]
    ) -> None:
        """Put all agents there were when it began, then what changed since."""
        while step:
            await self._thread.run(partial(self._put_rows, version.indexes, step))
            step = list(islice(rows, ROWS_PER_STEP))
        self._thread.post(partial(self._maintain_all, version.indexes))
        self._post_catch_up(version)
        version.ready.set()

    def follow(self, changes: Sequence[AgentChange]) -> None:
        """An entry was applied that changed agents."""
        version = self._version
        self._posted[0] += len(changes)
        self._posted[1] += sum(len(change.body) for change in changes)
        if (
            self._posted[0] - self._done[0] > BEHIND_CHANGES_MAX
            or self.behind_bytes > BEHIND_BYTES_MAX
        ):
            _log.warning("the search index is too far behind and is built anew")
            self.rebuild()
            return
        version.behind.append(changes)
        if version.ready.is_set():
            self._post_catch_up(version)

    def _post_catch_up(self, version: _Version) -> None:
        """Have what is behind followed; what comes until that begins is followed with it."""
        if not version.posted:
            version.posted = True
            self._thread.post(partial(self._catch_up, version))

    # --- in the search thread --------------------------------------------------------------------

    def index(self, account: str) -> ShardIndex | None:
        """In the search thread: the agents of an account, where it has any."""
        return self._version.indexes.get(account)

    def embedders(self) -> set[str]:
        """Whose codes there are, by the last that was followed."""
        return {by for index in list(self._version.indexes.values()) for by in index.embedders()}

    def __len__(self) -> int:
        """Agents there are, by the last that was followed; expired ones are among them."""
        return sum(len(index) for index in list(self._version.indexes.values()))

    def missing_count(self, embedder: str) -> int:
        """In the search thread: how many agents have no code of an embedder."""
        return sum(index.missing_count(embedder) for index in self._version.indexes.values())

    def missing(self, embedder: str) -> list[Missing]:
        """In the search thread: these agents, by name."""
        return [
            Missing(account, name)
            for account, index in sorted(self._version.indexes.items())
            if index.missing_count(embedder)
            for name in index.missing_codes(embedder)
        ]

    def drop(self, embedder: str) -> None:
        """In the search thread: forget an embedder's codes."""
        for index in self._version.indexes.values():
            index.drop_embedder(embedder)

    def memory_bytes(self) -> int:
        """About the memory of vectors and graphs."""
        return sum(index.memory_bytes() for index in list(self._version.indexes.values()))

    def _catch_up(self, version: _Version) -> None:
        """Follow the entries that were not followed yet."""
        version.posted = False  # first: what is appended from now on is posted for again
        indexes = version.indexes
        touched: dict[str, ShardIndex] = {}
        for _ in range(len(version.behind)):
            changes = version.behind.popleft()
            for change in changes:
                _FOLLOW[change.kind](self, indexes, change)
                if change.account in indexes:
                    touched[change.account] = indexes[change.account]
            if version is self._version:
                self._done[0] += len(changes)
                self._done[1] += sum(len(change.body) for change in changes)
        for account, index in touched.items():
            if not len(index):
                del indexes[account]
            else:
                self._maintain(index)

    def _put_rows(self, indexes: Indexes, rows: Sequence[AgentRow]) -> None:
        for row in rows:
            self._put(indexes, row)

    def _registered(self, indexes: Indexes, change: AgentChange) -> None:
        self._put(indexes, change)

    def _put(self, indexes: Indexes, agent: AgentRow | AgentChange) -> None:
        index = indexes.get(agent.account)
        if index is None:
            index = indexes[agent.account] = ShardIndex(self._analyzer(), {})
        card = parse_registered(agent.body)
        if card is None:
            index.remove(agent.name)
            return
        codes = {
            by: code for by, code in agent.codes.items() if _has_room(index, by, code, agent.name)
        }
        index.put(card, codes, agent.expires_ms)

    def _seen(self, indexes: Indexes, change: AgentChange) -> None:
        index = indexes.get(change.account)
        if index is not None:
            index.seen(change.name, change.expires_ms)

    def _coded(self, indexes: Indexes, change: AgentChange) -> None:
        index = indexes.get(change.account)
        if index is not None:
            for by, code in change.codes.items():
                if _has_room(index, by, code, change.name):
                    index.put_code(change.name, by, code)

    def _gone(self, indexes: Indexes, change: AgentChange) -> None:
        index = indexes.get(change.account)
        if index is not None:
            index.remove(change.name)

    def _maintain_all(self, indexes: Indexes) -> None:
        for index in indexes.values():
            self._maintain(index)

    def _maintain(self, index: ShardIndex) -> None:
        """Have the graph work done that is due."""
        for embedder, job in index.maintenance():
            self._thread.build(job.run, partial(index.adopt, embedder, job))


_FOLLOW: Final[Mapping[Change, Callable[[Directory, Indexes, AgentChange], None]]] = {
    Change.REGISTERED: Directory._registered,
    Change.SEEN: Directory._seen,
    Change.CODED: Directory._coded,
    Change.GONE: Directory._gone,
}


def parse_registered(body: bytes) -> AgentCard | None:
    """The card, as REGISTER checked it; None for one that only a newer version takes."""
    try:
        return parse_card(orjson.loads(body))
    except (Mq9Error, orjson.JSONDecodeError) as error:
        _log.warning("a card cannot be searched", extra={"why": str(error)})
        return None


def _has_room(index: ShardIndex, by: str, code: bytes, name: str) -> bool:
    """Whether the index takes this code; an embedder that is new to it is given room."""
    try:
        index.add_embedder(by, len(code))
        index.check_code(by, code)
    except EmbedderMismatch as error:
        _log.warning("a vector cannot be searched", extra={"why": str(error), "chars": len(name)})
        return False
    return True

"""The directory of one replica: its shard's agents, searchable, by account.

Derived from the registry: `Replica` hands on what each entry changed (`follow`) and has it built
anew from the state at the start and when another state was installed (`rebuild`). Vectors live in
the state, so nothing is ever embedded again for it, and what was worked out of cards is read from a
file where that is still right (`directory_file`). All work is done in the search thread. What is to
be followed waits a moment to be followed together; who asks there has it followed first (`index`),
so a question sees every entry that was applied before it was asked.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

import orjson

from mq9cluster.cluster.directory_file import DirectoryFile, Indexes, Loaded
from mq9cluster.cluster.search_thread import Searchable
from mq9cluster.domain.agent import AgentCard, card_digest, parse_card
from mq9cluster.domain.errors import EmbedderMismatch, Mq9Error
from mq9cluster.domain.registry import AgentChange, AgentRow, AgentsSeen, Change, Changes
from mq9cluster.search.index import ShardIndex
from mq9cluster.search.vectors import Job

ROWS_PER_STEP: Final = 128  # read in the event loop in about a millisecond while building
BEHIND_CHANGES_MAX: Final = 100_000  # then building anew from the state is cheaper to hold
BEHIND_BYTES_MAX: Final = 64 << 20
SEEN_BEHIND_MAX: Final = 512  # heartbeats that wait for a question; it follows them in 0.2 ms
SAVED_CHANGES_MIN: Final = 2_000  # a quarter of a second of indexing at the next start
MEND_S: Final = 60.0  # between two times that it begins anew after a failure: that takes seconds
SAVED_LOOK_S: Final = 15.0  # between two looks whether there is that much to save

_log = logging.getLogger(__name__)


class NotBuilt(Exception):
    """The directory has begun anew since whoever asks found it `ready`."""


class Missing(NamedTuple):
    """An agent that has no code of an embedder."""

    account: str
    name: str


class _Version:
    """The indexes, and what they have still to follow. Another state begins another version."""

    __slots__ = ("behind", "failed", "graphs_due", "indexes", "ready", "seen", "unsaved")

    def __init__(self) -> None:
        self.indexes: Indexes = {}  # touched in the search thread only
        self.behind: deque[Changes] = deque()
        self.seen: dict[tuple[str, str], int] = {}  # when who was seen while it is built expires
        self.ready = asyncio.Event()
        self.failed = False  # it misses something, and another is to come
        self.unsaved = 0  # cards that the file has not, or not so; counted in the search thread
        self.graphs_due = 0  # graphs that are built for the first time, or anew; likewise


class Directory:
    """The searchable agents of one replica. Called from the event loop, but for what says so."""

    def __init__(
        self,
        searchable: Searchable,
        all_agents: Callable[[], Iterator[AgentRow]],
        shard: int = 0,
    ) -> None:
        self._thread, self._analyzer = searchable.thread, searchable.analyzer
        self._file = DirectoryFile(searchable, shard)
        self._all_agents = all_agents
        self._version = _Version()
        self._follow = partial(self._catch_up, self._version)  # one object: posted once
        self._building: asyncio.Task[None] | None = None
        self._posted = [0, 0]  # changes and bytes handed on since the start
        self._done = [0, 0]  # of these; written in the search thread
        self._loop = asyncio.get_running_loop()
        self._look: asyncio.TimerHandle | None = None
        self._mending: asyncio.TimerHandle | None = None
        self._mend_from_s = 0.0
        self._save_from_s = 0.0

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
        self._follow = partial(self._catch_up, version)
        self._posted, self._done = [0, 0], [0, 0]
        rows = self._all_agents()
        first = list(islice(rows, ROWS_PER_STEP))
        if first:
            self._building = asyncio.create_task(self._build(version, first, rows))
            self._building.add_done_callback(_show_failure)
        else:
            version.ready.set()
        if self._file.used:
            self._look = self._loop.call_later(SAVED_LOOK_S, self._save_if_due)

    def stop(self) -> None:
        """Build no further, and save nothing."""
        if self._building:
            self._building.cancel()
            self._building = None
        if self._look:
            self._look.cancel()
            self._look = None
        if self._mending:
            self._mending.cancel()
            self._mending = None

    async def _build(
        self, version: _Version, step: list[AgentRow], rows: Iterator[AgentRow]
    ) -> None:
        """Put all agents there were when it began, then what changed since."""
        loaded = await self._thread.run(self._file.load)
        version.indexes.update(loaded.indexes)
        while step:
            await self._thread.run(partial(self._put_rows, version, loaded, step))
            step = list(islice(rows, ROWS_PER_STEP))
        self._thread.post(partial(self._built, version, loaded))
        self._thread.post(partial(self._catch_up, version))
        self._thread.post(partial(self._catch_up_seen, version))
        version.ready.set()

    def _save_if_due(self) -> None:
        self._look = self._loop.call_later(SAVED_LOOK_S, self._save_if_due)
        version = self._version
        due = self._loop.time() >= self._save_from_s and version.ready.is_set()
        if due and not version.graphs_due and version.unsaved >= SAVED_CHANGES_MIN:
            self._save_from_s = float("inf")  # until it is done
            self._thread.post(partial(self._save, version))

    def follow(self, changes: Changes) -> None:
        """An entry was applied that changed agents."""
        version = self._version
        if not version.ready.is_set():
            changes = _put_off_seen(version, changes)
            if not changes:
                return
        cards = [change for change in changes if isinstance(change, AgentChange)]
        count, size = _amount(changes)
        self._posted[0] += count
        self._posted[1] += size
        if (
            self._posted[0] - self._done[0] > BEHIND_CHANGES_MAX
            or self.behind_bytes > BEHIND_BYTES_MAX
        ):
            _log.warning("the search index is too far behind and is built anew")
            self.rebuild()
            return
        version.behind.append(changes)
        if not version.ready.is_set():
            return
        if cards or self._posted[0] - self._done[0] >= SEEN_BEHIND_MAX:
            self._thread.post_soon(self._follow, len(cards))

    # --- in the search thread --------------------------------------------------------------------

    def index(self, account: str) -> ShardIndex | None:
        """In the search thread: the agents of an account, where it has any, as of now. NotBuilt."""
        version = self._version
        if not version.ready.is_set():
            raise NotBuilt
        return self._followed(version).get(account)

    def _followed(self, version: _Version) -> Indexes:
        """In the search thread: the indexes, as of now where they are built."""
        if version.behind and version.ready.is_set():
            self._catch_up(version)
        return version.indexes

    def embedders(self) -> set[str]:
        """Whose codes there are, by the last that was followed."""
        return {by for index in list(self._version.indexes.values()) for by in index.embedders()}

    def __len__(self) -> int:
        """Agents there are, by the last that was followed; expired ones are among them."""
        return sum(len(index) for index in list(self._version.indexes.values()))

    def missing_count(self, embedder: str) -> int:
        """In the search thread: how many agents have no code of an embedder."""
        return sum(
            index.missing_count(embedder) for index in self._followed(self._version).values()
        )

    def missing(self, embedder: str) -> list[Missing]:
        """In the search thread: these agents, by name."""
        return [
            Missing(account, name)
            for account, index in sorted(self._followed(self._version).items())
            if index.missing_count(embedder)
            for name in index.missing_codes(embedder)
        ]

    def drop(self, embedder: str) -> None:
        """In the search thread: forget an embedder's codes."""
        for index in self._followed(self._version).values():
            index.drop_embedder(embedder)

    def memory_bytes(self) -> int:
        """About the memory of vectors and graphs."""
        return sum(index.memory_bytes() for index in list(self._version.indexes.values()))

    def _catch_up(self, version: _Version) -> None:
        """Follow the entries that were not followed yet. Where that fails, which is a mistake of
        ours, the directory begins anew: what it missed is in the state.
        """
        followed = False
        try:
            self._follow_all(version)
            followed = True
        finally:
            if not followed:
                self._loop.call_soon_threadsafe(self._begin_anew, version)

    def _begin_anew(self, version: _Version) -> None:
        """Soon; later, if it failed lately: what fails every time must not take all of a core."""
        if version is not self._version or version.failed:
            return
        version.failed = True
        _log.error("the search index missed something and is built anew")
        at_s = max(self._loop.time(), self._mend_from_s)
        self._mend_from_s = at_s + MEND_S
        self._mending = self._loop.call_at(at_s, self.rebuild)

    def _follow_all(self, version: _Version) -> None:
        indexes = version.indexes
        touched: dict[str, ShardIndex] = {}
        for _ in range(len(version.behind)):
            if version is not self._version:
                return  # it begins anew
            changes = version.behind.popleft()
            for change in changes:
                if isinstance(change, AgentsSeen):
                    _see(indexes, change.agents, change.expires_ms)
                    continue
                _FOLLOW[change.kind](self, indexes, change)
                version.unsaved += change.kind in _SAVED
                if change.account in indexes:
                    touched[change.account] = indexes[change.account]
            count, size = _amount(changes)
            self._done[0] += count
            self._done[1] += size
        for account, index in touched.items():
            if not len(index):
                del indexes[account]
            else:
                self._maintain(version, index)

    def _catch_up_seen(self, version: _Version) -> None:
        for agent, expires_ms in version.seen.items():
            _see(version.indexes, [agent], expires_ms)
        version.seen.clear()

    def _put_rows(self, version: _Version, loaded: Loaded, rows: Sequence[AgentRow]) -> None:
        for row in rows:
            if not self._confirm(version.indexes, loaded, row):
                self._put(version.indexes, row)
                version.unsaved += 1

    def _confirm(self, indexes: Indexes, loaded: Loaded, row: AgentRow) -> bool:
        """Whether the card is indexed already, as the file says."""
        unconfirmed = loaded.unconfirmed.get(row.account)
        if not unconfirmed or row.name not in unconfirmed:
            return False
        unconfirmed.discard(row.name)
        index = indexes[row.account]
        codes = _fitting(index, row)
        return index.confirm(row.name, card_digest(row.body), codes, row.expires_ms)

    def _built(self, version: _Version, loaded: Loaded) -> None:
        """All agents are there: forget those that only the file had."""
        for account, names in loaded.unconfirmed.items():
            index = version.indexes[account]
            for name in names:
                index.remove(name)
            version.unsaved += len(names)
            if not len(index):
                del version.indexes[account]
        loaded.attach(version.indexes)
        for index in version.indexes.values():
            self._maintain(version, index)

    def _save(self, version: _Version) -> None:
        unsaved, version.unsaved = version.unsaved, 0

        def saved(rest_s: float, *, is_saved: bool) -> None:
            if not is_saved:
                version.unsaved += unsaved
            self._loop.call_soon_threadsafe(self._rest, rest_s)

        self._file.save(version.indexes, saved)

    def _rest(self, rest_s: float) -> None:
        self._save_from_s = self._loop.time() + rest_s

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
        index.put(card, _fitting(index, agent), agent.expires_ms)

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

    def _maintain(self, version: _Version, index: ShardIndex) -> None:
        """Have the graph work done that is due."""
        for embedder, job in index.maintenance():
            version.graphs_due += job.fresh  # what takes half a minute is waited for, and saved
            self._thread.build(job.run, partial(self._adopt, version, index, embedder, job))

    def _adopt(self, version: _Version, index: ShardIndex, embedder: str, job: Job) -> None:
        index.adopt(embedder, job)
        if job.fresh:
            version.graphs_due -= 1
            version.unsaved += SAVED_CHANGES_MIN


_FOLLOW: Final[Mapping[Change, Callable[[Directory, Indexes, AgentChange], None]]] = {
    Change.REGISTERED: Directory._registered,
    Change.CODED: Directory._coded,
    Change.GONE: Directory._gone,
}


def _show_failure(task: "asyncio.Task[None]") -> None:
    """A mistake of ours: nobody is found here any more, others answer for the shard."""
    if not task.cancelled() and (error := task.exception()):
        _log.critical("the search index cannot be built", exc_info=error)


_SAVED: Final = frozenset([Change.REGISTERED, Change.GONE])


def _amount(changes: Changes) -> tuple[int, int]:
    """How many agents these changes are of, and bytes of cards."""
    count = size = 0
    for change in changes:
        if isinstance(change, AgentsSeen):
            count += len(change.agents)
        else:
            count += 1
            size += len(change.body)
    return count, size


def _see(indexes: Indexes, agents: Sequence[tuple[str, str]], expires_ms: int) -> None:
    """Agents live until `expires_ms`."""
    for account, name in agents:
        index = indexes.get(account)
        if index is not None:
            index.seen(name, expires_ms)


def _put_off_seen(version: _Version, changes: Changes) -> Changes:
    """While it is built only the last heartbeat of each agent is kept: in the time that a million
    cards take, the agents send more of them than could wait here.
    """
    seen = version.seen
    for change in changes:
        if isinstance(change, AgentsSeen):
            seen.update(dict.fromkeys(change.agents, change.expires_ms))
        elif change.kind is not Change.CODED:
            seen.pop((change.account, change.name), None)
    return [change for change in changes if isinstance(change, AgentChange)]


def _fitting(index: ShardIndex, agent: AgentRow | AgentChange) -> dict[str, bytes]:
    """The codes that the index takes."""
    codes = agent.codes.items()
    return {by: code for by, code in codes if _has_room(index, by, code, agent.name)}


def parse_registered(body: bytes) -> AgentCard | None:
    """The card, as REGISTER checked it; None for one that only a newer version takes."""
    try:
        return parse_card(orjson.loads(body), body)
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

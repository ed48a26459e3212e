"""A directory follows its state, catches up when it falls behind, and survives a restart in a file
that it believes only as far as it is right.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mq9cluster.cluster import directory as directories
from mq9cluster.cluster import directory_file, search_thread
from mq9cluster.cluster.directory import Directory, NotBuilt
from mq9cluster.cluster.finding_here import ANYWHERE, Here
from mq9cluster.cluster.search_thread import Searchable, Searching, SearchThread
from mq9cluster.domain.agent import parse_card
from mq9cluster.domain.registry import AgentChange, AgentRow, AgentsSeen, Change
from mq9cluster.search.index import ShardIndex
from mq9cluster.search.query import NO_STATISTICS, Answer, Question, parse_units
from mq9cluster.search.together import search_together
from mq9cluster.search.vectors import quantize
from tests.support.cluster import until
from tests.support.searching import ANALYZER, AtOnce

ACCOUNT, OTHER = "$G", "other"
TINY = "tiny:t:1:3:-"
WORDS = ["ocr", "scan", "translate", "invoice", "翻译文件", "résumé", "a", "x1"]
QUESTIONS = ("ocr", '"ocr scan"', "trans*", "翻译 invoice", "x1 a")
MANY = 120  # more than one step of building


class Held(AtOnce):
    """Does what is posted only when it is let."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    async def run(self, work: Callable[[], Any]) -> Any:
        done = asyncio.get_running_loop().create_future()

        def do() -> None:
            try:
                found = work()
            except NotBuilt as error:
                done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(found)

        self.waiting.append(do)
        return await done

    def post(self, work: Callable[[], object]) -> None:
        self.waiting.append(work)

    def let(self) -> None:
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()

    async def until_ready(self, directory: Directory) -> None:
        while not directory.ready.is_set() or self.waiting:
            self.let()
            await asyncio.sleep(0)


class State:
    """A shard's agents, and a directory that is told what changes."""

    def __init__(self, thread: Searching, saved_in: Path | None = None, shard: int = 3) -> None:
        self.rows: dict[tuple[str, str], AgentRow] = {}
        self.begin(thread, saved_in, shard)

    def begin(self, thread: Searching, saved_in: Path | None = None, shard: int = 3) -> None:
        searchable = Searchable(thread, lambda: ANALYZER, saved_in)
        self.directory = Directory(searchable, self._all, shard)
        self.directory.rebuild()

    def _all(self) -> Iterator[AgentRow]:
        return iter([self.rows[key] for key in sorted(self.rows)])

    def register(self, name: str, text: str, account: str = ACCOUNT, expires_ms: int = 0) -> None:
        card = parse_card({"name": name, "description": text, "tags": text.split()[:1]})
        codes = {TINY: quantize([len(text), len(name), 1], 3)}
        row = self.rows[account, name] = AgentRow(account, name, expires_ms, card.body, codes)
        change = AgentChange(account, name, Change.REGISTERED, expires_ms, row.body, row.codes)
        self.directory.follow([change])

    def seen(self, name: str, expires_ms: int) -> None:
        row = self.rows[ACCOUNT, name] = self.rows[ACCOUNT, name]._replace(expires_ms=expires_ms)
        self.directory.follow([AgentsSeen(expires_ms, [(ACCOUNT, row.name)])])

    def gone(self, name: str, account: str = ACCOUNT) -> None:
        del self.rows[account, name]
        self.directory.follow([AgentChange(account, name, Change.GONE)])

    def change(self, chance: Random, times: int) -> None:
        for _ in range(times):
            name, account = f"agent-{chance.randrange(MANY)}", chance.choice((ACCOUNT, OTHER))
            text = " ".join(chance.choices(WORDS, k=chance.randint(0, 6)))
            if (account, name) in self.rows and not chance.randrange(3):
                self.gone(name, account)
            else:
                self.register(name, text, account, chance.choice((0, 10, 1_000)))


def told(directory: Directory) -> list[Answer]:
    """All a directory says."""
    found = []
    for account in (ACCOUNT, OTHER):
        index = directory.index(account)
        for text in QUESTIONS:
            question = Question(
                parse_units(text, ANALYZER),
                ((TINY, quantize([3, 7, 1], 3)),),
                now_ms=100,
                depth=MANY,
            )
            asked = [(index, question)] if index else []
            found.append(search_together(asked)[1])
            by_name = [(index, question._replace(by_name=True)) for index, _ in asked]
            found.append(search_together(by_name)[1])
    return found


async def as_built_anew(state: State) -> list[Answer]:
    fresh = State(AtOnce())
    fresh.rows = state.rows
    fresh.begin(AtOnce())
    await fresh.directory.ready.wait()
    return told(fresh.directory)


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all cards that are worked out."""
    found: list[str] = []
    put = ShardIndex.put

    def counted(self: ShardIndex, card: Any, *rest: Any) -> None:
        found.append(card.name)
        put(self, card, *rest)

    monkeypatch.setattr(ShardIndex, "put", counted)
    return found


# --- too far behind ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["BEHIND_CHANGES_MAX", "BEHIND_BYTES_MAX"])
async def test_one_that_is_too_far_behind_is_built_anew_and_is_right(
    monkeypatch: pytest.MonkeyPatch, puts: list[str], limit: str
) -> None:
    thread = Held()
    state = State(thread)
    await thread.until_ready(state.directory)
    ready = state.directory.ready
    size = len(parse_card({"name": "agent-0", "description": "ocr", "tags": ["ocr"]}).body)
    most = {"BEHIND_CHANGES_MAX": 20, "BEHIND_BYTES_MAX": 20 * size}[limit]
    monkeypatch.setattr(directories, limit, most)
    for number in range(20):
        state.register(f"agent-{number % 10}", "ocr")
    assert state.directory.ready is ready  # as much as may be
    assert state.directory.behind_bytes > 0
    state.register("agent-0", "scan")
    assert state.directory.ready is not ready  # searches wait, or go elsewhere
    assert not state.directory.ready.is_set()
    await thread.until_ready(state.directory)
    assert state.directory.behind_bytes == 0
    assert sorted(puts) == [f"agent-{number}" for number in range(10)]  # nothing in vain
    assert told(state.directory) == await as_built_anew(state)
    state.register("agent-7", "invoice")
    thread.let()
    assert told(state.directory) == await as_built_anew(state)


async def test_one_that_fails_to_follow_is_built_anew_and_misses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thread = SearchThread()
    try:
        state = State(thread)
        state.register("before", "ocr")
        first = state.directory.ready
        put, failed = ShardIndex.put, asyncio.Event()

        def fails_once(index: ShardIndex, *agent: Any) -> None:
            if not failed.is_set():
                failed.set()
                raise ZeroDivisionError
            put(index, *agent)

        monkeypatch.setattr(ShardIndex, "put", fails_once)
        for number in range(search_thread.SOON_CHANGES_MAX):  # that many are followed at once
            state.register(f"agent-{number}", "ocr scan")
        await until(lambda: state.directory.ready is not first, "it begins anew")
        async with asyncio.timeout(30):
            await state.directory.ready.wait()
        assert failed.is_set()
        assert "is built anew" in caplog.text
        assert await thread.run(lambda: told(state.directory)) == await as_built_anew(state)
        second = state.directory.ready
        failed.clear()
        for number in range(search_thread.SOON_CHANGES_MAX):
            state.register(f"agent-{number}", "invoice")
        await until(lambda: caplog.text.count("is built anew") == 2, "it fails again")
        await thread.run(lambda: None)
        assert state.directory.ready is second  # not before MEND_S is over
    finally:
        state.directory.stop()
        thread.stop()


@pytest.mark.parametrize("asked", ["answer", "answers", "statistics"])
async def test_who_asked_just_before_it_began_anew_is_told_what_it_finds_then(asked: str) -> None:
    """Simulator, whole nodes, seed 3538: nobody was found, as if there were nobody."""
    thread = Held()
    state = State(thread)
    for number in range(3):
        state.register(f"agent-{number}", "ocr")
    await thread.until_ready(state.directory)
    here = Here({}, {3: state.directory}, thread)
    question = Question(parse_units("ocr", ANALYZER), depth=MANY)
    statistics = NO_STATISTICS._replace(agents=3, frequencies=(3,))
    stands = {3: ANYWHERE}
    work: Any = {
        "statistics": lambda: here.statistics(ACCOUNT, question, [3]),
        "answers": lambda: here.answers(ACCOUNT, question, statistics, stands),
        "answer": lambda: here.answer(ACCOUNT, question, stands, None, lambda told, _: told),
    }
    asking = asyncio.ensure_future(work[asked]())
    await asyncio.sleep(0)  # it waits in the thread now
    assert thread.waiting
    state.directory.rebuild()
    while not asking.done():
        thread.let()
        await asyncio.sleep(0)
    found = await asking
    if asked == "statistics":
        assert found[3] == statistics
    elif asked == "answers":
        ((_, ranked),) = found[3].rankings
        assert ranked.total == 3
    else:
        assert found == statistics


async def test_one_that_falls_behind_while_it_is_built_begins_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(directories, "BEHIND_CHANGES_MAX", 20)
    thread = Held()
    state = State(thread)
    state.change(Random(1), MANY)
    await thread.until_ready(state.directory)
    state.begin(thread)
    ready = state.directory.ready
    state.change(Random(2), 50)
    assert state.directory.ready is not ready
    await thread.until_ready(state.directory)
    assert told(state.directory) == await as_built_anew(state)


async def test_heartbeats_never_make_one_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "BEHIND_CHANGES_MAX", 20)
    thread = Held()
    state = State(thread)
    for number in range(4):
        state.register(f"agent-{number}", "ocr", expires_ms=50)
    await thread.until_ready(state.directory)
    state.begin(thread)
    ready = state.directory.ready
    for expires_ms in range(60, 160):
        state.seen("agent-1", expires_ms)
        state.seen("agent-2", expires_ms)
    state.seen("agent-3", 1_000)
    state.register("agent-3", "ocr", expires_ms=60)  # by which it has expired, whatever it was
    state.gone("agent-2")
    assert state.directory.ready is ready
    await thread.until_ready(state.directory)
    assert told(state.directory) == await as_built_anew(state)
    index = state.directory.index(ACCOUNT)
    assert index is not None
    [name] = index.by_name(Question(by_name=True, now_ms=100)).hits
    assert name == ("agent-1", 0.0)


# --- saved ------------------------------------------------------------------------------------


@pytest.fixture
def saved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "SAVED_CHANGES_MIN", 1)
    monkeypatch.setattr(directories, "SAVED_LOOK_S", 0.0)
    monkeypatch.setattr(directory_file, "REST_TIMES", 0)
    monkeypatch.setattr(directory_file, "REST_S_MIN", 0.0)


async def saved(state: State, path: Path) -> Path:
    """Wait for the file; then nothing is saved any more."""
    await state.directory.ready.wait()
    await until(path.exists, "the index is saved", 30)
    state.directory.stop()
    return path


@pytest.mark.parametrize("seed", range(8))
async def test_a_restart_works_out_only_what_changed_since_it_was_saved(
    tmp_path: Path, saved_at_once: None, puts: list[str], seed: int
) -> None:
    chance = Random(seed)
    state = State(AtOnce())
    state.change(chance, 3 * MANY)
    state.begin(AtOnce(), tmp_path)
    await saved(state, tmp_path / "3.index")
    before = dict(state.rows)
    state.directory.rebuild()
    state.change(chance, chance.choice((0, 1, 30)))
    state.directory.stop()
    expected = await as_built_anew(state)
    puts.clear()
    state.begin(AtOnce(), tmp_path)
    await state.directory.ready.wait()
    assert told(state.directory) == expected
    changed = [
        key for key, row in state.rows.items() if key not in before or row.body != before[key].body
    ]
    assert sorted(puts) == sorted(name for _, name in changed)
    state.change(chance, 30)  # and it goes on from there
    assert told(state.directory) == await as_built_anew(state)
    for account in (ACCOUNT, OTHER):
        index = state.directory.index(account)
        if index:
            index.compact()
    assert told(state.directory) == await as_built_anew(state)
    state.directory.stop()


async def test_a_damaged_file_costs_building_anew_and_nothing_else(
    tmp_path: Path, saved_at_once: None, puts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(AtOnce())
    state.change(Random(5), 2 * MANY)
    expected = await as_built_anew(state)
    state.begin(AtOnce(), tmp_path)
    path = await saved(state, tmp_path / "3.index")
    monkeypatch.setattr(directories, "SAVED_LOOK_S", 60.0)
    whole = path.read_bytes()

    async def worked_out(data: bytes, shard: int = 3) -> int:
        (tmp_path / f"{shard}.index").write_bytes(data)
        puts.clear()
        state.begin(AtOnce(), tmp_path, shard)
        await state.directory.ready.wait()
        state.directory.stop()
        assert told(state.directory) == expected
        return len(puts)

    every = len(state.rows)
    assert await worked_out(whole) == 0
    for at in range(0, len(whole), len(whole) // 40):
        assert await worked_out(whole[:at]) == every
        flipped = bytes([whole[at] ^ 0x40])
        assert await worked_out(whole[:at] + flipped + whole[at + 1 :]) == every
    assert await worked_out(whole + b"x") == every
    assert await worked_out(whole, shard=4) == every  # another shard's
    monkeypatch.setattr(directory_file, "fingerprint", lambda: "another version")
    assert await worked_out(whole) == every


async def test_a_folder_that_cannot_be_written_does_no_harm(
    tmp_path: Path, saved_at_once: None
) -> None:
    (tmp_path / "file").touch()
    state = State(AtOnce())
    state.change(Random(6), MANY)
    state.begin(AtOnce(), tmp_path / "file")
    await state.directory.ready.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert told(state.directory) == await as_built_anew(state)
    state.directory.stop()


async def test_graphs_are_there_after_a_restart(
    tmp_path: Path, saved_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardIndex.add_embedder, "__defaults__", (MANY // 2,))
    state = State(AtOnce())
    for number in range(MANY):
        state.register(f"agent-{number}", "ocr " * (number % 30))
    state.begin(AtOnce(), tmp_path)
    await saved(state, tmp_path / "3.index")
    while b"usearch" not in (tmp_path / "3.index").read_bytes():
        state.directory.rebuild()
        await saved(state, tmp_path / "3.index")
    built: list[object] = []
    monkeypatch.setattr("mq9cluster.search.vectors.Job.run", built.append)
    state.begin(AtOnce(), tmp_path)
    await state.directory.ready.wait()
    state.directory.stop()
    index = state.directory.index(ACCOUNT)
    assert index is not None
    assert len(index.graphs()) == 1
    assert built == []


async def test_heartbeats_wait_for_a_question_or_for_many_of_them() -> None:
    thread = Held()
    state = State(thread)
    await thread.until_ready(state.directory)
    state.register("a", "ocr", expires_ms=50)
    thread.let()
    expired = told(state.directory)
    state.seen("a", 1_000)
    assert not thread.waiting
    assert told(state.directory) == await as_built_anew(state) != expired
    for number in range(directories.SEEN_BEHIND_MAX - 1):
        state.seen("a", 2_000 + number)
    assert not thread.waiting
    state.seen("a", 3_000)
    assert len(thread.waiting) == 1


async def test_a_question_sees_cards_that_wait_to_be_followed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_thread, "SOON_S", 1e6)
    thread = SearchThread()
    try:
        state = State(thread)
        await state.directory.ready.wait()
        for number in range(5):
            state.register(f"agent-{number}", "ocr")
            found = await thread.run(lambda: state.directory.index(ACCOUNT))
            assert found is not None
            assert len(found) == number + 1
        state.register("late", "ocr")
        assert await thread.run(lambda: state.directory.missing_count("none")) == 6
    finally:
        thread.stop()

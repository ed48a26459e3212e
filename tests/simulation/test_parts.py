"""The virtual world itself: what a simulation stands on must not be taken on trust."""

import asyncio
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.checkers.linear import Operation, judge
from chaos.history import NEVER
from mq9cluster.storage.database import FAMILIES, Database
from tests.simulation.clock import NodeClock, Scheduler, Storm
from tests.simulation.database import SimDatabase
from tests.simulation.disk import Disk
from tests.simulation.loop import Deadlock, run
from tests.simulation.network import Network, Weather
from tests.simulation.process import Process
from tests.simulation.whole_agents import agent
from tests.simulation.whole_counts import Count, Counts, may_have_been


def test_things_happen_in_the_order_of_their_times() -> None:
    scheduler, seen = Scheduler(), []
    for delay in (30, 10, 20, 10):
        scheduler.after(delay, lambda delay=delay: seen.append((scheduler.now_us, delay)))
    scheduler.run(25)
    assert seen == [(10, 10), (10, 10), (20, 20)]
    scheduler.run(1_000)
    assert (seen[-1], scheduler.now_us) == ((30, 30), 1_000)


def test_a_clock_may_be_off_and_run_fast() -> None:
    scheduler = Scheduler()
    clock = NodeClock(scheduler, offset_ms=3_600_000, rate=1.5)
    scheduler.run(2_000_000)
    assert (clock.monotonic_ms(), clock.wall_ms()) == (3_000, 3_602_000)


def test_a_storm_is_noticed() -> None:
    scheduler = Scheduler(events_max=100)

    def breed() -> None:
        scheduler.after(1, breed)

    breed()
    with pytest.raises(Storm):
        scheduler.run(1_000_000)


def test_asyncio_runs_on_virtual_time() -> None:
    scheduler, seen = Scheduler(), []
    scheduler.after(90_000_000, lambda: seen.append("scheduled"))

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append(f"{seconds} at {asyncio.get_running_loop().time():g}")

    async def main() -> str:
        async with asyncio.timeout(7_200):
            await asyncio.gather(sleep(3_600), sleep(60), sleep(0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.Event().wait()
        return f"{asyncio.get_running_loop().time():g}"

    assert run(scheduler, main()) == "3601"
    assert seen == ["0 at 0", "60 at 60", "scheduled", "3600 at 3600"]


def test_a_virtual_loop_wakes_tasks_for_messages() -> None:
    scheduler, net, _ = network(Weather(delay_us_min=500, delay_us_max=500))

    async def main() -> tuple[str, float]:
        arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        net.join("b", lambda _, message: arrived.set_result(message))
        net.send("a", "b", "x")
        return await arrived, asyncio.get_running_loop().time()

    assert run(scheduler, main()) == ("x", 0.0005)


def test_a_virtual_loop_notices_that_nothing_can_happen() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(Scheduler(), main())


def network(weather: Weather) -> tuple[Scheduler, Network, list[tuple[str, str]]]:
    scheduler, seen = Scheduler(), []
    made = Network(scheduler, random.Random(1), weather)
    for name in "ab":
        made.join(name, lambda source, message: seen.append((source, message)))
    return scheduler, made, seen


def test_messages_arrive_and_may_overtake_each_other() -> None:
    scheduler, net, seen = network(Weather())
    for number in range(20):
        net.send("a", "b", str(number))
    scheduler.run(10_000)
    assert sorted(seen) == sorted(("a", str(number)) for number in range(20))
    assert seen != [("a", str(number)) for number in range(20)]


def test_messages_get_lost_or_doubled_as_often_as_the_weather_says() -> None:
    for weather, low, high in (
        (Weather(loss=0.5), 400, 600),
        (Weather(duplication=0.5), 1_400, 1_600),
    ):
        scheduler, net, seen = network(weather)
        for _ in range(1_000):
            net.send("a", "b", "x")
        scheduler.run(10_000)
        assert low < len(seen) < high


def test_a_cut_is_one_way_and_takes_what_is_under_way() -> None:
    scheduler, net, seen = network(Weather())
    net.send("a", "b", "under way")
    net.cut("a", "b")
    net.send("a", "b", "cut")
    net.send("b", "a", "through")
    scheduler.run(10_000)
    net.heal()
    net.send("a", "b", "healed")
    scheduler.run(20_000)
    assert seen == [("b", "through"), ("a", "healed")]


def test_a_cut_is_mended_alone_and_healing_mends_all() -> None:
    scheduler, net, seen = network(Weather())
    mend = net.split("a", "b")
    mend_too = net.cut("a", "b")
    mend()
    net.send("a", "b", "cut")
    net.send("b", "a", "through")
    scheduler.run(10_000)
    net.heal()
    mend_too()  # of a cut that is mended already
    net.cut("b", "a")
    net.send("a", "b", "healed")
    net.send("b", "a", "cut again")
    scheduler.run(20_000)
    assert seen == [("b", "through"), ("a", "healed")]


def test_what_is_held_back_arrives_late_and_in_order() -> None:
    scheduler, net, seen = network(Weather())
    net.hold_back("a", "b")
    for number in range(3):
        net.send("a", "b", str(number))
        scheduler.run(10_000 * (number + 1))
    net.send("b", "a", "the other way")
    scheduler.run(50_000)
    assert seen == [("b", "the other way")]
    assert net.holds_back
    net.let_all_through()
    assert seen[1:] == [("a", "0"), ("a", "1"), ("a", "2")]
    net.send("a", "b", "as usual")
    scheduler.run(60_000)
    assert seen[-1] == ("a", "as usual")
    assert not net.holds_back


def test_a_paused_node_hears_everything_when_it_goes_on() -> None:
    scheduler, net, seen = network(Weather())
    net.pause("b")
    net.send("a", "b", "x")
    scheduler.run(10_000)
    assert seen == []
    net.resume("b")
    assert seen == [("a", "x")]


def test_a_crash_takes_what_was_not_synced_newest_first() -> None:
    for keep, expected in (
        (0, {"a": 1}),
        (1, {"a": 2, "b": 2}),
        (2, {"b": 2}),
        (9, {"b": 2, "c": 4}),
    ):
        disk = Disk(Scheduler())
        disk.write({"a": 1})
        disk.sync_now()
        disk.write({"a": 2, "b": 2})
        disk.write({"a": None})
        disk.write({"c": 4})
        assert disk.rows == {"b": 2, "c": 4}
        assert (disk.durable("a"), disk.durable("b"), disk.unsynced) == (1, None, 3)
        disk.crash(keep)
        assert disk.rows == expected


def test_a_sync_covers_what_was_written_before_it() -> None:
    scheduler, synced = Scheduler(), []
    disk = Disk(scheduler)
    disk.write({"a": 1})
    disk.sync(lambda: synced.append("a"))
    disk.write({"b": 2})
    scheduler.run(1_000)
    assert (synced, disk.unsynced, disk.durable("a"), disk.durable("b")) == (["a"], 1, 1, None)
    disk.crash(0)
    assert disk.rows == {"a": 1}


KEYS = st.binary(min_size=1, max_size=2)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["log", "meta"]), KEYS, st.binary(max_size=3)),
        st.tuples(st.just("delete"), st.sampled_from(["log", "meta"]), KEYS),
        st.tuples(st.just("delete_range"), st.sampled_from(["log", "meta"]), KEYS, KEYS),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=6), KEYS, KEYS)
def test_the_virtual_database_reads_as_rocksdb_does(
    batches: list, start: bytes, stop: bytes
) -> None:
    scheduler = Scheduler()
    virtual = SimDatabase(Disk(scheduler), scheduler)
    with TemporaryDirectory() as folder:
        real = Database.open(Path(folder), create=True)
        for changes in batches:
            for database in (virtual, real):
                batch = database.batch()
                for what, family, *row in changes:
                    args = sorted(row) if what == "delete_range" else row
                    getattr(batch, what)(*args, database.table(family).handle)
                if len(batch):
                    database.write(batch)
        for family in ("log", "meta"):
            for reverse in (False, True):
                seen = [
                    list(database.table(family).scan(start, stop, reverse=reverse, strip=1))
                    for database in (virtual, real)
                ]
                assert seen[0] == seen[1]
            one, other = (database.table(family).get(start) for database in (virtual, real))
            assert one == other
        real.close()
    anew = SimDatabase(virtual.disk, scheduler)
    assert [anew.table(f).keys for f in FAMILIES] == [virtual.table(f).keys for f in FAMILIES]


def test_a_virtual_database_loses_what_was_not_synced() -> None:
    scheduler = Scheduler()
    disk = Disk(scheduler)
    for synced in (True, False):
        database = SimDatabase(disk, scheduler)
        batch = database.batch()
        batch.put(b"synced" if synced else b"not", b"x", database.table("log").handle)
        database.write(batch)
        if synced:
            database.sync()
    disk.crash(0)
    assert SimDatabase(disk, scheduler).table("log").keys == [b"synced"]


def test_an_offloaded_sync_takes_its_time_and_covers_only_what_was_written_before() -> None:
    scheduler = Scheduler()
    disk = Disk(scheduler)
    disk.sync_us = 5_000
    database = SimDatabase(disk, scheduler)

    def write(key: bytes) -> None:
        batch = database.batch()
        batch.put(key, b"x", "log")
        database.write(batch)

    async def main() -> None:
        write(b"a")
        done = database.offload(database.sync)
        write(b"b")
        await done

    run(scheduler, main())
    assert (scheduler.now_us, database.seconds()) == (5_000, 0.01)
    disk.crash(0)
    assert SimDatabase(disk, scheduler).table("log").keys == [b"a"]


def test_a_sync_on_the_loop_that_stalls_has_its_process_stand_still_and_says_so() -> None:
    """Seed 4056: a node that stood still lost what its clients held, and the judge was not told."""
    scheduler, told = Scheduler(), []
    disk = Disk(scheduler)
    database = SimDatabase(disk, scheduler)
    process = Process(on_pause=lambda: told.append(True))
    process.enter(database.sync)
    assert (process.paused, told) == (False, [])
    disk.stall()
    process.enter(database.sync)
    assert (process.paused, told) == (True, [True])
    disk.go_on()
    assert not process.paused


def test_a_sync_that_a_crash_interrupts_never_returns() -> None:
    scheduler, synced = Scheduler(), []
    disk = Disk(scheduler)
    disk.write({"a": 1})
    disk.sync(lambda: synced.append("a"))
    disk.crash(0)
    disk.write({"b": 2})
    scheduler.run(1_000)
    assert (synced, disk.durable("b")) == ([], None)


WRITTEN = Operation(1, 2, "write", "x", told=True)


@pytest.mark.parametrize(
    ("then", "possible"),
    [
        ((), True),
        ((Operation(3, 4, "delete", told=True),), False),
        ((Operation(3, 4, "read", told=None),), False),
        ((Operation(3, 4, "touch", told=False),), False),
        ((Operation(3, 4, "touch", told=True),), True),
        ((Operation(2, 4, "delete", told=True),), True),  # perhaps before it was written
        ((Operation(3, 5, "delete", told=True),), True),  # perhaps while it was looked for
        ((Operation(3, NEVER, "delete"),), True),
        ((Operation(3, 4, "delete", told=True), Operation(6, 7, "write", "y")), True),
        ((Operation(3, 4, "delete", told=True), Operation(6.5, 7, "write", "y")), False),
        ((Operation(3, 4, "delete", told=True), Operation(0, NEVER, "write", "y")), True),
    ],
)
def test_who_is_counted_must_have_been_there(
    then: tuple[Operation, ...], *, possible: bool
) -> None:
    told = (WRITTEN, *then)
    assert may_have_been(told, 5, 6) is possible
    counts = Counts()
    counts.note(Count(5, 6, frozenset(), 1, mortal=0))
    assert bool(list(counts.wrong({"a": told}))) is not possible
    assert list(counts.wrong({}))
    counts = Counts()
    counts.note(Count(5, 6, frozenset({"b"}), 1, mortal=0))
    assert list(counts.wrong({"b": (WRITTEN,)})), "it was shown"
    counts = Counts()
    counts.note(Count(5, 6, frozenset(), 1, mortal=1))
    assert not list(counts.wrong({}))


@pytest.mark.parametrize(
    ("unknown", "possible"),
    [
        (("x", "plain"), True),  # seed 9089: applied after a crash, and taken out right behind it
        (("x", "other"), False),
        (None, False),
    ],
)
def test_an_unanswered_register_that_nobody_read_may_be_what_a_sweep_took_out(
    unknown: tuple[str, str] | None, *, possible: bool
) -> None:
    told = [Operation(1, 2, "write", ("w", "other"), told=True)]
    if unknown:
        told.append(Operation(3, NEVER, "write", unknown))
    told += [Operation(4, NEVER, "sweep", "plain"), Operation(6, 7, "read", told=None)]
    assert (judge("a", told, agent, None) == []) is possible
    back = Operation(8, 9, "read", told=("w", "other"))
    assert judge("a", [*told, back], agent, None), "the acknowledged one does not come back"

"""Failpoints: nothing in a normal run, and where they are armed exactly what was asked for."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mq9cluster import node as _everything  # noqa: F401  imports all parts, and with them all points
from mq9cluster.cluster.failing import VARIABLE, BadFailpoints, arm_from, read
from mq9cluster.cluster.snapshot_stream import RowsWritten
from mq9cluster.domain import failpoints
from mq9cluster.storage.log import GroupLog

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
ALL_PARTS = "from mq9cluster import node; from mq9cluster.cluster import failing; import os;"


@pytest.fixture
def _disarmed_after() -> Iterator[None]:
    yield
    failpoints.disarm()


class Machine:
    """Something with steps."""

    def __init__(self) -> None:
        self.done: list[str] = []

    @failpoints.failpoint("test.step")
    def step(self, what: str) -> str:
        self.done.append(what)
        return what.upper()

    @failpoints.failpoint("test.later")
    async def later(self, what: str) -> str:
        self.done.append(what)
        return what.upper()


def test_a_decorated_function_is_the_function_itself() -> None:
    def function() -> None: ...

    assert failpoints.failpoint("test.itself")(function) is function
    failpoints._SITES.pop()


def found(site: failpoints.Site) -> Any:
    owner: Any = sys.modules[site.function.__module__]
    for part in site.function.__qualname__.split("."):
        owner = getattr(owner, part)
    return owner


@pytest.mark.usefixtures("_disarmed_after")
def test_a_normal_run_passes_no_wrapper_and_disarming_leaves_none() -> None:
    sites = failpoints._SITES
    assert len(sites) > 20
    assert all(found(site) is site.function for site in sites)
    failpoints.arm(lambda _: None)
    assert not any(found(site) is site.function for site in sites)
    failpoints.disarm()
    assert all(found(site) is site.function for site in sites)


@pytest.mark.usefixtures("_disarmed_after")
async def test_both_ends_of_an_armed_step_are_hit() -> None:
    machine = Machine()
    failpoints.arm(machine.done.append)
    assert machine.step("one") == "ONE"
    assert await machine.later("two") == "TWO"
    assert machine.done == [
        "test.step.before",
        "one",
        "test.step.after",
        "test.later.before",
        "two",
        "test.later.after",
    ]


@pytest.mark.usefixtures("_disarmed_after")
def test_a_hit_that_raises_keeps_the_step_from_happening() -> None:
    machine = Machine()

    def hit(point: str) -> None:
        raise RuntimeError(point)

    failpoints.arm(hit)
    with pytest.raises(RuntimeError, match=r"test\.step\.before"):
        machine.step("one")
    assert machine.done == []


def test_the_steps_that_matter_have_points() -> None:
    steps = {point.rpartition(".")[0] for point in failpoints.points()}
    assert steps >= {
        "log.write", "log.sync", "log.synced", "log.compact", "log.reset", "vote.put",
        "raft.send", "raft.receive", "apply", "meta.apply", "state.commit",
        "parcel.accept", "parcel.answer", "expire", "run.begin",
        "snapshot.send", "snapshot.read", "snapshot.receive", "snapshot.chunk", "snapshot.rows",
        "snapshot.sync", "snapshot.switch", "snapshot.switched", "snapshot.drop",
        "sentinel.checkpoint", "database.write", "database.sync",
    }  # fmt: skip


def test_the_variable_is_read() -> None:
    armed = read("log.sync.before=crash@3, apply.after=stall(250),log.sync.before=stall(7)@2")
    assert {point: [(one.left, one.stall_ms) for one in ones] for point, ones in armed.items()} == {
        "log.sync.before": [(3, None), (2, 7)],
        "apply.after": [(1, 250)],
    }


@pytest.mark.parametrize(
    "text",
    ["log.sync", "log.sync.before=explode", "log.sync.before=crash@0", "no.such.before=crash", ","],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(BadFailpoints):
        read(text)


def test_without_the_variable_nothing_is_armed() -> None:
    arm_from({})
    arm_from({VARIABLE: ""})
    assert GroupLog.compact in [site.function for site in failpoints._SITES]


def test_a_process_dies_at_the_third_time_as_killed() -> None:
    program = (
        f"{ALL_PARTS} failing.arm_from(os.environ)\n"
        "from mq9cluster.cluster.snapshot_stream import RowsWritten\n"
        "for number in range(5):\n"
        "    RowsWritten().take(iter(()))\n"
        "    print(number, flush=True)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**CLEAN, VARIABLE: "snapshot.read.after=crash@3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "0\n1\n")


@pytest.mark.usefixtures("_disarmed_after")
def test_a_stall_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("mq9cluster.cluster.failing.time.sleep", slept.append)
    arm_from({VARIABLE: "snapshot.read.before=stall(1500)@2"})
    for _ in range(3):
        RowsWritten().take(iter(()))
    assert slept == [1.5]


def test_a_node_with_points_it_does_not_know_does_not_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "mq9cluster", "serve", "--data-dir", str(tmp_path / "data")],
        env={**CLEAN, VARIABLE: "no.such.before=crash"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (
        2,
        "mq9cluster: MQ9_FAILPOINTS: there is no point no.such.before",
    )

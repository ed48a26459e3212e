"""Crashes under load: nothing acknowledged is lost, nothing appears, every group goes on as told.

Twenty rounds of kill -9, four of lost power each way; `MQ9_CRASH_ROUNDS=50` asks for another number
of all of them, `MQ9_CRASH_SEED=7` for other seeds. Each prints its figures (`pytest -s`).
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.checkers.mailboxes import summary
from chaos.cluster.power import RECORDING, WITHOUT_SYNC, FragileDisk, cut_copy
from chaos.cluster.process import NodeDidNotStart, ServedNode
from tests.conftest import ServeNode
from tests.support.crash_rounds import OPERATIONS_MIN, Crash, Round, look_again, play

KILL_ROUNDS = int(os.environ.get("MQ9_CRASH_ROUNDS", "20"))
POWER_ROUNDS = int(os.environ.get("MQ9_CRASH_ROUNDS", "4"))
SEED = int(os.environ.get("MQ9_CRASH_SEED", "1"))
DISK_MIB = 1024


async def kill(node: ServedNode) -> None:
    """kill -9: what the process had not handed to the kernel is gone."""
    await node.kill()


async def cut_power(node: ServedNode) -> None:
    """As if the power went: what was not synced is gone."""
    await node.kill()
    await asyncio.to_thread(put_cut_copy_in_place, node.data_dir)


def put_cut_copy_in_place(data_dir: Path) -> None:
    """Replace a dead node's data by what a power cut would leave of them."""
    copy = data_dir.with_name("cut")
    cut_copy(data_dir, copy)
    shutil.rmtree(data_dir)
    copy.rename(data_dir)


def cut_power_of(disk: FragileDisk) -> Crash:
    """The same on a real file system that loses its log."""

    async def cut(node: ServedNode) -> None:
        await asyncio.to_thread(disk.cut, node.pid)
        await node.wait()

    return cut


async def hold(node: ServedNode, count: int, crash: Crash, what: str) -> None:
    """`count` rounds, each of which must leave everything as it was told."""
    rounds: list[Round] = []
    for number in range(count):
        one = await play(node, f"{what}{number}", SEED * 1000 + number, crash)
        assert summary(one.violations) == "", f"seed {one.seed}"
        assert one.acknowledged >= OPERATIONS_MIN
        assert min(one.kinds.values()) > 0, one.kinds
        # a mailbox that survived one crash has to survive the next
        changed = await look_again(node, rounds[-1:])
        assert summary(changed) == "", f"after seed {one.seed}"
        rounds.append(one)
    print(f"{what}: {figures(rounds)}")  # noqa: T201


def figures(rounds: list[Round]) -> str:
    """What the rounds came to, in a few lines."""

    def mean(number: Callable[[Round], float]) -> str:
        return f"{sum(map(number, rounds)) / len(rounds):.2f} s"

    return (
        f"{len(rounds)} rounds, {sum(one.acknowledged for one in rounds)} operations acknowledged "
        f"(at least {min(one.acknowledged for one in rounds)} in each), "
        f"{sum(one.unknown for one in rounds)} of unknown outcome; on average "
        f"load {mean(lambda one: one.loaded_s)}, restart {mean(lambda one: one.restarted_s)}, "
        f"look {mean(lambda one: one.checked_s)}"
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FragileDisk]:
    """An ext4 image that can lose its power."""
    if not FragileDisk.works(tmp_path):
        pytest.skip("no loop-mounted file system here; cut_copy stands in for it")
    with FragileDisk(tmp_path, DISK_MIB) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * KILL_ROUNDS)
async def test_nothing_acknowledged_is_lost_by_kill_9(serve_node: ServeNode) -> None:
    await hold(await serve_node(), KILL_ROUNDS, kill, "killed")


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * POWER_ROUNDS)
async def test_nothing_acknowledged_is_lost_with_the_power(serve_node: ServeNode) -> None:
    node = await serve_node(environment=RECORDING)
    await hold(node, POWER_ROUNDS, cut_power, "cut")


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * POWER_ROUNDS)
async def test_nothing_acknowledged_is_lost_with_the_power_of_a_real_disk(
    serve_node: ServeNode, disk: FragileDisk
) -> None:
    node = await serve_node(data_dir=disk.path / "data")
    await hold(node, POWER_ROUNDS, cut_power_of(disk), "disk")
    await node.kill()  # before its disk is unmounted


async def lose(node: ServedNode, crash: Crash) -> None:
    """A round after which the judge must find acknowledged things gone."""
    try:
        one = await play(node, "unsafe", SEED, crash)
    except NodeDidNotStart:
        return  # so much is gone that the node refuses the rest
    kinds = {violation.kind for violation in one.violations}
    assert kinds & {"lost", "mailbox lost"}, summary(one.violations)


async def test_without_syncing_the_power_takes_acknowledged_messages(
    serve_node: ServeNode,
) -> None:
    node = await serve_node(environment={**RECORDING, **WITHOUT_SYNC})
    await lose(node, cut_power)


async def test_without_syncing_the_power_of_a_real_disk_takes_acknowledged_messages(
    serve_node: ServeNode, disk: FragileDisk
) -> None:
    node = await serve_node(data_dir=disk.path / "data", environment=WITHOUT_SYNC)
    await lose(node, cut_power_of(disk))
    await node.kill()

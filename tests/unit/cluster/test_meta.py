"""What `meta` makes of its commands, above all which versions the cluster may use."""

from collections.abc import Callable
from functools import partial

import orjson
import pytest

from mq9cluster.cluster import meta as m
from mq9cluster.cluster import shard as shard_module
from mq9cluster.cluster.beat import ReportBeat
from mq9cluster.cluster.meta import Meta, Run
from mq9cluster.cluster.shard import Shard
from mq9cluster.domain.command import CreateMailbox, Expire
from mq9cluster.domain.errors import Unavailable
from mq9cluster.domain.outcome import Outcome, Refused
from mq9cluster.node import SystemClock

NAMES = ("n1", "n2", "n3")


def do(state: Meta, command: bytes) -> None:
    state.apply(orjson.loads(command[1:]))


def begin(state: Meta, number: int, incarnation: int, features: int) -> Run:
    run = Run(number, incarnation, f"host{number}:4222", features=features)
    do(state, m.begin_run(f"n{number}", run))
    return run


@pytest.fixture
def state() -> Meta:
    """Three members that run level 1."""
    state = Meta()
    do(state, m.found("id", NAMES, 2, [["n1", "n2", "n3"]] * 2))
    for number in (1, 2, 3):
        begin(state, number, 1, features=1)
    return state


def test_the_first_founding_and_the_newest_run_count(state: Meta) -> None:
    do(state, m.found("another", ["x"], 1, [["x"]]))
    assert (state.cluster_id, state.members) == ("id", list(NAMES))
    newest = begin(state, 2, 3, features=1)
    begin(state, 2, 2, features=1)
    begin(state, 2, 3, features=1)
    assert state.runs["n2"] == newest
    do(state, m.end_run("n2", 2))
    assert not state.runs["n2"].ended
    do(state, m.end_run("n2", 3))
    assert state.runs["n2"].ended


def test_a_name_with_another_nodes_id_begins_no_run(state: Meta) -> None:
    before = state.runs["n1"]
    do(state, m.begin_run("n1", Run(99, 7, "thief:4222")))
    assert state.runs["n1"] == before


def test_the_feature_level_rises_when_the_last_member_has_it(state: Meta) -> None:
    for number in (1, 2):
        begin(state, number, 2, features=2)
        do(state, m.raise_features(2))
        assert (state.features_of_all(), state.features) == (1, 1)
    begin(state, 3, 2, features=3)
    assert state.features_of_all() == 2
    do(state, m.raise_features(3))
    assert state.features == 1
    do(state, m.raise_features(2))
    assert state.features == 2


def test_a_new_cluster_has_its_founders_level() -> None:
    state = Meta()
    do(state, m.found("id", NAMES, 2, [["n1", "n2", "n3"]] * 2, features=2))
    assert state.features == 2
    begin(state, 1, 1, features=1)
    assert state.runs == {}


def test_a_member_without_a_run_counts_as_the_oldest(state: Meta) -> None:
    for number in (1, 2, 3):
        begin(state, number, 2, features=2)
    del state.runs["n3"]
    assert state.features_of_all() == 1


def test_until_it_rises_a_member_may_go_back_and_then_no_more(state: Meta) -> None:
    begin(state, 1, 2, features=2)
    assert begin(state, 1, 3, features=1) == state.runs["n1"]
    for number in (1, 2, 3):
        begin(state, number, 4, features=2)
    do(state, m.raise_features(2))
    begin(state, 1, 5, features=1)
    assert (state.runs["n1"].incarnation, state.features) == (4, 2)
    do(state, m.raise_features(1))
    assert state.features == 2


def test_a_row_and_a_command_of_a_version_before_feature_levels_are_level_1(state: Meta) -> None:
    row = orjson.loads(state.pack())
    del row["meta"]["features"]
    for run in row["meta"]["runs"].values():
        del run["features"]
    assert Meta.unpack(orjson.dumps(row)) == state
    old = {"do": "begin", "name": "n1", "node_id": 1, "incarnation": 2, "listen": "a:1"}
    state.apply(old)
    assert state.runs["n1"] == Run(1, 2, "a:1", features=1)


def test_the_row_says_it_all(state: Meta) -> None:
    assert Meta.unpack(state.pack()) == state


@pytest.fixture
def propose(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Outcome]]:
    """What becomes of proposing a command of level 2 where the cluster has some level."""
    monkeypatch.setattr(shard_module, "SINCE", {CreateMailbox: 2})

    async def outcomes(level: int) -> list[Outcome]:
        found: list[Outcome] = []
        shard = Shard(0, 1, 1, None, ReportBeat(), SystemClock(), lambda _: None, lambda: level)
        shard.propose(CreateMailbox(b"x", ttl_s=0), found.append)
        shard.propose(Expire(), partial(pytest.fail, "an old command is for everybody"))
        pending = shard.pending_commands
        shard.stop()
        assert pending == (2 if not found else 1)
        return found

    return outcomes  # type: ignore[return-value]


async def test_nothing_above_the_clusters_level_is_proposed(propose) -> None:
    (refused,) = await propose(1)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, Unavailable)
    assert await propose(2) == []

"""What a shard keeps in memory between entries: bounded, and where there are many shards, by all of
them together.
"""

import pytest

from mq9cluster.machine import workspace
from tests.property.machine_shard import MachineShard
from tests.unit.machine.harness import Shard, ids

SHARDS = 4  # have as much as they may
CACHED = 8
HELD = 12


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "SHARDS_CACHED_MAX", SHARDS)
    monkeypatch.setattr(workspace, "MAILBOXES_CACHED_MAX", CACHED)
    monkeypatch.setattr(workspace, "GROUPS_CACHED_MAX", CACHED)
    monkeypatch.setattr(workspace, "HELD_CACHED_MAX", HELD)
    monkeypatch.setattr(workspace, "HELD_COUNTED_EVERY", 1)


@pytest.mark.parametrize(
    ("shards", "kept"), [(1, CACHED), (SHARDS, CACHED), (SHARDS + 1, 6), (2 * SHARDS, CACHED // 2)]
)
def test_mailboxes_and_groups_are_kept_up_to_a_shards_share(shards: int, kept: int) -> None:
    backend = MachineShard(shards=shards)
    shard = Shard(backend)
    mailboxes: list[int] = []
    groups: list[int] = []
    for number in range(3 * CACHED):
        shard.create(f"box{number}")
        shard.send(box=f"box{number}")
        shard.fetch("g", box=f"box{number}")
        mailboxes.append(len(backend.machine.workspace._mailboxes))
        groups.append(len(backend.machine.workspace._groups))
    assert (max(mailboxes), max(groups)) == (kept, kept)
    # What is not kept is read again.
    assert ids(shard.fetch("g", box="box0")) == [1]


@pytest.mark.parametrize(("shards", "kept"), [(SHARDS, HELD), (3 * SHARDS, HELD // 3)])
def test_held_messages_are_kept_up_to_a_shards_share(shards: int, kept: int) -> None:
    backend = MachineShard(shards=shards)
    shard = Shard(backend)
    shard.create()
    held: list[int] = []
    for _ in range(2 * HELD):
        shard.send()
        shard.fetch("g", num_msgs=100)
        held.append(backend.machine.workspace._held_cached())
    assert max(held) == kept

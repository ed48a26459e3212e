"""Limits so small that a short run meets them: what takes steps where there is much takes them here
where there is little, caches hold next to nothing, and everything that is bounded is full at times.

Nothing here changes what a client may be told: only how often it hears `overloaded`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

from mq9cluster.broker import reembedding
from mq9cluster.cluster import (
    directory,
    directory_file,
    durability,
    embedders,
    finding_here,
    finding_service,
    proposals,
    raft_engine,
    raft_replication,
    replica,
    scrubbing,
    shard,
    snapshot_install,
    snapshot_stream,
    snapshots,
    tracing,
    waiting,
)
from mq9cluster.machine import (
    consumer_group,
    due,
    ends,
    hand_outs,
    idset,
    mailbox,
    reads,
    registry,
    retention,
    rows,
    search,
    unwritten,
    workspace,
)
from mq9cluster.storage import log, store

_BITS = 3

TINY: tuple[tuple[ModuleType, dict[str, Any]], ...] = (
    (idset, {"BUCKET_BITS": _BITS, "BUCKET_IDS": 1 << _BITS, "_FULL": (1 << (1 << _BITS)) - 1}),
    (retention, {"BUCKET_BITS": _BITS, "RETAIN_CHECKS_MAX": 20, "RETAIN_REMOVED_MAX": 3}),
    (rows, {"BUCKET_IDS": 1 << _BITS, "HANDOUTS_REMEMBERED_MAX": 3}),
    (registry, {"AGENT_KEPT_MS": 2_000, "DROPPED_ROWS_MAX": 2, "AGENTS_PER_STEP_MAX": 1}),
    (ends, {"RELEASED_MAX": 3}),
    (due, {"DUE_WORK_MAX": 5}),
    (mailbox, {"PURGE_ROWS_MAX": 5, "EXPIRED_ROWS_FREED_MAX": 3}),
    (search, {"SEARCH_ROWS_MAX": 6, "SEEK_IDS_MIN": 2}),
    (reads, {"SEARCH_ROWS_MAX": 6, "READ_ROWS_PER_TURN": 3, "GROUP_TOUCH_MS": 500}),
    (hand_outs, {"HANDOUTS_REMEMBERED_MAX": 3, "HANDOUTS_UNSETTLED_MAX": 2}),
    (consumer_group, {"HELD_PER_GROUP_MAX": 60, "GROUPS_PER_MAILBOX_MAX": 8}),
    (
        workspace,
        {
            "MAILBOXES_CACHED_MAX": 2,
            "NAMED_MAILBOXES_MAX": 1,
            "GROUPS_CACHED_MAX": 2,
            "HEARD_CACHED_MAX": 8,
            "HELD_COUNTED_EVERY": 4,
            "HELD_CACHED_MAX": 10,
        },
    ),
    (
        unwritten,
        {"LAG_ENTRIES": 6, "LAG_BYTES": 2_000, "UNWRITTEN_MAX": 9, "WRITTEN_AGENTS_MAX": 2},
    ),
    (directory, {"ROWS_PER_STEP": 2, "BEHIND_CHANGES_MAX": 4}),
    (directory, {"SAVED_CHANGES_MIN": 2, "SAVED_LOOK_S": 0.3}),
    (directory_file, {"REST_S_MIN": 0.5}),
    (embedders, {"RETIRED_MAX": 2}),
    (reembedding, {"CARDS_PER_STEP": 2, "CARDS_PER_LOOK_MAX": 4}),
    (finding_here, {"CARDS_PER_TURN": 2}),
    (finding_service, {"SERVED_MAX": 3}),
    (shard, {"PARCEL_BYTES_MAX": 300, "PARCELS_UNDER_WAY_MAX": 2, "UNDER_WAY_COMMANDS_MAX": 4}),
    (proposals, {"ENTRY_BYTES_MAX": 400, "ACCEPTED_BYTES_MAX": 2_000}),
    (replica, {"GIVEN_S": 0.004}),
    (waiting, {"WAITING_PER_SHARD_MAX": 2}),
    (raft_engine, {"TAKE_BYTES_MAX": 500}),
    (
        raft_replication,
        {"APPEND_ENTRIES_MAX": 2, "APPEND_BYTES_MAX": 400, "INFLIGHT_MESSAGES_MAX": 2},
    ),
    (log, {"TAIL_BYTES_MAX": 500, "DELETE_SINGLY_MAX": 3}),
    (durability, {"KEPT_FOR_PEERS_BYTES_MAX": 2_000}),
    (snapshot_stream, {"CHUNK_BYTES": 2_000}),
    (snapshot_install, {"UNSYNCED_BYTES_MAX": 4_000}),
    (snapshots, {"TRANSFERS_MAX": 1, "NEAR_ENTRIES": 2}),
    (tracing, {"TRACES_PER_PARCEL_MAX": 1, "PARCELS_FOLLOWED_MAX": 2}),
    (store, {"SCRUBBED_AT_START_ROWS_MAX": -1}),
    (scrubbing, {"PERIOD_S": 2.0, "ROWS_FIRST": 20, "ROWS_MAX": 40}),
)


IDLE = ((consumer_group, {"GROUP_IDLE_MS": 3_000}), (ends, {"GROUP_IDLE_MS": 3_000}))


@contextmanager
def tiny(*, forgets_groups: bool) -> Iterator[None]:
    """All of these, for all nodes. `forgets_groups`: soon, when nobody uses them."""
    with ExitStack() as patches:
        for module, limits in (*TINY, *(IDLE if forgets_groups else ())):
            for name, limit in limits.items():
                patches.enter_context(patch.object(module, name, limit))
        yield

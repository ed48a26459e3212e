"""Which nodes hold which shard, and which of them should lead it.

Decided once, when the cluster is born, and kept in `meta`.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

REPLICAS_MAX: Final = 3  # survives one loss; more copies cost every write


def place(names: Sequence[str], shards: int) -> list[list[str]]:
    """For each shard the names of its replicas, by rendezvous hashing; the first should lead.

    A node that comes or goes changes only the placements it wins or loses. Who leads is dealt out
    evenly.
    """
    leads = dict.fromkeys(sorted(names), 0)
    placement: list[list[str]] = []
    for shard in range(shards):
        ranked = sorted(names, key=lambda name: _weight(name, shard), reverse=True)
        replicas = ranked[:REPLICAS_MAX]
        first = min(replicas, key=lambda name: (leads[name], replicas.index(name)))
        leads[first] += 1
        placement.append([first, *(name for name in replicas if name != first)])
    return placement


def _weight(name: str, shard: int) -> bytes:
    return blake2b(f"{shard}/{name}".encode(), digest_size=8).digest()

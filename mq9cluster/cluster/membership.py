"""What `cluster` is told when it is made, and whom it tells: the words between a node and its
membership.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from mq9cluster.cluster.peers import PeerTls
from mq9cluster.cluster.search_thread import Searchable
from mq9cluster.domain.ports import Random


class ForeignData(Exception):
    """The data directory belongs to another cluster."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Who this node is, and who the first members are."""

    name: str
    node_id: int
    listen: str  # where clients reach it, as told to others
    addresses: Mapping[str, str]  # of all first members, this one included
    shards: int
    peer_host: str = "127.0.0.1"
    peer_port: int = 0
    tls: PeerTls | None = None
    searchable: Searchable | None = None  # without, nobody can look for agents here


class MemberEvents:
    """What the cluster tells the node above it. The node overrides what it cares for."""

    def on_lease_lost(self) -> None:
        """This node may no longer promise that what its connections hold is theirs."""

    def on_new_run(self, incarnation: int) -> None:
        """From now on this node acts as this run."""

    def on_peer_up(self, peer: str) -> None:
        """There are streams to a peer."""

    def on_peer_down(self, peer: str) -> None:
        """There are none any more."""

    def on_route(self, peer: str, data: bytes) -> None:
        """A frame of core NATS from a peer."""

    def on_members(self) -> None:
        """Who is in the cluster, or where, may have changed."""


class Jitter:
    """Cheap randomness for election timeouts, seeded once; implements `domain.ports.Random`."""

    def __init__(self, seed: Random) -> None:
        self._random = random.Random(seed.token(16))  # noqa: S311  spreads timeouts, guards nothing

    def token(self, length: int) -> bytes:
        """`length` bytes that differ from node to node."""
        return self._random.randbytes(length)

"""Who may talk to this node: what both sides say first on each stream, and what they refuse.

Without TLS this guards against mistakes (a wrong address, another cluster, a copied or emptied data
directory), not against people; with it, only those get here whose certificate the authority signed.
Used by `peer_link` and `peer_service`.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final

from mq9cluster.cluster.peer_words import PeerIdentity, PeerRefused
from mq9cluster.cluster.proto import peers_pb2 as pb

VERSION: Final = 1  # of the peer protocol; another one is refused
COMPLAIN_AGAIN_S: Final = 60.0  # a peer tries several times a second, a log is read by people
STRANGER: Final = ""
REFUSED: Final = "peer refused"
UNREACHED: Final = "peer not reached"

_log = logging.getLogger(__name__)


class Doorkeeper:
    """Says who we are, and checks who others are."""

    def __init__(
        self, me: PeerIdentity, peers: Collection[str], now_s: Callable[[], float]
    ) -> None:
        self.cluster_id = ""
        self._me = me
        self._peers = frozenset(peers) - {me.name}
        self._now_s = now_s
        self._node_ids: dict[str, str] = {}
        self._complained: dict[tuple[str, bool], tuple[str, float]] = {}

    def know(self, node_ids: Mapping[str, str]) -> None:
        """The node ids the cluster has on record: others under these names are refused."""
        self._node_ids = dict(node_ids)

    def hello(self, to: str) -> pb.Hello:
        """What we say first."""
        return pb.Hello(
            version=VERSION,
            cluster_id=self.cluster_id,
            name=self._me.name,
            node_id=self._me.node_id,
            incarnation=self._me.incarnation,
            to=to,
        )

    def check(self, hello: pb.Hello, dialled: str = "") -> str:
        """The name of the peer that said `hello`. Raises PeerRefused for anybody else."""
        why = self._why_not(hello)
        if not why and dialled not in ("", hello.name):
            why = f"it is {hello.name}, not {dialled}"
        if why:
            self.complain(dialled or hello.name, why, dialled=bool(dialled))
            raise PeerRefused(why)
        return hello.name

    def _why_not(self, hello: pb.Hello) -> str:
        """Why the sender of `hello` is none of ours; "" if it is."""
        if hello.version != VERSION:
            return f"it speaks version {hello.version} of the peer protocol, we speak {VERSION}"
        if hello.to != self._me.name:
            return f"it looks for {hello.to!r}, this is {self._me.name}"
        if hello.name not in self._peers:
            return f"{hello.name!r} is not a peer"
        if hello.cluster_id and self.cluster_id and hello.cluster_id != self.cluster_id:
            return "it belongs to another cluster"
        known = self._node_ids.get(hello.name, hello.node_id)
        if hello.node_id != known or hello.node_id == self._me.node_id:
            return f"{hello.name} has another node's data"
        return ""

    def complain(self, name: str, why: str, *, dialled: bool, what: str = REFUSED) -> None:
        """Warn of a peer, once for each reason and seldom again; of all strangers together."""
        known = name in self._peers
        key = (name if known else STRANGER, dialled)
        before, until_s = self._complained.get(key, ("", 0.0))
        now_s = self._now_s()
        if now_s < until_s and (before == why or not known):
            return
        self._complained[key] = (why, now_s + COMPLAIN_AGAIN_S)
        _log.warning(what, extra={"peer": name[:64], "why": why, "dialled": dialled})

    def forget(self, name: str) -> None:
        """A peer was reached: the next complaint about it is news."""
        self._complained.pop((name, True), None)

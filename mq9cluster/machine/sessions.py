"""What makes a parcel apply once: per node, the outcomes it may not have heard yet.

A node that lost a leader sends its parcel again to the next one; if the first had it committed
after all, the outcomes kept here are the answer. They are kept until the node says, in a later
parcel, that it has heard them. A node's new run forgets the earlier one's: what still arrives of
that is never applied.

Rows (SHARDS): `session node` → incarnation, confirmed; `outcome node sequence` → the outcomes.
"""

import struct
from typing import Final

from mq9cluster.domain.errors import OutcomeUnknown
from mq9cluster.domain.outcome import Outcome, Refused
from mq9cluster.domain.ports import Family
from mq9cluster.machine import keys
from mq9cluster.machine.codec import Parcel, decode_outcomes, encode_outcomes
from mq9cluster.machine.workspace import Workspace

UNCONFIRMED_MAX: Final = 1_024  # parcels of one node whose outcomes are kept; it stops well before

_SESSION = struct.Struct(">QQ")
_KEY = struct.Struct(">QQ")
_SESSION_KEY, _OUTCOME_KEY = b"session", b"outcome"


class Session:
    """A node's run as a shard knows it: what it has confirmed, and the sequences kept beyond."""

    __slots__ = ("confirmed", "incarnation", "kept")

    def __init__(self, incarnation: int, confirmed: int) -> None:
        self.incarnation = incarnation
        self.confirmed = confirmed
        self.kept: set[int] = set()


class Sessions:
    """The sessions of one shard; loaded when first asked for, a handful of rows."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._sessions: dict[int, Session] = {}
        for key, row in ws.scan(Family.SHARDS, _SESSION_KEY, keys.after(_SESSION_KEY)):
            node = int.from_bytes(key[len(_SESSION_KEY) :], "big")
            self._sessions[node] = Session(*_SESSION.unpack(row))
        for key, _ in ws.scan(Family.SHARDS, _OUTCOME_KEY, keys.after(_OUTCOME_KEY)):
            node, sequence = _KEY.unpack(key[len(_OUTCOME_KEY) :])
            self._sessions[node].kept.add(sequence)

    def known(self, parcel: Parcel, count: int) -> list[Outcome] | None:
        """The outcomes of a parcel that must not be applied; None if it is to be applied now."""
        session = self._sessions.get(parcel.node)
        if parcel.node == 0:
            return None
        if self._ws.is_ended(parcel.node, parcel.incarnation):
            return [Refused(OutcomeUnknown("the proposal is from an ended run"))] * count
        if session is None or parcel.incarnation > session.incarnation:
            self._begin(parcel, session)
            return None
        if parcel.incarnation < session.incarnation or parcel.sequence <= session.confirmed:
            return [Refused(OutcomeUnknown("the proposal is from a past session"))] * count
        if parcel.sequence in session.kept:
            row = self._ws.get(Family.SHARDS, _outcome_key(parcel.node, parcel.sequence))
            return decode_outcomes(row or b"")
        self._confirm(parcel, session)
        if len(session.kept) >= UNCONFIRMED_MAX:
            # Not "overloaded": a copy of it may be applied once there is room again.
            return [Refused(OutcomeUnknown("too many unconfirmed proposals"))] * count
        return None

    def keep(self, parcel: Parcel, outcomes: list[Outcome]) -> None:
        """Remember what an applied parcel came to."""
        if parcel.node == 0:
            return
        session = self._sessions[parcel.node]
        session.kept.add(parcel.sequence)
        key = _outcome_key(parcel.node, parcel.sequence)
        self._ws.put_passing(key, encode_outcomes(outcomes))

    def _begin(self, parcel: Parcel, old: Session | None) -> None:
        """A node's first parcel in a new run."""
        if old:
            for sequence in old.kept:
                self._ws.delete_passing(_outcome_key(parcel.node, sequence))
        session = self._sessions[parcel.node] = Session(parcel.incarnation, parcel.confirmed)
        self._write(parcel.node, session)

    def _confirm(self, parcel: Parcel, session: Session) -> None:
        """Forget what the node has heard."""
        if parcel.confirmed <= session.confirmed:
            return
        session.confirmed = parcel.confirmed
        for sequence in [sequence for sequence in session.kept if sequence <= parcel.confirmed]:
            session.kept.discard(sequence)
            self._ws.delete_passing(_outcome_key(parcel.node, sequence))
        self._write(parcel.node, session)

    def _write(self, node: int, session: Session) -> None:
        row = _SESSION.pack(session.incarnation, session.confirmed)
        self._ws.put(Family.SHARDS, _SESSION_KEY + node.to_bytes(8, "big"), row)


def _outcome_key(node: int, sequence: int) -> bytes:
    return _OUTCOME_KEY + _KEY.pack(node, sequence)

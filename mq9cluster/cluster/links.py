"""Between shards and peers: asks the leaders on other nodes, and serves what other nodes ask of
ours.

`shard.Shard` finds its leader through `find_leader`; `peers` calls `on_request` for what arrives.
Whoever was told that it asked the wrong node asks the one that node names, or, if it names none,
each replica in turn.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from mq9cluster.cluster import wire
from mq9cluster.cluster.engine import NotLeader
from mq9cluster.cluster.peers import Answered, NotSent, PeerReply
from mq9cluster.cluster.proposals import LOST
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.waiting import FetchDone, Waiter
from mq9cluster.cluster.wire import Answer, Kind
from mq9cluster.domain.command import Owner
from mq9cluster.domain.errors import Mq9Error, Unavailable
from mq9cluster.domain.outcome import Outcome, Refused, refused
from mq9cluster.domain.read import MessagesRead, Query
from mq9cluster.machine.codec import (
    UnknownFormat,
    decode_outcomes,
    encode_outcomes,
    is_heartbeat,
    open_parcel,
)

ParcelDone = Callable[[list[Outcome] | Refused | None], None]


class Pending(Protocol):
    """A request under way."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


class Requests(Protocol):
    """What of `peers.Peers` is used here."""

    def request(
        self, peer: str, kind: int, data: bytes, done: Callable[[PeerReply], None]
    ) -> Pending:
        """Ask `peer`; `done` is called exactly once unless the request is cancelled."""

    def is_up(self, peer: str) -> bool:
        """Whether there is a connection to `peer`."""


class Links:
    """The way to shards' leaders on other nodes."""

    def __init__(self, me: str, peers: Requests, placement: Sequence[Sequence[str]]) -> None:
        self._me = me
        self._peers = peers
        self._placement = placement  # by shard: the names of the nodes with a replica
        self._hints: dict[int, str] = {}
        self._replicas: Mapping[int, Replica] = {}

    def know(self, replicas: Mapping[int, Replica]) -> None:
        """This node's own replicas: they know their leaders."""
        self._replicas = replicas

    def leader_of(self, shard: int) -> str:
        """The node that is believed to lead the shard, or ""."""
        replica = self._replicas.get(shard)
        if replica:
            return replica.engine.leader
        return self._hints.get(shard, "")

    def likely_leader(self, shard: int) -> str:
        """The node to ask for the shard's leader: it, or one that may know; "" for none."""
        name = self.leader_of(shard)
        if name == self._me:
            return name if self._replicas[shard].leads else ""
        if shard not in self._replicas and not (name and self._peers.is_up(name)):
            # Not only without a hint: nobody else may ever correct one that names a node that died.
            name = self._hints[shard] = self.some_node_of(shard)
        return name if name and self._peers.is_up(name) else ""

    def some_node_of(self, shard: int) -> str:
        """A node with a replica of the shard that can be reached, or ""."""
        return next((name for name in self._placement[shard] if self._peers.is_up(name)), "")

    def not_there(self, shard: int, asked: str) -> None:
        """`asked` does not lead the shard, and does not know who does."""
        self._not_there(shard, asked, "")

    def find_leader(self, shard: int) -> "RemoteLeader | None":
        """The way to the shard's leader, if it is elsewhere and can be reached."""
        name = self.leader_of(shard)
        if not name and shard not in self._replicas:
            name = next((n for n in self._placement[shard] if self._peers.is_up(n)), "")
            self._hints[shard] = name
        if not name or name == self._me or not self._peers.is_up(name):
            self._hints.pop(shard, None)
            return None
        return RemoteLeader(shard, name, self._peers, partial(self._not_there, shard, name))

    def _not_there(self, shard: int, asked: str, named: str) -> None:
        """`asked` does not lead the shard; it names another, or nobody."""
        others = [name for name in self._placement[shard] if name != asked]
        if named and named != asked:
            self._hints[shard] = named
        elif others and self._hints.get(shard) == asked:
            following = (
                self._placement[shard].index(asked) if asked in self._placement[shard] else 0
            )
            self._hints[shard] = others[following % len(others)]


class RemoteLeader:
    """A shard's leader on another node; implements `shard.Leader`."""

    __slots__ = ("_name", "_not_there", "_peers", "_shard")

    def __init__(
        self, shard: int, name: str, peers: Requests, not_there: Callable[[str], None]
    ) -> None:
        self._shard = shard
        self._name = name
        self._peers = peers
        self._not_there = not_there

    def send_parcel(self, parcel: bytes, done: ParcelDone) -> None:
        """`done` gets the outcomes; None: it may have happened; Refused: nothing was done there."""

        def answered(reply: PeerReply) -> None:
            if isinstance(reply, Answered):
                kind, data = wire.open_answer(reply.data)
                if kind is Answer.GIVEN:
                    done(decode_outcomes(data))
                elif kind is Answer.REFUSED:
                    done(wire.read_refusal(data))
                elif kind is Answer.NOT_LEADER:
                    self._not_there(data.decode())
                    done(LOST)
                else:
                    done(None)
            else:
                self._not_there("")
                done(LOST if isinstance(reply, NotSent) else None)

        data = wire.parcel_request(self._shard, parcel)
        self._peers.request(self._name, Kind.PARCEL, data, answered)

    def tell_traces(self, parcel: bytes, traces: Sequence[str]) -> None:
        """A node of a version that does not know them drops them."""
        data = wire.traces_request(self._shard, parcel, traces)
        self._peers.request(self._name, Kind.TRACES, data, _told)

    def fetch(self, waiter: Waiter) -> Callable[[], None]:
        """Have `waiter` served there; the returned function cancels."""
        data = wire.fetch_request(self._shard, waiter.request, waiter.wait_ms, waiter.client)
        pending = self._peers.request(
            self._name, Kind.FETCH, data, partial(self._read, waiter.finish)
        )

        def cancel() -> None:
            waiter.forget()
            pending.cancel()

        return cancel

    def query(self, request: Query, done: FetchDone, client: Owner | None) -> None:
        """Have a QUERY answered there."""
        data = wire.query_request(self._shard, request, client)
        self._peers.request(self._name, Kind.QUERY, data, partial(self._read, done))

    def _read(self, done: FetchDone, reply: PeerReply) -> None:
        if not isinstance(reply, Answered):
            self._not_there("")
            done(LOST)
            return
        kind, data = wire.open_answer(reply.data)
        if kind is Answer.GIVEN:
            done(wire.read_messages(data))
        elif kind is Answer.REFUSED:
            done(wire.read_refusal(data))
        else:
            self._not_there(data.decode())
            done(LOST)


def _told(_: PeerReply) -> None:
    """Whatever came of it."""


class Service:
    """What other nodes ask of this one's replicas."""

    def __init__(self, replicas: Mapping[int, Replica]) -> None:
        self._replicas = replicas

    def on_request(
        self, kind: int, data: bytes, respond: Callable[[bytes], None]
    ) -> Callable[[], None] | None:
        """Serve a request; the function returned, if any, is called when nobody waits any more."""
        serve = _SERVED.get(kind)
        if serve is None:
            why = f"this node's version knows no request of kind {kind}"
            respond(wire.refused(Refused(Unavailable(why))))
            return None
        shard, _ = wire.read_shard(data)
        replica = self._replicas.get(shard)
        if replica is None or not replica.leads:
            respond(wire.not_leader(replica.engine.leader if replica else ""))
            return None
        return serve(replica, data, respond)


Respond = Callable[[bytes], None]


def _parcel(replica: Replica, data: bytes, respond: Respond) -> None:
    _, parcel = wire.read_shard(data)
    try:
        _, commands = open_parcel(parcel)  # in the log it would stop every replica
    except UnknownFormat as error:
        respond(wire.refused(Refused(Unavailable(f"the parcel cannot be read: {error}"))))
        return

    def done(outcomes: list[Outcome] | Refused | None) -> None:
        if outcomes is None:
            respond(wire.MAYBE)
        elif outcomes == LOST:
            respond(wire.not_leader(replica.engine.leader))
        elif isinstance(outcomes, Refused):
            respond(wire.refused(outcomes))
        else:
            respond(wire.given(encode_outcomes(outcomes)))

    try:
        replica.accept(parcel, done, may_wait=all(map(is_heartbeat, commands)))
    except NotLeader as error:
        respond(wire.not_leader(error.leader))
    except Mq9Error as error:
        respond(wire.refused(refused(error)))


def _answer_read(replica: Replica, respond: Respond, found: MessagesRead | Refused) -> None:
    if found == LOST:
        respond(wire.not_leader(replica.engine.leader))
    elif isinstance(found, Refused):
        respond(wire.refused(found))
    else:
        respond(wire.given(wire.messages(found)))


def _fetch(replica: Replica, data: bytes, respond: Respond) -> Callable[[], None]:
    _, request, wait_ms, client = wire.read_fetch(data)
    waiter = Waiter(request, wait_ms, partial(_answer_read, replica, respond), client)
    replica.fetch(waiter)
    return partial(replica.cancel, waiter)


def _query(replica: Replica, data: bytes, respond: Respond) -> None:
    _, query, client = wire.read_query(data)
    replica.query(query, partial(_answer_read, replica, respond), client)


def _traces(replica: Replica, data: bytes, respond: Respond) -> None:
    told = replica.proposals.traces
    if told:
        try:
            shard, parcel, traces = wire.read_traces(data)
        except UnknownFormat as error:
            respond(wire.refused(Refused(Unavailable(str(error)))))
            return
        told.expect(shard, parcel, traces)
    respond(wire.given(b""))


_SERVED: Final[dict[int, Callable[[Replica, bytes, Respond], Callable[[], None] | None]]] = {
    Kind.PARCEL: _parcel,
    Kind.FETCH: _fetch,
    Kind.QUERY: _query,
    Kind.TRACES: _traces,
}

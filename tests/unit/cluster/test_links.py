"""What nodes ask of each other: both ends of the wire, without one between them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mq9cluster.cluster.links import Links, RemoteLeader, Service
from mq9cluster.cluster.peers import Answered, PeerReply
from mq9cluster.cluster.proposals import LOST
from mq9cluster.cluster.waiting import Waiter
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.command import Deliver, FetchMessages, Owner
from mq9cluster.domain.outcome import Refused
from mq9cluster.domain.read import Browse, MessagesRead, Query
from mq9cluster.machine.codec import PARCEL_OF_NOBODY, encode_parcel

REF = mailbox_ref("$G", "task.queue")
OWNER = Owner((1 << 60) - 1, 3, 9)


class Replica:
    """A leader that answers every read with nothing, and notes on whose account it was."""

    leads = True
    engine = SimpleNamespace(leader="n3")

    def __init__(self) -> None:
        self.asked: list[tuple[object, Owner | None]] = []

    def query(self, request: Query, done: Callable[[MessagesRead], None], client: Any) -> None:
        self.asked.append((request, client))
        done(MessagesRead([]))

    def fetch(self, waiter: Waiter) -> None:
        self.asked.append((waiter.request, waiter.client))
        waiter.finish(MessagesRead([]))

    def cancel(self, _: Waiter) -> None:
        """Nobody does."""


class Wire:
    """`peers` to one node that serves at once."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def request(self, _: str, kind: int, data: bytes, done: Callable[[PeerReply], None]) -> None:
        self._service.on_request(kind, data, lambda answer: done(Answered(answer)))


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
def leader(replica: Replica) -> RemoteLeader:
    service = Service({4: replica})  # type: ignore[dict-item]
    return RemoteLeader(4, "n2", Wire(service), lambda _: None)  # type: ignore[arg-type]


GROUPLESS = Browse(REF, Deliver.EARLIEST, 0, ("a", "b"), 10)
GROUPED = FetchMessages(REF, "g", OWNER, "", Deliver.LATEST, 0, False, (), 10, 0)


@pytest.mark.parametrize("request_", [GROUPLESS, GROUPED])
def test_a_forwarded_fetch_is_on_the_account_of_the_client_that_asked(
    replica: Replica, leader: RemoteLeader, request_: Any
) -> None:
    found: list[object] = []
    leader.fetch(Waiter(request_, 500, found.append, OWNER))
    assert replica.asked == [(request_, OWNER)]
    assert found == [MessagesRead([])]


@pytest.mark.parametrize(("said", "named"), [(LOST, ["n3"]), (None, [])])
def test_what_became_of_a_forwarded_parcel_whose_leader_is_deposed(
    replica: Replica, said: Refused | None, named: list[str]
) -> None:
    """In no log any more, so the next leader is asked at once; or in one, and perhaps done."""
    replica.accept = lambda _, done, **__: done(said)  # type: ignore[attr-defined]
    told: list[str] = []
    leader = RemoteLeader(4, "n2", Wire(Service({4: replica})), told.append)  # type: ignore[dict-item, arg-type]
    found: list[object] = []
    leader.send_parcel(encode_parcel(PARCEL_OF_NOBODY, []), found.append)
    assert found == [said]
    assert told == named


@pytest.mark.parametrize("client", [OWNER, None])
def test_a_forwarded_query_is_on_the_account_of_the_client_that_asked(
    replica: Replica, leader: RemoteLeader, client: Owner | None
) -> None:
    query = Query(REF, b"key", ("a",), 5, 7)
    found: list[object] = []
    leader.query(query, found.append, client)
    assert replica.asked == [(query, client)]
    assert found == [MessagesRead([])]


class Peers:
    """Some of them are up."""

    def __init__(self, *up: str) -> None:
        self.up = {*up}

    def is_up(self, peer: str) -> bool:
        return peer in self.up


def test_who_looks_for_agents_does_not_go_on_asking_for_a_leader_that_died() -> None:
    """Seed 32 of the simulator: a shard without a replica here stayed missing from DISCOVER."""
    peers = Peers("n2", "n3")
    links = Links("n1", peers, [["n2", "n3"]])  # type: ignore[arg-type]
    assert links.likely_leader(0) == "n2"
    peers.up = {"n3"}
    assert links.likely_leader(0) == "n3"
    peers.up = set()
    assert links.likely_leader(0) == ""
    peers.up = {"n2"}
    assert links.likely_leader(0) == "n2"

"""What nodes ask of each other about mailboxes is read as it was written, and what older versions
know is written as they do.
"""

import orjson
import pytest

from mq9cluster.cluster import wire
from mq9cluster.domain.command import FetchMessages, Owner
from mq9cluster.domain.read import Browse, Follow, Query

OWNER = Owner(1, 2, 3)
BOX = b"$G\0box"


@pytest.mark.parametrize(
    "request_",
    [
        FetchMessages(BOX, "g", OWNER),
        FetchMessages(BOX, "g", OWNER, priorities=5),
        Browse(BOX, 1, 7, ("a",), 9),
        Follow(BOX),
        Follow(BOX, 2**62, (1, 2, 3, 2**62), 9, 8),
    ],
)
def test_a_fetch(request_: FetchMessages | Browse | Follow) -> None:
    data = wire.fetch_request(7, request_, 500, OWNER)
    assert wire.read_fetch(data) == (7, request_, 500, OWNER)
    assert type(wire.read_fetch(data)[1]) is type(request_)


@pytest.mark.parametrize("client", [OWNER, None])
@pytest.mark.parametrize("query", [Query(BOX), Query(BOX, b"k", ("a", "b"), 5, 9, bare=True)])
def test_a_query(query: Query, client: Owner | None) -> None:
    assert wire.read_query(wire.query_request(7, query, client)) == (7, query, client)


def test_a_query_for_payloads_is_what_older_versions_read() -> None:
    data = wire.query_request(7, Query(BOX, b"k", ("a",), 5, 9), None)
    assert orjson.loads(data[2:]) == ["$G\0box", "k", ["a"], 5, 9, None]

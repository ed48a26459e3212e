"""The fuzz targets under Hypothesis, briefly: mutations of their seeds, and noise.

The long runs are by hand (`python -m tests.fuzz`); bench/README.md holds their figures.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mq9cluster.admin.http import AdminServer
from tests.fuzz.targets import SEEDS, TARGETS
from tests.support.wire import WAIT_S
from tests.unit.admin.stub import StubView

EXAMPLES = 100
SOCKETS = 60


@st.composite
def mutated(draw: Callable[..., bytes], seeds: tuple[bytes, ...]) -> bytes:
    """A seed with pieces of it cut, repeated, swapped for noise or for another seed's."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 24)))
        put = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(seeds).map(lambda seed: seed[:40]),
                st.just(data[start:end] * 3),
                st.just(b""),
            )
        )
        data = data[:start] + put + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_stands_its_seeds_mutations_of_them_and_noise(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.one_of(mutated(SEEDS[name]), st.binary(max_size=400)))
    def fuzz(data: bytes) -> None:
        TARGETS[name](data)

    fuzz()


REQUESTS = st.one_of(
    st.binary(max_size=300),
    mutated(
        (
            b"GET /connz?subs=1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n",
            b"POST /varz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            b"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        )
    ),
)


async def test_raw_bytes_at_the_http_port_end_their_own_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = AdminServer(StubView(), "127.0.0.1", 0)
    port = await server.start()
    loop = asyncio.get_running_loop()

    @settings(max_examples=SOCKETS, deadline=None)
    @given(REQUESTS)
    def throw(data: bytes) -> None:
        heard = b""
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as sent:
            sent.sendall(data)
            sent.shutdown(socket.SHUT_WR)  # upon which it is ended, answered or not
            with contextlib.suppress(ConnectionError):
                while chunk := sent.recv(65_536):
                    heard += chunk
        assert heard == b"" or heard.startswith(b"HTTP/"), heard
        assert b"Traceback" not in heard

    await loop.run_in_executor(None, throw)
    url = f"http://127.0.0.1:{port}/healthz"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
    await server.stop()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []

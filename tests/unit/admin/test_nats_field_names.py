"""The monitoring pages use the field names of a real nats-server, run here beside ours."""

import json
import re
import subprocess
import sys
import urllib.request
from itertools import takewhile
from pathlib import Path

import nats
import pytest

from mq9cluster.admin import monitoring
from tests.unit.admin.stub import StubView

NATS_SERVER = Path(sys.executable).with_name("nats-server")


@pytest.fixture(scope="module")
def nats_server():
    """Where a nats-server takes clients, and where it answers over HTTP."""
    command = [NATS_SERVER, "-a", "127.0.0.1", "-p", "-1", "-m", "-1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = list(takewhile(lambda line: "Server is ready" not in line, process.stderr))
            yield [
                re.search(rf"{what} on (\S+)$", "".join(said), re.MULTILINE)[1]
                for what in ("Listening for client connections", "Starting http monitor")
            ]
        finally:
            process.kill()


@pytest.fixture
async def theirs(nats_server):
    """`theirs("/varz")` is what nats-server answers while one client is connected."""
    clients, http = nats_server
    client = await nats.connect(f"nats://{clients}", name="probe")
    await client.subscribe("work.>")
    await client.flush()

    def get(path):
        with urllib.request.urlopen(f"http://{http}{path}", timeout=10) as answer:
            return json.load(answer)

    yield get
    await client.close()


async def test_every_field_of_ours_is_one_of_theirs(theirs):
    view = StubView()
    connz = monitoring.connz(view, offset=0, limit=10, subjects=True)
    pages = [
        (monitoring.varz(view, {}), theirs("/varz")),
        (connz, theirs("/connz?subs=1")),
        (monitoring.subsz(view), theirs("/subsz")),
        (monitoring.routez(view), theirs("/routez")),
        (connz["connections"][0], theirs("/connz?subs=1")["connections"][0]),
    ]
    assert [sorted(ours.keys() - other.keys()) for ours, other in pages] == [[]] * len(pages)


async def test_fields_have_the_types_of_theirs(theirs):
    ours = monitoring.varz(StubView(), {})
    other = theirs("/varz")
    assert {name for name in ours if not _alike(ours[name], other[name])} == set()


def _alike(ours, other):
    numbers = (int, float)
    return type(ours) is type(other) or (isinstance(ours, numbers) and isinstance(other, numbers))

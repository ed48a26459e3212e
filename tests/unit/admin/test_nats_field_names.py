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

from chaos.cluster.ports import free_ports
from mq9cluster.admin import monitoring
from tests.support.nats_py import settled
from tests.support.wire import eventually
from tests.unit.admin.stub import StubView

NATS_SERVER = Path(sys.executable).with_name("nats-server")


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory):
    """Where a nats-server of a cluster of two takes clients, and where it answers over HTTP."""
    ports = free_ports(2)
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    config = tmp_path_factory.mktemp("nats") / "ws.conf"
    config.write_text('websocket { host: "127.0.0.1", port: -1, no_tls: true }')
    told = [NATS_SERVER, "-a", "127.0.0.1", "-p", "-1", "-c", config, "--cluster_name", "c"]
    commands = [
        [*told, "--cluster", f"nats://127.0.0.1:{port}", "--routes", routes] for port in ports
    ]
    commands[0] += ["-m", "-1"]
    quiet = subprocess.DEVNULL
    with (
        subprocess.Popen(commands[1], stderr=quiet) as other,
        subprocess.Popen(commands[0], stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            said = list(takewhile(lambda line: "Server is ready" not in line, process.stderr))
            yield [
                re.search(rf"{what} on (\S+)$", "".join(said), re.MULTILINE)[1]
                for what in ("Listening for client connections", "Starting http monitor")
            ]
        finally:
            process.kill()
            other.kill()


@pytest.fixture
async def theirs(nats_server):
    """`theirs("/varz")` is what nats-server answers while one client is connected."""
    clients, http = nats_server
    client = await nats.connect(f"nats://{clients}", name="probe")
    await client.subscribe("work.>")
    await client.subscribe("work.>", queue="q")
    await settled(client)

    def get(path):
        with urllib.request.urlopen(f"http://{http}{path}", timeout=10) as answer:
            return json.load(answer)

    await eventually(lambda: get("/routez")["num_routes"])
    yield get
    await client.close()


def _connz(subs):
    return monitoring.connz(StubView(), offset=0, limit=10, subs=subs)


PAGES = {
    "/varz": lambda: monitoring.varz(StubView(), {"/varz": 1}),
    "/connz": lambda: _connz(""),
    "/connz?subs=1": lambda: _connz("subjects"),
    "/connz?subs=detail": lambda: _connz("detail"),
    "/subsz": lambda: monitoring.subsz(StubView()),
    "/subsz?subs=1": lambda: monitoring.subsz(StubView(), limit=10, subs="subjects"),
    "/routez": lambda: monitoring.routez(StubView()),
}


@pytest.mark.parametrize("page", PAGES)
async def test_every_field_is_one_of_theirs_and_of_its_type(theirs, page):
    assert differences(PAGES[page](), theirs(page)) == []


# Facts we do not have, or that are another thing in Go.
LEFT_OUT = {
    "varz": {"git_commit", "gateway", "leaf", "mqtt", "tls_timeout", "stalled_clients"}
    | {"config_digest", "feature_flags", "system_account", "disk_io_wait_stats"}
    | {"jetstream", "ws_connect_urls"},
    "routez": set(),
    "subsz": set(),
    "connz": set(),
}


@pytest.mark.parametrize("page", PAGES)
async def test_what_we_leave_out_is_listed(theirs, page):
    ours, other = PAGES[page](), theirs(page)
    name = page.lstrip("/").partition("?")[0]
    assert other.keys() - ours.keys() == LEFT_OUT[name]


def differences(ours, other, where="page"):
    """Fields of ours that are not theirs, or of another type; lists as one element of all."""
    if isinstance(ours, dict) and isinstance(other, dict):
        found = [f"{where}.{name} is ours alone" for name in ours if name not in other]
        if where.endswith(("http_req_stats", "websocket")):
            found = []
        common = ours.keys() & other.keys()
        return found + [
            text for name in common for text in differences(ours[name], other[name], name)
        ]
    if isinstance(ours, list) and isinstance(other, list):
        if not ours or not other:
            return []
        return differences(_one_of_all(ours), _one_of_all(other), where)
    alike = type(ours) is type(other) or _are_numbers(ours, other)
    return [] if alike else [f"{where}: {ours!r} is not like {other!r}"]


def _are_numbers(*values):
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _one_of_all(elements):
    if not isinstance(elements[0], dict):
        return elements[0]
    return {name: value for element in elements for name, value in element.items()}

"""`mq9cluster status`: the table, the JSON, and nodes that do not answer."""

import asyncio
import http.server
import io
import json
import threading

import orjson
import pytest

from mq9cluster.admin import monitoring
from mq9cluster.cli import run
from mq9cluster.config_values import Address
from mq9cluster.status import show, watch
from tests.unit.admin.stub import StubView


def test_the_table_shows_leaders_lag_and_totals(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    out = io.StringIO()
    show(orjson.loads(orjson.dumps(monitoring.cluster(StubView(), hashes=False))), out)
    rows = [" ".join(line.strip("│┃ ").split()) for line in out.getvalue().splitlines()]
    assert any(row.startswith("node1 │ 0.0.0.0:4222") and row.endswith("│ 1") for row in rows)
    assert any("gone" in row for row in rows)
    assert any("node1 (0), node2 (30)" in row and "1,234" in row for row in rows)
    assert any(row.startswith("1 │ none") for row in rows)
    assert rows[-1] == "cluster c1: 1,235 mailboxes, 7 messages, 5 agents"


async def test_json_is_what_the_node_answers(serve_node, capfd):
    node = await serve_node()
    assert run(["status", "--json", "--http", f"127.0.0.1:{node.http_port}"]) == 0
    assert json.loads(capfd.readouterr().out) == (await node.get("/cluster")).json()


async def test_an_address_to_listen_on_is_one_to_ask_at(serve_node, capfd):
    node = await serve_node()
    assert run(["status", "--http", f"0.0.0.0:{node.http_port}"]) == 0
    assert "node1" in capfd.readouterr().out


async def test_watching_looks_again_and_outlives_a_node_that_is_away(serve_node, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    node = await serve_node()
    out = io.StringIO()

    def wait(_):
        """Between the looks the node goes, and comes back."""
        if node.running:
            node.kill_now()
        else:
            node.start_now()

    address = Address("127.0.0.1", node.http_port)
    await asyncio.to_thread(watch, address, out, wait, 3)
    assert "mailboxes, 0 messages" in out.getvalue()
    refused = io.StringIO()
    watch(Address("127.0.0.1", 1), refused, _must_not_wait, 1)
    assert "no answer from http://127.0.0.1:1/cluster" in refused.getvalue()


def _must_not_wait(_):
    raise AssertionError


def test_watch_and_json_are_two_things(capsys):
    assert run(["status", "--watch", "--json"]) == 2
    assert capsys.readouterr().err == "mq9cluster: --watch: shows tables, not --json\n"


def test_no_answer_is_told_in_one_line(capsys):
    assert run(["status", "--http", "127.0.0.1:1"]) == 1
    assert capsys.readouterr().err == (
        "mq9cluster: no answer from http://127.0.0.1:1/cluster: [Errno 111] Connection refused\n"
    )


@pytest.mark.parametrize("answer", [b"hello", b'{"shards"', b"[]", b"{}"])
def test_something_else_that_answers_is_told_in_one_line(answer, capsys, something_else):
    port = something_else(answer)
    assert run(["status", "--http", f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err == f"mq9cluster: http://127.0.0.1:{port} is no mq9cluster node\n"


@pytest.fixture
def something_else():
    servers = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()

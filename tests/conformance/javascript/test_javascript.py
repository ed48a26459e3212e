"""The official JavaScript client against our nodes, over TCP and as a browser over a websocket.

Skipped only where Node.js or npm is missing, or the package cannot be fetched.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.cluster.process import ServedNode
from tests.support.cluster import ServedCluster
from tests.support.core_servers import CoreConfig, NatsServer

HERE = Path(__file__).parent
INSTALL_S_MAX = 90.0
CHECKS_S_MAX = 100.0
NODE = shutil.which("node")
NPM = shutil.which("npm")

pytestmark = pytest.mark.skipif(not NODE or not NPM, reason="Node.js or npm is not installed")

EXPECTED: dict[str, Any] = {
    "publish_subscribe": [[".orders.eu.new", "1"], [".orders.us.new", "ü"]],
    "headers": [["1", "2"], "two words"],
    "request_reply": 100,
    "request_many": ["1", "2", "3"],
    "no_responders": "no responders",
    "queue_group": 200,
    "large_payload": True,
    "drain": [300, True],
    "mailbox": [[1, 2], [["critical", "stop"], ["normal", "first"]], {"X-Mine": "kept"}, "", []],
    "refusals": ["mailbox_not_found", "invalid_mail_address"],
}

Run = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run(url)` is what the checks saw there."""
    home = tmp_path_factory.mktemp("javascript")
    for name in ("package.json", "checks.mjs"):
        shutil.copy(HERE / name, home)
    told = [str(NPM), "install", "--no-audit", "--no-fund", "--no-package-lock"]
    try:
        subprocess.run(told, cwd=home, check=True, capture_output=True, timeout=INSTALL_S_MAX)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm cannot fetch the client: {str(error.stderr or error)[-300:]}")

    def checks(url: str) -> dict[str, Any]:
        ran = subprocess.run(
            [str(NODE), "checks.mjs", url],
            cwd=home,
            check=False,
            capture_output=True,
            timeout=CHECKS_S_MAX,
        )
        assert ran.returncode == 0, ran.stderr.decode()
        return json.loads(ran.stdout)

    return checks


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """A node that browsers can connect to."""
    node = ServedNode(tmp_path_factory.mktemp("browsed"), ws_listen="127.0.0.1:0")
    node.start_now()
    yield node
    node.kill_now()


def test_what_is_expected_of_core_nats_is_what_nats_server_does(run: Run) -> None:
    server = NatsServer(CoreConfig())
    server.start()
    try:
        seen = run(f"nats://127.0.0.1:{server.port}")
    finally:
        server.end()
    ours_alone = {"mailbox", "refusals"}
    assert {name: seen[name] for name in EXPECTED.keys() - ours_alone} == {
        name: EXPECTED[name] for name in EXPECTED.keys() - ours_alone
    }


def test_over_tcp_to_one_node(run: Run, shared_node: ServedNode) -> None:
    assert run(shared_node.url) == EXPECTED


def test_over_tcp_to_one_of_three_nodes(run: Run, shared_cluster: ServedCluster) -> None:
    assert run(shared_cluster[1].url) == EXPECTED


def test_over_a_websocket(run: Run, browsed: ServedNode) -> None:
    (listening,) = browsed.events("websockets")
    assert run(f"ws://{listening['listen']}") == EXPECTED

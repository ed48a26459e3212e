"""`mq9cluster status`: asks a node's /cluster and shows the answer. Called by cli."""

import http.client
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any, TextIO

import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mq9cluster.config_values import Address

ANSWER_S_MAX = 10.0
WATCH_S = 1.0  # between two looks: elections take a second or two
ANSWER_BYTES_MAX = 64 * 1024 * 1024  # a thousand shards take well under one
# What one listens on is not what one connects to.
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class NoAnswer(Exception):
    """The node did not answer, or not as a node does; one line for the operator."""


def ask(address: Address) -> dict[str, Any]:
    """What /cluster at `address` answers. Raises NoAnswer."""
    host = _ANY_HOST.get(address.host, address.host)
    connection = http.client.HTTPConnection(host, address.port, timeout=ANSWER_S_MAX)
    try:
        connection.request("GET", "/cluster")
        response = connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"no answer from http://{address}/cluster: {error}") from error
    finally:
        connection.close()
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NoAnswer(f"http://{address} is no mq9cluster node") from error
    if response.status != http.client.OK or not isinstance(answer, dict) or "shards" not in answer:
        raise NoAnswer(f"http://{address} is no mq9cluster node")
    return answer


def as_json(answer: dict[str, Any]) -> str:
    """The answer, indented."""
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode()


def show(answer: dict[str, Any], out: TextIO) -> None:
    """Print the answer as two tables and a line of totals."""
    Console(file=out, highlight=False).print(_tables(answer))


def watch(
    address: Address,
    out: TextIO,
    wait: Callable[[float], object] = time.sleep,
    looks: int | None = None,
) -> None:
    """Show the answer anew every WATCH_S, `looks` times or until interrupted.

    A node that does not answer, at first or for a while, is told in place of the tables: whoever
    watches a restart wants to see it come back.
    """
    console = Console(file=out, highlight=False)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for look in count(1):
            live.update(_look(address), refresh=True)
            if look == looks:
                return
            wait(WATCH_S)


def _look(address: Address) -> RenderableType:
    try:
        return _tables(ask(address))
    except NoAnswer as error:
        return Text(str(error), style="red")


def _tables(answer: dict[str, Any]) -> Group:
    """Two tables and a line of totals."""
    mailboxes = sum(shard.get("mailboxes", 0) for shard in answer["shards"])
    messages = sum(shard.get("messages", 0) for shard in answer["shards"])
    agents = sum(shard.get("agents", 0) for shard in answer["shards"])
    totals = f"{mailboxes:,} mailboxes, {messages:,} messages, {agents:,} agents"
    line = Text(f"cluster {answer['cluster_id']}: {totals}")
    embedders = answer.get("embedders", {})
    by = embedders.get("model") or embedders.get("concept")
    if by:
        line.append(f"\nagents found by {by}")
    if embedders.get("following"):
        line.append(f"\n{embedders['following']} is to take over")
    if embedders.get("differs"):
        line.append(f"\nthis node's embedder differs: {embedders['differs']}", style="red")
    return Group(_nodes(answer), _shards(answer), line)


def _nodes(answer: dict[str, Any]) -> Table:
    leads = Counter(shard["leader"] for shard in answer["shards"])
    table = Table("node", "listen", "peer", "state", "clock off", "leads", title="Nodes")
    for node in answer["nodes"]:
        state = "draining" if node["draining"] else "alive" if node["alive"] else "[red]gone[/red]"
        offset = f"{node['clock_offset_ms']} ms"
        table.add_row(
            node["name"], node["listen"], node["peer"], state, offset, str(leads[node["name"]])
        )
    return table


def _shards(answer: dict[str, Any]) -> Table:
    columns = ("shard", "leader", "term", "replicas (lag)", "mailboxes", "messages", "agents")
    table = Table(*columns, title="Shards")
    for shard in answer["shards"]:
        newest = max((replica["commit_index"] for replica in shard["replicas"]), default=0)
        replicas = ", ".join(
            f"{replica['node']} ({newest - replica['applied_index']})"
            for replica in shard["replicas"]
        )
        table.add_row(
            str(shard["id"]),
            shard["leader"] or "[red]none[/red]",
            str(shard["term"]),
            replicas,
            f"{shard.get('mailboxes', 0):,}",
            f"{shard.get('messages', 0):,}",
            f"{shard.get('agents', 0):,}",
        )
    return table

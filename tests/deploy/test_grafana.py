"""The dashboard in deploy/grafana asks for what a node has, in a form that Grafana reads."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import ServedCluster
from tests.support.raw_nats import RawNats

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "mq9cluster.json"
GRID = 24
# What is between a metric's braces, quotes and brackets is no metric.
NO_METRICS = re.compile(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]|\b(?:by|on|group_right)\s*\([^)]*\)")
NAME = re.compile(r"\b[a-z_][a-z0-9_]*_[a-z0-9_]+\b(?!\s*\()")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def metrics_of(expression: str) -> set[str]:
    return set(NAME.findall(NO_METRICS.sub(" ", expression)))


def test_metrics_are_found_in_expressions() -> None:
    assert metrics_of('sum by (a_b) (rate(x_y_bucket{le_x="q_r"}[5m])) / on (c_d) z_w_total') == {
        "x_y_bucket",
        "z_w_total",
    }


async def test_every_metric_of_the_dashboard_is_one_of_a_nodes(
    dashboard: dict[str, Any], shared_cluster: ServedCluster
) -> None:
    node = shared_cluster[0]
    client = await RawNats.connect(node.host, node.port)
    await client.request("$mq9.AI.MSG.SEND.nowhere")  # a refusal, so that there is a code
    await client.close()
    text = (await node.get("/metrics")).body.decode()
    there = {
        line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if line[0] != "#"
    }
    asked = set().union(*map(metrics_of, expressions(dashboard)))
    assert len(asked) > 40
    assert asked - there == set()


def test_the_dashboard_is_one_that_grafana_reads(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["title"] == dashboard["uid"] == "mq9cluster"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in {"timeseries", "stat"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == list("ABCDE")[
            : len(panel["targets"])
        ]


def test_every_variable_that_is_used_is_defined(dashboard: dict[str, Any]) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = FILE.read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{?([a-z]+)\}?", text))
    assert used == defined

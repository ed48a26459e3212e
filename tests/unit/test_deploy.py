"""The manifests in deploy/: they parse; settings, flags, ports and pages they name exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mq9cluster.admin import http
from mq9cluster.config import node_config, resolve
from mq9cluster.config_table import SERVE

DEPLOY = Path(__file__).parents[2] / "deploy"
K8S = DEPLOY / "k8s"
LABELS = {"app.kubernetes.io/name": "mq9"}
HAND_OVER_S = 3
FLUSH_S = 10

Document = dict[str, Any]


def documents(folder: Path = K8S) -> dict[tuple[str, str], Document]:
    """Everything that a kustomization names, by kind and name."""
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    files = sorted(path.name for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
    assert sorted(named) == files
    found = [one for name in named for one in yaml.safe_load_all((folder / name).read_text())]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.fixture(scope="module")
def all_() -> dict[tuple[str, str], Document]:
    return documents()


@pytest.fixture(scope="module")
def stateful_set(all_) -> Document:
    return all_["StatefulSet", "mq9"]["spec"]


@pytest.fixture(scope="module")
def pod(stateful_set) -> Document:
    return stateful_set["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod) -> Document:
    (only,) = pod["containers"]
    return only


@pytest.fixture(scope="module")
def shared(all_) -> dict[str, str]:
    """The variables that all nodes share."""
    return all_["ConfigMap", "mq9"]["data"]


def test_there_is_what_a_cluster_needs(all_):
    assert set(all_) == {
        ("ConfigMap", "mq9"),
        ("ServiceAccount", "mq9"),
        ("Service", "mq9"),
        ("Service", "mq9-peers"),
        ("StatefulSet", "mq9"),
        ("PodDisruptionBudget", "mq9"),
        ("NetworkPolicy", "mq9"),
    }


def test_every_variable_is_a_setting(container, shared):
    known = {setting.variable for setting in SERVE}
    assert set(shared) <= known
    assert {one["name"] for one in container["env"]} <= known
    assert container["envFrom"] == [{"configMapRef": {"name": "mq9"}}]


def test_every_pod_is_a_member_under_the_name_its_peers_know(
    stateful_set, container, shared, tmp_path
):
    command, *arguments = container["args"]
    assert command == "serve"
    flags = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert set(flags) <= {f"--{setting.flag}" for setting in SERVE}
    (named,) = [one for one in container["env"] if one["name"] == "MQ9_NAME"]
    assert named["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    service = stateful_set["serviceName"]
    pods = [f"mq9-{number}" for number in range(stateful_set["replicas"])]
    for name in pods:
        given = {flag[2:].replace("-", "_"): value for flag, value in flags.items()}
        config = node_config(given, {**shared, "MQ9_NAME": name}, None)
        assert [peer.name for peer in config.peers] == pods
        assert [peer.address.host for peer in config.peers] == [f"{one}.{service}" for one in pods]
        assert {peer.address.port for peer in config.peers} == {config.peer_listen.port}
        assert config.advertised == f"{name}.{service}:4222"


def test_ports_are_those_a_node_listens_on(all_, container):
    values = resolve(SERVE, {}, {}, None)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {
        "nats": values["listen"].port,
        "peers": values["peer_listen"].port,
        "http": values["http"].port,
    }
    for name in ("mq9", "mq9-peers"):
        for one in all_["Service", name]["spec"]["ports"]:
            assert one["port"] == ports[one["targetPort"]]
    rules = all_["NetworkPolicy", "mq9"]["spec"]["ingress"]
    assert sorted(port["port"] for rule in rules for port in rule["ports"]) == sorted(ports)


def test_probes_ask_for_pages_there_are_and_life_does_not_depend_on_others(container):
    served = Path(http.__file__).read_text()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert f'"{asked["path"]}"' in served
        assert asked["port"] == "http"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_selectors_find_the_pods(all_, stateful_set):
    assert stateful_set["template"]["metadata"]["labels"] == LABELS
    assert stateful_set["selector"]["matchLabels"] == LABELS
    for name in ("mq9", "mq9-peers"):
        assert all_["Service", name]["spec"]["selector"] == LABELS
    budget = all_["PodDisruptionBudget", "mq9"]["spec"]
    assert budget["selector"]["matchLabels"] == LABELS
    assert budget["maxUnavailable"] == 1
    policy = all_["NetworkPolicy", "mq9"]["spec"]
    assert policy["podSelector"]["matchLabels"] == LABELS
    (peers,) = [rule for rule in policy["ingress"] if rule["ports"][0]["port"] == "peers"]
    assert peers["from"] == [{"podSelector": {"matchLabels": LABELS}}]


def test_nodes_find_each_other_before_they_are_ready(all_, stateful_set):
    assert stateful_set["podManagementPolicy"] == "Parallel"
    headless = all_["Service", stateful_set["serviceName"]]["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True


def test_a_pod_has_the_time_to_leave(pod, container, shared):
    before_s = float(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    needed_s = before_s + HAND_OVER_S + int(shared["MQ9_LAME_DUCK"]) + FLUSH_S
    assert pod["terminationGracePeriodSeconds"] > needed_s


def test_a_pod_can_do_no_more_than_it_must(pod, container, stateful_set):
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "cpu" not in container["resources"]["limits"]
    assert (
        container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    )
    assert stateful_set["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"
    (mount,) = container["volumeMounts"]
    (claim,) = stateful_set["volumeClaimTemplates"]
    assert mount["name"] == claim["metadata"]["name"]
    assert container["args"][-1].startswith(f"{mount['mountPath']}/")


def test_certificates_are_mounted_where_the_settings_look_for_them():
    overlay = yaml.safe_load((K8S / "peer-tls" / "kustomization.yaml").read_text())
    assert overlay["resources"] == [".."]
    (patch,) = overlay["patches"]
    spec = yaml.safe_load((K8S / "peer-tls" / patch["path"]).read_text())["spec"]["template"][
        "spec"
    ]
    (container,) = spec["containers"]
    (mount,) = container["volumeMounts"]
    (volume,) = spec["volumes"]
    assert mount["name"] == volume["name"]
    assert {one["name"] for one in container["env"]} <= {setting.variable for setting in SERVE}
    for one in container["env"]:
        assert Path(one["value"]).parent == Path(mount["mountPath"])


def test_the_image_runs_what_there_is():
    lines = (DEPLOY / "Dockerfile").read_text()
    ports = re.search(r"^EXPOSE (.+)$", lines, re.MULTILINE)
    values = resolve(SERVE, {}, {}, None)
    assert ports is not None
    listened = {values[key].port for key in ("listen", "peer_listen", "http")}
    assert set(map(int, ports[1].split())) == listened
    assert set(re.findall(r"MQ9_[A-Z_]+", lines)) <= {setting.variable for setting in SERVE}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", lines, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (DEPLOY.parent / name).exists()

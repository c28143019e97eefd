"""deploy/kubernetes: valid, and its numbers fit the server's and each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from labserver.server.server import LAST
from labserver.settings import Settings, from_environment, unknown_variables

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
OBJECTS: dict[str, Any] = {
    each["kind"]: each
    for file in FILES
    for each in yaml.safe_load_all((FOLDER / file).read_text())
}
DEPLOYMENT = OBJECTS["Deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(SERVER,) = POD["containers"]
VARIABLES = {each["name"]: each.get("value", "") for each in SERVER["env"]}
SCALING = OBJECTS["HorizontalPodAutoscaler"]["spec"]


def settings() -> Settings:
    given = {name: text for name, text in VARIABLES.items() if text}
    given.pop("LAB_SECRET_FILE")
    return from_environment(given)


def test_every_file_is_applied() -> None:
    assert {*FILES, "kustomization.yaml"} == {each.name for each in FOLDER.iterdir()}


@pytest.mark.needs("kubernetes-validate")
@pytest.mark.parametrize("kind", OBJECTS)
def test_object_keeps_its_schema(kind: str) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(OBJECTS[kind], "1.27", strict=True)


def test_variables_are_settings_with_good_values() -> None:
    assert unknown_variables(VARIABLES) == []
    assert settings().trusted_proxies


def test_there_is_time_for_the_news_the_drain_and_the_end() -> None:
    _, seconds = SERVER["lifecycle"]["preStop"]["exec"]["command"]
    needed = float(seconds) + settings().drain_timeout + LAST
    assert POD["terminationGracePeriodSeconds"] > needed


def test_restart_asks_for_life_and_traffic_for_readiness() -> None:
    paths = {
        name: SERVER[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "readiness", "liveness")
    }
    assert paths == {
        "startup": "/healthz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }


def test_clients_of_a_dead_replica_find_room() -> None:
    (metric,) = SCALING["metrics"]
    full = float(metric["pods"]["target"]["averageValue"])
    least, limit = SCALING["minReplicas"], settings().connection_limit
    assert metric["pods"]["metric"]["name"] == "labserver_connections"
    assert least * full <= (least - 1) * limit
    assert OBJECTS["PodDisruptionBudget"]["spec"]["maxUnavailable"] < least
    assert "replicas" not in DEPLOYMENT


def test_everything_means_the_same_pods_and_port() -> None:
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    assert DEPLOYMENT["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    policy = OBJECTS["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    (port,) = SERVER["ports"]
    assert policy["ingress"][0]["ports"][0]["port"] == port["containerPort"] == 8080
    assert OBJECTS["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert (
        SCALING["scaleTargetRef"]["name"] == OBJECTS["Deployment"]["metadata"]["name"]
    )


def test_nothing_runs_as_root_or_writes() -> None:
    user = POD["securityContext"]["runAsUser"]
    assert f"USER {user}:" in (ROOT / "Dockerfile").read_text()
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert SERVER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_secret_is_where_the_server_looks() -> None:
    (mount,) = SERVER["volumeMounts"]
    (volume,) = POD["volumes"]
    (item,) = volume["secret"]["items"]
    assert VARIABLES["LAB_SECRET_FILE"] == f"{mount['mountPath']}/{item['path']}"
    assert volume["name"] == mount["name"]

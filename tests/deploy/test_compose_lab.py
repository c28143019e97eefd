"""docker-compose.yml in a real Docker engine: Locust, Jupyter and the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import eventually
from tests.support.compose import (
    Stack,
    ask,
    bounded,
    docker,
    needs_engine,
    no_root,
)

pytestmark = needs_engine


async def test_locust_workers_reach_the_router(lab: Stack) -> None:
    def workers() -> int:
        with contextlib.suppress(OSError, ValueError):
            return len(
                json.loads(ask(lab.locust_port, "/stats/requests")[1])["workers"]
            )
        return 0

    await eventually(lambda: workers() == 1, within=60)
    status, said = ask(
        lab.locust_port,
        "/swarm",
        user_count=16,
        spawn_rate=16,
        run_time="4s",
        host="ws://router:8080",
    )
    assert status == 200
    assert json.loads(said)["success"], said
    service = lab.compose("ps", "-q", "locust").strip()

    def summary() -> str:
        read = "cat results/*/summary.json 2>/dev/null || true"
        return docker("exec", service, "sh", "-c", read)

    await eventually(lambda: bool(summary()), within=60)
    tallies = json.loads(summary())["completeness"]
    assert tallies["fanout/subscribers"]["delivered"] > 0
    for tally in tallies.values():
        assert tally["lost"] == tally["duplicated"] == tally["reordered"] == 0
    status, listed = ask(lab.locust_port, "/lab/runs/")
    (run,) = re.findall(r'href="\./([^/"]+)/"', listed)
    status, report = ask(lab.locust_port, f"/lab/runs/{run}/")
    assert status == 200
    assert "<svg" in report


def test_locust_says_which_host_it_cannot_load(lab: Stack) -> None:
    for host, why in (
        ("ws://elsewhere:8080", "Name or service not known"),
        ("ws://router:9", "no server answers at ws://router:9"),
        ("ws://redis:6379", "ws://redis:6379: "),  # of a network of its own
        ("ws://jupyter:8888", "load goes to this machine only"),
    ):
        form = {"user_count": 2, "spawn_rate": 2, "host": host}
        said = json.loads(ask(lab.locust_port, "/swarm", **form)[1])
        assert said["success"] is False
        assert why in said["message"]
    workers = json.loads(ask(lab.locust_port, "/stats/requests")[1])["workers"]
    assert [each["state"] for each in workers] == ["ready"]


def test_results_outlive_the_chapters(lab: Stack) -> None:
    """The recipe of docker-compose.yml for the chapters as they were."""

    def runs() -> list[str]:
        locust = lab.compose("ps", "-q", "locust").strip()
        return docker("exec", locust, "ls", "results").split()

    jupyter = lab.compose("ps", "-q", "jupyter").strip()
    docker("exec", jupyter, "rm", "notebooks/00_start.ipynb")
    before = runs()
    lab.compose("rm", "--stop", "--force", "jupyter")
    docker("volume", "rm", f"{lab.name}_notebooks")
    lab.compose("up", "-d", "--no-deps", "jupyter")
    jupyter = lab.compose("ps", "-q", "jupyter").strip()
    docker("exec", jupyter, "ls", "notebooks/00_start.ipynb")
    assert runs() == before != []


REACH = "import socket; socket.create_connection(('labserver', 8080), 2)"


def test_only_the_router_reaches_the_replicas(lab: Stack) -> None:
    container = lab.compose("ps", "-q", "locust").strip()
    said = subprocess.run(
        ["docker", "exec", container, "python", "-c", REACH],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode != 0
    assert "gaierror" in said.stderr  # the name does not even exist there
    docker("exec", container, "python", "-c", REACH.replace("labserver", "router"))


async def test_jupyter_opens_with_its_token_only(lab: Stack) -> None:
    path = "/api/contents/07_resume.ipynb?content=0"

    def status(path: str) -> int:
        with contextlib.suppress(OSError):
            return ask(lab.jupyter_port, path)[0]
        return 0

    await eventually(lambda: status("/api") == 200, within=60)
    assert status(path) == 403
    assert status(f"{path}&token={lab.secret}") == 403
    assert status(f"{path}&token={lab.jupyter_token}") == 200
    assert lab.jupyter_token not in lab.compose("logs", "jupyter")


def test_chapters_find_the_load_tests(lab: Stack) -> None:
    container = lab.compose("ps", "-q", "jupyter").strip()
    asked = (
        "from labserver.notebook.experiments.load import FOLDER; print(FOLDER.is_dir())"
    )
    assert docker("exec", container, "python", "-c", asked) == "True\n"


@pytest.mark.parametrize("service", ["locust", "locust-worker", "jupyter"])
def test_lab_is_as_contained_as_the_servers(lab: Stack, service: str) -> None:
    no_root(lab, service)
    bounded(lab, service)


# Metrics


def metrics_of(stack: Stack) -> dict[str, Any]:
    """Return the services of the profile ``metrics``, as compose understands them."""
    said = stack.compose("--profile", "metrics", "config")
    found: dict[str, Any] = yaml.safe_load(said)["services"]
    return {name: found[name] for name in ("prometheus", "redis-exporter", "grafana")}


def test_prometheus_reads_every_replica_the_router_and_redis(lab: Stack) -> None:
    services = metrics_of(lab)
    del services["grafana"]
    for each in services.values():
        known = ("docker", "image", "inspect", each["image"])
        if subprocess.run(known, capture_output=True, timeout=20).returncode:
            pytest.skip(f"NOT TESTED: pull the image {each['image']} first")
    lab.compose("--profile", "metrics", "up", "-d", "--no-recreate", *services)

    def up() -> Counter[str]:
        with contextlib.suppress(OSError):
            said = json.loads(ask(lab.prometheus_port, "/api/v1/query?query=up")[1])
            return Counter(
                each["metric"]["job"]
                for each in said["data"]["result"]
                if each["value"][1] == "1"
            )
        return Counter()

    everything = {"labserver": 3, "router": 1, "redis": 1}
    with asyncio.Runner() as runner:
        runner.run(eventually(lambda: up() == everything, within=60))
    for name in services:
        no_root(lab, name)
        bounded(lab, name)


def test_grafana_finds_its_dashboard_and_prometheus(lab: Stack) -> None:
    """Its files are only read: the image may not be here."""
    grafana = metrics_of(lab)["grafana"]
    mounts = {}
    for each in grafana["volumes"]:
        source, target = (
            (each["source"], each["target"])
            if isinstance(each, dict)
            else each.split(":")[:2]
        )
        mounts[target] = Path(source)
    base = "/etc/grafana/provisioning"
    board = yaml.safe_load(mounts[f"{base}/dashboards/labserver.yml"].read_text())
    (provider,) = board["providers"]
    assert provider["type"] == "file"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(f"{provider['options']['path']}/")
    assert json.loads(mounts[home].read_text())["uid"] == "labserver"
    known = yaml.safe_load(mounts[f"{base}/datasources/labserver.yml"].read_text())
    (source,) = known["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert source["url"] == "http://prometheus:9090"

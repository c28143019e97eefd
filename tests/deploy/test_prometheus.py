"""A real Prometheus reads a fleet under load, with deploy's files.

The fleet is two replicas, their router, and Redis by its exporter.

Every query of the dashboard gets data, and every alert rule can be evaluated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from labserver.contract.tokens import issue
from labserver.processes.cluster import Replica, running_replica
from labserver.processes.ports import free_ports
from tests.conftest import DEADLINE, SECRET, eventually, peer
from tests.support.haproxy import ENVIRONMENT, configured

DEPLOY = Path(__file__).parents[2] / "deploy"
TESTS = "alerts_test.yml"
WINDOW = "3s"  # of rates: the page asks Grafana for the right one
pytestmark = [
    pytest.mark.long,
    pytest.mark.needs("Prometheus", "HAProxy", "Redis exporter"),
    pytest.mark.timeout(90),
]


def queries() -> list[str]:
    """Return every query of the dashboard, with values for its variables."""
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    return [
        each["expr"].replace("$__rate_interval", WINDOW).replace("$replica", ".*")
        for panel in panels
        for each in panel["targets"]
    ]


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())[
        "groups"
    ]:
        yield from group["rules"]


@dataclass
class Stack:
    """Two replicas behind the router, and a Prometheus that reads all."""

    replicas: Sequence[Replica]
    url: str  # of the router
    api: httpx.AsyncClient

    async def ask(self, query: str) -> list[float]:
        """Return the values of a query that Prometheus accepts."""
        answer = await self.api.get("/api/v1/query", params={"query": query})
        said = answer.json()
        assert said["status"] == "success", (query, said)
        return [float(each["value"][1]) for each in said["data"]["result"]]


@asynccontextmanager
async def program(*command: str, folder: Path) -> AsyncIterator[None]:
    """Run a program; what it says is in a file of the folder."""
    with (folder / "said").open("ab") as said:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=said,
            stderr=said,
            env={**os.environ, **ENVIRONMENT},
        )
    try:
        yield
        assert process.returncode is None, (folder / "said").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(DEADLINE):
            await process.wait()


def prometheus(folder: Path, port: int, **targets: Sequence[int]) -> list[str]:
    """Write deploy's prometheus.yml with other addresses; return the command."""
    known = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    known["global"] = dict.fromkeys(
        ("scrape_interval", "scrape_timeout", "evaluation_interval"), "500ms"
    )
    known["rule_files"] = [str(DEPLOY / each) for each in known["rule_files"]]
    for job in known["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        names = [f"127.0.0.1:{at}" for at in targets.pop(job["job_name"])]
        job["static_configs"] = [{"targets": names}]
    assert not targets
    (folder / "prometheus.yml").write_text(yaml.safe_dump(known))
    return [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]


@pytest.fixture
async def stack(tmp_path: Path, redis: Any, redis_url: str) -> AsyncIterator[Stack]:
    at, metrics, exporter, scraper, *ports = free_ports(6)
    async with AsyncExitStack() as running:
        replicas = [
            await running.enter_async_context(
                running_replica(
                    *("resume", "--port", str(port), "--replica", f"replica-{number}"),
                    secret=SECRET,
                    environment={"LAB_REDIS_URL": redis_url},
                )
            )
            for number, port in enumerate(ports, start=1)
        ]
        for command in (
            configured(tmp_path, at, metrics, ports),
            [
                *("prometheus-redis-exporter", "--redis.addr", redis_url),
                *("--web.listen-address", f"127.0.0.1:{exporter}"),
            ],
            prometheus(
                *(tmp_path, scraper),
                labserver=ports,
                router=[metrics],
                redis=[exporter],
            ),
        ):
            await running.enter_async_context(program(*command, folder=tmp_path))
        api = await running.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{scraper}", timeout=DEADLINE)
        )

        async def ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                urls = f"http://127.0.0.1:{at}/readyz", "/-/ready"
                return all([(await api.get(url)).is_success for url in urls])
            return False

        await eventually(ready)
        yield Stack(replicas, f"ws://127.0.0.1:{at}", api)


@asynccontextmanager
async def load(stack: Stack) -> AsyncIterator[None]:
    """Let two users publish to each other, through the router, without an end."""
    async with (
        peer(stack.url, token=issue(SECRET, "ann")) as ann,
        peer(stack.url, token=issue(SECRET, "bob")) as bob,
        asyncio.TaskGroup() as tasks,
    ):
        for each in (ann, bob):
            await each.join("lobby")

        async def talk(one: Any) -> None:
            while True:
                await one.ask(type="publish", room="lobby", payload="hi")
                await asyncio.sleep(0.01)  # messages, not load, are wanted

        talking = [tasks.create_task(talk(each)) for each in (ann, bob)]
        yield
        for each in talking:
            each.cancel()


async def test_every_query_gets_data_and_every_rule_is_evaluated(stack: Stack) -> None:
    asked = queries()
    empty: list[str] = []

    async def all_have_data() -> bool:
        found = [(query, await stack.ask(query)) for query in asked]
        # A quantile of nothing is NaN: no load has reached the replica yet.
        empty[:] = [q for q, got in found if not got or any(map(math.isnan, got))]
        return not empty

    async def all_are_evaluated() -> bool:
        groups = (await stack.api.get("/api/v1/rules")).json()["data"]["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        assert len(found) == len(list(rules()))
        assert not [each["lastError"] for each in found if each.get("lastError")]
        return all(each["health"] == "ok" for each in found)

    async with load(stack):
        try:
            await eventually(all_have_data)
        except TimeoutError:
            pytest.fail("no data for:\n" + "\n".join(empty))
        assert len(asked) > 40
        await eventually(all_are_evaluated)
        _, page = await stack.replicas[0].get("/metrics")
    checked = await asyncio.to_thread(promtool, "check", "metrics", given=page.encode())
    assert (checked.returncode, checked.stdout) == (0, b"")
    firing = await stack.ask('ALERTS{alertstate="firing"}')
    assert firing == []
    replicas = await stack.ask("count(labserver_info)")
    assert replicas == [2.0]


async def test_replica_that_is_killed_raises_an_alert(stack: Stack) -> None:
    pending = 'ALERTS{alertname="LabserverDown"}'

    async def up(count: float) -> bool:
        return await stack.ask('sum(up{job="labserver"})') == [count]

    await eventually(lambda: up(2.0))
    assert await stack.ask(pending) == []
    stack.replicas[0].process.kill()
    await eventually(lambda: up(1.0))

    async def raised() -> bool:
        return await stack.ask(pending) == [1.0]

    await eventually(raised)


def promtool(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["promtool", *arguments],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=20,
    )


@pytest.mark.parametrize(
    "what", [("config", "prometheus.yml"), ("rules", "prometheus/alerts.yml")]
)
def test_promtool_accepts_the_files(what: tuple[str, str]) -> None:
    kind, file = what
    said = promtool("check", kind, str(DEPLOY / file))
    assert said.returncode == 0, said.stdout


def test_each_alert_fires_for_its_fault_and_none_for_a_quiet_fleet(
    tmp_path: Path,
) -> None:
    for file in (DEPLOY / "prometheus/alerts.yml", Path(__file__).parent / TESTS):
        (tmp_path / file.name).write_text(file.read_text())
    said = promtool("test", "rules", str(tmp_path / TESTS))
    assert said.returncode == 0, said.stdout
    assert f"value: {len(list(rules()))}" in (tmp_path / TESTS).read_text()

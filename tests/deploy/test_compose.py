"""docker-compose.yml in a real Docker engine: several replicas behind the router.

This needs the base images, or the means to download them. The first run builds the
images, which takes minutes. They are kept for later runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.client import Client
from labserver.contract.tokens import issue
from tests.conftest import Peer, eventually, peer

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT = 900.0  # seconds; the base images and the dependencies are downloaded
TIMEOUT = 300.0  # an engine that copies whole images takes a minute for a container


def compose_command() -> list[str] | None:
    """Return the command of compose: the plugin, or the older program of its own."""
    with contextlib.suppress(OSError):
        said = subprocess.run(["docker", "compose", "version"], capture_output=True)
        if said.returncode == 0:
            return ["docker", "compose"]
    path = shutil.which("docker-compose")
    return [path] if path else None


def why_not() -> str | None:
    """Return why compose cannot be tested here, or None."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    try:
        said = subprocess.run(["docker", "info"], capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    if said.returncode:
        return "no Docker engine can be reached (docker info failed)"
    return None if compose_command() else "there is no docker compose"


WHY_NOT = why_not()
pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(BUILD_TIMEOUT + TIMEOUT),
    pytest.mark.skipif(
        WHY_NOT is not None, reason=f"COMPOSE WAS NOT TESTED: {WHY_NOT}"
    ),
]


@dataclass
class Stack:
    """A project of docker-compose.yml, separate from any that is already running."""

    port: int
    tls_port: int
    locust_port: int
    jupyter_port: int
    secret: str = field(default_factory=secrets.token_urlsafe, repr=False)
    jupyter_token: str = field(default_factory=secrets.token_urlsafe, repr=False)
    password: str = field(default_factory=secrets.token_urlsafe, repr=False)
    name: str = field(default_factory=lambda: f"labtest{secrets.token_hex(3)}")

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def token(self, user: str = "ann") -> str:
        return issue(self.secret, user)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_HTTP_TIMEOUT": f"{TIMEOUT:g}",
            "LAB_SECRET": self.secret,
            "LAB_REDIS_PASSWORD": self.password,
            "LAB_JUPYTER_TOKEN": self.jupyter_token,
            "LAB_PORT": str(self.port),
            "LAB_TLS_PORT": str(self.tls_port),
            "LAB_TLS_PEM": "",
            "LAB_LOCUST_PORT": str(self.locust_port),
            "LAB_JUPYTER_PORT": str(self.jupyter_port),
            "LAB_LOCUST_WORKERS": "1",
            "LAB_REPLICAS": "3",
            "LAB_ADDRESS_LIMIT": "20",
            "LAB_ORIGINS": "",
        }

    def compose(self, *arguments: str, within: float = TIMEOUT) -> str:
        """Run docker compose; return its output."""
        return self.run(*(compose_command() or []), *arguments, within=within)

    def run(self, *command: str, within: float = TIMEOUT) -> str:
        """Run a command with this stack's variables; return its output."""
        said = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within,
        )
        assert said.returncode == 0, said.stdout[-4000:]
        return said.stdout

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str]]:
        """Return status and headers of a request to the router."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.read()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return response.status, fields

    @asynccontextmanager
    async def apart(self, *users: str) -> AsyncIterator[list[Peer]]:
        """Connect users to different replicas."""
        async with AsyncExitStack() as stack:
            peers: list[Peer] = []
            taken: set[str] = set()
            for user in users:
                for number in range(20):  # the router chooses a replica by user name
                    async with AsyncExitStack() as trying:
                        each = await trying.enter_async_context(
                            peer(self.url, token=self.token(f"{user}-{number}"))
                        )
                        if each.hello["replica"] not in taken:
                            stack.push_async_callback(trying.pop_all().aclose)
                            break
                taken.add(each.hello["replica"])
                peers.append(each)
            assert len(taken) == len(users)
            yield peers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The stack, up and ready; taken down whatever happens."""
    stack = Stack(*(free_port() for _ in range(4)))
    stack.compose("build", "labserver", within=BUILD_TIMEOUT)
    try:
        stack.compose("up", "-d", "labserver")
        with asyncio.Runner() as runner:
            runner.run(eventually(lambda: replicas_up(stack) == 3, within=60))
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "2")


@pytest.fixture(scope="module")
def lab(stack: Stack) -> Stack:
    """The stack with its other services: load, metrics and notebooks."""
    stack.compose("build", "locust", within=BUILD_TIMEOUT)
    stack.compose("up", "-d", "--no-recreate")
    return stack


def replicas(stack: Stack) -> set[str]:
    """Return the cookies of all replicas to which the router sends new clients."""
    try:
        cookies = [stack.get("/readyz")[1].get("set-cookie") for _ in range(16)]
    except OSError:
        return set()
    return {cookie for cookie in cookies if cookie}


def replicas_up(stack: Stack) -> int:
    return len(replicas(stack))


SECRETS = ["LAB_SECRET", "LAB_REDIS_PASSWORD", "LAB_JUPYTER_TOKEN"]


@pytest.mark.parametrize("missing", SECRETS)
def test_stack_needs_its_secrets(missing: str) -> None:
    known = dict.fromkeys(SECRETS, "s" * 32)
    said = subprocess.run(
        [*(compose_command() or []), "config"],
        cwd=ROOT,
        env={**os.environ, **known, missing: ""},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert said.returncode != 0
    assert f"set {missing}" in said.stderr
    assert "make env" in said.stderr


async def test_clients_on_different_replicas_hear_each_other(stack: Stack) -> None:
    async with stack.apart("ann", "bob", "eve") as peers:
        for each in peers:
            await each.join("compose")
        for number, each in enumerate(peers):
            await each.send(type="publish", room="compose", payload=number)
        heard = [
            [(await each.until("message"))["seq"] for _ in peers] for each in peers
        ]
        assert heard == [[1, 2, 3]] * 3


async def test_browser_stays_with_its_replica(stack: Stack) -> None:
    status, headers = stack.get("/")
    assert status == 200
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    replicas = set()
    for _ in range(6):
        headers = {
            "Cookie": cookie.partition(";")[0],
            "Authorization": f"Bearer {stack.token()}",
        }
        async with connect(stack.url, additional_headers=headers) as socket:
            replicas.add(await socket.recv())
    assert len({text.partition('"replica":')[2] for text in map(str, replicas)}) == 1


def test_client_without_a_cookie_stays_on_its_replica_by_name(stack: Stack) -> None:
    places = {}
    # One request after another on one connection, so that no other comes between.
    router = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=5)
    with contextlib.closing(router):
        for user in [f"user-{number}" for number in range(12)]:
            for way in range(3):
                token = stack.token(user)
                headers = {"Authorization": f"Bearer {token}"} if way == 0 else {}
                if way == 1:
                    headers["Sec-WebSocket-Protocol"] = f"lab.json, bearer.{token}"
                path = f"/readyz?token={token}" if way == 2 else "/readyz"
                router.request("GET", path, headers=headers)
                response = router.getresponse()
                response.read()
                cookie = response.getheader("Set-Cookie")
                assert places.setdefault(user, cookie) == cookie
    assert len(set(places.values())) == 3


async def refused(stack: Stack, **options: Any) -> int:
    """Return the HTTP status that refuses a handshake."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(stack.url, **options):
            pass
    status: int = caught.value.response.status_code
    return status


async def test_admission_decides_behind_the_router(stack: Stack) -> None:
    bearer = {"Authorization": f"Bearer {stack.token()}"}
    assert await refused(stack) == 401
    strange = {**bearer, "Origin": "http://elsewhere.test"}
    assert await refused(stack, additional_headers=strange) == 403
    # The page's own origin: the router does not change Host.
    same = {**bearer, "Origin": f"http://127.0.0.1:{stack.port}"}
    async with connect(stack.url, additional_headers=same):
        pass


async def test_router_caps_connections_of_one_address(stack: Stack) -> None:
    bearer = {"Authorization": f"Bearer {stack.token()}"}
    async with AsyncExitStack() as held:
        for _ in range(20):
            await held.enter_async_context(
                connect(stack.url, additional_headers=bearer)
            )
        assert await refused(stack, additional_headers=bearer) == 429
        assert stack.get("/readyz")[0] == 200  # a page does not count as a connection
    async with asyncio.timeout(10):  # until the router notices that they have gone
        while True:
            with contextlib.suppress(InvalidStatus):
                async with connect(stack.url, additional_headers=bearer):
                    break


def test_metrics_are_not_public(stack: Stack) -> None:
    assert stack.get("/metrics")[0] == 404


async def test_router_logs_no_token(stack: Stack) -> None:
    token = stack.token("logged")
    async with connect(f"{stack.url}/?token={token}"):
        pass
    path = f"/{secrets.token_hex(8)}"
    assert stack.get(f"{path}?token={token}")[0] == 404
    await eventually(lambda: path in stack.compose("logs", "router"), within=20)
    logs = stack.compose("logs")
    assert token not in logs
    assert stack.secret not in logs
    assert stack.password not in logs
    # The router's own health check is not there.
    assert not re.search(
        r" 127\.0\.0\.1:\d+ .*/readyz", stack.compose("logs", "router")
    )


@pytest.mark.parametrize("service", ["labserver", "redis", "router"])
def test_nothing_runs_as_root(stack: Stack, service: str) -> None:
    container = stack.compose("ps", "-q", service).split()[0]
    said = subprocess.run(
        ["docker", "top", container], capture_output=True, text=True, timeout=20
    )
    users = {line.split()[0] for line in said.stdout.splitlines()[1:]}
    assert users
    assert not users & {"root", "0"}


async def test_stopping_a_replica_loses_nothing_and_refuses_nobody(
    stack: Stack,
) -> None:
    """A replica drains while clients publish and new clients arrive: none notices."""
    async with Client(stack.url, stack.token("reader")) as reader:
        await reader.join("drain")
        leaving = reader.hello["replica"].partition("-")[0]
        stopping = await asyncio.create_subprocess_exec(
            *("docker", "stop", "--time", "15", leaving),
            stdout=asyncio.subprocess.DEVNULL,
        )
        ended = asyncio.create_task(stopping.wait())
        sent = 0
        while not ended.done() or sent < 20:
            # Every publish has a new connection; a refused one would raise here.
            async with peer(stack.url, token=stack.token("writer")) as writer:
                sent += 1
                await writer.ask(type="publish", room="drain", payload=sent)
        got: list[Any] = []
        async with asyncio.timeout(20):
            async for message in reader:
                if message["type"] == "joined":
                    assert message["recovered"] or not got
                else:
                    got.append(message["payload"])
                if len(got) >= sent:
                    break
        assert got == list(range(1, sent + 1))
        assert reader.connects == 2
        assert not reader.hello["replica"].startswith(leaving)
    stack.compose("up", "-d", "--no-recreate", "labserver")
    await eventually(lambda: replicas_up(stack) == 3, within=30)


async def test_killed_replica_loses_nothing(stack: Stack) -> None:
    """A replica vanishes without a goodbye: its clients resume on others."""
    async with Client(stack.url, stack.token("reader")) as reader:
        await reader.join("kill")
        gone = reader.hello["replica"].partition("-")[0]
        acknowledged = []
        async with Client(stack.url, stack.token("writer")) as writer:
            for number in range(20):
                if number == 5:
                    docker("kill", gone)
                await say(writer, "kill", number)
                acknowledged.append(number)
        got: list[Any] = []
        async with asyncio.timeout(20):
            async for message in reader:
                if message["type"] == "message":
                    got.append(message["payload"])
                elif got:
                    assert message["type"] == "joined"
                    assert message["recovered"]
                if len(got) >= len(acknowledged):
                    break
        assert got == acknowledged
        assert not reader.hello["replica"].startswith(gone)
    stack.compose("up", "-d", "--no-recreate", "labserver")
    await eventually(lambda: replicas_up(stack) == 3, within=30)


async def test_frozen_replica_is_cut_off(stack: Stack) -> None:
    """Its kernel still answers for it, and the router would keep its tunnels."""
    async with Client(stack.url, stack.token("reader")) as reader:
        await reader.join("freeze")
        frozen = reader.hello["replica"].partition("-")[0]
        docker("pause", frozen)
        try:
            await eventually(lambda: reader.connects == 2, within=20)
            await reader.publish("freeze", "goes on", key="once")
            assert not reader.hello["replica"].startswith(frozen)
        finally:
            docker("unpause", frozen)
    await eventually(lambda: replicas_up(stack) == 3, within=30)


async def test_roll_replaces_every_replica_and_loses_nothing(stack: Stack) -> None:
    before = {*stack.compose("ps", "-q", "labserver").split()}
    async with Client(stack.url, stack.token("reader")) as reader:
        await reader.join("roll")
        rolling = asyncio.create_task(asyncio.to_thread(stack.run, "deploy/roll"))
        sent = 0
        async with Client(stack.url, stack.token("writer")) as writer:
            while not rolling.done():
                await say(writer, "roll", sent)
                sent += 1
                await asyncio.sleep(0.05)
        assert "3 replicas are new" in await rolling
        got: list[Any] = []
        async with asyncio.timeout(20):
            while got[-1:] != [sent - 1]:
                message = await anext(aiter(reader))
                if message["type"] == "message":
                    got.append(message["payload"])
        assert got == list(range(sent))
    after = {*stack.compose("ps", "-q", "labserver").split()}
    assert len(after) == 3 and not after & before


async def say(writer: Client, room: str, number: int) -> None:
    """Publish until it is acknowledged; the key prevents a second delivery."""
    while True:
        try:
            await writer.publish(room, number, key=f"{room}-{number}")
            return
        except ConnectionError:
            await asyncio.sleep(0.05)


def docker(*arguments: str) -> str:
    """Run docker; return its output."""
    said = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


async def test_router_finds_a_replica_more_and_one_less(stack: Stack) -> None:
    def scale(count: int) -> None:
        options = ("-d", "--no-recreate", "--scale", f"labserver={count}")
        stack.compose("up", *options, "labserver")

    await eventually(lambda: replicas_up(stack) == 3, within=30)
    before = replicas(stack)
    async with Client(stack.url, stack.token("stays")) as reader:
        await reader.join("scale")
        scale(4)
        await eventually(lambda: bool(replicas(stack) - before), within=30)
        assert reader.connects == 1  # clients that are connected notice nothing
        scale(3)
        ack = await reader.publish("scale", "still here", key="once")
        assert ack["seq"] == 1
    await eventually(lambda: replicas_up(stack) == 3, within=30)


@pytest.mark.parametrize("service", ["labserver", "redis", "router"])
def test_container_is_bounded_and_cannot_write(stack: Stack, service: str) -> None:
    container = stack.compose("ps", "-q", service).split()[0]
    (found,) = json.loads(docker("inspect", container))
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert 0 < host["Memory"] <= 2**31
    assert 0 < host["PidsLimit"] <= 1024
    assert 0 < host["NanoCpus"] <= 2e9
    assert host["LogConfig"]["Config"]["max-size"]


async def test_locust_on_the_published_port_finds_nothing_lost(
    stack: Stack, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", "loadtests/fanout.py"),
        *("--headless", "--only-summary", "--host", stack.url),
        *("-u", "12", "-r", "12", "-t", "4s", "--results", str(tmp_path)),
        cwd=ROOT,
        # This checks which messages arrive, not how fast: the machine may be busy.
        env={**os.environ, "LAB_SECRET": stack.secret},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode in (0, 4), out.decode()
    (summary,) = tmp_path.glob("*/summary.json")  # noqa: ASYNC240 (a small folder)
    tally = json.loads(summary.read_text())["completeness"]["fanout/subscribers"]
    assert tally["delivered"] == tally["expected"] > 0
    assert tally["lost"] == 0


def ask(port: int, path: str, **form: str | int) -> tuple[int, str]:
    """Return status and body of a request; with a form it is a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(form) if form else None
        connection.request("POST" if form else "GET", path, body, kind if form else {})
        response = connection.getresponse()
        return response.status, response.read().decode()


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
    asked = "from labserver.notebook.load import FOLDER; print(FOLDER.is_dir())"
    assert docker("exec", container, "python", "-c", asked) == "True\n"


@pytest.mark.parametrize("service", ["locust", "locust-worker", "jupyter"])
def test_lab_is_as_contained_as_the_servers(lab: Stack, service: str) -> None:
    test_nothing_runs_as_root(lab, service)
    test_container_is_bounded_and_cannot_write(lab, service)


def test_metrics_profile_is_well_formed() -> None:
    """Its files are only read: the image that it needs is not here."""
    known = dict.fromkeys(SECRETS, "s" * 32)
    said = subprocess.run(
        [*(compose_command() or []), "--profile", "metrics", "config"],
        cwd=ROOT,
        env={**os.environ, **known},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert said.returncode == 0, said.stderr
    assert "prom/prometheus" in said.stdout
    assert (ROOT / "deploy" / "prometheus.yml").is_file()

"""docker-compose.yml in a real Docker engine, as a project of its own.

This needs the base images, or the means to download them. The first run builds the
images, which takes minutes. They are kept for later runs.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import pytest

from labserver.contract.tokens import issue
from tests.conftest import Peer, peer

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
needs_engine = [
    pytest.mark.docker,
    pytest.mark.timeout(BUILD_TIMEOUT + TIMEOUT),
    pytest.mark.skipif(
        WHY_NOT is not None, reason=f"COMPOSE WAS NOT TESTED: {WHY_NOT}"
    ),
]


@dataclass
class Stack:
    """A project of docker-compose.yml, separate from any that is already running."""

    secrets: Path  # the folder of its secrets
    port: int
    tls_port: int
    locust_port: int
    jupyter_port: int
    prometheus_port: int
    secret: str = field(default_factory=secrets.token_urlsafe, repr=False)
    jupyter_token: str = field(default_factory=secrets.token_urlsafe, repr=False)
    password: str = field(default_factory=secrets.token_urlsafe, repr=False)
    name: str = field(default_factory=lambda: f"labtest{secrets.token_hex(3)}")

    def __post_init__(self) -> None:
        for name, text in (
            ("lab_secret", self.secret),
            ("redis_password", self.password),
            ("jupyter_token", self.jupyter_token),
        ):
            (self.secrets / name).write_text(text)
            (self.secrets / name).chmod(0o444)

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
            "LAB_SECRETS": str(self.secrets),
            "LAB_PORT": str(self.port),
            "LAB_TLS_PORT": str(self.tls_port),
            "LAB_TLS_PEM": "",
            "LAB_LOCUST_PORT": str(self.locust_port),
            "LAB_JUPYTER_PORT": str(self.jupyter_port),
            "LAB_PROMETHEUS_PORT": str(self.prometheus_port),
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


def replicas(stack: Stack) -> set[str]:
    """Return the cookies of all replicas to which the router sends new clients."""
    try:
        cookies = [stack.get("/readyz")[1].get("set-cookie") for _ in range(16)]
    except OSError:
        return set()
    return {cookie for cookie in cookies if cookie}


def replicas_up(stack: Stack) -> int:
    return len(replicas(stack))


def docker(*arguments: str) -> str:
    """Run docker; return its output."""
    said = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def ask(port: int, path: str, **form: str | int) -> tuple[int, str]:
    """Return status and body of a request; with a form it is a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(form) if form else None
        connection.request("POST" if form else "GET", path, body, kind if form else {})
        response = connection.getresponse()
        return response.status, response.read().decode()


def no_root(stack: Stack, service: str) -> None:
    container = stack.compose("ps", "-q", service).split()[0]
    said = subprocess.run(
        ["docker", "top", container], capture_output=True, text=True, timeout=20
    )
    users = {line.split()[0] for line in said.stdout.splitlines()[1:]}
    assert users
    assert not users & {"root", "0"}


def bounded(stack: Stack, service: str) -> None:
    container = stack.compose("ps", "-q", service).split()[0]
    (found,) = json.loads(docker("inspect", container))
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert 0 < host["Memory"] <= 2**31
    assert 0 < host["PidsLimit"] <= 1024
    assert 0 < host["NanoCpus"] <= 2e9
    assert host["LogConfig"]["Config"]["max-size"]

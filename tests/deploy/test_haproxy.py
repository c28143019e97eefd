"""deploy/haproxy.cfg, in front of two real replicas."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from labserver.client import Backoff, Client
from labserver.contract.tokens import issue
from labserver.processes.cluster import Replica, running_replica
from labserver.processes.ports import free_ports
from tests.conftest import DEADLINE, SECRET, eventually
from tests.support.haproxy import ENVIRONMENT, configured

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs("HAProxy"),
    pytest.mark.timeout(60),
]


@dataclass
class Router:
    """HAProxy, its replicas by name, and what it has said so far."""

    address: str
    replicas: dict[str, Replica]
    process: asyncio.subprocess.Process
    said: Path

    @property
    def url(self) -> str:
        return f"ws://{self.address}"

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient() as http:
            return await http.get(f"http://{self.address}{path}")


@pytest.fixture
async def router(tmp_path: Path, redis: Any, redis_url: str) -> AsyncIterator[Router]:
    at, metrics, *ports = free_ports(4)
    async with AsyncExitStack() as stack:
        replicas = {
            f"replica-{port}": await stack.enter_async_context(
                running_replica(
                    *("resume", "--port", str(port), "--replica", f"replica-{port}"),
                    secret=SECRET,
                    environment={"LAB_REDIS_URL": redis_url},
                )
            )
            for port in ports
        }
        command = configured(tmp_path, at, metrics, ports, inter="200ms")
        said = tmp_path / "said"
        process = await stack.enter_async_context(program(command, said))
        router = Router(f"127.0.0.1:{at}", replicas, process, said)
        await eventually(lambda: ready(router))
        yield router


async def ready(router: Router) -> bool:
    assert router.process.returncode is None, router.said.read_text()
    with contextlib.suppress(httpx.TransportError):
        return (await router.get("/readyz")).is_success
    return False


@asynccontextmanager
async def program(
    command: list[str], said: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    with said.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env={**os.environ, **ENVIRONMENT}
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(DEADLINE):
            await process.wait()


def client(router: Router, user: str = "ann") -> Client:
    token = issue(SECRET, user)
    return Client(router.url, token, backoff=Backoff(first=0.05, cap=0.2))


async def test_clients_of_a_frozen_replica_are_cut_off_and_miss_nothing(
    router: Router,
) -> None:
    """Its tunnels would stay: the kernel of a frozen process answers for it."""
    async with client(router) as ann:
        await ann.join("lobby")
        frozen = router.replicas[ann.hello["replica"]]
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            async with client(router, "bob") as bob:
                for number in range(5):
                    await bob.publish("lobby", number)
            heard: list[Any] = []
            async with asyncio.timeout(DEADLINE):
                async for message in ann:
                    if message["type"] == "message":
                        heard.append(message["payload"])
                    if len(heard) == 5:
                        break
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        assert heard == list(range(5))
        assert router.replicas[ann.hello["replica"]] is not frozen


async def test_draining_replica_says_goodbye_through_the_router(router: Router) -> None:
    """It is not ready, which cuts no tunnel: each client hears when to come back."""
    async with client(router) as ann:
        await ann.join("lobby")
        leaving = router.replicas[ann.hello["replica"]]
        leaving.process.terminate()
        await eventually(lambda: ann.connects == 2)
        assert router.replicas[ann.hello["replica"]] is not leaving
        async with asyncio.timeout(DEADLINE):
            await leaving.process.wait()
        assert leaving.process.returncode == 0


async def test_without_a_replica_the_router_says_when_to_come_back(
    router: Router,
) -> None:
    for each in router.replicas.values():
        each.process.terminate()

    async def gone() -> bool:
        return (await router.get("/")).status_code == 503

    await eventually(gone)
    assert (await router.get("/")).headers["Retry-After"] == "2"


async def test_health_checks_are_not_logged_and_other_requests_with_their_time(
    router: Router,
) -> None:
    for _ in range(3):
        await router.get("/readyz")
    await router.get("/healthz?token=secret")
    await eventually(lambda: "/healthz" in router.said.read_text())
    lines = [line for line in router.said.read_text().splitlines() if " GET " in line]
    assert not [line for line in lines if "/readyz" in line or "secret" in line]
    assert "/20" in lines[0].split()[0]  # such as 30/Nov/2026:18:00:00.123


@dataclass
class Pretender:
    """What the router sees of a replica: it is alive, and ready or not."""

    name: str
    ready: bool = True

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            good = self.ready or b"/readyz" not in head.splitlines()[0]
            status = "200 OK" if good else "503 Service Unavailable"
            length = f"Content-Length: {len(self.name)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 {status}\r\n{length}\r\n\r\n{self.name}".encode())
            await writer.drain()
        writer.close()


async def test_browser_leaves_a_replica_that_is_alive_and_not_ready(
    tmp_path: Path,
) -> None:
    """Such as one that does not hear Redis: its cookie would keep a browser there."""
    both = [Pretender("one"), Pretender("two")]
    at, metrics = free_ports(2)
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                await asyncio.start_server(each.serve, "127.0.0.1", 0)
            )
            for each in both
        ]
        ports = [each.sockets[0].getsockname()[1] for each in servers]
        command = configured(tmp_path, at, metrics, ports, inter="100ms")
        await stack.enter_async_context(program(command, tmp_path / "said"))
        browser = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{at}")
        )
        cookies = dict[str, str]()

        async def found() -> bool:
            with contextlib.suppress(httpx.TransportError):
                browser.cookies.clear()
                said = await browser.get("/")
                if said.is_success and "lab_replica" in said.cookies:
                    cookies[said.text] = said.cookies["lab_replica"]
            return len(cookies) == 2

        await eventually(found)

        async def served(by: str) -> bool:
            browser.cookies.clear()
            cookie = {"Cookie": f"lab_replica={cookies['one']}"}
            # By name the same request may fall to either: five times it does not.
            said = [(await browser.get("/", headers=cookie)).text for _ in range(5)]
            return said == [by] * 5

        assert await served(by="one")
        both[0].ready = False
        await eventually(lambda: served(by="two"))
        both[0].ready = True
        await eventually(lambda: served(by="one"))


async def test_sigterm_ends_the_router_with_its_tunnels(router: Router) -> None:
    async with client(router) as ann:
        await ann.join("lobby")
        router.process.terminate()
        async with asyncio.timeout(DEADLINE):
            await router.process.wait()

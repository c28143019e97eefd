"""deploy/nginx.conf and deploy/Caddyfile, in front of two real replicas."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.client import Backoff, Client
from labserver.contract.tokens import issue
from labserver.processes.cluster import Replica, running_replica
from labserver.processes.ports import free_ports
from tests.conftest import DEADLINE, SECRET, eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
TOKEN = issue(SECRET, "ann")
pytestmark = [pytest.mark.long, pytest.mark.timeout(90)]
ROUTERS = [
    pytest.param("nginx", marks=pytest.mark.needs("nginx")),
    pytest.param("caddy", marks=pytest.mark.needs("Caddy")),
]


@dataclass
class Router:
    """A router that runs, and what it has said so far."""

    address: str
    replicas: list[Replica]
    said: Path

    @property
    def url(self) -> str:
        return f"ws://{self.address}"


def configured(name: str, folder: Path, ports: dict[str, int]) -> list[str]:
    """Write a router's file with other ports; return the command that runs it."""
    file = {"nginx": "nginx.conf", "caddy": "Caddyfile"}[name]
    text = (DEPLOY / file).read_text()
    text = re.sub(
        r"127\.0\.0\.1:(80\d\d)", lambda at: f"127.0.0.1:{ports[at[1]]}", text
    )
    if name == "nginx":  # places that only root may write to
        text = text.replace("/tmp/labserver-nginx.pid", f"{folder}/pid")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        text = text.replace("http {\n", f"http {{\n{paths}")
    (folder / file).write_text(text)
    if name == "nginx":
        said = ("-e", "stderr", "-p", str(folder))
        return ["nginx", *said, "-c", str(folder / file), "-g", "daemon off;"]
    return ["caddy", "run", "--config", str(folder / file)]


@asynccontextmanager
async def routed(name: str, folder: Path, redis_url: str) -> AsyncIterator[Router]:
    """Run two replicas behind a router."""
    names = ("8080", "8081", "8082", "8091", "8092")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(
                running_replica(
                    "resume",
                    *("--port", str(ports[f"808{number}"])),
                    *("--sse-port", str(ports[f"809{number}"])),
                    *("--trusted-proxies", "127.0.0.1", "--address-limit", "3"),
                    *("--replica", f"replica-{number}"),
                    secret=SECRET,
                    environment={"LAB_REDIS_URL": redis_url},
                )
            )
            for number in (1, 2)
        ]
        said = folder / "said"
        with said.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *configured(name, folder, ports),
                env={**os.environ, "HOME": str(folder)},
                stdout=output,
                stderr=output,
            )
        router = Router(f"127.0.0.1:{ports['8080']}", replicas, said)
        try:
            async with httpx.AsyncClient() as http:

                async def ready() -> bool:
                    assert process.returncode is None, said.read_text()
                    with contextlib.suppress(httpx.TransportError):
                        url = f"http://{router.address}/readyz"
                        return (await http.get(url)).status_code == 200
                    return False

                await eventually(ready)
            yield router
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            async with asyncio.timeout(DEADLINE):
                await process.wait()


@pytest.fixture(params=ROUTERS)
async def router(
    request: pytest.FixtureRequest, tmp_path: Path, redis: Any, redis_url: str
) -> AsyncIterator[Router]:
    async with routed(request.param, tmp_path, redis_url) as running:
        yield running


async def test_rooms_resume_streams_and_what_is_hidden(router: Router) -> None:
    backoff = Backoff(first=0.05, cap=0.2)
    async with (
        Client(router.url, TOKEN, backoff=backoff) as ann,
        httpx.AsyncClient(base_url=f"http://{router.address}") as http,
    ):
        await ann.join("lobby")
        # An event stream and a POST come to the other port of the replicas.
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        async with http.stream("GET", "/rooms/lobby", headers=bearer) as stream:
            assert stream.status_code == 200
            lines = stream.aiter_lines()
            await said(lines, "joined")
            posted = await http.post("/rooms/lobby", headers=bearer, content='"one"')
            assert posted.json()["seq"] == 1
            await said(lines, "one")
        # A replica is stopped; its clients go on at the other one, and miss nothing.
        (gone,) = [
            each
            for each, name in zip(
                router.replicas, ("replica-1", "replica-2"), strict=True
            )
            if name == ann.hello["replica"]
        ]
        await gone.stop()
        async with Client(router.url, TOKEN, backoff=backoff) as bob:
            for number in range(5):
                await bob.publish("lobby", number)
        heard = []
        async with asyncio.timeout(DEADLINE):
            async for message in ann:
                if message["type"] == "message":
                    heard.append(message["payload"])
                if heard[-1:] == [4]:
                    break
        assert heard == ["one", *range(5)]
        assert (await http.get("/metrics")).status_code == 404


async def said(lines: AsyncIterator[str], word: str) -> None:
    """Read lines up to one with a word; a buffer would keep it back."""
    async with asyncio.timeout(DEADLINE):
        async for line in lines:
            if word in line:
                return


async def test_log_has_no_token_and_no_address_is_believed(router: Router) -> None:
    url = f"{router.url}/?token={TOKEN}"
    async with AsyncExitStack() as stack:
        with pytest.raises(InvalidStatus) as refused:
            for number in range(7):  # three for each of two replicas
                forged = {"X-Forwarded-For": f"192.0.2.{number}"}
                offered = [f"bearer.{TOKEN}", "lab.json"]
                connection = connect(
                    url,
                    additional_headers=forged,
                    subprotocols=offered,  # type: ignore[arg-type]
                )
                await stack.enter_async_context(connection)
        assert refused.value.response.status_code == 429
        assert number >= 3
    await eventually(lambda: "429" in router.said.read_text())
    assert TOKEN not in router.said.read_text()

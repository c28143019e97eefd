"""Real servers, real Redis, real sockets; nothing here waits by sleeping."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_client
from websockets.asyncio.client import ClientConnection, connect

from labserver.embedded import running_redis
from labserver.server import LabServer
from labserver.settings import Settings
from labserver.stages import build, included
from labserver.tokens import issue

SECRET = "a secret of thirty-two bytes or more"
DEADLINE = 5.0  # seconds that a test waits for what must happen


@pytest.fixture(scope="session", autouse=True)
def redis_url() -> Iterator[str]:
    """One Redis for the whole session.

    Used by itself, because it cannot be started from inside a test's event loop.
    """
    with asyncio.Runner() as runner:
        context = running_redis()
        url = runner.run(context.__aenter__())
        yield url
        runner.run(context.__aexit__(None, None, None))


@pytest.fixture
def redis(redis_url: str) -> Iterator[redis_client.Redis]:
    """A connection to the session's Redis, emptied for this test."""
    with redis_client.Redis.from_url(redis_url) as connection:
        connection.flushall()
        yield connection


class Peer:
    """A plain WebSocket client that speaks JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.hello: dict[str, Any] = {}

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def recv(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE):
            message: dict[str, Any] = json.loads(await self.socket.recv())
            return message

    async def until(self, kind: str) -> dict[str, Any]:
        """Return the next message of a type; others are skipped."""
        while (message := await self.recv())["type"] != kind:
            pass
        return message

    async def ask(self, **message: Any) -> dict[str, Any]:
        """Send, and return the answer with the same ref."""
        await self.send(**{"ref": "q", **message})
        ref = message.get("ref", "q")
        while (answer := await self.recv()).get("ref") != ref:
            pass
        return answer

    async def join(self, room: str, **more: Any) -> dict[str, Any]:
        return await self.ask(type="join", room=room, **more)

    async def closed(self) -> int:
        """Read to the end; return the close code."""
        async with asyncio.timeout(DEADLINE):
            await self.socket.wait_closed()
        return self.socket.close_code or 1006


@asynccontextmanager
async def peer(
    server: LabServer | str, user: str = "ann", token: str | None = None, **options: Any
) -> AsyncIterator[Peer]:
    """Connect to a server, read the hello, and go away afterwards."""
    url = server if isinstance(server, str) else server.url
    token = token or issue(SECRET, user)
    headers = {"Authorization": f"Bearer {token}"}
    options = {
        "ping_interval": None,
        "compression": None,
        "close_timeout": 1,
        **options,
    }
    async with connect(f"{url}/", additional_headers=headers, **options) as socket:
        client = Peer(socket)
        client.hello = await client.recv()
        yield client


Running = Callable[..., AbstractAsyncContextManager[LabServer]]


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Running:
    """Run a server of a stage in this process: ``async with running("rooms") as s``."""

    @asynccontextmanager
    async def run(
        stage: str = "resume", *, without: tuple[str, ...] = (), **settings: Any
    ) -> AsyncIterator[LabServer]:
        chosen = Settings(**{"secret": SECRET, "drain_timeout": 1.0, **settings})
        names = [each.name for each in included(stage, without)]
        if "broker" in names and not chosen.redis:
            request.getfixturevalue("redis")  # empty it
            chosen = replace(chosen, redis=request.getfixturevalue("redis_url"))
        parts = build(stage, chosen, without)
        async with LabServer(parts, chosen, stage) as server:
            yield server

    return run


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], within: float = DEADLINE
) -> None:
    """Return as soon as a condition holds; fail when it does not hold in time."""
    async with asyncio.timeout(within):
        while True:
            result = condition()
            if await result if isinstance(result, Awaitable) else result:
                return
            await asyncio.sleep(0.005)

"""Real servers, real Redis, real sockets; nothing here waits by sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_client

from labserver.embedded import running_redis
from labserver.probes.world import PATIENCE, SECRET, Peer, peer, until
from labserver.server import LabServer
from labserver.settings import Settings
from labserver.stages import build, included

__all__ = ["DEADLINE", "SECRET", "Peer", "Running", "eventually", "peer"]

DEADLINE = PATIENCE  # seconds that a test waits for what must happen


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
        await until(condition)

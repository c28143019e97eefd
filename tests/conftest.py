"""Real servers, real Redis, real sockets; nothing here waits by sleeping."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis as redis_client

from labserver import cli
from labserver.judge.world import PATIENCE, SECRET, Peer, peer, until
from labserver.redis.embedded import running_redis
from labserver.server.server import LabServer
from labserver.settings import Settings
from labserver.stages import build, included

__all__ = ["DEADLINE", "SECRET", "Command", "Peer", "Running", "eventually", "peer"]

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


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Run ``labserver`` in this process, with these variables: status, output, errors.

    What it changes of logging is put back: its handler writes to this test's output,
    which is closed when another test's server logs.
    """
    for name in list(os.environ):
        if name.startswith("LAB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    root, own = logging.getLogger(), logging.getLogger("labserver")
    handlers, levels = root.handlers.copy(), (root.level, own.level)

    def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["labserver", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    yield run
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], within: float = DEADLINE
) -> None:
    """Return as soon as a condition holds; fail when it does not hold in time."""
    async with asyncio.timeout(within):
        await until(condition)

"""Fixtures: real servers, a real Redis, real sockets. No fixture waits by sleeping."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from labserver import cli
from labserver.http.door import open_web
from labserver.judge.world import PATIENCE, SECRET, Peer, peer, until
from labserver.processes.serving import loop_factory
from labserver.redis.embedded import running_redis
from labserver.server.server import LabServer
from labserver.settings import Settings
from labserver.stages import build, included
from tests.support.tools import TOOLS
from tests.support.virtual import TestLoop

__all__ = ["DEADLINE", "SECRET", "Command", "Peer", "Running", "eventually", "peer"]

# With it, jsonschema makes a grammar of IRIs: 1.5 s in each process, for no test.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

DEADLINE = PATIENCE  # seconds that a test waits for a condition


def debugging() -> asyncio.AbstractEventLoop:
    """Return asyncio's own loop, in the mode in which it looks for mistakes."""
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    return loop


LOOPS = {"uvloop": loop_factory(), "asyncio": debugging, "virtual": TestLoop}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run a test on uvloop, which servers use, or on the loops that its module marks.

    Both loops promise the same, but they report events in a different order. Only
    uvloop reads a request and the reset after it at once; only the timers of asyncio's
    own loop are never early.
    """
    mark = item.get_closest_marker("loops")
    names = mark.args if mark else ("uvloop",)
    return {name: LOOPS[name] for name in names}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Begin with the tests that may take the longest: none of them begins last.

    Each process begins with an equal share of the list, so they are dealt like cards.
    Of a test that runs on two loops, the second one is left to ``make debug``.
    """
    items.sort(key=lambda item: -seconds_of(item))
    count = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = [item for first in range(count) for item in items[first::count]]
    for item in items:
        mark = item.get_closest_marker("loops")
        if mark and loop_of(item) in mark.args[1:]:
            item.add_marker("second")


def loop_of(item: pytest.Item) -> str:
    """Return the name of the loop that a test runs on."""
    callspec = getattr(item, "callspec", None)
    factory = callspec and callspec.params.get("_asyncio_loop_factory")
    return next((name for name, each in LOOPS.items() if each is factory), "")


def seconds_of(item: pytest.Item) -> float:
    """Return what orders tests: a whole program takes longer than any other test."""
    mark = item.get_closest_marker("timeout")
    seconds = float(mark.args[0] if mark else item.config.getini("timeout"))
    return seconds + 1000 * bool(item.get_closest_marker("long"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs a program which is not here.

    The summary has one line for each program, because it counts skips by their place.
    """
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            if not TOOLS[name]:
                pytest.skip(f"NOT TESTED: there is no {name}")


class Reports(logging.Handler):
    """Keeps a loop's reports of exceptions that nobody awaits."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(self.format(record))


@pytest.fixture(autouse=True)
def unheard() -> Iterator[None]:
    """Fail a test if a callback failed in it, or a task that nobody awaits."""
    log, reports = logging.getLogger("asyncio"), Reports()
    log.addHandler(reports)
    yield
    log.removeHandler(reports)
    assert not reports.kept, "\n".join(reports.kept)


@pytest.fixture(scope="session", autouse=True)
def redis_url() -> Iterator[str]:
    """One Redis for the whole session; the value is its URL.

    It starts with the session, because it cannot be started inside a test's event loop.
    """
    with asyncio.Runner() as runner:
        context = running_redis()
        url = runner.run(context.__aenter__())
        yield url
        runner.run(context.__aexit__(None, None, None))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for a Unix socket's: tmp_path has long names."""
    with tempfile.TemporaryDirectory(prefix="lab-") as name:
        yield Path(name)


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
        async with LabServer(parts, chosen, stage, open_web=open_web) as server:
            yield server

    return run


@pytest.fixture(params=LOOPS)
def loop_of_process(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Environment variables that make a server process use uvloop, then asyncio's."""
    if request.param == "uvloop":
        return {}
    (tmp_path / "uvloop.py").write_text("raise ImportError('not here')")
    return {"PYTHONPATH": str(tmp_path)}


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Run ``labserver`` in this process: returns exit status, stdout and stderr.

    Keyword arguments are environment variables. The logging configuration is restored:
    the command's handler writes to this test's output, which is closed when another
    test's server logs.
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
    """Return as soon as a condition holds; fail if it does not within some seconds."""
    async with asyncio.timeout(within):
        await until(condition)

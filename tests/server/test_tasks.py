"""A long task that fails is logged, counted, told in /readyz, and started again."""

from __future__ import annotations

import asyncio
import logging
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from labserver.redis.embedded import EmbeddedRedis, running_redis
from labserver.server import tasks
from labserver.server.metrics import Metrics
from labserver.server.server import LabServer
from tests.conftest import Running, eventually, peer


class OnceBroken:
    """Stands for a function, and fails when it is called the first time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("nobody foresaw this")
        return self.function(*args, **kwargs)


async def page(server: LabServer, path: str) -> tuple[int, str]:
    """Return status and body of a page."""
    url = server.url.replace("ws://", "http://") + path

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    return await asyncio.to_thread(get)


# What a task calls in each of its rounds: where it is looked up, and its name.
PLACES: dict[str, tuple[Callable[[LabServer], Any], str]] = {
    "heartbeat": (lambda server: server.parts.heartbeat, "step"),
    "lag": (lambda server: server.lag, "then"),
    "tending": (lambda server: server.hub.rooms, "keys"),
    "link": (lambda server: server.parts.broker.redis.node.link, "_confirmed"),
    "probe": (lambda server: server.parts.broker.redis.node.link.commands, "call"),
    "commands": (lambda server: server.parts.broker.redis.node.commands, "_batch"),
    "memory": (lambda server: server.parts.broker.memory.ledger, "cut"),
    "presence": (lambda server: server.attendance, "_tell"),
    "web": (lambda server: server.web.server, "on_tick"),
}


@pytest.mark.parametrize("name", PLACES)
async def test_task_that_fails_is_told_and_starts_again(
    name: tasks.Name,
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tasks, "PAUSE", 0.01)
    async with (
        running("resume", heartbeat_interval=2.0, sse_port=0) as server,
        peer(server) as ann,
    ):
        await ann.join("lobby", presence=True)
        await ann.until("present")
        assert await page(server, "/readyz") == (200, "ok\n")
        find, function = PLACES[name]
        place = find(server)
        if name == "tending":
            server.hub.rooms = place = Rooms(place)
        broken = OnceBroken(getattr(place, function))
        monkeypatch.setattr(place, function, broken)
        if name == "link":
            await ann.join("another")
        if name == "presence":
            async with peer(server, "bob") as bob:
                await bob.join("lobby", presence=True)
        await eventually(lambda: server.metrics.failures[name] == 1)
        assert await page(server, "/readyz") == (503, f"the task {name} failed\n")
        _, metrics = await page(server, "/metrics")
        assert f'labserver_tasks_failed_total{{task="{name}"}} 1.0\n' in metrics
        (line,) = [each for each in caplog.records if each.exc_info]
        assert line.getMessage() == f"the task {name} failed"
        assert line.levelno == logging.ERROR
        calls = broken.calls
        if name == "link":
            await ann.join("third")
        elif name == "presence":
            async with peer(server, "cid") as cid:
                await cid.join("lobby", presence=True)
                await cid.until("present")
        await eventually(lambda: broken.calls > calls)
        monkeypatch.setattr(tasks, "TRUST", 0.0)
        assert await page(server, "/readyz") == (200, "ok\n")
        answer = await ann.ask(type="publish", room="lobby", payload=1)
        assert answer["type"] == "ack"


class Rooms(dict[str, Any]):
    """A dictionary whose methods can be replaced."""


async def test_task_that_fails_again_and_again_keeps_a_server_unready(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "PAUSE", 0.01)
    monkeypatch.setattr(tasks, "TRUST", 0.5)
    async with running("heartbeat", heartbeat_interval=0.1) as server:

        def fail() -> None:
            raise RuntimeError("again")

        monkeypatch.setattr(server.parts.heartbeat, "step", fail)
        await eventually(lambda: server.metrics.failures["heartbeat"] > 50)
        assert server.unready() == "the task heartbeat failed"
        monkeypatch.undo()
        await eventually(lambda: server.unready() is None)


async def test_commands_under_way_are_answered_when_their_task_fails(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "PAUSE", 0.01)
    async with running("resume") as server, peer(server) as ann:
        await ann.join("lobby")
        commands = server.parts.broker.redis.node.commands
        broken = OnceBroken(commands._execute)
        monkeypatch.setattr(commands, "_execute", broken)
        said = await ann.ask(type="publish", room="lobby", payload=1)
        assert (said["type"], said["code"]) == ("error", "broker_down")
        said = await ann.ask(type="publish", room="lobby", payload=2)
        assert said["type"] == "ack"


async def test_watch_over_the_embedded_redis_goes_on_when_it_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "PAUSE", 0.01)
    failures = Metrics().failures
    found: list[EmbeddedRedis] = []
    start = EmbeddedRedis.start

    async def note(redis: EmbeddedRedis) -> None:
        found.append(redis)
        if len(found) == 2:
            raise RuntimeError("nobody foresaw this")
        await start(redis)

    monkeypatch.setattr(EmbeddedRedis, "start", note)
    async with running_redis(failures=failures):
        process = found[0].process
        assert process is not None
        process.kill()
        await eventually(lambda: failures["redis"] == 1)
        await eventually(lambda: len(found) == 3)
        await eventually(lambda: found[0].process is not process)

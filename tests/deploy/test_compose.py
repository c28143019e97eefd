"""docker-compose.yml in a real Docker engine: several replicas behind the router."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import secrets
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.client import Client
from tests.conftest import eventually, peer
from tests.support.compose import (
    ROOT,
    TIMEOUT,
    Stack,
    bounded,
    compose_command,
    docker,
    needs_engine,
    no_root,
    replicas,
    replicas_up,
)

pytestmark = needs_engine


def test_stack_needs_its_secrets() -> None:
    said = subprocess.run(
        [*(compose_command() or []), "config"],
        cwd=ROOT,
        env={**os.environ, "LAB_SECRETS": ""},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert said.returncode != 0
    assert "set LAB_SECRETS" in said.stderr
    assert "make env" in said.stderr


def test_no_variable_of_a_container_has_a_secret(stack: Stack) -> None:
    containers = stack.compose("ps", "-q").split()
    said = docker("inspect", *containers)
    for secret in (stack.secret, stack.password, stack.jupyter_token):
        assert secret not in said


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
def test_container_is_bounded_and_nothing_in_it_is_root(
    stack: Stack, service: str
) -> None:
    no_root(stack, service)
    bounded(stack, service)


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

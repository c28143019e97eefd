"""The server's life: listening, draining, and the page of metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from contextlib import AsyncExitStack, ExitStack

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request

from labserver.contract.tokens import Identity
from labserver.errors import SettingsError
from labserver.http.door import open_web
from labserver.http.listener import WebServer
from labserver.processes.cluster import running_replica
from labserver.redis.embedded import embedded_redis
from labserver.redis.nodes import OneNode
from labserver.server.connection import LabConnection
from labserver.server.server import LabServer
from labserver.settings import Settings
from labserver.stages import STAGES, broker, build
from tests.conftest import DEADLINE, SECRET, Running, eventually, peer
from tests.support.plain_http import post
from tests.support.raw_sockets import raw_peer, said

pytestmark = pytest.mark.loops("uvloop", "asyncio")


async def get(server: LabServer, path: str) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body of a plain HTTP request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    status, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


async def test_answers_are_not_delayed_by_nagle(running: Running) -> None:
    async with running("rooms") as server, peer(server):
        (connection,) = server.connections
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_send_buffer_is_inherited_by_connections(running: Running) -> None:
    async with running("rooms", send_buffer=16384) as server, peer(server):
        (connection,) = server.connections
        sock = connection.transport.get_extra_info("socket")
        # Linux doubles the value that is set, see socket(7).
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * 16384


async def test_taken_port_is_named() -> None:
    settings = Settings(secret="s" * 32)
    async with LabServer(build("echo", settings), settings) as server:
        with pytest.raises(SettingsError, match=f"127.0.0.1:{server.port}"):
            async with LabServer(build("echo", settings), settings, port=server.port):
                pass


@pytest.mark.parametrize("step", ["broker", "memory", "heartbeat", "listen", "web"])
async def test_server_that_cannot_start_leaves_nothing(
    step: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(secret="s" * 32, redis=redis_url, sse_port=0)
    server = LabServer(build("resume", settings), settings, open_web=open_web)
    before = asyncio.all_tasks()

    async def fail(*_: object) -> None:
        raise OSError("there is no memory")

    def fail_now(*_: object) -> None:
        raise OSError("there is no memory")

    place = {
        "broker": (OneNode, "start"),
        "memory": (broker, "Memory"),
        "heartbeat": (server.parts.heartbeat, "start"),
        "listen": (server, "listen"),
        "web": (WebServer, "start"),
    }[step]
    monkeypatch.setattr(*place, fail_now if step == "memory" else fail)
    with pytest.raises(OSError, match="no memory"):
        async with server:
            pass
    await eventually(lambda: not asyncio.all_tasks() - before)
    assert isinstance(server.web, WebServer)
    assert server.web.listening.fileno() == -1
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", server.port)


@pytest.mark.parametrize("stage", STAGES)
async def test_hello_names_stage_replica_and_heartbeat(
    stage: str, running: Running
) -> None:
    async with running(stage, replica="r1") as server, peer(server) as client:
        assert client.hello["stage"] == stage
        assert client.hello["replica"] == "r1"
        beats = STAGES[stage].number >= STAGES["heartbeat"].number
        assert client.hello["heartbeat"] == (25.0 if beats else None)
        assert client.hello["user"] == ("anonymous" if stage == "echo" else "ann")


async def test_drain_says_goodbye_and_when_to_return(running: Running) -> None:
    async with running("rooms") as server, peer(server) as client:
        draining = asyncio.create_task(server.drain(5.0))
        assert await client.closed() == 1001
        assert "retry_after_ms=" in (client.socket.close_reason or "")
        await draining


async def test_draining_server_refuses_handshakes_and_is_not_ready(
    running: Running,
) -> None:
    async with running("rooms", drain_timeout=5.0) as server:
        deaf = socket.create_connection(("127.0.0.1", server.port))
        async with peer(server) as client:
            # A client that does not answer the goodbye keeps the drain waiting.
            client.socket.transport.pause_reading()
            draining = asyncio.create_task(server.drain(5.0))
            await eventually(lambda: server.draining)
            status, headers, body = await get(server, "/readyz")
            assert (status, headers["Retry-After"], body) == (503, "1", "draining\n")
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{server.url}/")
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"] == "1"
            client.socket.transport.resume_reading()
            await draining
        deaf.close()


async def test_who_was_admitted_just_before_a_drain_is_said_goodbye_to(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running("rooms", drain_timeout=5.0) as server:
        admission, drains = server.parts.admission, []
        admit = admission.admit

        def just_before(connection: LabConnection, request: Request) -> Identity:
            drains.append(asyncio.create_task(server.drain(5.0)))
            return admit(connection, request)

        monkeypatch.setattr(admission, "admit", just_before)
        async with peer(server, "bob") as bob:
            assert await bob.closed() == 1001
            assert "retry_after_ms=" in (bob.socket.close_reason or "")
        await asyncio.gather(*drains)


async def test_drain_ends_at_its_deadline_with_a_peer_that_never_reads(
    running: Running,
) -> None:
    async with running("rooms") as server, peer(server) as client:
        client.socket.transport.pause_reading()
        (connection,) = server.connections
        connection.transport.write(bytes(8_000_000))
        async with asyncio.timeout(5):
            await server.drain(0.1)
        assert not server.connections


# asyncio's own loop, of Python 3.11, forgets a transport whose listener was closed.
@pytest.mark.loops("uvloop")
@pytest.mark.parametrize("turns", range(5))
async def test_drain_does_not_wait_for_a_client_that_came_just_before(
    turns: int, running: Running
) -> None:
    async with running("rooms", handshake_timeout=3 * DEADLINE) as server:
        with ExitStack() as stack:
            for _ in range(20):  # accepted, or still in the backlog
                address = ("127.0.0.1", server.port)
                stack.enter_context(socket.create_connection(address))
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(DEADLINE):
                await server.drain(0.1)
            await eventually(lambda: not server.sockets)


async def test_drain_keeps_its_deadline_with_a_conversation_that_does_not_end(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    within, over = 0.2, asyncio.Event()

    async def stubborn(*_: object) -> None:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    async with running("rooms") as server, peer(server) as client:
        monkeypatch.setattr(server.application, "receive", stubborn)
        await client.send(type="ping")
        await eventually(lambda: server.metrics.received == 1)
        started = time.monotonic()
        try:
            async with asyncio.timeout(10):
                await asyncio.gather(server.drain(within), server.drain(within))
            assert time.monotonic() - started < within + 1.5
        finally:
            over.set()


async def test_drain_keeps_its_deadline_though_redis_is_frozen(
    running: Running,
) -> None:
    within = 0.5
    async with (
        embedded_redis() as redis,
        running("resume", redis=redis.url, sse_port=0) as server,
        peer(server) as ann,
    ):
        await ann.join("lobby", presence=True)
        await ann.until("present")
        redis.signal(signal.SIGSTOP)
        try:
            posting = asyncio.create_task(post(server, "lobby", 1))
            await eventually(lambda: server.metrics.received == 2)
            await ann.send(type="join", room="another")
            started = time.monotonic()
            await server.drain(within)
            assert time.monotonic() - started < within + 1.5
        finally:
            redis.signal(signal.SIGCONT)
        await asyncio.wait((posting,))
        assert posting.exception() is not None  # there was no answer


async def test_metrics_page_counts_what_happened(running: Running) -> None:
    async with running("resume") as server, peer(server) as client:
        await client.join("lobby")
        await client.send(type="publish", room="lobby", payload=1)
        await client.until("message")
        status, headers, page = await get(server, "/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        samples = dict(
            line.rsplit(" ", 1) for line in page.splitlines() if line[:1] != "#"
        )
        assert samples["labserver_connections"] == "1.0"
        assert samples["labserver_messages_published_total"] == "1.0"
        assert samples["labserver_deliveries_total"] == "1.0"
        assert samples["labserver_rooms"] == "1.0"


async def test_failing_application_closes_with_1011_and_the_server_lives(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with running("rooms") as server, peer(server) as other:
        async with peer(server) as client:

            async def broken(connection: object, text: str) -> None:
                raise RuntimeError("no token here")

            server.application.receive, kept = broken, server.application.receive
            await client.socket.send(json.dumps({"type": "ping"}))
            assert await client.closed() == 1011
            server.application.receive = kept
        assert "connection" in caplog.text
        assert (await other.ask(type="ping"))["type"] == "pong"


@pytest.mark.loops("uvloop")  # this test's; the server is another process
@pytest.mark.timeout(60)
async def test_drain_keeps_its_deadline_though_the_lost_left_long_queues() -> None:
    within, clients, joins = 2, 100, 1000
    async with (
        running_replica(
            *("resume", "--drain-timeout", str(within)),
            *("--message-rate-limit", "0", "--rooms-limit", str(joins)),
            environment={"LAB_SECRET": SECRET},
        ) as server,
        AsyncExitStack() as stack,
    ):
        port = int(server.url.rpartition(":")[2])
        for number in range(clients):
            client = await stack.enter_async_context(raw_peer(port))
            rooms = (f"r{number}.{each}" for each in range(joins))
            client.send(b"".join(said(type="join", room=room) for room in rooms))
        os.kill(server.pid, signal.SIGTERM)
        await stack.aclose()  # they vanish
        started = time.monotonic()
        assert await server.process.wait() == 0
        assert time.monotonic() - started < within + 2

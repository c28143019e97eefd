"""A server process that stood still judges nobody by what it could not hear."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis as redis_client

from labserver.processes.cluster import Replica, running_replica
from labserver.processes.ports import free_port
from labserver.redis.embedded import embedded_redis
from labserver.redis.link import SILENCE
from tests.conftest import SECRET, peer
from tests.support.attackers import attacked
from tests.support.raw_sockets import Raw, bearer, raw, raw_peer, said, upgrade

pytestmark = pytest.mark.timeout(60)
TIMEOUT = 2.0  # seconds that a peer has


@asynccontextmanager
async def standing(server: Replica, seconds: float) -> AsyncIterator[None]:
    """Stop a server; let it go on when the block is done and the time is over."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
        await asyncio.sleep(seconds)  # it is this time that is tested
    finally:
        os.kill(server.pid, signal.SIGCONT)


@asynccontextmanager
async def process(stage: str, *options: str, **more: str) -> AsyncIterator[Replica]:
    async with running_replica(
        stage, *options, environment={"LAB_SECRET": SECRET, **more}
    ) as server:
        yield server


def port_of(server: Replica) -> int:
    return int(server.url.rpartition(":")[2])


async def test_reader_that_took_everything_meanwhile_is_not_stuck(
    loop_of_process: dict[str, str],
) -> None:
    options = ("--stuck-timeout", f"{TIMEOUT}", "--send-buffer", "4096")
    async with (
        process("backpressure", *options, **loop_of_process) as server,
        peer(server.url) as ann,
        asleep(server) as client,
    ):
        while await server.metric("labserver_outbox_bytes") < 100_000:
            for _ in range(20):
                await ann.ask(type="publish", room="lobby", payload="x" * 8000)
        async with standing(server, 1.5 * TIMEOUT):
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await client.message()  # and all else that the kernels hold
        last = await ann.ask(type="publish", room="lobby", payload="last")
        while (await client.message())["seq"] < last["seq"]:
            pass
        assert await server.metric("labserver_peers_stuck_total") == 0


@asynccontextmanager
async def asleep(server: Replica) -> AsyncIterator[Raw]:
    """A member with a small buffer that does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # before it connects
    sock.connect(("127.0.0.1", port_of(server)))
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock)
    client = Raw(reader, writer)
    client.send(upgrade("/", bearer()))
    assert await client.head() == 101
    assert (await client.message())["type"] == "hello"
    client.send(said(type="join", room="lobby"))
    assert (await client.message())["type"] == "joined"
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    try:
        yield client
    finally:
        writer.transport.abort()


async def test_handshake_that_came_meanwhile_is_answered(
    loop_of_process: dict[str, str],
) -> None:
    options = ("--handshake-timeout", f"{TIMEOUT}")
    async with process("auth", *options, **loop_of_process) as server:
        request = upgrade("/", bearer())
        async with raw(port_of(server), request[:10]) as client:
            await server.metric("labserver_connections")  # it was accepted before
            async with standing(server, 1.5 * TIMEOUT):
                client.send(request[10:])
            assert await client.head() == 101


async def test_message_whose_end_came_meanwhile_is_served(
    loop_of_process: dict[str, str],
) -> None:
    options = ("--handshake-timeout", f"{TIMEOUT}")
    async with (
        process("rooms", *options, **loop_of_process) as server,
        raw_peer(port_of(server)) as client,
    ):
        whole = said(type="ping")
        client.send(whole[:5])
        assert await server.metric("labserver_connections") == 1  # it was read
        async with standing(server, 1.5 * TIMEOUT):
            client.send(whole[5:])
        assert (await client.message())["type"] == "pong"


async def test_request_and_body_that_came_meanwhile_are_answered(
    loop_of_process: dict[str, str], redis_url: str
) -> None:
    options = ("--handshake-timeout", f"{TIMEOUT}", "--redis", redis_url)
    port = free_port()
    options += ("--sse-port", f"{port}")
    async with process("resume", *options, **loop_of_process) as two:
        post = upgrade("/rooms/red", bearer(), "Content-Length: 3", method="POST")
        async with raw(port, post[:40]) as head, raw(port, post + b"[") as body:
            await two.metric("labserver_visitors")
            async with standing(two, 1.5 * TIMEOUT):
                head.send(post[40:] + b"[1]")
                body.send(b"2]")
            assert await head.head() == 200
            assert await body.head() == 200


async def test_link_to_redis_is_kept(
    loop_of_process: dict[str, str], redis_url: str, redis: redis_client.Redis
) -> None:
    options = ("--redis", redis_url)
    async with (
        process("resume", *options, **loop_of_process) as server,
        peer(server.url) as ann,
    ):
        await ann.join("lobby")
        links = subscribers(redis)
        async with standing(server, 1.2 * SILENCE):
            pass
        assert await server.metric("labserver_broker_up") == 1
        await ann.send(type="publish", room="lobby", payload=1)
        assert (await ann.until("message"))["seq"] == 1
        assert subscribers(redis) == links


async def test_link_is_kept_though_one_user_publishes_all_it_can() -> None:
    redis_limit = ("--client-output-buffer-limit", "pubsub 32mb 8mb 60")  # its default
    received = "labserver_messages_received_total"
    async with (
        embedded_redis(*redis_limit) as broker,
        running_replica("resume", "--redis", broker.url, secret=SECRET) as one,
        running_replica("resume", "--redis", broker.url, secret=SECRET) as two,
        peer(two.url) as ann,
    ):
        await ann.join("attacked")
        with redis_client.Redis.from_url(broker.url) as redis:
            links = subscribers(redis)
            async with attacked(one, "big", 3):
                async with asyncio.timeout(10):
                    while await one.metric(received) < 3:
                        pass
                async with standing(two, 0.8 * SILENCE):
                    pass
            assert subscribers(redis) == links


def subscribers(redis: redis_client.Redis) -> set[str]:
    return {each["id"] for each in redis.client_list(_type="pubsub")}

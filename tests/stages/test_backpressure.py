"""Slow and stuck readers over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect

from labserver.contract.tokens import issue
from labserver.judge.oracle import Oracle
from labserver.server.connection import LabConnection
from labserver.server.server import LabServer
from tests.conftest import DEADLINE, SECRET, Peer, Running, eventually, peer

pytestmark = pytest.mark.loops("uvloop", "asyncio")

LIMIT = 32768


@asynccontextmanager
async def sleepy(server: LabServer) -> AsyncIterator[tuple[Peer, LabConnection]]:
    """A member with small buffers that reads only when the test says so."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # before it connects
    sock.connect(("127.0.0.1", server.port))
    sock.setblocking(False)
    headers = {"Authorization": f"Bearer {issue(SECRET, 'sloth')}"}
    async with connect(
        server.url,
        sock=sock,
        additional_headers=headers,
        compression=None,
        ping_interval=None,
        close_timeout=1,
        max_queue=None,
    ) as websocket:
        client = Peer(websocket)
        client.hello = await client.recv()
        await client.join("lobby")
        await client.join("other")
        websocket.transport.pause_reading()
        (connection,) = (
            each for each in server.connections if each.name == client.hello["id"]
        )
        yield client, connection


async def flood(ann: Peer, room: str, count: int, size: int = 2000) -> None:
    for number in range(count):
        payload = {"n": number, "pad": "x" * size}
        await ann.ask(type="publish", room=room, payload=payload)


async def collect(client: Peer, last: int) -> tuple[Oracle, list[dict]]:
    """Read until the ``last`` seq of the lobby has arrived, or its loss is told."""
    oracle, messages = Oracle(), []
    joined = {"room": "lobby", "epoch": "e", "seq": 0, "recovered": False}
    oracle.saw({"type": "joined", **joined})
    while True:
        message = await client.recv()
        messages.append(message)
        oracle.saw(message)
        if message.get("seq", message.get("to")) == last:
            return oracle, messages


@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest", "conflate"])
async def test_every_loss_is_told_and_answers_are_never_dropped(
    policy: str, running: Running
) -> None:
    async with (
        running(
            "backpressure",
            outbox_limit=LIMIT,
            outbox_policy=policy,
            send_buffer=4096,
        ) as server,
        peer(server) as ann,
        sleepy(server) as (slow, connection),
    ):
        await flood(ann, "lobby", 150)
        assert connection.paused
        assert 0 < connection.outbox.waiting() <= LIMIT + 4096
        # It sends a request while it does not read: the answer waits, and arrives.
        await slow.send(type="ping", ref="still here")
        await eventually(lambda: server.metrics.received == 153)
        await flood(ann, "lobby", 50)
        assert server.metrics.drops > 0
        slow.socket.transport.resume_reading()
        oracle, messages = await collect(slow, last=200)
        assert oracle.verdict.clean
        assert len(oracle.verdict.gaps) == server.metrics.drops
        assert {"type": "pong", "ref": "still here"} in messages
        newest = max(m["seq"] for m in messages if m["type"] == "message")
        assert (newest == 200) is (policy != "drop-newest")
        # After that it gets messages as before.
        await flood(ann, "lobby", 1)
        assert (await slow.until("message"))["seq"] == 201


@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest", "conflate"])
async def test_notice_of_a_loss_fits_within_the_limit_too(
    policy: str, running: Running
) -> None:
    settings = {"outbox_limit": LIMIT, "outbox_policy": policy, "send_buffer": 4096}
    async with (
        running("backpressure", **settings) as server,
        peer(server, "ann") as ann,
        sleepy(server) as (_, connection),
    ):
        waiting = connection.outbox.waiting
        while waiting() < LIMIT - 4000:
            await flood(ann, "lobby", 1, 1000)
        before = waiting()
        await flood(ann, "lobby", 1, 1000)
        frame = waiting() - before
        # A message that leaves 10 bytes, then one that does not fit.
        await flood(ann, "lobby", 1, 1000 + LIMIT - waiting() - frame - 10)
        while not server.metrics.drops:  # the kernel may have taken some bytes
            await flood(ann, "other", 1, 1000)
        assert waiting() <= LIMIT


async def test_conflate_keeps_the_newest_of_each_room(running: Running) -> None:
    async with (
        running(
            "backpressure",
            outbox_limit=LIMIT,
            outbox_policy="conflate",
            send_buffer=4096,
        ) as server,
        peer(server) as ann,
        sleepy(server) as (slow, _),
    ):
        await flood(ann, "other", 3)
        for _ in range(10):
            await flood(ann, "lobby", 20)
            await flood(ann, "other", 1)
        slow.socket.transport.resume_reading()
        seen: dict[str, int] = {}
        while seen.get("lobby") != 200 or seen.get("other") != 13:
            message = await slow.recv()
            if message["type"] == "message":
                seen[message["room"]] = message["seq"]


async def test_slow_reader_is_closed_with_4409(running: Running) -> None:
    async with (
        running("backpressure", outbox_limit=LIMIT, send_buffer=4096) as server,
        peer(server) as ann,
        sleepy(server) as (slow, connection),
    ):
        while connection.ending is None:
            await flood(ann, "lobby", 5)
        slow.socket.transport.resume_reading()
        assert await slow.closed() == 4409
        await eventually(lambda: server.metrics.closes[4409, "server"] == 1)
        assert server.metrics.stuck == 0


async def test_stuck_peer_is_aborted_after_its_deadline(running: Running) -> None:
    async with (
        running(
            "backpressure",
            outbox_policy="drop-oldest",
            outbox_limit=LIMIT,
            send_buffer=4096,
            stuck_timeout=0.3,
        ) as server,
        peer(server) as ann,
        sleepy(server) as (slow, connection),
    ):
        await flood(ann, "lobby", 100)  # more than both kernels hold
        await eventually(lambda: connection not in server.connections)
        assert server.metrics.stuck == 1
        assert (await ann.ask(type="ping"))["type"] == "pong"
        slow.socket.transport.abort()


async def test_peer_that_asks_and_never_listens_is_closed(running: Running) -> None:
    async with (
        running(
            "backpressure",
            outbox_policy="drop-oldest",
            outbox_limit=LIMIT,
            send_buffer=4096,
            message_rate_limit=0,
        ) as server,
        peer(server),
        sleepy(server) as (slow, connection),
    ):
        most = 0
        question = json.dumps({"type": "ping", "ref": "x" * 100})

        async def ask_on() -> None:
            while True:  # in the end nobody reads: then this waits
                await slow.socket.send(question)

        asking = asyncio.create_task(ask_on())
        async with asyncio.timeout(DEADLINE):
            while connection.ending is None:
                most = max(most, connection.outbox.waiting())
                await asyncio.sleep(0)
        assert connection.ending.code == 4409
        assert most <= 2 * LIMIT + 4096
        asking.cancel()
        slow.socket.transport.abort()
        await asyncio.wait([asking])


async def test_reader_hears_why_it_was_ended_where_being_stuck_has_no_deadline(
    running: Running,
) -> None:
    async with (
        running(
            "backpressure", outbox_limit=LIMIT, send_buffer=4096, stuck_timeout=0
        ) as server,
        peer(server) as ann,
        sleepy(server) as (slow, connection),
    ):
        while connection.ending is None:
            await flood(ann, "lobby", 1)
        await ann.ask(type="ping")  # the loop runs the callbacks that are due
        slow.socket.transport.resume_reading()
        assert await slow.closed() == 4409


async def test_healthy_reader_gets_a_burst_larger_than_the_limit(
    running: Running,
) -> None:
    async with (
        running("backpressure", outbox_limit=4096, message_rate_limit=0) as server,
        peer(server) as ann,
        peer(server, max_queue=None) as bob,
    ):
        await bob.join("lobby")
        payload = {"type": "publish", "room": "lobby", "payload": "x" * 1000}
        for _ in range(50):  # at once: they arrive joined
            await ann.socket.send(json.dumps(payload))
        seqs = [(await bob.until("message"))["seq"] for _ in range(50)]
        assert seqs == list(range(1, 51))

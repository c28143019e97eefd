"""The proxy that breaks things, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from labserver.errors import SettingsError
from labserver.processes import faults
from labserver.processes.faults import Proxy
from tests.conftest import Running, eventually, peer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Run a server that sends back its input; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await server.wait_closed()


@pytest.fixture
async def net() -> AsyncIterator[Proxy]:
    async with echoing() as port, faults.proxy("127.0.0.1", port) as through:
        yield through


@asynccontextmanager
async def dial(net: Proxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", net.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def say(streams: Streams, data: bytes) -> bytes:
    reader, writer = streams
    writer.write(data)
    async with asyncio.timeout(5):
        return await reader.readexactly(len(data))


async def test_bytes_pass_unchanged_and_in_order(net: Proxy) -> None:
    data = bytes(range(256)) * 4000
    async with dial(net) as streams:
        assert await say(streams, data) == data


async def test_frozen_way_holds_everything_and_gives_it_back(net: Proxy) -> None:
    async with dial(net) as (reader, writer):
        await say((reader, writer), b"before")
        net.down.freeze()
        writer.write(b"during")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        assert not reader.at_eof()
        net.down.thaw()
        async with asyncio.timeout(5):
            assert await reader.readexactly(6) == b"during"


async def test_frozen_way_is_a_full_network_not_a_large_buffer(net: Proxy) -> None:
    net.up.freeze()
    async with dial(net) as (_, writer):
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64_000_000:
                async with asyncio.timeout(0.2):
                    writer.write(bytes(65536))
                    await writer.drain()
                sent += 65536
        assert sent < 64_000_000


async def test_delay_is_added_to_each_piece_and_not_summed(net: Proxy) -> None:
    net.down.delay = 0.05
    async with dial(net) as streams:
        started = time.monotonic()
        await say(streams, b"x" * 200_000)  # about fifty pieces
        took = time.monotonic() - started
        assert took >= 0.05
        assert took < 50 * 0.05


@pytest.mark.parametrize("rate", [200_000, 20_000_000])
async def test_throttled_way_is_slow(net: Proxy, rate: int) -> None:
    net.up.rate = rate
    async with dial(net) as streams:
        started = time.monotonic()
        await say(streams, b"x" * (rate // 5))
        assert time.monotonic() - started >= 0.2


async def test_cut_ends_connections_and_new_ones_work(net: Proxy) -> None:
    async with dial(net) as streams:
        await say(streams, b"one")
        net.cut()
        assert await streams[0].read() == b""
    async with dial(net) as streams:
        assert await say(streams, b"two") == b"two"


async def test_reset_is_felt_as_a_reset(net: Proxy) -> None:
    async with dial(net) as streams:
        await say(streams, b"one")
        net.reset()
        with pytest.raises(ConnectionResetError):
            await streams[0].read()


def test_reset_passes_over_a_connection_that_has_just_ended() -> None:
    async def run() -> None:
        async with echoing() as port, faults.proxy("127.0.0.1", port) as net:
            _, ended = await asyncio.open_connection("127.0.0.1", port)
            ended.transport.abort()
            await ended.wait_closed()
            net.writers.add(ended)
            net.reset()
            net.writers.discard(ended)

    uvloop = pytest.importorskip("uvloop")  # asyncio keeps the socket of what ended
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run(), 10))


async def test_refusing_proxy_resets_newcomers(net: Proxy) -> None:
    net.refusing = True
    with pytest.raises(OSError):
        async with dial(net) as (reader, _):
            if await reader.read() == b"":
                raise ConnectionResetError


async def test_proxy_that_ends_takes_along_who_is_not_joined_yet() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        host, port = full.getsockname()
        async with AsyncExitStack() as stack:
            for _ in range(2):  # nobody accepts: the third connection is not made
                crowd = stack.enter_context(socket.socket())
                crowd.setblocking(False)
                crowd.connect_ex((host, port))
            async with faults.proxy(host, port) as net:
                reader, _ = await stack.enter_async_context(dial(net))
                await eventually(lambda: net.accepted == 1)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""


def test_command_that_comes_after_the_end_is_dropped() -> None:
    """The thread that reads commands may outlive the event loop."""
    reading, writing = os.pipe()
    loop, before = asyncio.new_event_loop(), set(threading.enumerate())
    given = faults.commands(reading)
    os.write(writing, b"thaw\n")
    assert loop.run_until_complete(anext(given)) == "thaw"
    (thread,) = set(threading.enumerate()) - before
    loop.run_until_complete(given.aclose())
    loop.close()
    with open(writing, "wb") as pipe:
        pipe.write(b"quit\n")
    thread.join(10)
    os.close(reading)
    assert not thread.is_alive()


async def test_commands_do_what_they_say(net: Proxy) -> None:
    for line in ("delay 0.5 up", "throttle 9 down", "freeze down", "refuse"):
        assert faults.obey(net, line) == f"done: {line}"
    assert (net.up.delay, net.down.delay, net.up.rate, net.down.rate) == (0.5, 0, 0, 9)
    assert (net.up.open.is_set(), net.down.open.is_set()) == (True, False)
    assert net.refusing
    faults.obey(net, "thaw\n")
    faults.obey(net, "accept")
    assert net.down.open.is_set()
    assert not net.refusing


@pytest.mark.parametrize("line", ["melt", "delay", "delay x", "throttle -1", "cut up"])
def test_unknown_command_is_named(line: str) -> None:
    with pytest.raises(SettingsError):
        faults.obey(Proxy("127.0.0.1", 1), line)


async def test_half_open_peer_is_dead_to_the_heartbeat(running: Running) -> None:
    async with (
        running("heartbeat", heartbeat_interval=0.2) as server,
        faults.proxy("127.0.0.1", server.port) as net,
    ):
        try:
            async with peer(net.url) as client:
                await client.join("lobby")
                net.freeze()
                await eventually(lambda: not server.connections)
                assert server.metrics.dead == 1
                net.thaw()
        except OSError:
            pass  # the goodbye met a closed connection

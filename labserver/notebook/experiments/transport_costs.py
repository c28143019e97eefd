"""Costs of each transport: idle listeners, publishing; and a table to choose by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import connect

from labserver.contract.plain_json import to_json
from labserver.judge.world import until
from labserver.notebook.experiments.transports import (
    PATH,
    ROOM,
    WAYS,
    Listener,
    Way,
    by_poll,
    by_websocket,
    http_client,
    three_ports,
)
from labserver.notebook.peers import DEADLINE
from labserver.processes import faults
from labserver.processes.cluster import Replica
from labserver.processes.faults import Proxy

IDLE = 300  # listeners of one kind, to measure the memory of one
FIRST = 30  # listeners before the measurement, because the first ones need more memory
MEMORY = "process_resident_memory_bytes"


@dataclass(frozen=True)
class Spoken:
    """Costs of publishing a message.

    Attributes:
        bytes: Bytes a message, both ways together.
        typical: Milliseconds within which half of the messages were acknowledged.

    """

    bytes: float
    typical: float


Say = Callable[[dict[str, Any]], Awaitable[Any]]


async def publishing(
    messages: int = 12, size: int = 100, delay: float = 0.02
) -> dict[str, Spoken]:
    """Publish in WebSocket frames, by POST on one connection, and by POST on many.

    Args:
    messages: How many to publish in each way.
    size: Bytes of padding in each.
    delay: Seconds that the network takes, each way.


    """
    ways = {
        "WebSocket": _in_frames,
        "POST": _by_post,
        "POST, new connection": _by_post_anew,
    }
    spoken = {}
    async with three_ports() as (server, port):
        for name, way in ways.items():
            to = urlsplit(server.url).port if way is _in_frames else port
            assert to is not None
            async with faults.proxy("127.0.0.1", to) as net:
                net.up.delay = net.down.delay = delay
                async with way(net, server.token()) as say:
                    taken = []
                    for _ in range(messages):
                        start = time.monotonic()
                        await say({"pad": "x" * size})
                        taken.append((time.monotonic() - start) * 1000)
                carried = net.up.carried + net.down.carried
            spoken[name] = Spoken(carried / messages, median(taken))
    return spoken


@asynccontextmanager
async def _in_frames(net: Proxy, token: str) -> AsyncIterator[Say]:
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(
        net.url, additional_headers=headers, compression=None, close_timeout=0.1
    ) as socket:
        await socket.recv()  # the hello

        async def say(payload: dict[str, Any]) -> None:
            message = {"type": "publish", "room": ROOM, "payload": payload, "ref": 1}
            await socket.send(to_json(message))
            await socket.recv()

        yield say


@asynccontextmanager
async def _by_post(net: Proxy, token: str) -> AsyncIterator[Say]:
    async with http_client(net, token) as client:

        async def say(payload: dict[str, Any]) -> None:
            (await client.post(PATH, json=payload)).raise_for_status()

        yield say


@asynccontextmanager
async def _by_post_anew(net: Proxy, token: str) -> AsyncIterator[Say]:
    async def say(payload: dict[str, Any]) -> None:
        async with http_client(net, token) as client:
            (await client.post(PATH, json=payload)).raise_for_status()

    yield say


class Decision:
    """The table to choose by: measured figures, and known properties."""

    def __init__(
        self,
        runs: Mapping[str, Listener],
        idle: Mapping[str, float],
        spoken: Mapping[str, Spoken],
    ) -> None:
        heard = list(runs.values())
        frames, posts, *_ = spoken.values()
        speak = f"in a frame: {frames.bytes:.0f} bytes, {frames.typical:.0f} ms"
        post = f"by POST: {posts.bytes:.0f} bytes, {posts.typical:.0f} ms"
        self.head = ["", *runs]
        self.rows = [
            ["bytes a message", *(_each(a.up + a.down, a) for a in heard)],
            ["half came within", *(f"{a.typical:.0f} ms" for a in heard)],
            ["requests a message", *(f"{a.requests / a.count:.2f}" for a in heard)],
            ["an idle listener", *(f"{size:.0f} kB" for size in idle.values())],
            ["to publish", speak, post, post],
            ["reconnects", "in your code", "by itself", "with every request"],
            ["a buffering proxy", "harmless", "nothing arrives", "harmless"],
            ["binary data", "yes", "no", "yes"],
            [
                "choose it when",
                "both sides send often",
                "only the server sends often",
                "messages are rare, or the network allows nothing else",
            ],
        ]

    def __repr__(self) -> str:
        return "\n".join(" | ".join(row) for row in [self.head, *self.rows])

    def _repr_markdown_(self) -> str:
        rows = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


decision = Decision


def _each(total: float, heard: Listener) -> str:
    return f"{total / heard.count:.0f}"


async def idle_cost(count: int = IDLE) -> dict[str, float]:
    """Return the kilobytes of server memory for an idle listener, by transport."""
    costs = await asyncio.gather(*(_idle_cost(way, count) for way in WAYS.values()))
    return dict(zip(WAYS, costs, strict=True))


async def _idle_cost(way: Way, count: int) -> float:
    async with three_ports() as (server, port), AsyncExitStack() as stack:
        start = f"GET {PATH} HTTP/1.1\r\n"
        if way is by_poll:
            cursor = await _newest(server, port)  # without it a poll returns at once
            start = f"GET {PATH}/poll?wait=30&after={cursor} HTTP/1.1\r\n"
        elif way is by_websocket:
            port = urlsplit(server.url).port or 0
            start = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            start += "Sec-WebSocket-Version: 13\r\n"
            start += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        token = server.token()
        head = f"{start}Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
        request = head.encode()
        if way is by_websocket:
            join = to_json({"type": "join", "room": ROOM}).encode()
            request += bytes((0x81, 0x80 | len(join), 0, 0, 0, 0)) + join
        await _open(stack, server, port, request, FIRST)
        before = await server.metric(MEMORY)
        await _open(stack, server, port, request, count)
        return (await server.metric(MEMORY) - before) / count / 1000


async def _newest(server: Replica, port: int) -> str:
    headers = {"Authorization": f"Bearer {server.token()}"}
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}{PATH}/poll"
        said = (await client.get(url, headers=headers)).json()
    return f"{said['epoch']}:{said['seq']}"


async def _open(
    stack: AsyncExitStack, server: Replica, port: int, request: bytes, count: int
) -> None:
    """Open connections, and wait until the server counts all of them."""
    metrics = ("labserver_connections", "labserver_visitors")

    async def there() -> float:
        sizes = await server.metrics()
        return sum(sizes[name] for name in metrics)

    async def served() -> bool:
        return await there() >= before + count

    before = await there()
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(_drop, writer, reader)
        writer.write(request)
    async with asyncio.timeout(DEADLINE):
        await until(served)


def _drop(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
    """Abort a connection; ``reader`` is an argument to keep it alive until then."""
    writer.transport.abort()

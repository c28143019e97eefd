"""One room over three transports: a WebSocket, an event stream, and long polls.

Each listener has a proxy of its own that counts bytes, delays them, and can be cut. All
three listeners reconnect with the same kind of cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from labserver.contract.plain_json import from_json, to_json
from labserver.notebook.peers import DEADLINE, connected
from labserver.notebook.servers import running
from labserver.processes import faults
from labserver.processes.cluster import Replica
from labserver.processes.faults import Proxy

ROOM = "lobby"
PATH = f"/rooms/{ROOM}"
AGAIN = 0.1  # seconds that a listener waits before it reconnects


@dataclass
class Listener:
    """What one listener received, and its costs.

    Attributes:
        seqs: Numbers of the messages that arrived, in order.
        late: For each, milliseconds since it was published.
        up: Bytes that the listener sent, without TCP headers.
        down: Bytes that it received, without TCP headers.
        connections: TCP connections that it opened.
        requests: HTTP requests that it sent.

    """

    seqs: list[int] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    up: int = 0
    down: int = 0
    connections: int = 0
    requests: int = 0
    cursor: tuple[str, int] | None = None

    def take(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "joined", "recovered": False}:
                self.cursor = (message["epoch"], message["seq"])
            case {"type": "message", "seq": seq, "payload": payload}:
                assert self.cursor is not None
                self.cursor = (self.cursor[0], seq)
                self.seqs.append(seq)
                self.late.append((time.monotonic() - payload["at"]) * 1000)

    @property
    def typical(self) -> float:
        """Median latency, in milliseconds; NaN without messages."""
        return median(self.late) if self.late else float("nan")

    def missed(self, count: int) -> int:
        """Return how many of ``count`` messages never came."""
        return count - len(set(self.seqs))

    @property
    def count(self) -> int:
        """How many messages came; 1 if none did, so that it can be a divisor."""
        return max(len(self.seqs), 1)

    def __repr__(self) -> str:
        return (
            f"{len(self.seqs)} messages, half within {self.typical:.0f} ms; each took "
            f"{self.down / self.count:.0f} bytes down and {self.up / self.count:.0f} "
            f"up; {self.requests} requests on {self.connections} connections"
        )


@asynccontextmanager
async def three_ports(**options: Any) -> AsyncIterator[tuple[Replica, int]]:
    """Run a server; yield it, and the port of its streams and polls."""
    async with running(sse_port=0, **options) as server:
        assert server.process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = (await server.process.stdout.readline()).decode()
        port = urlsplit(line.split()[2]).port
        assert port is not None
        yield server, port


Way = Callable[[Proxy, str, Listener], Coroutine[Any, Any, None]]


async def by_websocket(net: Proxy, token: str, me: Listener) -> None:
    """Connect, join after the cursor, and listen; repeat when the connection ends."""
    while True:
        with contextlib.suppress(OSError, WebSocketException):
            me.requests += 1
            async with connect(
                net.url,
                additional_headers={"Authorization": f"Bearer {token}"},
                compression=None,
                ping_interval=None,
                close_timeout=0.1,
            ) as socket:
                join: dict[str, Any] = {"type": "join", "room": ROOM}
                if me.cursor is not None:
                    join["after"] = dict(zip(("epoch", "seq"), me.cursor, strict=True))
                await socket.send(to_json(join))
                async for text in socket:
                    me.take(from_json(text))
        await asyncio.sleep(AGAIN)


async def by_stream(net: Proxy, token: str, me: Listener) -> None:
    """Ask for the stream with the newest id, and read it; repeat when it ends."""
    async with http_client(net, token) as client:
        while True:
            headers = {"Accept": "text/event-stream"}
            if me.cursor is not None:
                headers["Last-Event-ID"] = "{}:{}".format(*me.cursor)
            me.requests += 1
            with contextlib.suppress(httpx.TransportError):
                async with client.stream("GET", PATH, headers=headers) as response:
                    async for line in response.aiter_lines():
                        if line.startswith("data:"):
                            me.take(from_json(line[5:]))
            await asyncio.sleep(AGAIN)


async def by_poll(net: Proxy, token: str, me: Listener) -> None:
    """Ask for the messages after the cursor, and ask again after each answer."""
    async with http_client(net, token) as client:
        while True:
            where = f"?after={me.cursor[0]}:{me.cursor[1]}" if me.cursor else ""
            me.requests += 1
            try:
                answer = await client.get(f"{PATH}/poll{where}")
            except httpx.TransportError:
                await asyncio.sleep(AGAIN)
                continue
            if answer.status_code == 429 or answer.status_code >= 500:  # it passes
                await asyncio.sleep(float(answer.headers.get("Retry-After", AGAIN)))
                continue
            said = answer.raise_for_status().json()
            me.take({**said, "recovered": me.cursor is not None and said["recovered"]})
            for message in said["messages"]:
                me.take(message)


WAYS: dict[str, Way] = {
    "WebSocket": by_websocket,
    "event stream": by_stream,
    "long poll": by_poll,
}


def http_client(net: Proxy, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{net.port}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=httpx.Timeout(DEADLINE, read=60),
    )


async def three_ways(
    *,
    messages: int = 25,
    every: float = 0.04,
    size: int = 100,
    delay: float = 0.02,
    outage: float = 0.0,
    **options: Any,
) -> dict[str, Listener]:
    """Publish to a room with three listeners, one of each kind.

    Args:
        messages: How many to publish.
        every: Seconds between two messages.
        size: Bytes of padding in each message.
        delay: Seconds that the network takes, each way.
        outage: Seconds without a network, in the middle; 0 for none.
        options: As for :func:`running`.

    """
    listeners = {name: Listener() for name in WAYS}
    async with (
        three_ports(**options) as (server, port),
        connected(server) as ann,
        AsyncExitStack() as stack,
    ):
        nets: dict[str, Proxy] = {}
        for name, way in WAYS.items():
            to = urlsplit(server.url).port if way is by_websocket else port
            assert to is not None
            net = await stack.enter_async_context(faults.proxy("127.0.0.1", to))
            net.up.delay = net.down.delay = delay
            nets[name] = net
            task: asyncio.Task[None] = asyncio.create_task(
                way(net, server.token(name), listeners[name])
            )
            stack.push_async_callback(_ended, task)
        await _until(lambda: all(each.cursor for each in listeners.values()))
        before = {
            name: (net.up.carried, net.down.carried) for name, net in nets.items()
        }
        for number in range(messages):
            payload = {"at": time.monotonic(), "pad": "x" * size}
            await ann.ask(type="publish", room=ROOM, payload=payload)
            if outage and number == messages // 2:
                await asyncio.sleep(2 * delay + 0.05)  # messages in flight arrive
                for net in nets.values():
                    net.refusing = True
                    net.reset()
                asyncio.get_running_loop().call_later(outage, _back, nets)
            await asyncio.sleep(every)
        await _until(
            lambda: not any(each.missed(messages) for each in listeners.values()),
            2.0,
        )
        for name, net in nets.items():
            up, down = before[name]
            listeners[name].up = net.up.carried - up
            listeners[name].down = net.down.carried - down
            listeners[name].connections = net.accepted
    return listeners


def _back(nets: dict[str, Proxy]) -> None:
    for net in nets.values():
        net.refusing = False


async def _until(condition: Callable[[], bool], within: float = DEADLINE) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 (three listeners, no one event)
                await asyncio.sleep(0.01)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

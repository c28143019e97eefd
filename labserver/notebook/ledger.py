"""Costs of a server's work on this machine: short runs, and a model fitted to them.

Two replicas share a Redis. The publisher is on the first replica and the members are on
the second, so the cost of publishing is measured apart from the costs of receiving and
delivering. In some runs the first replica has a member, too; then Redis sends each
message to both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from redis.asyncio import Redis
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from labserver.notebook.peers import connected
from labserver.notebook.progress import progress
from labserver.notebook.servers import running, running_cluster
from labserver.processes.cluster import Cluster, Replica

CPU = "process_cpu_seconds_total"
MEMORY = "process_resident_memory_bytes"
SECONDS = 0.4  # of each run
PATIENCE = 10.0  # seconds until all readers must be connected
AT_ONCE = 50  # connections that are opened together
ROOM = "ledger"


_fitted: list[Costs] = []
# Members, messages a second at most, replicas that receive them, other subscribers.
LOADS = ((1, 20), (1, 500), (100, 100), (100, 500), (1, 500, 2, 16))


@dataclass(frozen=True)
class Costs:
    """Costs of one operation each, in seconds of one core; of a connection in bytes.

    Attributes:
        publish: For the publisher's replica, without the wait for Redis.
        heard: For each replica with members in the room, independent of their number.
        delivery: For that replica, for each member.
        handshake: Including the check of its token, without a join.
        ping: A ping and its pong.
        redis_publish: For Redis, to number and keep a message.
        redis_copy: For Redis, for each replica that receives a message.
        connection: Resident bytes of the server for each idle connection.
        background: Share of a core that a server uses without any load.

    """

    publish: float
    heard: float
    delivery: float
    handshake: float
    ping: float
    redis_publish: float
    redis_copy: float
    connection: float
    background: float

    def __repr__(self) -> str:
        names = ("publish", "heard", "delivery", "handshake", "ping")
        times = [f"{name} {getattr(self, name) * 1e6:,.1f}" for name in names]
        times += [f"redis_publish {self.redis_publish * 1e6:,.1f}"]
        times += [f"redis_copy {self.redis_copy * 1e6:,.1f}"]
        return f"microseconds: {', '.join(times)}; connection {self.connection:,.0f} B"


@dataclass(frozen=True)
class Entry:
    """One run: what was done, and its CPU seconds by process."""

    members: int
    seconds: float
    published: int
    copies: int  # replicas that received each message
    listeners: int  # other subscribers in Redis
    first: float
    second: float
    redis: float


class Reader(asyncio.Protocol):
    """A client that joins, answers pings, and discards messages."""

    def __init__(self, server: Replica, room: str) -> None:
        self.protocol = ClientProtocol(parse_uri(server.url), max_size=None)
        self.request = self.protocol.connect()
        self.request.headers["Authorization"] = f"Bearer {server.token()}"
        self.join = f'{{"type":"join","room":"{room}"}}'.encode() if room else b""
        self.wanted = b'"joined"' if room else b'"hello"'
        self.there = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.protocol.send_request(self.request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        events = self.protocol.events_received()
        if not self.there.done() and any(
            self.wanted in each.data for each in events if isinstance(each, Frame)
        ):
            self.there.set_result(None)
        if self.join and self.protocol.state is State.OPEN:
            self.protocol.send_text(self.join)
            self.join = b""
        self._flush()

    def _flush(self) -> None:
        if data := b"".join(self.protocol.data_to_send()):
            self.transport.write(data)


@asynccontextmanager
async def readers(server: Replica, count: int, room: str = "") -> AsyncIterator[None]:
    """Connect readers; the block begins when all are connected, and in the room.

    Raises:
        TimeoutError: They are not connected within ten seconds.

    """
    loop, place = asyncio.get_running_loop(), urlsplit(server.url)
    host, port = place.hostname or "", place.port or 0
    transports: list[asyncio.Transport] = []
    try:
        async with asyncio.timeout(PATIENCE):
            for start in range(0, count, AT_ONCE):
                pairs = await asyncio.gather(
                    *(
                        loop.create_connection(lambda: Reader(server, room), host, port)
                        for _ in range(min(AT_ONCE, count - start))
                    )
                )
                transports += [transport for transport, _ in pairs]
                await asyncio.gather(*(reader.there for _, reader in pairs))
        yield
    finally:
        for transport in transports:
            transport.abort()


async def spent(cluster: Cluster, redis: Redis) -> tuple[float, float, float]:
    """Return CPU seconds so far of the first replica, the second, and Redis."""
    first, second = [await each.metric(CPU) for each in cluster.replicas]
    info = await redis.info("cpu")
    return first, second, info["used_cpu_user"] + info["used_cpu_sys"]


async def run(
    cluster: Cluster,
    redis: Redis,
    members: int,
    rate: float,
    copies: int = 1,
    listeners: int = 0,
) -> Entry:
    """Publish on the first replica, for members on the second.

    Only one message is in flight at a time, so that two are never joined in one write.
    Joined writes are cheaper, and a busy machine would join more of them.
    """
    room, count = f"{ROOM}-{members}-{rate:g}-{copies}", 0
    first, second = cluster.replicas
    async with (
        readers(second, members, room),
        readers(first, copies - 1, room),
        connected(first, "publisher") as publisher,
        _listening(redis, listeners),
    ):
        before, start = await spent(cluster, redis), time.monotonic()
        while time.monotonic() < start + SECONDS:
            await publisher.ask(type="publish", room=room, payload="x" * 100)
            publisher.received.clear()
            count += 1
            await asyncio.sleep(1 / rate)
        after, seconds = await spent(cluster, redis), time.monotonic() - start
    used = [b - a for a, b in zip(before, after, strict=True)]
    return Entry(members, seconds, count, copies, listeners, *used)


@asynccontextmanager
async def _listening(redis: Redis, count: int) -> AsyncIterator[None]:
    """Subscribe ``count`` connections to every channel of Redis; they never read."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            listener = await stack.enter_async_context(redis.pubsub())
            await listener.psubscribe("*")
        yield


@asynccontextmanager
async def _cluster() -> AsyncIterator[tuple[Cluster, Redis]]:
    async with running_cluster(2, message_rate_limit=0) as cluster:
        redis: Redis = Redis.from_url(cluster.redis)
        try:
            yield cluster, redis
        finally:
            await redis.aclose()


async def entries(*loads: Sequence[float]) -> list[Entry]:
    """Run loads on a new cluster, one after the other; return an entry for each.

    Args:
        loads: For each run: members, publishes a second at most, replicas that receive
            the messages (1 by default), other subscribers in Redis (none by default).

    """
    async with _cluster() as (cluster, redis):
        await run(cluster, redis, 1, 50)  # one-time costs must not be part of a run
        return [
            await run(cluster, redis, int(members), rate, *map(int, more))
            for members, rate, *more in progress(loads, "runs")
        ]


async def idle(count: int = 100) -> tuple[float, float, float]:
    """Return CPU seconds of a handshake and of a ping, and bytes of a connection."""
    interval = 0.2
    async with running("resume", without=["broker"], heartbeat_interval=interval) as s:
        async with readers(s, 20):  # fills caches and pools, a one-time cost
            pass
        before = await s.metrics()
        async with readers(s, count):
            there = await s.metrics()
            start = time.monotonic()
            await asyncio.sleep(1.0)
            after = await s.metrics()
            pings = count * (time.monotonic() - start) / interval
    return (
        (there[CPU] - before[CPU]) / count,
        (after[CPU] - there[CPU]) / pings,
        max(there[MEMORY] - before[MEMORY], 0) / count,
    )


def fit(runs: Sequence[Entry], idle: tuple[float, float, float]) -> Costs:
    """Return the costs that fit the runs best, by least squares.

    The CPU time of a run is a sum of terms for its seconds (timers, requests for the
    metrics), its messages and its deliveries. Negative costs become 0.
    """

    def solve(values: Sequence[float], *columns: Sequence[float]) -> list[float]:
        table = np.array([[each.seconds for each in runs], *columns]).T
        found, *_ = np.linalg.lstsq(table, np.array(values), rcond=None)
        return [max(0.0, float(each)) for each in found]

    counts = [each.published for each in runs]
    extra = [each.published * (each.copies - 1) for each in runs]
    deliveries = [each.published * each.members for each in runs]
    background, heard, delivery = solve(
        [each.second for each in runs], counts, deliveries
    )
    _, publish, _ = solve([each.first for each in runs], counts, extra)
    more = [each.published * (each.copies - 1 + each.listeners) for each in runs]
    _, once, copy = solve([each.redis for each in runs], counts, more)
    handshake, ping, connection = idle
    # Each message has at least one copy, so its cost is part of ``once``.
    costs = Costs(
        publish=publish,
        heard=heard,
        delivery=delivery,
        handshake=handshake,
        ping=ping,
        redis_publish=max(0.0, once - copy),
        redis_copy=copy,
        connection=connection,
        background=background,
    )
    _fitted.append(costs)
    return costs


async def this_machine() -> Costs:
    """Return the costs that were fitted last; measure them if there are none (7 s)."""
    if not _fitted:
        fit(await entries(*LOADS), await idle())
    return _fitted[-1]


def predicted(costs: Costs, entry: Entry) -> float:
    """Return the CPU seconds that the model predicts for both replicas of a run."""
    listeners = entry.members + entry.copies - 1
    each = costs.publish + entry.copies * costs.heard + listeners * costs.delivery
    return 2 * costs.background * entry.seconds + entry.published * each

"""Short runs of a replica with its Redis, and what they cost: the ledger of a machine.

A message costs less, the more messages come: one that comes alone wakes the event loop,
and finds cold caches. So what a replica hears arrives at the rates at which a fleet's
replica hears, and everything else is measured beside such work.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count as counted
from typing import cast
from urllib.parse import urlsplit

from redis.asyncio import Redis
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from labserver.notebook.peers import Peer, connected
from labserver.notebook.progress import progress
from labserver.notebook.servers import running
from labserver.processes.arrivals import Arrive, arriving
from labserver.processes.cluster import Replica
from labserver.redis.embedded import running_redis

CPU = "process_cpu_seconds_total"
MEMORY = "process_resident_memory_bytes"
PATIENCE = 10.0  # seconds until all readers must be connected
AT_ONCE = 50  # connections that are opened together
ROOMS = 100  # with one member each, in which a replica hears messages
ROOM = "ledger"
BESIDE = 2500.0  # messages a second beside which everything but hearing is measured

_seeds = counted(1)


@dataclass(frozen=True)
class Load:
    """What happens in a run, at Poisson due times.

    Attributes:
        heard: Messages a second that the replica hears in rooms with one member each.
            They are published straight into Redis, as other replicas do.
        published: Messages a second that a client of the replica publishes, in one
            room.
        members: Members of that room.
        listeners: Other subscribers of Redis, which get a copy of each message.
        seconds: Duration.

    """

    heard: float = 0.0
    published: float = 0.0
    members: int = 0
    listeners: int = 0
    seconds: float = 0.3

    def __str__(self) -> str:
        words = {
            "heard": f"hears {self.heard:,.0f} messages a second",
            "published": f"publishes {self.published:,.0f} for its clients",
            "members": f"to {self.members:,} members each",
            "listeners": f"and {self.listeners:,} others get each message, too",
        }
        said = [text for name, text in words.items() if getattr(self, name)]
        return ", ".join(said) or "has nothing to do"


LOADS = (
    Load(heard=1000),
    Load(heard=BESIDE),
    Load(heard=8000),
    Load(heard=BESIDE, published=400),
    Load(heard=BESIDE, published=150, members=200),
    Load(heard=BESIDE, listeners=50),
    Load(heard=300, seconds=0.5),
    Load(seconds=0.3),
)


@dataclass(frozen=True)
class Entry:
    """One run: what was done, and the CPU seconds of the replica and of Redis.

    Attributes:
        load: What was to happen.
        seconds: Duration.
        late: Median seconds from a due time to the publishing; it grows where other
            programs have the cores.
        straight: Messages published straight into Redis.
        published: Messages that a client published.
        replica: CPU seconds of the replica.
        redis: CPU seconds of Redis.

    """

    load: Load
    seconds: float
    late: float
    straight: int
    published: int
    replica: float
    redis: float

    @property
    def messages(self) -> int:
        """Messages that Redis numbered."""
        return self.straight + self.published

    @property
    def heard(self) -> int:
        """Messages that the replica heard."""
        return self.straight + (self.published if self.load.members else 0)

    @property
    def deliveries(self) -> int:
        return self.straight + self.published * self.load.members

    @property
    def copies(self) -> int:
        """Messages that Redis sent to subscribers."""
        return self.heard + self.messages * self.load.listeners


@dataclass(frozen=True)
class Idle:
    """Costs of a client that says nothing.

    Attributes:
        handshake: CPU seconds of a handshake.
        ping: CPU seconds of a ping and its pong.
        connection: Bytes.

    """

    handshake: float
    ping: float
    connection: float


class Reader(asyncio.Protocol):
    """A client that joins, and discards messages.

    Args:
        server: The server.
        room: The room that it joins; ``""`` for none. Then it answers pings.

    """

    def __init__(self, server: Replica, room: str) -> None:
        self.protocol = ClientProtocol(parse_uri(server.url), max_size=None)
        self.request = self.protocol.connect()
        self.request.headers["Authorization"] = f"Bearer {server.token()}"
        self.join = f'{{"type":"join","room":"{room}"}}'.encode() if room else b""
        self.room = room
        self.wanted = b'"joined"' if room else b'"hello"'
        self.there = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # also one of uvloop
        self.protocol.send_request(self.request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self.room and self.there.done():
            return  # thousands come in a second; the first ping is further away
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
async def readers(server: Replica, rooms: Sequence[str]) -> AsyncIterator[None]:
    """Connect a reader for each room; the block begins when all are in.

    Args:
        server: The server.
        rooms: A room for each reader; ``""`` for none.

    Raises:
        TimeoutError: They are not connected within ten seconds.

    """
    loop, place = asyncio.get_running_loop(), urlsplit(server.url)
    host, port = place.hostname or "", place.port or 0
    transports: list[asyncio.Transport] = []
    try:
        async with asyncio.timeout(PATIENCE):
            for start in range(0, len(rooms), AT_ONCE):
                pairs = await asyncio.gather(
                    *(
                        loop.create_connection(
                            partial(Reader, server, room), host, port
                        )
                        for room in rooms[start : start + AT_ONCE]
                    )
                )
                transports += [transport for transport, _ in pairs]
                await asyncio.gather(*(reader.there for _, reader in pairs))
        yield
    finally:
        for transport in transports:
            transport.abort()


@dataclass(frozen=True)
class Bench:
    """A replica with its Redis, members of its rooms, and a publisher."""

    replica: Replica
    redis: Redis
    arrive: Arrive
    publisher: Peer

    async def spent(self) -> tuple[float, float]:
        """Return CPU seconds so far of the replica and of Redis."""
        replica, info = await self.replica.metric(CPU), await self.redis.info("cpu")
        return replica, info["used_cpu_user"] + info["used_cpu_sys"]

    async def run(self, load: Load) -> Entry:
        """Put a load on the replica; return what was done, and its costs."""
        room = f"{ROOM}-of-{load.members}"
        async with (
            readers(self.replica, [room] * load.members),
            _listening(self.redis, load.listeners),
        ):
            before, start = await self.spent(), time.monotonic()
            arrivals, published = await asyncio.gather(
                self.arrive(load.heard, load.seconds, next(_seeds)),
                _publishing(self.publisher, room, load.published, load.seconds),
            )
            after, seconds = await self.spent(), time.monotonic() - start
        replica, redis = (b - a for a, b in zip(before, after, strict=True))
        return Entry(
            load, seconds, arrivals.late, arrivals.count, published, replica, redis
        )


async def _publishing(peer: Peer, room: str, rate: float, seconds: float) -> int:
    """Publish at Poisson due times, and return how many messages.

    Each one waits for the answer to the one before: two that a replica reads in one
    turn of its loop would be joined in one write.
    """
    draw, start, count = random.Random(next(_seeds)), time.monotonic(), 0
    due = draw.expovariate(rate) if rate else seconds
    while due < seconds:
        await asyncio.sleep(start + due - time.monotonic())
        await peer.ask(type="publish", room=room, payload="x" * 100)
        peer.received.clear()
        count += 1
        due += draw.expovariate(rate)
    return count


@asynccontextmanager
async def _listening(redis: Redis, count: int) -> AsyncIterator[None]:
    """Subscribe ``count`` connections to every channel of Redis; they never read."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            listener = await stack.enter_async_context(redis.pubsub())
            await listener.psubscribe("*")
        yield


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Run a replica and a Redis that are warm: one-time costs are over."""
    rooms = [f"{ROOM}{number}" for number in range(ROOMS)]
    async with (
        running_redis() as url,
        Redis.from_url(url) as redis,
        arriving(url, ROOM, ROOMS) as arrive,
        running("resume", redis=url, message_rate_limit=0) as replica,
        readers(replica, rooms),
        connected(replica, "talker") as talker,
    ):
        made = Bench(replica, redis, arrive, talker)
        await made.run(Load(BESIDE, published=100, members=2, seconds=0.2))
        yield made


async def entries(*loads: Load) -> list[Entry]:
    """Put loads on a new replica, one after the other; return an entry for each."""
    async with bench() as new:
        return [await new.run(load) for load in progress(loads, "runs")]


async def idle(count: int = 200, times: int = 3) -> list[Idle]:
    """Return the costs of clients that say nothing, for each of some rounds.

    Args:
        count: Clients that connect, stay for half a second, and leave.
        times: How many rounds.

    """
    interval, found = 0.2, list[Idle]()
    async with running("resume", without=["broker"], heartbeat_interval=interval) as s:
        async with readers(s, [""] * 20):  # fills caches, a one-time cost
            pass
        for _ in progress(range(times), "rounds"):
            before = await s.metrics()
            async with readers(s, [""] * count):
                there, start = await s.metrics(), time.monotonic()
                await asyncio.sleep(0.5)
                after = await s.metrics()
                pings = count * (time.monotonic() - start) / interval
            used = there[MEMORY] - before[MEMORY]
            one = Idle(
                (there[CPU] - before[CPU]) / count,
                (after[CPU] - there[CPU]) / pings,
                # Later rounds use the memory again that this one leaves.
                found[0].connection if found else max(0.0, used) / count,
            )
            found.append(one)
    return found

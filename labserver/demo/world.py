"""The processes of the demo: an embedded Redis, replicas, and a router in front."""

from __future__ import annotations

import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from labserver.demo.router import find_haproxy, running_router
from labserver.processes.cluster import Replica, start_replica
from labserver.redis.embedded import EmbeddedRedis, embedded_redis

# Small buffers and short deadlines, so that a stalled reader is noticed in seconds.
ARGUMENTS = (
    *("--heartbeat-interval", "5", "--drain-timeout", "3", "--stuck-timeout", "3"),
    *("--send-buffer", "32768"),
)


@dataclass
class Place:
    """A name and a port for a replica; its process may change."""

    name: str
    port: int = 0
    replica: Replica | None = None
    state: str = "up"
    connections: int = 0
    delivered: int = 0

    async def look(self) -> None:
        """Update state and figures from the replica's process."""
        if self.replica is None or self.replica.process.returncode is not None:
            self.state, self.connections, self.delivered = "down", 0, 0
            return
        with suppress(OSError, KeyError, ValueError):
            status, _ = await self.replica.get("/readyz")
            self.state = "up" if status == 200 else "not ready"
            connections = await self.replica.metric("labserver_connections")
            delivered = await self.replica.metric("labserver_deliveries_total")
            self.connections, self.delivered = int(connections), int(delivered)


@dataclass
class World:
    """All processes, and ways to break them."""

    secret: str
    redis: EmbeddedRedis
    places: list[Place] = field(default_factory=list)
    router: str = ""  # its URL; empty without a router

    def __post_init__(self) -> None:
        self._turns = itertools.count()

    def url(self) -> str:
        """Return the URL for the next attempt: the router, or a replica in turn."""
        if self.router:
            return self.router
        place = self.places[next(self._turns) % len(self.places)]
        return f"ws://127.0.0.1:{place.port}"

    async def start(self, place: Place) -> None:
        """Start a replica at a place."""
        place.replica = await start_replica(
            "resume",
            *("--port", str(place.port), "--replica", place.name, *ARGUMENTS),
            secret=self.secret,
            environment={"LAB_REDIS_URL": self.redis.url},
        )
        place.port = urlsplit(place.replica.url).port or 0
        place.state = "up"

    async def stop(self, place: Place, how: signal.Signals = signal.SIGTERM) -> None:
        """End a replica; SIGTERM drains it first."""
        if place.replica is not None:
            place.state = "draining" if how is signal.SIGTERM else "killed"
            await place.replica.stop(how)
            await place.look()

    async def cut_off(self) -> int:
        """Return how many readers were cut off because they were stuck."""
        up = [each.replica for each in self.places if each.state == "up"]
        stuck = "labserver_peers_stuck_total"
        return int(sum([await each.metric(stuck) for each in up if each]))


@asynccontextmanager
async def running_world(count: int, secret: str, router: bool) -> AsyncIterator[World]:
    """Run replicas on a Redis of their own, behind HAProxy if it is installed."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(embedded_redis())
        world = World(secret, redis)
        for number in range(1, count + 1):
            place = Place(f"replica-{number}")
            world.places.append(place)
            stack.push_async_callback(world.stop, place)
            await world.start(place)
        if router and (binary := find_haproxy()):
            ports = [place.port for place in world.places]
            world.router = await stack.enter_async_context(
                running_router(binary, ports)
            )
        yield world

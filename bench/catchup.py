"""How long a replica takes to catch up with many rooms after a broken link to Redis.

    python -m bench.catchup [--rooms 10000] [--rounds 3]

In each round, every room gets a message while the link is broken. The time counts from
the moment at which the link has connected again until the last room has its message.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable

from redis.asyncio import Redis

from labserver.contract.messages import body
from labserver.processes.serving import run
from labserver.redis.commands import pool
from labserver.redis.embedded import running_redis
from labserver.server.hub import Hub
from labserver.server.metrics import Metrics
from labserver.stages.broker import RedisBroker
from labserver.stages.resume import RecentHistory

TIMEOUT = 60.0  # seconds
PORTION = 200  # messages in one round trip


class Rooms:
    """A replica's side of many rooms that have no members."""

    def __init__(self, url: str, count: int) -> None:
        self.url = url
        self.names = [f"room-{number}" for number in range(count)]
        self.broker, self.other = RedisBroker(url), RedisBroker(url)

    async def start(self) -> None:
        history = RecentHistory(1000, 300.0, 2**20)
        for broker in (self.broker, self.other):
            await broker.start(Hub(Metrics(), lambda room: None), history, Metrics())
        # Rooms without members would be unsubscribed a second later.
        self.broker.hub.rooms = dict.fromkeys(self.names)  # type: ignore[arg-type]
        for room in self.names:
            await self.broker.subscribe(room)
            await self.broker.read(room, None)

    async def publish(self) -> None:
        """Publish a message in each room, from another replica."""
        for start in range(0, len(self.names), PORTION):
            portion = self.names[start : start + PORTION]
            await asyncio.gather(
                *(self.other.publish(room, body("ann", b"1")) for room in portion)
            )

    async def round(self, seq: int) -> tuple[float, float, float]:
        """Break the link, and catch up.

        Returns:
            Seconds of wall time, of this process's CPU, and of Redis's CPU, until every
            room has reached ``seq``.

        """
        link = self.broker.redis.of("").link
        connections = link.connections
        link.connections = pool("unix:///nowhere")
        async with Redis.from_url(self.url) as redis:
            await redis.client_kill_filter(_type="pubsub", skipme=True)
            await until(lambda: link.connection is None)
            await self.publish()
            theirs = await used(redis)
            link.connections = connections
            await until(lambda: link.connection is not None)
            began, cpu = time.perf_counter(), time.process_time()
            feeds = self.broker.feeds.values()
            await until(lambda: all(feed.seq >= seq for feed in feeds))
            wall, mine = time.perf_counter() - began, time.process_time() - cpu
            return wall, mine, await used(redis) - theirs


async def used(redis: Redis) -> float:
    """Return the seconds of CPU that Redis has used."""
    said = await redis.info("cpu")
    return float(said["used_cpu_user"] + said["used_cpu_sys"])


async def until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds; look 200 times a second."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 (it is outside the program measured)
            await asyncio.sleep(0.005)


async def measure(count: int, rounds: int) -> None:
    async with running_redis() as url:
        rooms = Rooms(url, count)
        await rooms.start()
        for number in range(1, rounds + 1):
            wall, mine, theirs = await rooms.round(number)
            print(
                f"{count:,} rooms caught up in {wall:.2f} s; CPU: {mine:.2f} s, and "
                f"{theirs:.2f} s of Redis"
            )
        await rooms.broker.stop()
        await rooms.other.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    run(measure(chosen.rooms, chosen.rounds))


if __name__ == "__main__":
    main()

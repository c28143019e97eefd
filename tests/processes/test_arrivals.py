"""Messages arrive at Poisson due times, in rooms of Redis."""

from __future__ import annotations

import random

from redis.asyncio import Redis

from labserver.processes.arrivals import arriving
from labserver.redis.embedded import running_redis
from labserver.redis.link import channel_of
from labserver.redis.messages import tails


def due(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the due times of a run; rooms and brokers are drawn between them."""
    draw, times = random.Random(seed), list[float]()
    at = draw.expovariate(rate)
    while at < seconds:
        times.append(at)
        draw.choice(range(16)), draw.choice(range(2))
        at += draw.expovariate(rate)
    return times


async def test_every_due_message_is_published_in_one_of_the_rooms() -> None:
    async with (
        running_redis() as url,
        Redis.from_url(url) as redis,
        redis.pubsub() as listener,
        arriving(url, "room", 2) as arrive,
    ):
        await listener.subscribe(channel_of("room0"), channel_of("room1"))
        done = await arrive(400, 0.3, 7)
        heard = 0
        async for message in listener.listen():
            if message["type"] == "message":
                # One publish has all messages of a tick in a room.
                heard += len(list(tails(message["data"].split(b" ", 2)[2])))
            if heard == done.count:
                break
    assert done.count == len(due(400, 0.3, 7))
    assert done.late >= 0


def test_due_times_keep_no_distance() -> None:
    times = due(1000, 10, 1)
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    mean = sum(gaps) / len(gaps)
    short = sum(gap < mean / 10 for gap in gaps) / len(gaps)
    assert 0.05 < short < 0.15  # 1 - exp(-0.1)


async def test_run_without_a_rate_publishes_nothing() -> None:
    async with running_redis() as url, arriving(url, "room", 1) as arrive:
        assert (await arrive(0, 0.01, 1)).count == 0

"""The tour: what is broken, one thing after the other, and what should come of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from labserver.demo.crowd import Crowd
from labserver.demo.world import World
from labserver.processes import faults

FROZEN = 3.0  # seconds
# More than every buffer of the kernels and the router on the way hold, and less than
# that and an outbox: the reader is cut off because it is stuck, and what it missed fits
# when it comes back.
FLOOD, FLOOD_BYTES = 40, 30_000
CUT_OFF_TIMEOUT = 15.0


@dataclass(frozen=True)
class Step:
    """One step: what it does, and a sentence for who watches."""

    name: str
    title: str
    sentence: str
    run: Callable[[World, Crowd], Awaitable[None]]


async def fine(world: World, crowd: Crowd) -> None:
    """Break nothing."""


async def kill(world: World, crowd: Crowd) -> None:
    await world.stop(world.places[0], signal.SIGKILL)


async def restart(world: World, crowd: Crowd) -> None:
    for place in world.places:
        if place.replica is None or place.replica.process.returncode is not None:
            await world.start(place)


async def freeze(world: World, crowd: Crowd) -> None:
    world.redis.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(FROZEN)
    finally:
        world.redis.signal(signal.SIGCONT)


async def stall(world: World, crowd: Crowd) -> None:
    """Flood a room in which one of two readers does not read."""
    where = urlsplit(world.url())
    async with faults.proxy(where.hostname or "", where.port or 0) as network:
        healthy = await crowd.enter("healthy", "flood")
        stalled = await crowd.enter("stalled", "flood", lambda: network.url)
        network.down.freeze()
        for _ in range(FLOOD):
            await crowd.say(healthy, text="x" * FLOOD_BYTES)
        deadline = time.monotonic() + CUT_OFF_TIMEOUT
        while time.monotonic() < deadline:
            if await world.cut_off():
                break
            await asyncio.sleep(0.1)
        stalled.client.url = world.url
        network.thaw()
        await crowd.catch_up(stalled, CUT_OFF_TIMEOUT)


async def rolling(world: World, crowd: Crowd) -> None:
    for place in world.places:
        await world.stop(place)
        await world.start(place)


STEPS = [
    Step(
        "fine",
        "Nothing breaks",
        "Everybody is in one room, talks, and hears everybody else, whatever replica "
        "they are on.",
        fine,
    ),
    Step(
        "kill",
        "kill -9 of a replica",
        "replica-1 is gone without a goodbye. Its clients come back to others, each "
        "names the last message that it has, and the rest is replayed.",
        kill,
    ),
    Step(
        "restart",
        "It starts again",
        "A new process on the old port. Nobody has to move: newcomers will fill it.",
        restart,
    ),
    Step(
        "freeze",
        f"Redis freezes for {FROZEN:g} s",
        "Nothing can be numbered, so nothing is acknowledged. Publishers try again "
        "with the same key; what was numbered twice would be delivered once.",
        freeze,
    ),
    Step(
        "stall",
        "A reader stalls",
        f"One client stops reading while its room gets {FLOOD} messages of "
        f"{FLOOD_BYTES // 1000} KB. Its outbox is bounded: it is cut off, the others "
        "notice nothing, and when it comes back it gets what it missed.",
        stall,
    ),
    Step(
        "rolling",
        "Rolling restart",
        "SIGTERM to each replica in turn: it refuses newcomers, tells everybody to "
        "come back and when, and ends; then its successor starts.",
        rolling,
    ),
]

"""The steps of the tour: each breaks something, and says what should happen."""

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
# More bytes than the kernels and the router buffer, but less than that plus an outbox:
# the reader is cut off because it is stuck, and a replay of what it missed fits its
# outbox.
FLOOD, FLOOD_BYTES = 40, 30_000
CUT_OFF_TIMEOUT = 15.0


@dataclass(frozen=True)
class Step:
    """One step: a name, a title, an explanation, and what to do."""

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
        "All clients are in one room. Each publishes, and gets the messages of all "
        "others, on whatever replica they are.",
        fine,
    ),
    Step(
        "kill",
        "kill -9 of a replica",
        "replica-1 ends without close frames. Its clients reconnect to others, each "
        "with the cursor of its last message, and the rest is replayed.",
        kill,
    ),
    Step(
        "restart",
        "It starts again",
        "A new process starts on the old port. New clients will connect to it.",
        restart,
    ),
    Step(
        "freeze",
        f"Redis freezes for {FROZEN:g} s",
        "No message can be numbered, so none is acknowledged. Publishers try again "
        "with the same key, so that no message is delivered twice.",
        freeze,
    ),
    Step(
        "stall",
        "A reader stalls",
        f"One client stops reading while its room gets {FLOOD} messages of "
        f"{FLOOD_BYTES // 1000} KB. Its outbox is limited: it is cut off. The others "
        "notice nothing. When it reconnects, it gets the messages that it missed.",
        stall,
    ),
    Step(
        "rolling",
        "Rolling restart",
        "Each replica in turn gets SIGTERM: it refuses new clients, tells its clients "
        "when to reconnect, and exits. Then a new process takes its place.",
        rolling,
    ),
]

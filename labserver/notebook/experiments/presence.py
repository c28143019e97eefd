"""What members are told of each other; and people whose replicas end."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from redis.asyncio import Redis

from labserver.contract.plain_json import to_json
from labserver.notebook.charts import Curve
from labserver.notebook.peers import Message, Peer, connected
from labserver.notebook.servers import running
from labserver.redis.embedded import running_redis
from labserver.redis.link import channel_of

KINDS = ("present", "presence")
SPREAD = 1.5  # seconds in which rooms are joined; a refresh is every two seconds
PATIENCE = 15.0  # seconds that a chapter waits for presence


def roster(messages: Iterable[Message]) -> dict[str, str]:
    """Return who is there, as a member knows it from its messages.

    Returns:
        The user of each connection, by its id; empty while only a number is told.

    """
    here: dict[str, str] = {}
    for message in messages:
        match message:
            case {"type": "present", "clients": everybody}:
                here = {each["id"]: each["user"] for each in everybody}
            case {"type": "presence", "joined": joined, "left": left}:
                here |= {each["id"]: each["user"] for each in joined}
                for each in left:
                    here.pop(each["id"], None)
            case {"type": "present" | "presence"}:  # too many to be named
                here = {}
    return here


def of(peer: Peer, room: str) -> list[Message]:
    """Return the messages that a peer received from a room."""
    return [each for each in peer.received if each.get("room") == room]


def counted(peer: Peer, room: str) -> int:
    """Return how many are there, as a member was told last; 0 if it never was."""
    counts = [each["count"] for each in of(peer, room) if each["type"] in KINDS]
    return counts[-1] if counts else 0


async def know(peers: Collection[Peer], room: str, count: int) -> None:
    """Wait until each of the peers was told that so many are in a room.

    Raises:
        TimeoutError: One of them was not.

    """
    await asyncio.gather(*(_knows(each, room, count) for each in peers))


async def _knows(peer: Peer, room: str, count: int) -> None:
    if not await peer.until(lambda: counted(peer, room) == count, within=PATIENCE):
        raise TimeoutError(f"{peer.hello['user']} was not told of {count}")


@dataclass
class Told:
    """What members of a room received.

    Attributes:
        messages: How many.
        bytes: Their JSON, without headers of frames.

    """

    messages: int
    bytes: int


def told(peers: Collection[Peer], room: str, *kinds: str) -> Told:
    """Add up the messages of some kinds that peers received from a room."""
    found = [each for peer in peers for each in of(peer, room) if each["type"] in kinds]
    return Told(len(found), sum(len(to_json(each)) for each in found))


class Ghosts:
    """Ann is on one replica; Bob's is killed, and Cat's stops, at the same moment.

    All three are in several rooms, which they joined one after the other, so that
    their refreshes are spread over time. It happens in a task: a cell would take long.

    Args:
        rooms: How many rooms.

    """

    def __init__(self, rooms: int = 12) -> None:
        self.rooms = [f"room-{number}" for number in range(1, rooms + 1)]
        self.redis = ""
        self.at = 0.0  # when the two ended, on the clock of time.monotonic
        self.left: dict[str, list[float]] = {"bob": [], "cat": []}
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with running_redis() as self.redis, AsyncExitStack() as stack:
            replicas = [running("resume", redis=self.redis) for _ in range(3)]
            home, killed, stopped = await asyncio.gather(
                *(stack.enter_async_context(each) for each in replicas)
            )
            ann = await stack.enter_async_context(connected(home, "ann"))
            bob = await stack.enter_async_context(connected(killed, "bob"))
            cat = await stack.enter_async_context(connected(stopped, "cat"))
            for room in self.rooms:
                for each in (ann, bob, cat):
                    await each.send(type="join", room=room, presence=True)
                await asyncio.sleep(SPREAD / len(self.rooms))
            if not await ann.until(lambda: self._all_know(ann, "ann", "bob", "cat")):
                raise TimeoutError("Ann was not told of Bob and Cat: run this again")
            self._ready.set()
            self.at = time.monotonic()
            await asyncio.gather(killed.stop(signal.SIGKILL), stopped.stop())
            self._ended.set()
            await ann.until(lambda: self._all_know(ann, "ann"), within=PATIENCE)
            for message, arrived in zip(ann.received, ann.arrived, strict=True):
                for each in message.get("left", ()):
                    self.left[each["user"]].append(arrived - self.at)

    def _all_know(self, ann: Peer, *users: str) -> bool:
        return all(
            sorted(roster(of(ann, room)).values()) == list(users) for room in self.rooms
        )

    async def _first(self, event: asyncio.Event) -> None:
        """Wait for an event of the task; raise the task's error if it has ended."""
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not event.is_set():
            waiting.cancel()
            await self._task

    async def ready(self) -> None:
        """Wait until Ann knows of Bob and Cat in every room; then they end."""
        await self._first(self._ready)

    async def ended(self) -> None:
        """Wait until both replicas have ended."""
        await self._first(self._ended)

    async def kept(self) -> str:
        """Return for whom Redis has entries now, and when the first and last expire."""
        ends: dict[str, list[float]] = {}
        async with Redis.from_url(self.redis, decode_responses=True) as redis:
            seconds, micros = await redis.time()
            for room in self.rooms:
                kept = await redis.hgetall(f"{channel_of(room)}:presence")
                kept.pop("version", None)
                for entry in kept.values():
                    expiry, _, _, people = str(entry).split(" ", 3)
                    (user,) = json.loads(people).values()
                    left = int(expiry) / 1000 - seconds - micros / 1e6
                    ends.setdefault(user, []).append(left)
        lines = [
            f"{user}: {len(each)} entries, for {min(each):.1f} to {max(each):.1f} s"
            for user, each in sorted(ends.items())
        ]
        return "; ".join(lines)

    async def gone(self) -> dict[str, Curve]:
        """Wait until Ann is alone.

        Returns:
            For Bob and Cat, seconds since their replicas ended, and in how many rooms
            Ann was still told that they are there.

        """
        await self._task
        last = max(map(max, self.left.values()))
        lines: dict[str, Curve] = {}
        for user, times in self.left.items():
            steps = [0.0, *sorted(times), last]
            still = [float(len(times) - done) for done in range(len(times) + 1)]
            lines[user] = steps, [*still, 0.0]
        return lines

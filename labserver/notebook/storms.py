"""Everybody comes back at once: a replica dies under its clients, or a model of it."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from labserver.client import Backoff, Client
from labserver.judge.oracle import Oracle, lost
from labserver.mistakes.client import CapAfterJitter, DoubledBeforeUse, NoJitter
from labserver.notebook.progress import Line
from labserver.notebook.servers import running_cluster

BACKOFFS: dict[str, type[Backoff]] = {
    "full jitter": Backoff,
    "no jitter": NoJitter,
    "cap after jitter": CapAfterJitter,
    "doubled before use": DoubledBeforeUse,
}
ROOM = "lobby"
EVERY = 0.05  # seconds between two messages that are said meanwhile
DEADLINE = 15.0  # seconds in which everybody is back


@dataclass
class Storm:
    """How a crowd came back.

    Attributes:
        times: When each was back, in seconds since it lost its server; sorted.
        said: Messages that were published meanwhile.
        missed: How many of them a client neither got nor was told of, in all.

    """

    times: list[float] = field(default_factory=list)
    said: int = 0
    missed: int = 0

    def counts(self, width: float) -> tuple[list[float], list[float]]:
        """Return how many came back in each ``width`` seconds: when, and how many."""
        found = Counter(int(at / width) for at in self.times)
        boxes = range(int(max(self.times, default=0) / width) + 2)
        return [box * width for box in boxes], [float(found[box]) for box in boxes]

    def peak(self, width: float = 0.1) -> int:
        """Return the most that came back in any ``width`` seconds."""
        return int(max(self.counts(width)[1]))

    def __repr__(self) -> str:
        return (
            f"{len(self.times)} came back, peak {self.peak()} in 0.1 s, the last after "
            f"{self.times[-1]:.1f} s; {self.said} messages were said meanwhile, "
            f"missed {self.missed}"
        )


class Member:
    """A client that notes what it hears, and when it is back."""

    def __init__(self, urls: Sequence[str], token: str, backoff: Backoff) -> None:
        self.urls = list(urls)
        self.oracle = Oracle()
        self.joined: list[float] = []
        self.client = Client(
            self.choose, token, backoff=backoff, compression=None, ping_interval=None
        )

    def choose(self) -> str:
        """Return home the first time, then any other replica."""
        return random.choice(self.urls[1:]) if self.client.connects else self.urls[0]

    async def listen(self) -> None:
        async for message in self.client:
            self.oracle.saw(message)
            if message["type"] == "joined":
                self.joined.append(time.monotonic())


async def storm(backoff: str = "full jitter", clients: int = 50) -> Storm:
    """Kill one of two replicas under its clients, and watch them come back.

    Args:
        backoff: A name in :data:`BACKOFFS`.
        clients: How many are on the replica that dies.

    """
    line, result = Line(), Storm()
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running_cluster(2))
        first, *others = cluster.replicas
        urls = [each.url for each in cluster.replicas]
        members = [
            Member(urls, first.token(f"user-{n}"), BACKOFFS[backoff]())
            for n in range(clients)
        ]
        await asyncio.gather(
            *(stack.enter_async_context(each.client) for each in members)
        )
        await asyncio.gather(*(each.client.join(ROOM) for each in members))
        async with asyncio.TaskGroup() as group:
            listening = [group.create_task(each.listen()) for each in members]
            try:
                speaker = await stack.enter_async_context(
                    Client(others[0].url, first.token("speaker"))
                )
                await first.stop(signal.SIGKILL)
                killed = time.monotonic()
                seqs: list[int] = []
                while time.monotonic() < killed + DEADLINE:
                    back = sum(each.client.connects > 1 for each in members)
                    line.say(f"{backoff}: {back} of {clients} are back")
                    seqs.append((await speaker.publish(ROOM, len(seqs)))["seq"])
                    if back == clients:
                        break
                    await asyncio.sleep(EVERY)
                for member in members:
                    await _caught_up(member, seqs, killed + DEADLINE)
            finally:
                for task in listening:
                    task.cancel()
        result.said = len(seqs)
        result.missed = sum(len(lost(each.oracle, ROOM, seqs)) for each in members)
        result.times = sorted(
            at - killed for each in members for at in each.joined if at > killed
        )
    return result


async def _caught_up(member: Member, seqs: Sequence[int], deadline: float) -> None:
    """Wait until a client has all of the messages, or until the deadline."""
    # There is no event for it: the oracle only looks.
    while (  # noqa: ASYNC110
        lost(member.oracle, ROOM, seqs) and time.monotonic() < deadline
    ):
        await asyncio.sleep(EVERY)


def modelled(
    backoff: str, clients: int = 10_000, outage: float = 0.0, seed: int = 7
) -> Storm:
    """Compute when clients are back that lost the same server at the same moment.

    A model: attempts take no time, and every attempt after the outage is accepted.

    Args:
        backoff: A name in :data:`BACKOFFS`.
        clients: How many.
        outage: Seconds in which every attempt fails.
        seed: Of the draws.

    """
    draw: Callable[[], float] = random.Random(seed).random
    times = []
    for _ in range(clients):
        waits, at = BACKOFFS[backoff](), 0.0
        while True:
            at += waits.next(draw)
            if at >= outage:
                break
        times.append(at)
    return Storm(sorted(times))

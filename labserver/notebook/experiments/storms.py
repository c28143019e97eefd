"""Reconnect storms: all clients of a killed replica come back, or a model of that."""

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
EVERY = 0.05  # seconds between two published messages
DEADLINE = 15.0  # seconds until all clients must be back


@dataclass
class Storm:
    """How clients came back.

    Attributes:
        times: Of each client, seconds from the loss of its server until it was back;
            sorted.
        said: Messages that were published meanwhile.
        missed: Over all clients, how many of these messages were neither delivered nor
            announced as missing.

    """

    times: list[float] = field(default_factory=list)
    said: int = 0
    missed: int = 0

    def counts(self, width: float) -> tuple[list[float], list[float]]:
        """Return starts of intervals of ``width`` seconds, and clients back in each."""
        found = Counter(int(at / width) for at in self.times)
        boxes = range(int(max(self.times, default=0) / width) + 2)
        return [box * width for box in boxes], [float(found[box]) for box in boxes]

    def peak(self, width: float = 0.1) -> int:
        """Return the largest number of clients back in one of those intervals."""
        return int(max(self.counts(width)[1]))

    def __repr__(self) -> str:
        return (
            f"{len(self.times)} came back, peak {self.peak()} in 0.1 s, the last after "
            f"{self.times[-1]:.1f} s; {self.said} messages published meanwhile, "
            f"missed {self.missed}"
        )


class Member:
    """A client that records what it receives, and when it was back."""

    def __init__(self, urls: Sequence[str], token: str, backoff: Backoff) -> None:
        self.urls = list(urls)
        self.oracle = Oracle()
        self.joined: list[float] = []
        self.client = Client(
            self.choose, token, backoff=backoff, compression=None, ping_interval=None
        )

    def choose(self) -> str:
        """Return the first URL for the first connect, later a random other one."""
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
    # The oracle has no event to wait for.
    while (  # noqa: ASYNC110
        lost(member.oracle, ROOM, seqs) and time.monotonic() < deadline
    ):
        await asyncio.sleep(EVERY)


def modelled(
    backoff: str, clients: int = 10_000, outage: float = 0.0, seed: int = 7
) -> Storm:
    """Simulate clients that lose the same server at the same moment.

    In this model an attempt takes no time, and every attempt after the outage succeeds.

    Args:
        backoff: A name in :data:`BACKOFFS`.
        clients: How many clients there are.
        outage: Seconds in which every attempt fails.
        seed: Seed of the random delays.

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

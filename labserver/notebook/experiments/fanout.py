"""CPU time of the server for one message, by the size of the room."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import psutil

from labserver.notebook.charts import line_through
from labserver.notebook.peers import Peer, connected, silent
from labserver.notebook.progress import progress
from labserver.notebook.servers import running
from labserver.processes.cluster import Replica

MESSAGES = 300  # for each size of room
BATCH = 50  # messages that fit into a member's receive buffer
ROOM = "lobby"
PAYLOAD = "x" * 150


@dataclass
class Costs:
    """CPU time of the server for one message, in microseconds.

    Attributes:
        members: Sizes of the room.
        taken: Microseconds for each message, by size.
        kernel: How many of them were spent in the kernel, that is in system calls.

    """

    members: list[int]
    taken: list[float]
    kernel: list[float]

    @property
    def share(self) -> float:
        """The kernel's share of what one more member costs."""
        _, whole = line_through(self.members, self.taken)
        _, part = line_through(self.members, self.kernel)
        return part / whole

    def __repr__(self) -> str:
        start, slope = line_through(self.members, self.taken)
        return (
            f"T = {start:.0f} µs + {slope:.1f} µs · N; "
            f"about {round(self.share, 1):.0%} of the slope is time in the kernel"
        )


async def costs(
    stage: str = "rooms",
    members: Sequence[int] = (1, 60, 120, 180),
    **options: Any,
) -> Costs:
    """Measure the CPU time of messages sent one at a time, while a room grows.

    The kernel counts in ticks whether a process is in a system call, so its part is
    known from many messages only. So that they come fast, members read many at once.

    Args:
        stage: Last stage of the server.
        members: Sizes of the room with the publisher, ascending.
        options: As for :func:`running`.

    """
    taken, kernel, sockets = [], [], list[socket.socket]()
    options = {"message_rate_limit": 0, **options}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(stage, **options))
        publisher = await stack.enter_async_context(connected(server, "ann", ROOM))
        for size in progress(members, "rooms"):
            more = silent(server, size - 1 - len(sockets), ROOM)
            sockets += await stack.enter_async_context(more)
            await _publish(publisher, sockets, BATCH)
            before = _spent(server)
            await _publish(publisher, sockets, MESSAGES)
            after = _spent(server)
            user, system = (b - a for a, b in zip(before, after, strict=True))
            taken.append((user + system) / MESSAGES * 1e6)
            kernel.append(system / MESSAGES * 1e6)
    return Costs(list(members), taken, kernel)


async def _publish(
    publisher: Peer, sockets: Sequence[socket.socket], count: int
) -> None:
    """Publish messages, each after the answer to the one before."""
    for number in range(1, count + 1):
        await publisher.ask(type="publish", room=ROOM, payload=PAYLOAD)
        publisher.received.clear()
        if number % BATCH == 0:
            for each in sockets:
                with contextlib.suppress(BlockingIOError):
                    while each.recv(2**20):
                        pass


def _spent(server: Replica) -> tuple[float, float]:
    """Return the CPU seconds of a server so far: in its program, and in the kernel."""
    times = psutil.Process(server.pid).cpu_times()
    return times.user, times.system

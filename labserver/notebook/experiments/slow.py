"""A reader that has stopped: how many bytes wait for it, and where."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from labserver.notebook.peers import connected, crowd, silent
from labserver.notebook.progress import Line
from labserver.notebook.servers import running
from labserver.processes.cluster import Replica

SIZE = 32_000  # bytes of a message
EACH = 12  # messages at a time
PAUSE = 0.1  # seconds between two times
AFTERWARDS = 14  # more looks, when nothing is published any more
MEMORY = "process_resident_memory_bytes"
PATIENCE = 1.0  # seconds to wait for missing messages, in all


@dataclass
class Flood:
    """A run with a reader that has stopped. Sizes are in MB.

    Attributes:
        seconds: Since the first message, at each step.
        published: Published so far, at each step.
        memory: Growth of the server's memory, at each step.
        process: Waiting for the stopped reader in the server's process.
        kernel: Waiting in the server's kernel; 0 on systems without /proc.
        peer: Waiting in the reader's kernel; 0 on systems without /proc.
        healthy: Messages that the healthy reader got, of ``total``.
        dropped: Messages dropped for the stopped reader.
        stayed: Whether the stopped reader was still connected at the end.

    """

    total: int
    seconds: list[float] = field(default_factory=list)
    published: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)
    kernel: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    healthy: int = 0
    dropped: int = 0
    stayed: bool = True

    @property
    def grown(self) -> float:
        """Growth of the server's memory at the end, in MB."""
        return self.memory[-1]

    def reached(self, held: float) -> float:
        """Return the second in which the process first held so many MB, or more."""
        pairs = zip(self.seconds, self.process, strict=True)
        return next((at for at, size in pairs if size >= held), self.seconds[-1])

    @property
    def freed(self) -> float:
        """The second from which on the process held nothing any more."""
        held = [at for at, size in zip(self.seconds, self.process, strict=True) if size]
        later = [at for at in self.seconds if held and at > held[-1]]
        return later[0] if later else self.seconds[-1]

    def __repr__(self) -> str:
        fate = "still connected" if self.stayed else "cut off"
        return (
            f"healthy {self.healthy} of {self.total}, dropped {self.dropped:3} for "
            f"the other, held at most {max(self.process):.1f} MB, it is {fate}"
        )


async def flood(
    stage: str,
    *,
    megabytes: int = 8,
    receive_buffer: int = 0,
    **options: Any,
) -> Flood:
    """Publish to a room of two members; one reads, the other has stopped reading.

    Twelve messages of 32 kB are published every tenth of a second. When all are, the
    process is watched for a second and a half more.

    Args:
        stage: Last stage of the server.
        megabytes: Megabytes to publish.
        receive_buffer: ``SO_RCVBUF`` of the stopped reader in bytes; 0 for the kernel's
            choice.
        options: As for :func:`running`.

    """
    steps = megabytes * 1_000_000 // (SIZE * EACH)
    seen = Flood(total=steps * EACH)
    async with (
        running(stage, message_rate_limit=0, **options) as server,
        connected(server, "ann", "lobby") as ann,
        silent(server, room="lobby", receive_buffer=receive_buffer) as (stuck,),
    ):
        start, begun = await server.metric(MEMORY), time.monotonic()
        for step in range(steps + 1 + AFTERWARDS):
            await asyncio.sleep(begun + step * PAUSE - time.monotonic())
            if 0 < step <= steps:
                await ann.publish("lobby", *["x" * SIZE] * EACH)
                await ann.messages(step * EACH)
            sizes = await server.metrics()
            seen.seconds.append(time.monotonic() - begun)
            seen.published.append(min(step, steps) * EACH * SIZE / 1e6)
            seen.memory.append(max(sizes[MEMORY] - start, 0) / 1e6)
            seen.process.append(sizes["labserver_outbox_bytes"] / 1e6)
            kernel, peer = _queues(server, stuck)
            seen.kernel.append(kernel / 1e6)
            seen.peer.append(peer / 1e6)
            seen.stayed = sizes["labserver_connections"] > 1
        seen.dropped = int(await server.metric("labserver_outbox_drops_total"))
        seen.healthy = len(ann.of("message"))
    return seen


def _queues(server: Replica, reader: socket.socket) -> tuple[int, int]:
    """Return the bytes in the server's send queue and in the reader's receive queue.

    They are read from ``/proc/net/tcp``, see proc(5); both are 0 on other systems than
    Linux.
    """
    ports = (urlsplit(server.url).port, reader.getsockname()[1])
    with contextlib.suppress(OSError):
        sent = received = 0
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            columns = line.split()
            here, there = (int(each.rpartition(":")[2], 16) for each in columns[1:3])
            if (here, there) == ports:
                sent = int(columns[4].partition(":")[0], 16)
            elif (there, here) == ports:
                received = int(columns[4].partition(":")[2], 16)
        return sent, received
    return 0, 0


@dataclass
class Latencies:
    """Deliveries to the healthy members of a room.

    Attributes:
        arrived: Milliseconds that each delivery took.
        due: Number of deliveries to expect.

    """

    arrived: list[float]
    due: int

    @property
    def complete(self) -> float:
        """Percentage of the expected deliveries that arrived."""
        return 100 * len(self.arrived) / self.due

    @property
    def p50(self) -> float:
        """Median of the arrived deliveries, in milliseconds."""
        return quantiles(self.arrived, n=2)[0] if len(self.arrived) > 1 else 0.0

    @property
    def p99(self) -> float:
        """99th percentile of the arrived deliveries, in milliseconds."""
        return quantiles(self.arrived, n=100)[98] if len(self.arrived) > 1 else 0.0

    def __repr__(self) -> str:
        return (
            f"half within {_ms(self.p50)} ms, 99 % within {_ms(self.p99)} ms, "
            f"{self.complete:3.0f} % arrived"
        )


def _ms(value: float) -> str:
    return f"{value:5.1f}" if value < 10 else f"{value:5.0f}"


async def latencies(
    stage: str, *, members: int = 5, messages: int = 150, **options: Any
) -> Latencies:
    """Measure delivery to healthy members of a room with one stopped reader.

    Args:
        stage: Last stage of the server.
        members: Number of healthy members.
        messages: Number of published messages, 2 ms apart.
        options: As for :func:`running`, such as ``mistake="await-in-the-loop"``.

    """
    sent: dict[int, float] = {}
    async with (
        running(stage, send_buffer=16384, **options) as server,
        silent(server, room="lobby", receive_buffer=8192),
        crowd(server, members, "lobby") as readers,
        connected(server, "publisher") as publisher,
    ):
        for number in range(messages):
            sent[number] = time.monotonic()
            await publisher.publish("lobby", [number, "x" * 2000])
            await asyncio.sleep(0.002)
        for reader in readers:
            await reader.messages(messages, within=PATIENCE / members)
        arrived = [
            (at - sent[message["payload"][0]]) * 1000
            for reader in readers
            for message, at in zip(reader.received, reader.arrived, strict=True)
            if message.get("type") == "message"
        ]
    return Latencies(arrived, members * messages)


async def policies(*names: str, **options: Any) -> dict[str, Flood]:
    """Run the same flood with each policy for a full outbox; return them by name."""
    line, turn, runs = Line(), asyncio.Semaphore(2), dict[str, Flood]()

    async def run(name: str) -> None:
        async with turn:
            runs[name] = await flood("backpressure", outbox_policy=name, **options)
        line.say(f"policies: {len(runs)} of {len(names)}")

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(run(name))
    return {name: runs[name] for name in names}

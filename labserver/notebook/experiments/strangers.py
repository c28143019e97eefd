"""A thousand clients without a token, and what each of them costs the server."""

from __future__ import annotations

import asyncio
import resource
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from labserver.notebook.peers import asked, raw
from labserver.notebook.progress import Line
from labserver.notebook.servers import running
from labserver.processes.cluster import Replica

AT_ONCE = 20  # strangers that connect at the same time
FIRST = 20  # strangers before the measurement, so that one-time costs are not measured
SPARE = 200  # open files that the notebook's kernel needs for itself
MEMORY = "process_resident_memory_bytes"
CPU = "process_cpu_seconds_total"


@dataclass
class Toll:
    """Costs of strangers for a server.

    Attributes:
        count: How many strangers connected.
        sockets: How many of them got a WebSocket.
        memory: Kilobytes of the server's memory for each, while they are connected.
        cpu: Microseconds of the server's CPU time for each.

    """

    count: int
    sockets: int
    memory: float
    cpu: float

    def __repr__(self) -> str:
        return (
            f"{self.sockets} of {self.count} got a socket; "
            f"{self.memory:.1f} KB and {self.cpu:.0f} µs each"
        )


async def toll(stage: str, count: int = 1000, **options: Any) -> Toll:
    """Connect strangers without a token, and measure the costs for the server.

    A stranger that gets a socket keeps it, and does not answer the close frame, as an
    attacker would. A stranger that is refused closes its connection, like an HTTP
    client.

    Args:
        stage: Last stage of the server.
        count: How many strangers; fewer if the limit of open files is lower.
        options: As for :func:`running`, such as ``mistake="accept-then-check"``.

    """
    count = min(count, _files() - SPARE)
    line = Line()
    async with running(stage, **options) as server, AsyncExitStack() as stack:
        await _knock(server, stack, FIRST)
        first = await server.metrics()
        before = await server.metrics()  # reading the metrics takes CPU time, too
        sockets = 0
        for done in range(0, count, AT_ONCE):
            line.say(f"strangers: {done} of {count}")
            sockets += await _knock(server, stack, min(AT_ONCE, count - done))
        line.say(f"strangers: {count} of {count}")
        after = await server.metrics()
        idle = before[CPU] - first[CPU]
        return Toll(
            count,
            sockets,
            max(after[MEMORY] - before[MEMORY], 0) / count / 1000,
            max(after[CPU] - before[CPU] - idle, 0) / count * 1e6,
        )


async def _knock(server: Replica, stack: AsyncExitStack, count: int) -> int:
    """Connect strangers at once; return how many got a socket. They keep it."""
    visits = await asyncio.gather(*(_visit(server) for _ in range(count)))
    kept = [visit for visit in visits if visit is not None]
    for visit in kept:
        stack.push_async_exit(visit)
    return len(kept)


async def _visit(server: Replica) -> AsyncExitStack | None:
    async with AsyncExitStack() as visit:
        wire = await visit.enter_async_context(raw(server))
        await wire.send(asked(server, {}))
        if (await wire.response()).startswith("HTTP/1.1 101 "):
            return visit.pop_all()
    return None


def _files() -> int:
    """Raise this process's limit of open files as far as allowed; return the limit.

    Servers that are started later inherit the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return 10**6 if soft == resource.RLIM_INFINITY else soft

"""A server's metrics over time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from labserver.processes.cluster import Replica


@dataclass
class Samples:
    """Samples of one metric; times are in seconds since sampling began."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


async def watch(
    server: Replica, metric: str, seconds: float, every: float = 0.02
) -> Samples:
    """Sample a metric of ``/metrics`` for some seconds.

    Args:
        server: The server.
        metric: Name of the sample, such as ``labserver_connections``.
        seconds: How long.
        every: Seconds between two samples.

    """
    samples = Samples()
    start = time.monotonic()
    while time.monotonic() < start + seconds:
        value = await server.metric(metric)
        samples.times.append(time.monotonic() - start)
        samples.values.append(value)
        await asyncio.sleep(every)
    return samples

"""A server's metrics over time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from labserver.processes.cluster import Replica


@dataclass
class Samples:
    """Samples of one metric; times are in seconds since sampling began."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def first_below(self, value: float) -> float | None:
        """Return when the metric was first below ``value``, or None."""
        pairs = zip(self.times, self.values, strict=True)
        return next((at for at, sample in pairs if sample < value), None)


@asynccontextmanager
async def sampled(
    server: Replica, metric: str, every: float = 0.02
) -> AsyncIterator[Samples]:
    """Sample a metric of ``/metrics`` until the block ends.

    Args:
        server: The server.
        metric: Name of the sample, such as ``labserver_connections``.
        every: Seconds between two samples.

    """
    samples = Samples()
    start = time.monotonic()
    task = asyncio.create_task(_sample(server, metric, every, start, samples))
    try:
        yield samples
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def _sample(
    server: Replica, metric: str, every: float, start: float, samples: Samples
) -> None:
    while True:
        value = await server.metric(metric)
        samples.times.append(time.monotonic() - start)
        samples.values.append(value)
        await asyncio.sleep(every)


async def watch(server: Replica, metric: str, seconds: float) -> Samples:
    """Sample a metric for some seconds; see :func:`sampled`."""
    async with sampled(server, metric) as samples:
        await asyncio.sleep(seconds)
    return samples

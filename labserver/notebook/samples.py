"""A server's metrics over time, and the CPU time that it used."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from labserver.processes.cluster import Replica

SETTLED = 0.01  # seconds after an answer until a server sleeps again


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


async def used(pid: int) -> float:
    """Return the seconds of CPU time that a process has used when it is done.

    While a process runs, the kernel counts its time in steps of some milliseconds. So
    this waits a moment, in which the server finishes what was asked of it.
    """
    await asyncio.sleep(SETTLED)
    return _counted(pid)


def _counted(pid: int) -> float:
    with contextlib.suppress(OSError):  # Linux; its other figures are steps of 10 ms
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)

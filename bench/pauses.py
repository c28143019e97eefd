"""How long a server stops for its clients while connections arrive, and stay.

    python -m bench.pauses [--connections 1000,10000] [--rounds 3]

A probe sends itself 500 messages a second, on a schedule, while the connections arrive,
16 at a time, and afterwards. Its latencies count from the due times. The server runs
with Python's own garbage collector, and with the lab's limit on a collection, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import resource
import statistics
import sys
from collections import defaultdict
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from bench.receiver import Figures, Load, receive
from bench.servers import CONTRACT, Server, cores, lab, running
from labserver.settings import Settings

RATE = 500.0  # messages a second of the probe
ARRIVALS = (
    1000  # connections that arrive in a second, at least: the probe waits so long
)
SPARE = 100  # file descriptors for everything else
WAYS = {"Python's own": "0", "limited": f"{Settings().gc_pause_limit:g}"}
PAUSE = re.compile(r'labserver_gc_pause_seconds_bucket\{le="([^"]+)"\} ([0-9.]+)')


async def measure(count: int, limit: str) -> tuple[Figures, Figures, float]:
    """Run one server.

    Args:
        count: Connections.
        limit: The setting ``gc_pause_limit``.

    Returns:
        The figures of the probe and of the arrivals, and the upper bound in seconds of
        the longest collection; 0 where the server does not count them.

    """
    server_core, other_core = cores()
    command = lab("--stage", "resume", "--without", "broker", "--gc-pause-limit", limit)
    async with running(command, server_core) as server:
        seconds = count / ARRIVALS + 2
        probe = Load(1, rate=RATE, seconds=seconds, warm_up=0.2)
        probing = asyncio.create_task(receive([server], CONTRACT, probe, other_core))
        await asyncio.sleep(0.5)
        # They stay until the probe has ended: to leave all at once is another storm.
        idle = Load(count, seconds=0, warm_up=0, settle=seconds)
        arriving = asyncio.create_task(receive([server], CONTRACT, idle, other_core))
        found = await probing
        longest = await asyncio.to_thread(longest_pause, server)
        return found, await arriving, longest


def longest_pause(server: Server) -> float:
    """Return the bound of the last bucket with a collection in it, in seconds."""
    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as page:
        found = PAUSE.findall(page.read().decode())
    total = float(found[-1][1])
    return next(float(bound) for bound, count in found if float(count) == total)


def row(count: int, way: str, runs: list[tuple[Figures, Figures, float]]) -> list[str]:
    """Return the medians of some runs as a row."""

    def median(values: list[float]) -> float:
        return statistics.median(values)

    probes = [probe for probe, _, _ in runs]
    limited = WAYS[way] != "0"  # only then are they counted
    return [
        f"{count:,}",
        way,
        f"{median([each.latency_p99 for each in probes]) / 1000:.1f}",
        f"{median([each.latency_p999 for each in probes]) / 1000:.1f}",
        f"{median([each.latency_max for each in probes]) / 1000:.0f}",
        f"{median([longest for *_, longest in runs]) * 1000:g}" if limited else "",
        f"{median([arrived.handshake_cost for _, arrived, _ in runs]):.0f}",
        f"{median([arrived.connection for _, arrived, _ in runs]) / 1000:.1f}",
    ]


async def run_all(counts: list[int], rounds: int) -> Table:
    table = Table(
        *("connections", "collector", "p99 ms", "p99.9 ms", "longest ms"),
        *("of collections", "us a handshake", "KB each"),
    )
    for count in counts:
        runs = defaultdict(list)
        for number in range(rounds):
            ways = list(WAYS.items())
            for way, limit in ways if number % 2 else reversed(ways):
                runs[way].append(await measure(count, limit))
        for way in WAYS:
            table.add_row(*row(count, way, runs[way]))
    return table


def main() -> int:
    """Return 0; 2 if the system does not allow so many open files."""
    parser = argparse.ArgumentParser(prog="python -m bench.pauses")
    parser.add_argument("--connections", default="1000,10000")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    counts = [int(each) for each in chosen.connections.split(",")]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if max(counts) > most - SPARE:
        print(f"pauses: a process may open {most} files here (ulimit -Hn)")
        return 2
    Console().print(asyncio.run(run_all(counts, chosen.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Work beside the users: injected faults, and the servers' memory."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Collection, Mapping

import gevent
from gevent.event import Event

from labserver.load.figures.own import Figures
from labserver.load.figures.timeline import sample
from labserver.load.run.owned import ask

PAUSE = 2.0  # seconds that Redis is stopped
Samples = Mapping[str, Mapping[int, Mapping[str, float]]]


# Faults


def strike(
    fault: str,
    servers: int,
    when: int,
    settled: Event,
    announce: Callable[[str], None],
) -> None:
    """Inject a fault into the servers at its time.

    Args:
        fault: One of ``--fault``.
        servers: Number of servers; the last one is killed.
        when: Time of the fault, in monotonic nanoseconds.
        settled: Set when all members have joined; the fault waits for it.
        announce: Called with a description before the fault, so that the losses of
            users from then on are not failures.

    """
    gevent.sleep(max(0.0, when / 1e9 - time.monotonic()))
    settled.wait()  # a fault while members arrive would be another test
    if fault == "kill-replica":
        text, request = f"replica {servers} killed", f"kill {servers - 1}"
    else:
        text, request = f"Redis paused for {PAUSE:g} s", f"pause {PAUSE:g}"
    announce(text)
    try:
        ask(request)
    except OSError as exc:
        announce(f"not done: {exc}")


# Memory


def look(urls: Collection[str]) -> dict[str, dict[str, float]]:
    """Return the metrics of each server now; a server that is down is left out."""
    found = {}
    for url in urls:
        page = url.replace("ws", "http", 1).rstrip("/") + "/metrics"
        try:
            with urllib.request.urlopen(page, timeout=1) as response:
                found[url] = sample(response.read(1_000_000).decode())
        except (OSError, ValueError):
            continue
    return found


def memory(
    own: Figures,
    before: Mapping[str, Mapping[str, float]],
    samples: Samples,
    began: int,
    step: float,
    alone: bool,
) -> None:
    """Add the servers' memory to the figures of idle connections.

    Args:
        own: The figures.
        before: Metrics of the servers before the first user came.
        samples: Metrics since then, by server and period.
        began: Start of the run, in monotonic nanoseconds.
        step: Seconds of a period.
        alone: Whether idle connections are the only load, so that the memory is theirs.

    """
    grown = connected = 0.0
    for number, (url, first) in enumerate(sorted(before.items()), 1):
        # A sample is taken at the end of its period.
        points = [(began, first)] + [
            (began + round((period + 1) * step * 1e9), each)
            for period, each in sorted(samples.get(url, {}).items())
        ]
        for when, each in points:
            own.measured(f"memory, {number}", "bytes", when, each.get("rss_bytes", 0))
            own.measured(f"connections, {number}", "", when, each.get("connections", 0))
        most = max((each for _, each in points), key=lambda e: e.get("connections", 0))
        grown += most.get("rss_bytes", 0) - first.get("rss_bytes", 0)
        connected += most.get("connections", 0) - first.get("connections", 0)
        last = points[-1][0]
    if alone and connected > 0:
        own.measured("memory per connection", "bytes", last, grown / connected)

"""Work beside the users: injected faults, the probe, and the servers' memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import gevent
from gevent.event import Event

from labserver.load.figures.histogram import Histogram
from labserver.load.figures.own import Figures
from labserver.load.figures.timeline import sample
from labserver.load.run.options import token
from labserver.load.run.owned import ask

PAUSE = 2.0  # seconds that Redis is stopped
PROBE_TIMEOUT = 10.0  # seconds
PROBE = "latency, probe"
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


# A second opinion


class Probe:
    """The process of :mod:`labserver.load.run.probe`, on one room.

    Args:
        url: Server.
        room: Room.
        seconds: In which the crowd arrives.

    """

    def __init__(self, url: str, room: str, seconds: float) -> None:
        program = str(Path(__file__).with_name("probe.py"))
        self.process = subprocess.Popen(
            [sys.executable, program, url, room, str(seconds)],
            env={**os.environ, "LAB_TOKEN": token("load-probe")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # the test gets Ctrl-C, and ends this
        )

    def stop(self) -> Histogram:
        """End the process; return its latencies, an empty histogram if it failed."""
        try:
            out, _ = self.process.communicate(timeout=PROBE_TIMEOUT)
            return Histogram.from_json(json.loads(out.splitlines()[-1]))
        except (subprocess.TimeoutExpired, ValueError, IndexError, KeyError):
            self.process.kill()
            self.process.wait()
            return Histogram()


def compared(probe: Histogram, crowd: Histogram) -> str:
    """Return a sentence that compares the latencies of probe and crowd."""
    theirs, ours = probe.percentile(99), crowd.percentile(99)
    if not theirs or not ours:
        return "The probe or the crowd got no message."
    return f"The crowd's p99 is {ours / theirs:.2f} times that of the idle probe."


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

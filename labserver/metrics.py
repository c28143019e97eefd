"""What the server counts, and the Prometheus page that shows it.

On the hot path a count is one integer in a slot; names, help and labels are put on
when a page is asked for.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

OTHER = 0  # stands for every close code that means something to its client only


class Metrics:
    """The counters of one server."""

    __slots__ = (
        "accepted",
        "closes",
        "dead",
        "deliveries",
        "drops",
        "flushes",
        "published",
        "received",
        "recovered",
        "refused",
        "stalls",
        "stuck",
        "unrecovered",
    )

    def __init__(self) -> None:
        self.accepted = 0  # handshakes that became a socket
        self.refused: Counter[int] = Counter()  # handshakes answered with HTTP, status
        self.closes: Counter[int] = Counter()  # connections that ended, by code
        self.received = 0  # messages from clients
        self.published = 0  # messages that the broker numbered
        self.deliveries = 0  # messages given to a member's outbox
        self.flushes = 0  # rounds over a room's members
        self.drops = 0  # messages that an outbox dropped, each told with a gap
        self.dead = 0  # peers that answered no ping
        self.stuck = 0  # peers that took no byte before the deadline
        self.stalls = 0  # times that the event loop itself was late
        self.recovered = 0  # joins whose cursor was honoured
        self.unrecovered = 0  # joins whose cursor was too old or of another epoch


COUNTERS = {
    "accepted": ("labserver_handshakes_accepted", "Handshakes that became a socket."),
    "received": ("labserver_messages_received", "Messages from clients."),
    "published": ("labserver_messages_published", "Messages numbered by the broker."),
    "deliveries": ("labserver_deliveries", "Messages given to a member's outbox."),
    "flushes": ("labserver_flushes", "Rounds over the members of a room."),
    "drops": ("labserver_outbox_drops", "Messages dropped for slow readers."),
    "dead": ("labserver_peers_dead", "Peers ended because no ping was answered."),
    "stuck": ("labserver_peers_stuck", "Peers ended because they read nothing."),
    "stalls": ("labserver_loop_stalls", "Times that the event loop was late."),
    "recovered": ("labserver_recoveries", "Joins whose cursor was honoured."),
    "unrecovered": ("labserver_recovery_failures", "Joins whose cursor was too old."),
}


def render(metrics: Metrics, gauges: Iterable[tuple[str, str, float]]) -> bytes:
    """Return the page in Prometheus' text format; gauges are (name, help, value)."""
    registry = CollectorRegistry()
    registry.register(_Page(metrics, [*gauges, *_process()]))
    return generate_latest(registry)


def _process() -> Iterator[tuple[str, str, float]]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield "process_cpu_seconds", "CPU time used.", usage.ru_utime + usage.ru_stime
    yield "process_resident_memory_bytes", "Memory in use.", resident_memory()


def resident_memory() -> int:
    """Return this process's resident memory in bytes (its peak where /proc is not)."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Page(Collector):
    def __init__(self, metrics: Metrics, gauges: list[tuple[str, str, float]]) -> None:
        self.metrics = metrics
        self.gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for attribute, (name, text) in COUNTERS.items():
            yield CounterMetricFamily(name, text, getattr(self.metrics, attribute))
        closes = CounterMetricFamily(
            "labserver_closes",
            "Connections that ended, by close code.",
            labels=["code"],
        )
        for code, count in sorted(self.metrics.closes.items()):
            closes.add_metric(["other" if code == OTHER else str(code)], count)
        yield closes
        refused = CounterMetricFamily(
            "labserver_handshakes_refused",
            "Handshakes answered with HTTP, by status.",
            labels=["status"],
        )
        for status, count in sorted(self.metrics.refused.items()):
            refused.add_metric([str(status)], count)
        yield refused
        for name, text, value in self.gauges:
            if name.endswith("_seconds"):
                yield CounterMetricFamily(name, text, value)
            else:
                yield GaugeMetricFamily(name, text, value)

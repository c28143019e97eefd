"""The server's counters, and the page that shows them to Prometheus.

On the hot path a counter is one integer in a slot. A histogram gets one value a flush,
never one a delivery. Names, help and labels are only added when the page is requested.
Names follow https://prometheus.io/docs/practices/naming/: base units, ``_total``.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from labserver.contract.closing import CLOSES
from labserver.server.tasks import NAMES, Failures

OTHER = 0  # stands for all close codes that clients make up
STARTED = time.time()
# From 50 microseconds, a flush of a small room, to 5 seconds, a hopeless overload.
SECONDS = (
    *(50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Histogram:
    """Counts values by bucket.

    Args:
        bounds: The upper bounds of the buckets, inclusive and ascending.

    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return each upper bound with the count of all values up to it."""
        total, found = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            name = "+Inf" if bound == float("inf") else f"{bound:g}"
            found.append((name, float(total)))
        return found


class Gauge(NamedTuple):
    """The current value of something: name, help, value."""

    name: str
    text: str
    value: float


class Metrics:
    """The counters of one server."""

    __slots__ = (
        "accepted",
        "broker_latency",
        "closes",
        "dead",
        "deliveries",
        "delivery_latency",
        "drops",
        "epochs",
        "failures",
        "flush_size",
        "flushes",
        "gc_pause",
        "gone",
        "loop_lag",
        "polls",
        "published",
        "received",
        "recovered",
        "refused",
        "stalls",
        "streams",
        "stuck",
        "unrecovered",
    )

    def __init__(self) -> None:
        self.accepted = 0  # handshakes that became a socket
        self.refused: Counter[int] = Counter()  # refused handshakes, by HTTP status
        # Connections that ended, by close code and by who ended them.
        self.closes: Counter[tuple[int, str]] = Counter()
        self.failures = Failures()  # failed long tasks, by name
        self.received = 0  # messages from clients
        self.published = 0  # messages that the broker numbered
        self.deliveries = 0  # messages given to a member's outbox
        self.flushes = 0  # rounds over a room's members
        self.drops = 0  # messages that an outbox dropped, each announced by a gap
        self.gone = 0  # messages that the broker lost, each announced by a gap
        self.epochs = 0  # rooms with members that lost their numbering
        self.dead = 0  # peers that answered no ping
        self.stuck = 0  # peers that took no byte before the deadline
        self.stalls = 0  # times that the event loop itself was late
        self.recovered = 0  # joins that got every message after their cursor
        self.streams = 0  # event streams that began
        self.polls = 0  # long polls that began
        self.unrecovered = 0  # joins whose cursor was too old or of another epoch
        self.delivery_latency = Histogram(SECONDS)
        self.broker_latency = Histogram(SECONDS)
        self.loop_lag = Histogram(SECONDS)
        self.gc_pause = Histogram(SECONDS)
        self.flush_size = Histogram(SIZES)


# By attribute of Metrics: name and help. The book's page of metrics is made of these.
COUNTERS = {
    "accepted": ("labserver_handshakes_accepted", "Handshakes that became a socket."),
    "received": ("labserver_messages_received", "Messages from clients."),
    "published": (
        "labserver_messages_published",
        "Messages that the broker numbered for this replica's clients.",
    ),
    "deliveries": (
        "labserver_deliveries",
        "Messages handed to the outboxes of a room's members.",
    ),
    "flushes": (
        "labserver_flushes",
        "Rounds over the members of a room, each writing what is pending.",
    ),
    "drops": (
        "labserver_outbox_drops",
        "Messages dropped for slow readers, each announced with a gap.",
    ),
    "gone": (
        "labserver_messages_gone",
        "Messages that Redis no longer had, each announced to its room with a gap.",
    ),
    "epochs": (
        "labserver_epochs",
        "Rooms with members whose numbering was lost, and that were told a new epoch.",
    ),
    "dead": (
        "labserver_peers_dead",
        "Peers ended because they answered no ping for two intervals.",
    ),
    "stuck": (
        "labserver_peers_stuck",
        "Peers ended because they took no byte within stuck_timeout.",
    ),
    "stalls": (
        "labserver_loop_stalls",
        "Times that the heartbeat found the event loop running late.",
    ),
    "recovered": (
        "labserver_recoveries",
        "Joins that replayed everything after their cursor.",
    ),
    "unrecovered": (
        "labserver_recovery_failures",
        "Joins whose cursor could not be served: too old, or of another epoch.",
    ),
    "streams": ("labserver_streams", "Event streams that began."),
    "polls": ("labserver_polls", "Long polls that began."),
}

ABOUT = "Always 1; the labels say which server this is."
# Who ended a connection. The network says no goodbye.
SERVER, CLIENT, NETWORK = "server", "client", "network"

# Name, help, labels, and the values of the labels that are on the page from the start:
# without them, rate() would miss the first increase of a new series.
LABELLED: dict[str, tuple[str, str, tuple[str, ...], tuple[Any, ...]]] = {
    "closes": (
        "labserver_closes",
        "Connections that ended, by close code and by who closed: server, client, or "
        "network where nobody said goodbye. 1006: no close frame came.",
        ("code", "by"),
        (
            *((code, SERVER) for code in CLOSES),
            (1000, CLIENT),
            (1001, CLIENT),
            (1006, NETWORK),
        ),
    ),
    "refused": (
        "labserver_handshakes_refused",
        "Handshakes refused with an HTTP response, by status.",
        ("status",),
        (401, 403, 429, 503),
    ),
    "failures": (
        "labserver_tasks_failed",
        "Times that a long task of the server failed, and was started again.",
        ("task",),
        NAMES,
    ),
}

HISTOGRAMS = {
    "delivery_latency": (
        "labserver_delivery_latency_seconds",
        "From the arrival of a message from the broker to the write to the room's last "
        "member, in this process; one sample a flush.",
    ),
    "broker_latency": (
        "labserver_broker_latency_seconds",
        "Round trip of a publish to Redis; empty without Redis.",
    ),
    "loop_lag": (
        "labserver_loop_lag_seconds",
        "How late the event loop ran a timer, sampled twice a second.",
    ),
    "gc_pause": (
        "labserver_gc_pause_seconds",
        "Pauses for garbage collections; empty if LAB_GC_PAUSE_LIMIT is 0.",
    ),
    "flush_size": ("labserver_flush_messages", "Messages joined in one flush."),
}


def render(
    metrics: Metrics, gauges: Iterable[Gauge], about: dict[str, str] | None = None
) -> bytes:
    """Return the page in Prometheus' text format.

    Args:
        metrics: The counters and histograms.
        gauges: The current values.
        about: Labels of ``labserver_info``, such as the replica's name.

    """
    registry = CollectorRegistry()
    registry.register(_Page(metrics, [*gauges, *_process()], about or {}))
    return generate_latest(registry)


def _process() -> Iterator[Gauge]:
    start, memory, files = (
        "process_start_time_seconds",
        "process_resident_memory_bytes",
        "process_max_fds",
    )
    yield Gauge(start, "Start time of the process, in Unix time.", STARTED)
    yield Gauge(memory, "Resident memory of the process.", resident_memory())
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Gauge(files, "File descriptors that the process may open.", most)
    with contextlib.suppress(OSError):
        # Linux 6.2 and later tell the number without a list, which may be long.
        count = os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
        yield Gauge("process_open_fds", "Open file descriptors.", count)


def resident_memory() -> int:
    """Return this process's resident memory in bytes; without /proc, its peak."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Page(Collector):
    def __init__(
        self, metrics: Metrics, gauges: list[Gauge], about: dict[str, str]
    ) -> None:
        self.metrics = metrics
        self.gauges = gauges
        self.about = about

    def collect(self) -> Iterator[Metric]:
        for attribute, (name, text) in COUNTERS.items():
            yield CounterMetricFamily(name, text, getattr(self.metrics, attribute))
        for attribute, (name, text, labels, expected) in LABELLED.items():
            family = CounterMetricFamily(name, text, labels=labels)
            counts = dict.fromkeys(expected, 0) | getattr(self.metrics, attribute)
            for key, count in sorted(counts.items()):
                values = key if isinstance(key, tuple) else (key,)
                family.add_metric(
                    ["other" if value == OTHER else f"{value}" for value in values],
                    count,
                )
            yield family
        for attribute, (name, text) in HISTOGRAMS.items():
            histogram = getattr(self.metrics, attribute)
            yield HistogramMetricFamily(
                name, text, histogram.buckets(), sum_value=histogram.sum
            )
        for name, text, value in self.gauges:
            yield GaugeMetricFamily(name, text, value)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        spent = usage.ru_utime + usage.ru_stime
        yield CounterMetricFamily("process_cpu_seconds", "CPU time used.", spent)
        yield InfoMetricFamily("labserver", ABOUT, self.about)

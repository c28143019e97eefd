"""Figures that are special to one scenario; those of several processes are added.

They are written to ``summary.json``, and pictures are drawn from there::

    "figures": {"<scenario>": {"<name>": <figure>, ...}, ...}

A figure is one of four kinds. Times are seconds since ``started`` of ``run.json``
(which names the same moment as UTC and on the machine's monotonic clock):

    {"kind": "count", "value": 12}
    {"kind": "histogram", "unit": "us", "count": 3, "p50": .., "p90": .., "p99": ..,
     "p99.9": .., "max": .., "buckets": [[number, count], ...]}   (see histogram)
    {"kind": "series", "step": 0.1, "points": [[seconds, count in this step], ...]}
    {"kind": "gauge", "unit": "bytes", "points": [[seconds, value], ...]}

Steps of a series in which nothing was counted are left out. A name may end in
``, <label>``: figures that differ in the label only belong in one picture.

====================  =========  =====================================================
scenario              kind       name
====================  =========  =====================================================
``replicas``          count      ``came back``, ``published again``
..                    histogram  ``outage``: from losing the connection to joined again
``reconnect_storm``   count      ``dropped``, ``back``, ``missed``, ``attempts``,
                                 ``refused <status>``
..                    histogram  ``back after``: from being dropped to joined again
..                    series     ``attempts`` to connect, and ``accepts``: joined
                                 again; all with the labels ``, with jitter`` and
                                 ``, without jitter``
``idle``              count      ``pings answered``, ``went silent``, ``noticed``,
                                 ``kept too long``, ``server stalls``
..                    histogram  ``between pings``, ``noticed after``: from a peer's
                                 last sign of life to its end
..                    gauge      ``memory, <replica>`` in bytes,
                                 ``connections, <replica>``: from before the first user
..                    gauge      ``memory per connection`` in bytes, one point
..                    gauge      ``promised within`` in seconds: two intervals of the
                                 heartbeat, as the server says; a point a process
``churn``             count      ``cycles``, ``refused, <bad token>``
..                    histogram  ``handshake``, ``join``, ``leave``, ``refusal``
====================  =========  =====================================================

``run.json`` also has ``"faults": [{"at": seconds, "utc": .., "text": ..}]``: the
injected faults, which pictures over time show as lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

from labserver.load.figures.histogram import Histogram

STEP = 0.1  # seconds, of a series
STEP_NS = round(STEP * 1e9)


class Figures:
    """The figures of one scenario, by name. Times are in monotonic nanoseconds."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.histograms: dict[str, Histogram] = {}
        self.series: dict[str, Counter[int]] = {}
        self.gauges: dict[str, tuple[str, list[tuple[int, float]]]] = {}

    def histogram(self, name: str) -> Histogram:
        return self.histograms.setdefault(name, Histogram())

    def happened(self, name: str, when: int) -> None:
        """Count an event in the step of a series that contains ``when``."""
        self.series.setdefault(name, Counter())[when // STEP_NS] += 1

    def measured(self, name: str, unit: str, when: int, value: float) -> None:
        """Add a point to a gauge."""
        self.gauges.setdefault(name, (unit, []))[1].append((when, value))

    def add(self, other: Figures) -> None:
        """Add the figures of another process."""
        for name, count in other.counts.items():  # update() would drop zeros
            self.counts[name] += count
        for name, histogram in other.histograms.items():
            self.histogram(name).add(histogram)
        for name, steps in other.series.items():
            self.series.setdefault(name, Counter()).update(steps)
        for name, (unit, points) in other.gauges.items():
            mine = self.gauges.setdefault(name, (unit, []))[1]
            mine[:] = sorted([*mine, *points])

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        return {
            "counts": dict(self.counts),
            "histograms": {k: v.as_json() for k, v in self.histograms.items()},
            "series": {k: sorted(v.items()) for k, v in self.series.items()},
            "gauges": {k: [unit, points] for k, (unit, points) in self.gauges.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        result = cls()
        result.counts.update(data["counts"])
        for name, histogram in data["histograms"].items():
            result.histograms[name] = Histogram.from_json(histogram)
        for name, steps in data["series"].items():
            result.series[name] = Counter(dict(steps))
        for name, (unit, points) in data["gauges"].items():
            result.gauges[name] = (unit, [(when, value) for when, value in points])
        return result

    def told(self, started: int) -> dict[str, Any]:
        """Return the figures in the form of ``summary.json``.

        Args:
            started: Start of the run, in monotonic nanoseconds.

        """
        found: dict[str, Any] = {
            name: {"kind": "count", "value": value}
            for name, value in self.counts.items()
        }
        for name, histogram in self.histograms.items():
            found[name] = {
                "kind": "histogram",
                "unit": "us",
                **histogram.percentiles(),
                "buckets": histogram.as_json()["buckets"],
            }
        for name, steps in self.series.items():
            found[name] = {
                "kind": "series",
                "step": STEP,
                "points": [
                    [_seconds(step * STEP_NS, started), count]
                    for step, count in sorted(steps.items())
                ],
            }
        for name, (unit, points) in self.gauges.items():
            found[name] = {
                "kind": "gauge",
                "unit": unit,
                "points": [[_seconds(when, started), value] for when, value in points],
            }
        return dict(sorted(found.items()))

    def lines(self) -> list[str]:
        """Return the figures as lines of the summary; a gauge shows its last value."""
        found = {name: f"{count:,}" for name, count in self.counts.items()}
        for name, histogram in self.histograms.items():
            if histogram.count:
                found[name] = (
                    f"p50 {_ms(histogram.percentile(50)):>9}"
                    f"   p99 {_ms(histogram.percentile(99)):>9}"
                    f"   max {_ms(histogram.highest):>9}   of {histogram.count:,}"
                )
        for name, steps in self.series.items():
            found[f"{name}, peak"] = f"{max(steps.values()):,} in {STEP * 1000:g} ms"
        for name, (unit, points) in self.gauges.items():
            found[name] = f"{points[-1][1]:,.0f} {unit}".rstrip()
        return [f"  {name:<29} {found[name]}" for name in sorted(found)]


def _seconds(when: int, started: int) -> float:
    return round((when - started) / 1e9, 3)


def _ms(microseconds: float) -> str:
    value = microseconds / 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"

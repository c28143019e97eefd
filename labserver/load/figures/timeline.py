"""A run as time goes by: slices of every process, samples of every server, one table.

A slice is what a process measured in one period: the difference between two looks at
its histograms, so that the messages themselves cost nothing more. A sample is what a
server says of itself on ``/metrics``. :func:`rows` puts both side by side, and
``timeline.csv`` holds them, one line a period.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from labserver.load.figures.histogram import Histogram, upper_edge

SLICES = 600  # a run has at most about as many
# What is read off /metrics, by the names that it has or had there. Samples that differ
# in their labels are added up.
NAMES = {
    "connections": ("labserver_connections",),
    "outbox_bytes": ("labserver_outbox_bytes",),
    "drops": ("labserver_outbox_drops_total", "labserver_drops_total"),
    "deliveries": ("labserver_deliveries_total",),
    "closes": ("labserver_closes_total",),
    "broker_up": ("labserver_broker_up",),
    "stalls": ("labserver_loop_stalls_total",),
    "cpu_seconds": ("process_cpu_seconds_total",),
    "rss_bytes": ("process_resident_memory_bytes",),
}
KNOWN_AS = {name: key for key, names in NAMES.items() for name in names}
COUNTED = ("drops", "deliveries", "closes", "cpu_seconds")  # these only ever grow
SHOWN = ("connections", "outbox_bytes", "drops", "deliveries", "cpu", "rss_bytes")


def period(run_time: float) -> float:
    """Return how many seconds a slice of such a run has."""
    return max(1.0, run_time / SLICES)


def since(now: Histogram, before: Mapping[int, int], total: int) -> Histogram:
    """Return what a histogram has counted since it had these buckets and this total."""
    found = Histogram()
    for number, count in now.counts.items():
        if more := count - before.get(number, 0):
            found.counts[number] = more
            found.count += more
    if found.count:
        found.total = now.total - total
        # To the width of a bucket: nobody noted the exact ones of this period.
        found.lowest = min(upper_edge(min(found.counts)), now.highest)
        found.highest = min(upper_edge(max(found.counts)), now.highest)
    return found


@dataclass
class Slice:
    """What happened in one period, in one process or all of them."""

    users: int = 0  # members that were connected at its end
    published: int = 0
    latency: dict[str, Histogram] = field(default_factory=dict)
    slip: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)

    def add(self, other: Slice) -> None:
        self.users += other.users
        self.published += other.published
        for name, histogram in other.latency.items():
            self.latency.setdefault(name, Histogram()).add(histogram)
        self.slip.add(other.slip)
        self.lag.add(other.lag)

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        return {
            "users": self.users,
            "published": self.published,
            "latency": {k: v.as_json() for k, v in self.latency.items()},
            "slip": self.slip.as_json(),
            "lag": self.lag.as_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            data["users"],
            data["published"],
            {k: Histogram.from_json(v) for k, v in data["latency"].items()},
            Histogram.from_json(data["slip"]),
            Histogram.from_json(data["lag"]),
        )


class Slicer:
    """Cuts growing histograms into slices."""

    def __init__(self) -> None:
        self.before: dict[str, tuple[dict[int, int], int]] = {}
        self.published = 0

    def cut(
        self,
        users: int,
        published: int,
        latency: Mapping[str, Histogram],
        slip: Histogram,
        lag: Histogram,
    ) -> Slice:
        """Return what came since the last cut."""
        piece = Slice(users, published - self.published)
        self.published = published
        for name, histogram in latency.items():
            if (found := self._since(f"latency {name}", histogram)).count:
                piece.latency[name] = found
        piece.slip, piece.lag = self._since("slip", slip), self._since("lag", lag)
        return piece

    def _since(self, name: str, now: Histogram) -> Histogram:
        counts, total = self.before.get(name, ({}, 0))
        self.before[name] = (dict(now.counts), now.total)
        return since(now, counts, total)


def sample(page: str) -> dict[str, float]:
    """Return the figures of :data:`NAMES` that a ``/metrics`` page has."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        name = line.partition(" ")[0].partition("{")[0]
        if key := KNOWN_AS.get(name):
            found[key] = found.get(key, 0.0) + float(line.rpartition(" ")[2])
    return found


def grown(samples: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return samples with totals turned into what each period added to them.

    An empty sample is a server that did not answer. The first one adds nothing that
    anybody knows. A server that was started again counts from zero.
    """
    found, last = [], dict[str, float]()
    for each in samples:
        row = dict(each)
        for name in COUNTED:
            if name in row:
                total = row.pop(name)
                if name in last:
                    row[name] = total - last[name] if total >= last[name] else total
                last[name] = total
        found.append(row)
    return found


def stalled(
    before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]
) -> int:
    """Return how many times servers were late themselves between two looks."""
    found = 0.0
    for url, each in after.items():
        now, then = each.get("stalls", 0.0), before.get(url, {}).get("stalls", 0.0)
        found += now - then if now >= then else now  # it was started again
    return round(found)


def rows(
    slices: Mapping[int, Slice],
    samples: Mapping[str, Mapping[int, Mapping[str, float]]],
    seconds: float,
    late_by_design: Iterable[str] = (),
    faults: Iterable[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return the table of a run.

    A figure that nobody measured is None.

    Args:
        slices: By number of the period.
        samples: By server, by number of the period; -1 is from before the first.
        seconds: Length of a period.
        late_by_design: Groups whose latency is not counted.
        faults: As in ``run.json``.

    """
    numbers = sorted({*slices, *(n for each in samples.values() for n in each)})
    if not numbers:
        return []
    every = range(numbers[0], numbers[-1] + 1)
    servers = [grown([found.get(n, {}) for n in every]) for found in samples.values()]
    asked = max((n for each in samples.values() for n in each), default=-1)
    many = len(servers) > 1
    table = []
    for index, number in enumerate(every):
        if number < 0:
            continue
        piece = slices.get(number, Slice())
        latency = Histogram.merged(
            each for name, each in piece.latency.items() if name not in late_by_design
        )
        row: dict[str, Any] = {"seconds": round((number + 1) * seconds, 3)}
        row |= {"users": piece.users, "published": piece.published}
        row["delivered"] = latency.count
        for name, percent in (("p50_ms", 50), ("p99_ms", 99), ("p99.9_ms", 99.9)):
            row[name] = in_ms(latency, percent)
        row["sent_late_p99_ms"] = in_ms(piece.slip, 99)
        row["read_late_p99_ms"] = in_ms(piece.lag, 99)
        now = [found[index] for found in servers]
        # After the last answer of all nobody was asked any more.
        row["servers_up"] = sum(map(bool, now)) if number <= asked else None
        for each in now:
            if "cpu_seconds" in each:
                each["cpu"] = each.pop("cpu_seconds") / seconds
        for name in SHOWN:
            known = [each[name] for each in now if name in each]
            row[name] = tidy(sum(known)) if known else None
        for place, each in enumerate(now if many else (), 1):
            row |= {f"{name}_{place}": tidy(each.get(name)) for name in SHOWN}
        table.append(row)
    return mark(table, faults)


def mark(
    table: Sequence[dict[str, Any]], faults: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the table with each fault in the row of its period."""
    found, marked = list(faults), []
    for number, row in enumerate(table):
        start = table[number - 1]["seconds"] if number else 0.0
        said = [each["text"] for each in found if start <= each["at"] < row["seconds"]]
        marked.append({**row, "fault": "; ".join(said)})
    return marked


def in_ms(histogram: Histogram, percent: float) -> float | None:
    """Return a percentile in milliseconds; None when nothing was measured."""
    return round(histogram.percentile(percent) / 1000, 3) if histogram.count else None


def tidy(value: float | None) -> float | None:
    """Return a whole number without its point, any other with four digits after it."""
    if value is None:
        return None
    return int(value) if float(value).is_integer() else round(value, 4)


def write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Write ``timeline.csv``; a table without rows makes no file."""
    if table:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``timeline.csv``, numbers as numbers, unknown as None.

    Raises:
        ValueError: A figure is no number.

    """
    with path.open(newline="") as file:
        return [
            {
                name: value if name == "fault" else float(value) if value else None
                for name, value in row.items()
            }
            for row in csv.DictReader(file)
        ]

"""A run over time: slices of every process and samples of every server, in one table.

A slice has the figures of a process in one period. It is the difference between two
states of its histograms, so it adds no work for each message. A sample has figures of a
server's ``/metrics``. :func:`rows` puts both into one row for each period, and
``timeline.csv`` has these rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from labserver.load.figures.histogram import Histogram, upper_edge

SLICES = 600  # at most about so many in a run
# Figures of /metrics that are kept, with their names there, now and in older versions.
# Samples that differ only in their labels are added up.
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
COUNTED = ("drops", "deliveries", "closes", "cpu_seconds")  # counters, which only grow
SHOWN = ("connections", "outbox_bytes", "drops", "deliveries", "cpu", "rss_bytes")


def period(run_time: float) -> float:
    """Return the length of a slice, in seconds, of a run of ``run_time`` seconds."""
    return max(1.0, run_time / SLICES)


class State(NamedTuple):
    """A histogram at an earlier time."""

    counts: Mapping[int, int]
    own: Mapping[int, int]
    total: int


def since(now: Histogram, before: State) -> Histogram:
    """Return what a histogram has counted since an earlier state."""
    found = Histogram()
    for number, count in now.counts.items():
        if more := count - before.counts.get(number, 0):
            found.counts[number] = more
            found.count += more
    for number, own in now.own.items():
        if more := own - before.own.get(number, 0):
            found.own[number] = more
    if found.count:
        found.total = now.total - before.total
        # Exact to the width of a bucket: the exact values of the period are unknown.
        found.lowest = min(upper_edge(min(found.counts)), now.highest)
        found.highest = min(upper_edge(max(found.counts)), now.highest)
    return found


@dataclass
class Slice:
    """Figures of one period, of one process or of all."""

    users: int = 0  # connected members at its end
    published: int = 0
    latency: dict[str, Histogram] = field(default_factory=dict)
    slip: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    unmeasured: int = 0  # messages that arrived, nobody knows when

    def add(self, other: Slice) -> None:
        self.users += other.users
        self.published += other.published
        for name, histogram in other.latency.items():
            self.latency.setdefault(name, Histogram()).add(histogram)
        self.slip.add(other.slip)
        self.lag.add(other.lag)
        self.unmeasured += other.unmeasured

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        return {
            "users": self.users,
            "published": self.published,
            "latency": {k: v.as_json() for k, v in self.latency.items()},
            "slip": self.slip.as_json(),
            "lag": self.lag.as_json(),
            "unmeasured": self.unmeasured,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            data["users"],
            data["published"],
            {k: Histogram.from_json(v) for k, v in data["latency"].items()},
            Histogram.from_json(data["slip"]),
            Histogram.from_json(data["lag"]),
            data["unmeasured"],
        )


class Slicer:
    """Cuts growing histograms into slices."""

    def __init__(self) -> None:
        self.before: dict[str, State] = {}
        self.published = self.unmeasured = 0

    def cut(
        self,
        users: int,
        published: int,
        latency: Mapping[str, Histogram],
        slip: Histogram,
        lag: Histogram,
        unmeasured: int = 0,
    ) -> Slice:
        """Return the figures since the last cut."""
        piece = Slice(users, published - self.published)
        piece.unmeasured = unmeasured - self.unmeasured
        self.published, self.unmeasured = published, unmeasured
        for name, histogram in latency.items():
            if (found := self._since(f"latency {name}", histogram)).count:
                piece.latency[name] = found
        piece.slip, piece.lag = self._since("slip", slip), self._since("lag", lag)
        return piece

    def _since(self, name: str, now: Histogram) -> Histogram:
        before = self.before.get(name, State({}, {}, 0))
        self.before[name] = State(dict(now.counts), dict(now.own), now.total)
        return since(now, before)


def sample(page: str) -> dict[str, float]:
    """Return the figures of :data:`NAMES` on a ``/metrics`` page; raises ValueError."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        name = line.partition(" ")[0].partition("{")[0]
        if key := KNOWN_AS.get(name):
            found[key] = found.get(key, 0.0) + float(line.rpartition(" ")[2])
    return found


def grown(samples: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return samples in which counters are replaced by their growth in each period.

    An empty sample means that the server did not answer. The growth in the first sample
    is unknown, and left out. A restarted server counts from zero.
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
    """Return how often the servers' event loops stalled between two samples."""
    found = 0.0
    for url, each in after.items():
        now, then = each.get("stalls", 0.0), before.get(url, {}).get("stalls", 0.0)
        found += now - then if now >= then else now  # it was restarted
    return round(found)


def rows(
    slices: Mapping[int, Slice],
    samples: Mapping[str, Mapping[int, Mapping[str, float]]],
    seconds: float,
    late_by_design: Iterable[str] = (),
    faults: Iterable[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return the table of a run.

    A figure without a measurement is None.

    Args:
        slices: Slices by number of the period.
        samples: Samples by server and number of the period; -1 is before the run.
        seconds: Length of a period.
        late_by_design: Groups whose latency is not counted.
        faults: Faults as in ``run.json``.

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
        row["delivered"] = latency.count + piece.unmeasured
        row["unmeasured"] = piece.unmeasured
        for name, percent in (("p50_ms", 50), ("p99_ms", 99), ("p99.9_ms", 99.9)):
            row[name] = in_ms(latency, percent)
        row["sent_late_p99_ms"] = in_ms(piece.slip, 99)
        row["read_late_p99_ms"] = in_ms(piece.lag, 99)
        now = [found[index] for found in servers]
        # After the last answer of any server, no server was asked any more.
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
    """Return the table with a column ``fault``: each fault in the row of its period."""
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
    """Return a whole number as int, any other number rounded to four decimals."""
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
    """Return the rows of a ``timeline.csv``; empty fields become None.

    Raises:
        ValueError: A figure is not a number.

    """
    with path.open(newline="") as file:
        return [
            {
                name: value if name == "fault" else float(value) if value else None
                for name, value in row.items()
            }
            for row in csv.DictReader(file)
        ]

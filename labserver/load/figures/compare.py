"""Comparison of two sides of repeated runs: do they differ more than the repeats?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from labserver.load.figures.histogram import Histogram
from labserver.load.figures.saved import Saved, Unreadable, load_all

WORTH_A_WORD = 0.01  # share of a figure; smaller differences do not count


@dataclass(frozen=True)
class Range:
    """Minimum and maximum of a figure over the repeats of one side."""

    least: float
    most: float
    count: int

    def shown(self, digits: int) -> str:
        if self.count == 1 or self.least == self.most:
            return f"{self.least:,.{digits}f}"
        return f"{self.least:,.{digits}f} to {self.most:,.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One figure of one scenario, on both sides."""

    scenario: str
    figure: str
    a: Range
    b: Range
    digits: int

    @property
    def verdict(self) -> str:
        """The difference in words: none if the ranges overlap, or of single runs."""
        if self.a.least <= self.b.most and self.b.least <= self.a.most:
            return "within noise"
        if min(self.a.count, self.b.count) < 2:
            return "only one run of a side: repeat it"
        lower = self.b.most < self.a.least
        said = f"B is {'lower' if lower else 'higher'}"
        if min(self.a.least, self.b.least) <= 0:
            return said
        near = (self.b.most / self.a.least) if lower else (self.b.least / self.a.most)
        if abs(near - 1) < WORTH_A_WORD:
            return f"the sure difference is below {WORTH_A_WORD:.0%}"
        factor = 1 / near if lower else near
        if factor >= 2:
            return f"{said}, by a factor of {factor:.1f} or more"
        return f"{said}, by {abs(near - 1):.1%} or more"


def latency(percent: float) -> Callable[[Saved], float | None]:
    """Return a function that gives a percentile of a run in ms, or None.

    Groups that are slow by design are left out.

    """

    def find(run: Saved) -> float | None:
        record = run.record
        whole = Histogram.merged(
            each
            for name, each in record.latency.items()
            if name not in record.by_design
        )
        return whole.percentile(percent) / 1000 if whole.count else None

    return find


def delivered(run: Saved) -> float | None:
    """Return the share of messages that arrived at healthy members, in %."""
    tallies = [
        each for n, each in run.record.tallies.items() if n not in run.record.by_design
    ]
    expected = sum(each.expected for each in tallies)
    return (
        100 * sum(each.delivered for each in tallies) / expected if expected else None
    )


def column(name: str, factor: float, mean: bool) -> Callable[[Saved], float | None]:
    """Return a function that gives a timeline column's mean or maximum, or None."""

    def find(run: Saved) -> float | None:
        values: list[float] = [
            row[name] for row in run.table if row.get(name) is not None
        ]
        if not values:
            return None
        return factor * (sum(values) / len(values) if mean else max(values))

    return find


FIGURES: tuple[tuple[str, int, Callable[[Saved], float | None]], ...] = (
    ("delivered (%)", 3, delivered),
    ("p50 (ms)", 2, latency(50)),
    ("p99 (ms)", 2, latency(99)),
    ("p99.9 (ms)", 2, latency(99.9)),
    ("server processor, mean (% of a core)", 1, column("cpu", 100, mean=True)),
    ("server memory, peak (MB)", 1, column("rss_bytes", 1e-6, mean=False)),
    ("waiting to be read, peak (KB)", 0, column("outbox_bytes", 1e-3, mean=False)),
)


def side(folders: Sequence[Path]) -> list[Saved]:
    """Read the runs of one side; each folder is a run, or has several.

    Raises:
        Unreadable: There is none, or one is broken.

    """
    return [run for folder in folders for run in load_all(folder)]


def key(run: Saved) -> str:
    variant = run.about.get("variant")
    return f"{run.scenario}, {variant}" if variant else run.scenario


def compare(a: Sequence[Saved], b: Sequence[Saved]) -> list[Row]:
    """Return a row for every figure that both sides have.

    Raises:
        Unreadable: The sides cannot be compared; the message says why.

    """
    machines = sorted({run.machine for run in (*a, *b)})
    if len(machines) > 1:
        raise Unreadable(
            "these runs are from different machines, so they cannot be "
            f"compared: {' and '.join(machines)}"
        )
    shared = [
        name
        for name in dict.fromkeys(map(key, a))
        if any(key(run) == name for run in b)
    ]
    if not shared:
        raise Unreadable(
            f"there is no scenario that both have: A has {named(a)}, B has {named(b)}"
        )
    rows = []
    for name in shared:
        sides = [[run for run in runs if key(run) == name] for runs in (a, b)]
        loads = {run.about["load"].rpartition(",")[0] for runs in sides for run in runs}
        if len(loads) > 1:
            raise Unreadable(
                f"{name} was not run with the same load: {' and '.join(sorted(loads))}"
            )
        for figure, digits, find in FIGURES:
            ranges = []
            for runs in sides:
                values = [value for run in runs if (value := find(run)) is not None]
                if values:
                    ranges.append(Range(min(values), max(values), len(values)))
            if len(ranges) == 2:
                one, other = ranges
                rows.append(Row(name, figure, one, other, digits))
    return rows


def named(runs: Sequence[Saved]) -> str:
    return ", ".join(dict.fromkeys(map(key, runs)))


def interleaved(a: Sequence[Saved], b: Sequence[Saved]) -> bool:
    """Return whether the runs of both sides alternated."""
    order = sorted([(run.name, "a") for run in a] + [(run.name, "b") for run in b])
    sides = "".join(which for _, which in order)
    longest = max(len(list(turn)) for _, turn in groupby(sides))
    return longest <= max(2, len(sides) // 4)


def doubts(a: Sequence[Saved], b: Sequence[Saved]) -> list[str]:
    """Return reasons to doubt the comparison, as sentences."""
    found = []
    if not interleaved(a, b):
        found.append(
            "one side was measured after the other, so other load on the machine may "
            "be the cause (`python -m loadtests ab` takes turns)"
        )
    for run in (*a, *b):
        if run.summary["exit_code"]:
            found.append(f"{run.folder.name} is {str(run.summary['verdict']).lower()}")
    return found

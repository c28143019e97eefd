"""Comparison of two sides of repeated runs: do they differ more than by chance?

A difference is claimed where all runs of one side are below all runs of the other. Runs
that do not differ are separated so by chance, too: of the 252 ways to split ten runs
into five and five, two separate a given figure. So the splits that would separate any
figure of a scenario are counted, and a claim is made only if they are at most 5 % of
all splits, over all scenarios of a table. That is a permutation test, and it holds
for every distribution: of tables that compare a server with itself, at most one in
twenty claims a difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import comb
from pathlib import Path

from labserver.load.figures.plan import made_again, unfinished
from labserver.load.figures.require import seen
from labserver.load.figures.saved import Saved, Unreadable, load_all
from labserver.load.figures.trust import trusted, whole

WORTH_A_WORD = 0.01  # share of a figure; smaller differences do not count
CHANCE_LIMIT = 0.05  # share of tables without a difference that may claim one
MOST_REPEATS = 20


@dataclass(frozen=True)
class Values:
    """A figure in each run of one side."""

    values: tuple[float, ...]

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def most(self) -> float:
        return max(self.values)

    @property
    def count(self) -> int:
        return len(self.values)

    def shown(self, digits: int) -> str:
        if self.least == self.most:
            return f"{self.least:,.{digits}f}"
        return f"{self.least:,.{digits}f} to {self.most:,.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One figure of one scenario, on both sides.

    Args:
        scenario: Title of the scenario.
        figure: Name of the figure, with its unit.
        a: One side.
        b: The other side.
        digits: Digits after the point, in text.
        enough: Whether there are enough repeats for a claim.
        own: Number of runs in which most of it is the generator's own; then nothing is
            claimed of the server.

    """

    scenario: str
    figure: str
    a: Values
    b: Values
    digits: int
    enough: bool = True
    own: int = 0

    @property
    def separated(self) -> bool:
        """Whether all runs of a side are below all runs of the other."""
        return self.b.most < self.a.least or self.a.most < self.b.least

    @property
    def verdict(self) -> str:
        """The difference in words."""
        if self.own:
            runs = self.a.count + self.b.count
            return f"mostly the generator's own in {self.own} of {runs} runs"
        if not self.separated:
            return "within noise"
        lower = self.b.most < self.a.least
        said = f"B is {'lower' if lower else 'higher'}"
        near = 0.0
        if min(self.a.least, self.b.least) > 0:
            near = nearest(self.a.values, self.b.values)
            if abs(near - 1) < WORTH_A_WORD:
                return f"the sure difference is below {WORTH_A_WORD:.0%}"
        if not self.enough:
            return "too few repeats to say"
        if not near:
            return said
        factor = 1 / near if lower else near
        if factor >= 2:
            return f"{said}, by a factor of {factor:.1f} or more"
        return f"{said}, by {abs(near - 1):.1%} or more"


@dataclass
class Comparison:
    """Two sides that were compared.

    Args:
        rows: A row for every figure that both sides have.
        refused: Sentences on scenarios with runs that are not valid.
        codes: Exit statuses of those runs.

    """

    rows: list[Row] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def advice(self) -> str:
        """Return how many repeats a claim needs; empty if there are enough."""
        short = [row for row in self.rows if row.verdict == "too few repeats to say"]
        if not short:
            return ""
        scenarios: dict[str, int] = {}
        for row in self.rows:
            varies = len({*row.a.values, *row.b.values}) > 1
            scenarios[row.scenario] = scenarios.get(row.scenario, 0) + varies
        separable = 2 * sum(scenarios.values())
        for count in range(2, MOST_REPEATS):
            if separable / comb(2 * count, count) <= CHANCE_LIMIT:
                break
        have = min(short[0].a.count, short[0].b.count)
        return (
            f"so few runs are separated by chance too often; {count} runs of each side "
            f"are enough (a side has {have})"
        )


def nearest(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the factor from A to B between the two runs that are nearest."""
    return max(b) / min(a) if max(b) < min(a) else min(b) / max(a)


def separating(values: Sequence[float], size: int) -> set[frozenset[int]]:
    """Return the sets of ``size`` runs that this figure separates from the others.

    Args:
        values: The figure in each run of both sides, by number of the run.
        size: Number of runs of side A.

    """
    order = sorted(range(len(values)), key=values.__getitem__)
    found = set()
    for at, part in ((size, slice(0, size)), (len(values) - size, slice(-size, None))):
        low, high = values[order[at - 1]], values[order[at]]
        if low < high and (values[order[0]] <= 0 or high / low - 1 >= WORTH_A_WORD):
            found.add(frozenset(order[part]))
    return found


def chance(rows: Sequence[Row]) -> float:
    """Return the share of splits of a scenario's runs that separate any figure."""
    size, every = rows[0].a.count, rows[0].a.count + rows[0].b.count
    splits: set[frozenset[int]] = set()
    for row in rows:
        if row.a.count + row.b.count == every:
            splits |= separating((*row.a.values, *row.b.values), size)
    return len(splits) / comb(every, size)


def weighed(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, with ``enough`` set where a claim is no more than chance.

    Scenarios in which chance is small come first, until the limit of the table is used
    up. The shares do not depend on which run is of which side, so the choice does not
    spoil the test.
    """
    scenarios = {
        name: list(each) for name, each in groupby(rows, key=lambda row: row.scenario)
    }
    shares = {name: chance(each) for name, each in scenarios.items()}
    sure, used = set(), 0.0
    for name in sorted(shares, key=shares.__getitem__):
        used += shares[name]
        if used > CHANCE_LIMIT:
            break
        sure.add(name)
    return [replace(row, enough=row.scenario in sure) for row in rows]


def latency(percent: float) -> Callable[[Saved], float | None]:
    """Return a function that gives a percentile of a run in ms, or None.

    Groups that are slow by design are left out.

    """

    def find(run: Saved) -> float | None:
        found = whole(run.record)
        return found.percentile(percent) / 1000 if found.count else None

    return find


def is_own(run: Saved, figure: str) -> bool:
    """Return whether a figure is a percentile that is mostly the generator's own."""
    percent = re.fullmatch(r"p([\d.]+) \(ms\)", figure)
    if percent is None:
        return False
    return trusted(run.record, "", float(percent[1])).mostly_own


def delivered(run: Saved) -> float | None:
    """Return the share of messages that arrived at healthy members, in %."""
    return seen(run.record, "delivered")


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


def compare(a: Sequence[Saved], b: Sequence[Saved]) -> Comparison:
    """Compare the scenarios that both sides have.

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
        for name in dict.fromkeys(run.title for run in a)
        if any(run.title == name for run in b)
    ]
    if not shared:
        raise Unreadable(
            f"there is no scenario that both have: A has {named(a)}, B has {named(b)}"
        )
    found = Comparison()
    for name in shared:
        sides = [[run for run in runs if run.title == name] for runs in (a, b)]
        loads = {run.about["load"].rpartition(",")[0] for runs in sides for run in runs}
        if len(loads) > 1:
            raise Unreadable(
                f"{name} was not run with the same load: {' and '.join(sorted(loads))}"
            )
        bad = [
            (side, run)
            for side, runs in zip("AB", sides, strict=True)
            for run in runs
            if run.summary["exit_code"]
        ]
        if bad:
            found.refused.append(f"{name} is not compared: {'; '.join(map(told, bad))}")
            found.codes += [run.summary["exit_code"] for _, run in bad]
            continue
        for figure, digits, find in FIGURES:
            values = [
                tuple(value for run in runs if (value := find(run)) is not None)
                for runs in sides
            ]
            if all(values):
                one, other = map(Values, values)
                own = sum(is_own(run, figure) for runs in sides for run in runs)
                row = Row(name, figure, one, other, digits, own=own)
                found.rows.append(row)
    found.rows = weighed(found.rows)
    return found


def told(bad: tuple[str, Saved]) -> str:
    """Return what is wrong with a run, and on which side it is."""
    side, run = bad
    reasons = "; ".join(map(str, run.summary["reasons"]))
    return f"{side}'s {run.folder.name} is {run.summary['verdict']} ({reasons})"


def named(runs: Sequence[Saved]) -> str:
    return ", ".join(dict.fromkeys(run.title for run in runs))


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
    found += [
        f"{run.folder.name} ended early, {run.cut_short}"
        for run in (*a, *b)
        if run.cut_short
    ]
    folders = dict.fromkeys(run.folder.parent for run in (*a, *b))
    for each in folders:
        found += filter(None, (unfinished(each), made_again(each)))
    return list(dict.fromkeys(found))

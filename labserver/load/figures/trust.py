"""How far a percentile can be trusted: what it is made of, and what carries it.

A percentile is in doubt when most of it is the generator's own time, when fewer
publishes carry it than it needs, or when the arrival of so many messages is unknown
that it may be another. All places that show a percentile show the doubts.
"""

from __future__ import annotations

from dataclasses import dataclass

from labserver.load.figures.budget import share
from labserver.load.figures.histogram import Histogram, ms
from labserver.load.figures.record import Record

MOSTLY = 0.5  # part of a percentile from which on it is the generator's


@dataclass(frozen=True)
class Percentile:
    """A percentile of a latency.

    All members of a room wait for the same publish, so the number of independent
    samples is that of the publishes, not that of the deliveries.

    Args:
        percent: Which one, such as 99.
        value: The latency, in microseconds.
        own: The part that is the generator's own, from 0 to 1.
        publishes: Number of publishes; None if it is unknown.
        unmeasured: Share of the messages whose arrival is unknown, from 0 to 1.
        missing: Share of the messages that did not arrive, from 0 to 1.

    """

    percent: float
    value: int
    own: float = 0.0
    publishes: int | None = None
    unmeasured: float = 0.0
    missing: float = 0.0

    @property
    def mostly_own(self) -> bool:
        return self.own >= MOSTLY

    def doubts(self) -> list[str]:
        """Return reasons not to trust it, as phrases; most have none."""
        found = []
        if self.mostly_own:
            found.append(f"{self.own:.0%} of it the generator's own")
        beyond = 1 - self.percent / 100
        if self.publishes is not None and self.publishes * beyond < 1 - 1e-9:
            found.append(f"of only {self.publishes:,} publishes")
        if self.unmeasured > beyond:
            found.append(f"{self.unmeasured:.1%} of the messages not measured")
        if self.missing > beyond:
            found.append(f"of the {1 - self.missing:.1%} that arrived")
        return found

    @property
    def shown(self) -> str:
        return ms(self.value)

    def __str__(self) -> str:
        doubts = self.doubts()
        return self.shown + (f" ({', '.join(doubts)})" if doubts else "")


def percentile(
    histogram: Histogram,
    percent: float,
    publishes: int | None = None,
    unmeasured: float = 0.0,
    missing: float = 0.0,
) -> Percentile:
    """Return a percentile with all that it can be doubted for."""
    value, own = histogram.percentile(percent), share(histogram, percent).part
    return Percentile(percent, value, own, publishes, unmeasured, missing)


def whole(record: Record, prefix: str = "") -> Histogram:
    """Return the latencies of all groups that are not late by design.

    Args:
        record: The figures.
        prefix: Beginning of the groups' names; empty for all.

    """
    return Histogram.merged(
        each
        for name, each in record.latency.items()
        if name.startswith(prefix) and name not in record.by_design
    )


def trusted(
    record: Record, prefix: str, percent: float, histogram: Histogram | None = None
) -> Percentile:
    """Return a percentile of a scenario, or of all.

    Args:
        record: The figures.
        prefix: ``"fanout/"``, or the name of a group in it; empty for all scenarios.
        percent: Which percentile.
        histogram: The latencies, if not all of those.

    """
    histogram = whole(record, prefix) if histogram is None else histogram
    scenario = prefix.partition("/")[0]
    unknown = of(record.unmeasured, scenario)
    publishes = of(record.published, scenario)
    total = unknown + sum(
        each.count
        for name, each in record.latency.items()
        if name.startswith(f"{scenario}/" if scenario else "")
        and name not in record.by_design
    )
    tallies = [
        each
        for name, each in record.tallies.items()
        if name not in record.by_design and (scenario in ("", name.partition("/")[0]))
    ]
    expected = sum(each.expected for each in tallies)
    missing = 1 - sum(each.delivered for each in tallies) / max(1, expected)
    return percentile(
        histogram,
        percent,
        publishes,
        unknown / max(1, total),
        missing if expected else 0.0,
    )


def slowest(record: Record, scenario: str = "") -> Histogram:
    """Return the times until everybody had a message, of a scenario or of all."""
    return Histogram.merged(
        each.histogram()
        for name, each in record.everybody.items()
        if scenario in ("", name)
    )


def until_all(record: Record, scenario: str, percent: float) -> Percentile:
    """Return a percentile of the time until everybody had a message.

    Each message is one sample. It is of those that arrived: what one member lost, the
    others have.

    Args:
        record: The figures.
        scenario: Its name; empty for all scenarios.
        percent: Which percentile.

    """
    histogram = slowest(record, scenario)
    every = sum(
        len({*each.latest, *each.unknown})
        for name, each in record.everybody.items()
        if scenario in ("", name)
    )
    return percentile(
        histogram, percent, histogram.count, 1 - histogram.count / max(1, every)
    )


def of(counts: dict[str, int], scenario: str) -> int:
    return counts.get(scenario, 0) if scenario else sum(counts.values())


def doubts(record: Record) -> list[str]:
    """Return, as phrases, the percentiles that the generator spoilt."""
    found = []
    for name, histogram in sorted(record.latency.items()):
        if name in record.by_design or not histogram.count:
            continue
        for percent in (50, 99):
            each = trusted(record, name, percent, histogram)
            if each.mostly_own or each.unmeasured > 1 - percent / 100:
                found.append(f"p{percent} in {name} is {each}")
    return found

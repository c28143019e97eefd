"""Log-linear histograms of durations, which merge without loss.

Percentiles of several processes cannot be averaged; histograms can be added. Buckets
are one microsecond wide below 256 us and at most 1/128 of their value above, so that a
percentile is at most 0.8 % too high. There is no upper limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

BITS = 7  # 128 buckets for each power of two


def bucket(value: int) -> int:
    """Return the number of the bucket that holds ``value`` microseconds."""
    shift = value.bit_length() - BITS - 1
    return value if shift <= 0 else (shift << BITS) + (value >> shift)


def upper_edge(number: int) -> int:
    """Return the highest value, in microseconds, that a bucket holds."""
    shift = (number >> BITS) - 1
    if shift <= 0:
        return number
    return ((number - (shift << BITS) + 1) << shift) - 1


class Histogram:
    """Counts of durations, in microseconds.

    Attributes:
        counts: Number of durations, by bucket.
        own: Microseconds of the durations in a bucket that the generator spent itself
            (it sent late), summed; a bucket without any is left out.
        negative: Number of negative durations. They are an error of a clock, and are in
            no bucket and no percentile.

    """

    __slots__ = ("count", "counts", "highest", "lowest", "negative", "own", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.own: dict[int, int] = {}
        self.negative = 0
        self.count = 0
        self.total = 0
        self.lowest = 0
        self.highest = 0

    def record(self, value: int, own: int = 0) -> None:
        """Count one duration, of which ``own`` is the generator's."""
        if value < 0:
            self.negative += 1
            return
        shift = value.bit_length() - BITS - 1
        number = value if shift <= 0 else (shift << BITS) + (value >> shift)
        self.counts[number] = self.counts.get(number, 0) + 1
        if not self.count or value < self.lowest:
            self.lowest = value
        if value > self.highest:
            self.highest = value
        self.count += 1
        self.total += value
        if own > 0:
            self.own[number] = self.own.get(number, 0) + own

    def percentile(self, percent: float) -> int:
        """Return the duration that ``percent`` of all do not exceed; 0 if empty."""
        rank = max(1, -int(-self.count * percent // 100))
        for number in sorted(self.counts):
            rank -= self.counts[number]
            if rank <= 0:
                return min(upper_edge(number), self.highest)
        return 0

    def percentiles(self) -> dict[str, int]:
        """Return count, usual percentiles and maximum, in microseconds."""
        shares = (50, 90, 99, 99.9)
        found = {f"p{share:g}": self.percentile(share) for share in shares}
        return {"count": self.count, **found, "max": self.highest}

    def add(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        self.negative += other.negative
        if not other.count:
            return
        lowest = min(self.lowest, other.lowest) if self.count else other.lowest
        self.lowest, self.highest = lowest, max(self.highest, other.highest)
        self.count += other.count
        self.total += other.total
        for number, count in other.counts.items():
            self.counts[number] = self.counts.get(number, 0) + count
        for number, own in other.own.items():
            self.own[number] = self.own.get(number, 0) + own

    def copy(self) -> Self:
        """Return a copy, which does not change any more."""
        result = type(self)()
        result.counts, result.own = dict(self.counts), dict(self.own)
        result.negative, result.count = self.negative, self.count
        result.total, result.lowest = self.total, self.lowest
        result.highest = self.highest
        return result

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Self:
        """Return the sum of all ``parts``."""
        result = cls()
        for part in parts:
            result.add(part)
        return result

    def curve(self) -> list[tuple[float, int]]:
        """Return (share of all durations, microseconds), for a cumulative plot."""
        points, seen = [], 0
        for number in sorted(self.counts):
            seen += self.counts[number]
            points.append((seen / self.count, min(upper_edge(number), self.highest)))
        return points

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        return {
            "unit": "us",
            "count": self.count,
            "total": self.total,
            "lowest": self.lowest,
            "highest": self.highest,
            "buckets": [
                [number, self.counts[number]] for number in sorted(self.counts)
            ],
            "own": sorted(self.own.items()),
            "negative": self.negative,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        result = cls()
        result.count, result.total = data["count"], data["total"]
        result.lowest, result.highest = data["lowest"], data["highest"]
        result.counts = dict(data["buckets"])
        result.own, result.negative = dict(data["own"]), data["negative"]
        return result


def ms(microseconds: float) -> str:
    """Return a duration in milliseconds as text: two decimals below 10 ms."""
    value = microseconds / 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"

"""The parts of a latency: sent late, time of the server, read late.

Percentiles of the parts do not add up to a percentile of the whole. So the sums of the
parts are kept for each bucket of the latency, and shown as means over a band of
messages, such as the fastest half or the slowest percent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from labserver.load.figures.histogram import bucket

BANDS = (
    ("fastest half", 0.0, 0.5),
    ("50 to 90 %", 0.5, 0.9),
    ("90 to 99 %", 0.9, 0.99),
    ("slowest 1 %", 0.99, 1.0),
)


class Share(NamedTuple):
    """Means over the messages of a band, in microseconds; they add up to the whole."""

    band: str
    messages: float
    slip: float  # generator: from due to sent
    server: float  # server and network: from sent to arrived
    lag: float  # generator: from arrived to read


class Budget:
    """Sums of the parts, by bucket of the whole latency (from due to read)."""

    def __init__(self) -> None:
        self.sums: dict[int, list[int]] = {}  # count, slip, server, lag

    def record(self, slip: int, server: int, lag: int) -> None:
        """Add the parts of a message, in microseconds."""
        parts = (1, max(0, slip), max(0, server), max(0, lag))
        sums = self.sums.setdefault(bucket(sum(parts[1:])), [0, 0, 0, 0])
        for place, part in enumerate(parts):
            sums[place] += part

    def add(self, other: Budget) -> None:
        for number, more in other.sums.items():
            sums = self.sums.setdefault(number, [0, 0, 0, 0])
            for place, part in enumerate(more):
                sums[place] += part

    @classmethod
    def merged(cls, parts: Iterable[Budget]) -> Self:
        result = cls()
        for part in parts:
            result.add(part)
        return result

    def shares(self) -> list[Share]:
        """Return the mean parts of each band; an empty list without messages."""
        total = sum(sums[0] for sums in self.sums.values())
        if not total:
            return []
        found = {name: [0.0, 0.0, 0.0, 0.0] for name, _, _ in BANDS}
        seen = 0
        for number in sorted(self.sums):
            sums = self.sums[number]
            start, end = seen / total, (seen + sums[0]) / total
            seen += sums[0]
            for name, least, most in BANDS:
                # A bucket that lies in two bands is divided between them.
                inside = max(0.0, min(end, most) - max(start, least)) / (end - start)
                for place, part in enumerate(sums):
                    found[name][place] += part * inside
        return [
            Share(name, each[0], *(part / each[0] for part in each[1:]))
            for name, each in found.items()
            if each[0]
        ]

    def as_json(self) -> list[list[int]]:
        """Return what :meth:`from_json` reads back."""
        return [[number, *self.sums[number]] for number in sorted(self.sums)]

    @classmethod
    def from_json(cls, data: Iterable[list[Any]]) -> Self:
        result = cls()
        result.sums = {number: list(sums) for number, *sums in data}
        return result

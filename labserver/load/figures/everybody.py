"""How long it takes until everybody has a message: its slowest delivery.

Each process knows the slowest delivery to its own members, so parts are merged by the
maximum. Memory is bounded: only messages whose number is a multiple of a step are kept,
and the step doubles when there are too many. The publisher's numbers are the same in
all processes, so processes with different steps still share messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from labserver.load.figures.histogram import Histogram

LIMIT = 4096  # messages


class Everybody:
    """The slowest delivery of each message of a scenario.

    Attributes:
        step: Only messages whose number is a multiple of it are kept.
        latest: Due time in monotonic ns -> number, microseconds from due to the slowest
            arrival, and how many of these are the generator's own.
        unknown: Due time -> number of messages that a member read so late that nobody
            knows when they arrived.

    """

    def __init__(self) -> None:
        self.step = 1
        self.latest: dict[int, tuple[int, int, int]] = {}
        self.unknown: dict[int, int] = {}

    def arrived(self, due: int, number: int, late: int, own: int) -> None:
        """Record a delivery. The caller has looked at ``step``: this is hot."""
        known = self.latest.get(due)
        if known is None or late > known[1]:
            self.latest[due] = (number, late, own)
            while len(self.latest) > LIMIT:
                self.thin(2 * self.step)

    def unmeasured(self, due: int, number: int) -> None:
        """Record a delivery at an unknown time, if the message has a number."""
        if number and number % self.step == 0:
            self.unknown[due] = number
            while len(self.unknown) > LIMIT:
                self.thin(2 * self.step)

    def thin(self, step: int) -> None:
        """Keep only messages whose number is a multiple of ``step``."""
        self.step = step
        for numbered in [due for due, each in self.latest.items() if each[0] % step]:
            del self.latest[numbered]
        for due in [due for due, number in self.unknown.items() if number % step]:
            del self.unknown[due]

    def add(self, other: Everybody) -> None:
        """Add the figures of another process."""
        if self.step < other.step:
            self.thin(other.step)
        for due, (number, late, own) in other.latest.items():
            if number % self.step == 0:  # which may grow meanwhile
                self.arrived(due, number, late, own)
        for due, number in other.unknown.items():
            self.unmeasured(due, number)

    def histogram(self, since: int = 0, until: int | None = None) -> Histogram:
        """Return the durations until everybody had a message, in microseconds.

        Args:
            since: Only of messages due from then on, monotonic ns.
            until: Only of messages due before.

        """
        found = Histogram()
        for due, (_, late, own) in self.latest.items():
            inside = due >= since and (until is None or due < until)
            if inside and due not in self.unknown:
                found.record(late, own)
        return found

    def copy(self) -> Self:
        """Return a copy, which does not change any more."""
        result = type(self)()
        result.step = self.step
        result.latest, result.unknown = dict(self.latest), dict(self.unknown)
        return result

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        return {
            "step": self.step,
            "latest": [[due, *each] for due, each in sorted(self.latest.items())],
            "unknown": sorted(self.unknown.items()),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        result = cls()
        result.step = data["step"]
        result.latest = {
            due: (number, late, own) for due, number, late, own in data["latest"]
        }
        result.unknown = dict(data["unknown"])
        return result

"""The highest rate at which a cluster still keeps its promise, by bisection.

The rate is that of one publisher in a room, so each message goes to all members. A rate
holds when its run is valid: everything arrived, the requirements are met, and the
generator was fast enough to know. A rate that does not hold is tried again, because
another program may have been the cause. Then the next rate is the geometric mean of the
highest rate that holds and the lowest that does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from labserver.load.figures.verdict import EXIT_FAILURES, EXIT_INVALID

FILE = "limit.json"
LEAST, MOST = 1.0, 900.0  # messages a second that a publisher may send
FIRST = 20.0
STEP = 4.0  # factor until the first rate that does not hold, or does
PRECISE = 1.15  # factor between two rates that is near enough
TRIES = 2


@dataclass(frozen=True)
class Point:
    """One run of the search.

    Args:
        rate: Messages a second.
        holds: Whether the run is valid.
        innocent: Whether the generator was fast enough to blame the server.
        verdict: Its word.
        reasons: Why it is what it is.
        p50: Milliseconds from the due time; None if nothing arrived.
        p99: The same.
        deliveries: Messages delivered a second.
        generator: The generator's share of a core.
        server: The servers' share of a core; None if unknown.
        folder: Name of the run.
        own: The part of the p99 that is the generator's own, from 0 to 1.

    """

    rate: float
    holds: bool
    innocent: bool = True
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    p50: float | None = None
    p99: float | None = None
    deliveries: float = 0.0
    generator: float = 0.0
    server: float | None = None
    folder: str = ""
    own: float = 0.0


@dataclass(frozen=True)
class Limit:
    """What a search has found.

    Args:
        points: All runs, in their order.
        holds: Highest rate that holds; None if none does.
        fails: Lowest rate above it that does not; None if none was found.
        complete: Whether both are near enough to each other.

    """

    points: tuple[Point, ...]
    holds: float | None
    fails: float | None
    complete: bool

    @property
    def whose(self) -> str:
        """``server``, ``generator``, or ``none`` if every rate holds."""
        if self.fails is None:
            return "none"
        found = [each for each in self.points if each.rate == self.fails]
        return "server" if any(each.innocent for each in found) else "generator"

    @property
    def status(self) -> int:
        """The exit status: of a limit that says nothing about the server, 1 or 4."""
        if self.whose == "generator":
            return EXIT_INVALID
        return 0 if self.holds is not None else EXIT_FAILURES


async def search(
    ask: Callable[[float], Awaitable[Point]],
    more: Callable[[], bool],
    least: float = LEAST,
    most: float = MOST,
    first: float = FIRST,
) -> Limit:
    """Find the highest rate that holds.

    Args:
        ask: Runs one rate.
        more: Whether there is time for another run.
        least: Lowest rate.
        most: Highest rate.
        first: Rate to begin with.

    """
    points: list[Point] = []
    low = high = None
    rate = min(max(first, least), most)
    complete = False
    while more():
        for _ in range(TRIES):
            point = await ask(rate)
            points.append(point)
            if point.holds or not more():
                break
        if point.holds:
            low = rate
        else:
            high = rate
        if complete := over(low, high, least, most):
            break
        rate = following(low, high, least, most)
    return Limit(tuple(points), low, high, complete)


def over(low: float | None, high: float | None, least: float, most: float) -> bool:
    """Return whether the limit is known well enough."""
    if high is None:
        return low == most
    if low is None:
        return high == least
    return high / low <= PRECISE or following(low, high, least, most) in (low, high)


def following(
    low: float | None, high: float | None, least: float, most: float
) -> float:
    """Return the rate to try next."""
    if high is None:
        assert low is not None
        return min(most, low * STEP)
    if low is None:
        return max(least, round(high / STEP, 1))
    middle = (low * high) ** 0.5
    return float(round(middle)) if middle > 20 else round(middle, 1)


def sentence(limit: Limit, users: int, required: Sequence[str]) -> str:
    """Return what was found."""
    promise = f"The promise ({' and '.join(('nothing lost', *required))})"
    if limit.holds is None and limit.fails is None:
        return "There was no time for a single run."
    if limit.holds is None:
        why = f"the {limit.whose} is why"
        if limit.whose == "generator":
            why = "the generator was too busy to say whose fault that is"
        return (
            f"{promise} does not hold at {limit.fails:g} messages/s to {users} "
            f"members: {why}."
        )
    said = (
        f"{promise} holds at {limit.holds:g} messages/s to {users} members, "
        f"{limit.holds * users:,.0f} deliveries/s"
    )
    if limit.fails is None:
        why = "the time was over"
        if limit.complete:
            why = "this is the highest rate that was asked for"
            if limit.holds == MOST:
                why += ": use more --users"
        return f"{said}; the limit is higher, but {why}."
    said += f", and not at {limit.fails:g}"
    if limit.whose == "generator":
        said += (
            ": there the generator was too busy to measure, so this is its limit and "
            "not the server's"
        )
    else:
        said += ": this is the server's limit on this machine"
    if not limit.complete:
        said += "; the time was over before it was known more exactly"
    return f"{said}."


def as_json(
    limit: Limit, users: int, required: Sequence[str], **more: Any
) -> dict[str, Any]:
    """Return ``limit.json``; ``more`` says how and where it was found."""
    return {
        "limit": limit.holds,
        "fails_at": limit.fails,
        "whose": limit.whose,
        "status": limit.status,
        "complete": limit.complete,
        "sentence": sentence(limit, users, required),
        "users": users,
        "deliveries": None if limit.holds is None else limit.holds * users,
        "require": list(required),
        **more,
        "points": [asdict(each) for each in limit.points],
    }

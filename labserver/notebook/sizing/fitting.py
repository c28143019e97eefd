"""A model of the costs of a server's work, fitted to short runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import median

import numpy as np

from labserver.notebook.sizing.ledger import LOADS, Entry, Idle, entries, idle

SMALL = 0.005  # seconds of CPU time: of less, the error is not relative
RATES = (300.0, 1000.0, 2500.0, 8000.0)  # messages a second that are heard


def rough(value: float) -> str:
    """Return a number with two digits: more would say nothing."""
    return f"{float(f'{value:.2g}'):,.12g}"


@dataclass(frozen=True)
class Curve:
    """A cost that depends on a rate, interpolated over the logarithm of the rate.

    Below the first rate and above the last one, it is the cost at that rate.

    Args:
        points: Rates a second, ascending, each with its cost.

    """

    points: tuple[tuple[float, float], ...]

    def at(self, rate: float) -> float:
        """Return the cost at a rate."""
        shares = weights([rate for rate, _ in self.points], rate)
        return sum(s * cost for s, (_, cost) in zip(shares, self.points, strict=True))

    def __str__(self) -> str:
        costs = [f"{rough(cost * 1e6)} at {rate:,.0f}/s" for rate, cost in self.points]
        return ", ".join(costs)


@dataclass(frozen=True)
class Costs:
    """Costs of one operation each, in seconds of one core; of a connection in bytes.

    Attributes:
        publish: For the publisher's replica, without the wait for Redis.
        heard: For each replica with members in the room, independent of their number;
            by the rate of messages that the replica hears.
        delivery: For that replica, for each member.
        handshake: Including the check of its token, without a join.
        ping: A ping and its pong.
        redis_publish: For Redis, to number and keep a message; by the rate at which
            messages come.
        redis_copy: For Redis, for each replica that receives a message.
        connection: Resident bytes of the server for each idle connection.
        background: Share of a core that a server uses without any load.

    """

    publish: float
    heard: Curve
    delivery: float
    handshake: float
    ping: float
    redis_publish: Curve
    redis_copy: float
    connection: float
    background: float

    def __repr__(self) -> str:
        lines = ["in microseconds of a core:"]
        for each in fields(self)[:-2]:
            cost = getattr(self, each.name)
            words = str(cost) if isinstance(cost, Curve) else rough(cost * 1e6)
            lines.append(f"{each.name:14} {words}")
        return "\n".join([*lines, f"a connection   {rough(self.connection / 1000)} kB"])


_fitted: list[Costs] = []


def weights(rates: Sequence[float], rate: float) -> list[float]:
    """Return the share of each point in an interpolated value."""
    place, places = math.log(max(rate, 1e-9)), [math.log(each) for each in rates]
    rows = np.eye(len(rates))
    return [float(np.interp(place, places, row)) for row in rows]


def fit(runs: Sequence[Entry], quiet: Idle) -> Costs:
    """Return the costs that fit the runs best, by least squares of relative errors.

    The CPU time of a run is a sum of terms for its seconds (timers, requests for the
    metrics), its messages and its deliveries. The cost of a heard message at a run's
    rate is a mean of the costs at the two rates beside it. Negative costs become 0.

    Args:
        runs: Runs of a replica and its Redis.
        quiet: Costs of handshakes and heartbeats.

    """

    def solve(
        values: Sequence[float], row: Callable[[Entry], list[float]]
    ) -> list[float]:
        scale = np.maximum(np.array(values), SMALL)
        table = np.array([row(each) for each in runs]) / scale[:, None]
        found, *_ = np.linalg.lstsq(table, np.array(values) / scale, rcond=None)
        return [max(0.0, float(each)) for each in found]

    background, publish, delivery, *heard = solve(
        [each.replica for each in runs],
        lambda each: [
            each.seconds,
            each.published,
            each.deliveries,
            *(each.heard * s for s in weights(RATES, each.heard / each.seconds)),
        ],
    )
    _, copy, *stored = solve(
        [each.redis for each in runs],
        lambda each: [
            each.seconds,
            each.copies,
            *(each.messages * s for s in weights(RATES, each.messages / each.seconds)),
        ],
    )
    return Costs(
        publish=publish,
        heard=Curve(tuple(zip(RATES, heard, strict=True))),
        delivery=delivery,
        handshake=quiet.handshake,
        ping=quiet.ping,
        redis_publish=Curve(tuple(zip(RATES, stored, strict=True))),
        redis_copy=copy,
        connection=quiet.connection,
        background=background,
    )


def fits(rounds: Sequence[Sequence[Entry]], quiet: Sequence[Idle]) -> list[Costs]:
    """Return the costs of each round, and keep them for :func:`this_machine`."""
    _fitted[:] = [fit(*each) for each in zip(rounds, quiet, strict=True)]
    return list(_fitted)


async def this_machine() -> list[Costs]:
    """Return the costs that were fitted last; measure them if there are none (18 s)."""
    if not _fitted:
        quiet = await idle()
        fits([await entries(*LOADS) for _ in quiet], quiet)
    return list(_fitted)


def predicted(costs: Costs, entry: Entry) -> float:
    """Return the CPU seconds that the model predicts for the replica of a run."""
    return (
        costs.background * entry.seconds
        + costs.publish * entry.published
        + costs.heard.at(entry.heard / entry.seconds) * entry.heard
        + costs.delivery * entry.deliveries
    )


def middle(costs: Sequence[Costs]) -> Costs:
    """Return the median of each cost."""

    def of(values: Sequence[float | Curve]) -> float | Curve:
        first = values[0]
        if not isinstance(first, Curve):
            return median(each for each in values if not isinstance(each, Curve))
        curves = [each for each in values if isinstance(each, Curve)]
        rates = [rate for rate, _ in first.points]
        return Curve(tuple((r, median(c.at(r) for c in curves)) for r in rates))

    names = [each.name for each in fields(Costs)]
    return Costs(**{n: of([getattr(c, n) for c in costs]) for n in names})  # type: ignore[arg-type]

"""Latency over the number of members, for a load that grows in steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import comb
from typing import TYPE_CHECKING

from labserver.load.figures.compare import CHANCE_LIMIT
from labserver.load.figures.histogram import Histogram, ms
from labserver.load.figures.saved import Saved
from labserver.load.figures.timeline import Slice, period
from labserver.load.figures.trust import percentile
from labserver.load.pictures.drawing import Picture, legend, scaled
from labserver.load.pictures.style import BLUE, GREEN, ORANGE, PALE, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 100  # messages of a step


@dataclass
class Step:
    """The figures at one number of members, in its full seconds.

    Args:
        users: Number of members.
        whole: Sum of all its seconds.
        latency: Of members that are not slow by design.
        everybody: Until everybody had a message.
        seconds: p99 of each second, in microseconds.

    """

    users: int
    whole: Slice = field(default_factory=Slice)
    latency: Histogram = field(default_factory=Histogram)
    everybody: Histogram = field(default_factory=Histogram)
    seconds: list[int] = field(default_factory=list)

    def add(self, piece: Slice, latency: Histogram, everybody: Histogram) -> None:
        self.whole.add(piece)
        self.latency.add(latency)
        self.everybody.add(everybody)
        self.seconds.append(latency.percentile(99))


def steps(saved: Saved) -> list[Step]:
    """Return the steps of a run with enough messages, by number of members."""
    record = saved.record
    step = round(period(saved.about.get("run_time") or 0) * 1e9)
    slowest = record.everybody.get(saved.scenario)
    found: dict[int, Step] = {}
    for before, now in pairwise(sorted(record.slices)):
        first, piece = record.slices[before], record.slices[now]
        # A second in which the number changes is left out.
        if now != before + 1 or not first.users == piece.users > 0:
            continue
        latency = Histogram.merged(
            each for name, each in piece.latency.items() if name not in record.by_design
        )
        began = record.began + now * step
        all_have = slowest.histogram(began, began + step) if slowest else Histogram()
        if latency.count:
            here = found.setdefault(piece.users, Step(piece.users))
            here.add(piece, latency, all_have)
    return [
        found[users] for users in sorted(found) if found[users].latency.count > LEAST
    ]


def trend(first: Step, last: Step) -> str:
    """Return in words whether the p99 grows, only beyond the spread of seconds."""
    a, b = first.seconds, last.seconds
    lower = max(a) < min(b)
    few = 2 / comb(len(a) + len(b), len(a)) > CHANCE_LIMIT
    if few or not (lower or max(b) < min(a)):
        least, most = ms(min(*a, *b)), ms(max(*a, *b))
        span = least if least == most else f"{least} to {most}"
        return (
            f"{first.users:,} or {last.users:,} members: the p99 of a second is "
            f"{span}, with no sure difference"
        )
    return (
        f"From {first.users:,} to {last.users:,} members, p99 goes "
        f"{'up' if lower else 'down'} from "
        f"{percentile(first.latency, 99, first.whole.published)} to "
        f"{percentile(last.latency, 99, last.whole.published)}"
    )


def by_subscribers(saved: Saved) -> Picture | None:
    """Draw percentiles over the number of members, if the number changed."""
    found = steps(saved)
    if len(found) < 3:
        return None
    numbers = [each.users for each in found]

    def paint(figure: Figure) -> None:
        axes = plain(figure.subplots(), "members of the room", "milliseconds")
        own = [
            (each.whole.slip.percentile(99) + each.whole.lag.percentile(99)) / 1000
            for each in found
        ]
        values = list(own)
        for label, colour, style, marker, points in (
            ("p99", ORANGE, "--", "s", [e.latency.percentile(99) for e in found]),
            (
                *("everybody has it, p50", GREEN, "-.", "^"),
                [each.everybody.percentile(50) for each in found],
            ),
            ("p50", BLUE, "-", "o", [e.latency.percentile(50) for e in found]),
        ):
            line = [each / 1000 for each in points]
            if not any(line):
                continue
            values += line
            axes.plot(
                *(numbers, line),
                color=colour,
                linestyle=style,
                linewidth=2,
                marker=marker,
                markersize=5,
                label=label,
            )
        least = [min(each.seconds) / 1000 for each in found]
        most = [max(each.seconds) / 1000 for each in found]
        values += [*least, *most]
        axes.vlines(
            *(numbers, least, most),
            color=ORANGE,
            linewidth=5,
            alpha=0.3,
            label="p99 of single seconds",
        )
        scaled(axes, values)
        axes.fill_between(
            *(numbers, axes.get_ylim()[0], own),
            color=PALE,
            alpha=0.6,
            linewidth=0,
            zorder=0,
            label="the generator's own p99",
        )
        axes.set_xlim(0, numbers[-1] * 1.04)
        legend(axes, 3)

    return Picture(
        f"{saved.scenario}-subscribers",
        trend(found[0], found[-1]),
        "Each mark is one step of the load, and the bar on it the spread of its "
        "seconds: a trend is one only beyond that. Where a line meets the grey band, "
        "it shows the generator's own delay (sent late and read late).",
        paint,
        note=f"{min(each.latency.count for each in found):,} messages or more a mark.",
    )

"""The pictures of a run; the title is the finding, the caption is the load.

Each function returns a :class:`Picture`, or None when the run has nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from labserver.load.figures.budget import PERCENTS, share
from labserver.load.figures.histogram import Histogram, ms
from labserver.load.figures.saved import Saved
from labserver.load.figures.trust import MOSTLY, slowest, trusted, until_all, whole
from labserver.load.pictures.drawing import (
    Picture,
    curve,
    finish,
    legend,
    percentile_axes,
)
from labserver.load.pictures.style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    WHITE,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = (
    (BLUE, "-"),
    (ORANGE, "--"),
    (GREEN, "-."),
    (PURPLE, ":"),
    (AMBER, "-"),
)
READ_CURVE = (
    "Find a percentile below, and its latency on the left; a line ends at its slowest "
    "message, above the last percentile that its publishes carry."
)


def own_share(saved: Saved, axes: Axes, publishes: int) -> None:
    """Draw the generator's own delays, below the latency that it measured."""
    slip, lag = saved.record.slip, saved.record.lag
    for histogram, label, style in (
        (slip, "included: sent late", "-."),
        (lag, "not included: read late", ":"),
    ):
        curve(axes, histogram, GREY, label, style, thin=True, samples=publishes)


def group_curve(saved: Saved) -> Picture | None:
    """Draw latency over percentile, of all groups that are not slow by design."""
    scenario = saved.scenario
    prefix = "" if scenario == "mixed" else f"{scenario}/"
    latency = whole(saved.record, prefix)
    if not latency.count:
        return None
    tallies = saved.record.tallies
    mine = [
        each
        for name, each in tallies.items()
        if name.startswith(prefix) and name not in saved.record.by_design
    ]
    delivered = sum(each.delivered for each in mine)
    expected = sum(each.expected for each in mine)

    publishes = trusted(saved.record, prefix, 50).publishes or 0
    last = slowest(saved.record, "" if scenario == "mixed" else scenario)

    def paint(figure: Figure) -> None:
        axes = percentile_axes(figure.subplots())
        curve(axes, last, ORANGE, "until everybody has it", "--")
        curve(axes, latency, BLUE, "each delivery", samples=publishes)
        own_share(saved, axes, publishes)
        finish(axes)

    title = f"A delivery takes p50 {trusted(saved.record, prefix, 50)}, " + (
        f"p99 {trusted(saved.record, prefix, 99)}"
    )
    if last.count:
        everybody = until_all(saved.record, scenario if prefix else "", 50)
        title += f"; half of the messages reach everybody within {everybody}"
    return Picture(
        f"{scenario}-percentiles",
        title,
        READ_CURVE + " Grey lines are the generator's own delays: where they come "
        "near the blue line, the generator measured itself.",
        paint,
        note=f"{delivered:,} of {expected:,} delivered, {publishes:,} publishes.",
    )


def budget(saved: Saved) -> Picture | None:
    """Draw the parts of each percentile."""
    latency = whole(saved.record)
    if not latency.count:
        return None
    shares = [share(latency, percent) for percent in PERCENTS]

    def paint(figure: Figure) -> None:
        axes = plain(figure.subplots(), "share of the latency (%)", "", "")
        values = [latency.percentile(each.percent) for each in shares]
        rows = list(zip(shares, values, strict=True))[::-1]
        for row, (each, value) in enumerate(rows):
            start = 0.0
            for part, label, colour in (
                (each.part, "generator, sent late", ORANGE),
                (1 - each.part, "server and network", BLUE),
            ):
                axes.barh(
                    *(row, 100 * part),
                    left=start,
                    color=colour,
                    height=0.62,
                    label=label if not row else "_",
                )
                if part > 0.2:
                    axes.text(
                        *(start + 50 * part, row, ms(part * value)),
                        ha="center",
                        va="center",
                        fontsize=9,
                        color=WHITE,
                    )
                start += 100 * part
        names = [f"p{each.percent:g}\n{ms(value)}" for each, value in rows]
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        legend(axes, 2)

    part = share(latency, 99).part
    most = "the generator, sent late" if part >= MOSTLY else "server and network"
    return Picture(
        f"{saved.scenario}-budget",
        f"{max(part, 1 - part):.0%} of the p99 is: {most}",
        "Each bar is a percentile, in parts as the messages next to it have them: only "
        "the blue part is the server's.",
        paint,
        height=2.5,
    )


def replicas(saved: Saved) -> Picture | None:
    """Draw latencies on the publisher's replica, on others, and of clients between."""
    names = ("same replica", "other replica", "cut off")
    sides = compared(saved, [(side, f"replicas/{side}") for side in names])
    if len(sides) < 2:  # one server
        return group_curve(saved) if saved.scenario == "replicas" else None
    record = saved.record
    return Picture(
        "replicas",
        "From due to arrival: "
        + ", ".join(f"{n} p50 {trusted(record, 'replicas/', 50, h)}" for n, h in sides),
        "A line for the members of the publisher's replica, one for those of the "
        "others"
        + (
            ", and one for messages that were due while their reader was cut off."
            if len(sides) > 2
            else ": their distance is the way through the broker."
        ),
        painted(sides, "milliseconds", record.published["replicas"]),
        note="A message belongs to the replica that its reader was on when it was due.",
    )


def slow_readers(saved: Saved) -> Picture | None:
    """Draw the deliveries to healthy and to slow readers."""
    record = saved.record
    groups = [
        (name.partition("/")[2], tally)
        for name, tally in sorted(record.tallies.items(), reverse=True)
        if name.startswith("slow_readers/") and tally.expected
    ]
    healthy = record.histogram("slow_readers/healthy")
    if not groups or not healthy.count:
        return None
    kinds = (
        ("delivered", "delivered", BLUE, WHITE),
        ("told", "announced gap", GREEN, WHITE),
        ("unread", "never read", PALE, INK),
        ("lost", "lost", RED, WHITE),
    )

    def paint(figure: Figure) -> None:
        axes = plain(figure.subplots(), "share of what was published (%)", "", "")
        for row, (_, tally) in enumerate(groups):
            start = 0.0
            for kind, _, colour, words in kinds:
                share = 100 * getattr(tally, kind) / tally.expected
                axes.barh(row, share, left=start, color=colour, height=0.6)
                if share > 11:
                    axes.text(
                        *(start + share / 2, row, f"{share:.0f} %"),
                        ha="center",
                        va="center",
                        fontsize=9,
                        color=words,
                    )
                start += share
        for kind, label, colour, _ in kinds:
            if any(getattr(tally, kind) for _, tally in groups):
                axes.barh(0, 0, color=colour, label=label)
        axes.set_yticks(range(len(groups)), [name for name, _ in groups])
        axes.set_ylim(-0.5, len(groups) - 0.5)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        legend(axes, 4)

    outcomes = "; ".join(
        f"{name.partition('/')[2]} {count}x {what}"
        for name, found in sorted(record.outcomes.items())
        for what, count in found.items()
        if name.startswith("slow_readers/") and not what.startswith("still connected")
    )
    return Picture(
        "slow_readers",
        ("Beside slow readers" if len(groups) > 1 else "Without slow readers")
        + ", the healthy ones have p99 "
        + str(trusted(saved.record, "slow_readers/healthy", 99)),
        "Each bar is one kind of reader: only the red part was lost without a "
        "gap, and the bar of healthy readers should be blue to the end.",
        paint,
        note=f"Cut off: {outcomes}." if outcomes else "Nobody was cut off.",
        height=0.42 * len(groups) + 0.85,
    )


def compared(
    saved: Saved, names: Iterable[tuple[str, str]]
) -> list[tuple[str, Histogram]]:
    """Return the histograms of these names that counted something."""
    found = saved.record.latency
    return [(n, found[key]) for n, key in names if key in found and found[key].count]


def compared_own(
    saved: Saved, names: Iterable[tuple[str, str]]
) -> list[tuple[str, Histogram]]:
    """Return the same from the figures that are special to the run's scenario."""
    own = saved.record.figures.get(saved.scenario)
    found = own.histograms if own is not None else {}
    return [(n, found[key]) for n, key in names if key in found and found[key].count]


def painted(
    sides: Sequence[tuple[str, Histogram]],
    unit: str,
    samples: int = 0,
) -> Callable[[Figure], None]:
    """Return a function that draws one curve for each side.

    Args:
        sides: Names and durations.
        unit: ``milliseconds`` or ``seconds``.
        samples: Number of independent samples, if fewer than durations.

    """
    factor = 1e6 if unit == "seconds" else 1e3

    def paint(figure: Figure) -> None:
        axes = percentile_axes(figure.subplots())
        axes.set_ylabel(unit)
        differ = len({histogram.count for _, histogram in sides}) > 1
        for (name, histogram), (colour, style) in zip(sides, STYLES, strict=False):
            curve(
                *(axes, histogram, colour),
                f"{name} ({histogram.count:,})" if differ else name,
                style,
                samples=min(samples, histogram.count),
                unit=factor,
            )
        finish(axes)

    return paint

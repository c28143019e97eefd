"""One picture for each scenario: what was found as the title, what was run below it.

Figures are made without pyplot, whose state would outlive the run on Locust's page.
matplotlib is imported when a run is over: it takes half a second and 40 MB that no
worker needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from _hist import Histogram
from _results import Record, ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, PALE = "#0072B2", "#D55E00", "#009E73", "#767676", "#DDDDDD"
PERCENTILES = (0, 50, 90, 99, 99.9, 99.99, 99.999)
INK = "#222222"


def draw(record: Record, folder: Path, caption: str) -> list[Path]:
    """Write a PNG for each scenario that has something to show; return the paths."""
    from matplotlib.figure import Figure

    paths = []
    for scenario in record.scenarios():
        plot = PLOTS.get(scenario)
        if plot is None or not any(
            histogram.count
            for name, histogram in record.latency.items()
            if name.startswith(f"{scenario}/")
        ):
            continue
        figure = Figure(figsize=(8, 4.8), dpi=150, facecolor="white")
        title, note = plot(record, figure)
        figure.suptitle(
            title, x=0.02, y=0.965, ha="left", fontsize=12, weight="bold", color=INK
        )
        notes = (note, record.notes.get(scenario), f"{caption}.")
        note = " ".join(each for each in notes if each).replace(
            " s.", "\N{NO-BREAK SPACE}s."
        )
        figure.text(
            0.02,
            0.02,
            fill(note, 138),
            ha="left",
            va="bottom",
            fontsize=7.5,
            color=GREY,
        )
        figure.subplots_adjust(left=0.1, right=0.97, top=0.87, bottom=0.21)
        path = folder / f"{scenario}.png"
        figure.savefig(path)
        paths.append(path)
    return paths


def fanout(record: Record, figure: Figure) -> tuple[str, str]:
    latency = record.latency["fanout/subscribers"]
    axes = percentile_axes(figure.subplots())
    curve(axes, latency, BLUE, "latency from due to arrival")
    curve(axes, record.slip, ORANGE, "in it: sent late by the generator", thin=True)
    if record.lag.count:
        curve(
            axes, record.lag, GREY, "not in it: read late by the generator", thin=True
        )
    finish(axes)
    tally = record.tally("fanout/subscribers")
    return (
        f"Fan-out: p50 {ms(latency.percentile(50))}, p99 {ms(latency.percentile(99))}; "
        f"{tally.delivered:,} of {tally.expected:,} delivered",
        "",
    )


def slow_readers(record: Record, figure: Figure) -> tuple[str, str]:
    left, right = figure.subplots(
        1, 2, width_ratios=(3, 2), gridspec_kw={"wspace": 0.42}
    )
    percentile_axes(left)
    for name, colour in (("healthy", BLUE), ("throttled", ORANGE)):
        histogram = record.latency.get(f"slow_readers/{name}")
        if histogram is not None and histogram.count:
            curve(left, histogram, colour, f"{name} readers")
    finish(left, "center left")
    groups = [
        (name, record.tallies[f"slow_readers/{name}"])
        for name in ("throttled", "stalled", "healthy")
        if f"slow_readers/{name}" in record.tallies
    ]
    kinds = [
        ("delivered", BLUE),
        ("told", GREEN),
        ("unread", PALE),
        ("lost", "#B00020"),
    ]
    words = {"told": "announced gap", "unread": "never read"}
    for row, (_, tally) in enumerate(groups):
        start = 0.0
        for kind, colour in kinds:
            share = 100 * getattr(tally, kind) / max(1, tally.expected)
            right.barh(row, share, left=start, color=colour, height=0.55)
            if share > 14:
                right.text(
                    start + share / 2,
                    row,
                    f"{share:.0f} %",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=INK if kind == "unread" else "white",
                )
            start += share
    for kind, colour in kinds:
        if any(getattr(tally, kind) for _, tally in groups):
            right.bar(0, 0, color=colour, label=words.get(kind, kind))
    right.set_yticks(range(len(groups)), [name for name, _ in groups])
    right.set_ylim(-0.6, len(groups) - 0.4)
    right.set_xlim(0, 100)
    right.set_xlabel("share of what was published (%)")
    right.legend(
        frameon=False,
        fontsize=8,
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(-0.3, 0.98),
    )
    plain(right)
    right.tick_params(axis="y", length=0)
    healthy = record.histogram("slow_readers/healthy")
    outcomes = "; ".join(
        f"{name.partition('/')[2]}: {count}x {what}"
        for name, found in sorted(record.outcomes.items())
        for what, count in found.items()
        if name.startswith("slow_readers/")
    )
    return (
        f"Slow readers: the healthy ones have p99 {ms(healthy.percentile(99))} beside "
        "them",
        f"What became of the slow ones: {outcomes}." if outcomes else "",
    )


def replicas(record: Record, figure: Figure) -> tuple[str, str]:
    axes = percentile_axes(figure.subplots())
    medians = []
    for side, colour in (("same replica", BLUE), ("other replica", ORANGE)):
        histogram = record.latency.get(f"replicas/{side}")
        if histogram is not None and histogram.count:
            count = f"{histogram.count:,} messages"
            curve(axes, histogram, colour, f"reader on the {side} ({count})")
            medians.append(f"{side} p50 {ms(histogram.percentile(50))}")
    finish(axes)
    return (
        f"Replicas: {', '.join(medians)}",
        "Latency from due to arrival, publisher on the first replica.",
    )


PLOTS: dict[str, Callable[[Record, Figure], tuple[str, str]]] = {
    "fanout": fanout,
    "slow_readers": slow_readers,
    "replicas": replicas,
}


def percentile_axes(axes: Axes) -> Axes:
    """Stretch the x axis towards 100 %, where the slow messages are."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    places = [100 / (100 - each) for each in PERCENTILES]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda place, _: f"{100 - 100 / place:.5g}")
    )
    axes.set_xlabel("percentile")
    axes.set_ylabel("milliseconds")
    axes.grid(axis="both", color="#EEEEEE", linewidth=0.8)
    plain(axes)
    return axes


def plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def curve(
    axes: Axes, histogram: Histogram, colour: str, label: str, thin: bool = False
) -> None:
    """Draw a histogram as latency over percentile, up to the last single message."""
    points = [
        (1 / (1 - share) if share < 1 else histogram.count, max(0.01, value / 1000))
        for share, value in histogram.curve()
    ]
    if not points:
        return
    points.insert(0, (1, max(0.01, histogram.lowest / 1000)))
    axes.plot(
        [place for place, _ in points],
        [value for _, value in points],
        color=colour,
        label=label,
        linewidth=1.2 if thin else 2.2,
        drawstyle="steps-pre",
        zorder=2 if thin else 3,
    )


def finish(axes: Axes, place: str = "upper left") -> None:
    """Choose the y axis that the curves need, and leave room for their names."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xlim(left=1)
    drawn = [value for line in axes.lines for value in line.get_ydata()]
    least, most = min(drawn), max(drawn)
    if most / least < 30:
        axes.set_ylim(0, most * 1.3)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(least / 1.5, most * (8 if place == "upper left" else 2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.legend(
        fontsize=8.5,
        loc=place,
        labelcolor=INK,
        facecolor="white",
        edgecolor="none",
        framealpha=1,
    )

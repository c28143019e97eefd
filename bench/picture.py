"""The pictures of a contest and of the ledger, made without pyplot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import log10
from pathlib import Path
from statistics import median
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.contest import Contest, Point
from bench.receiver import Figures
from bench.report import DISTURBED, machine, placed, waiting
from bench.servers import RIVALS
from labserver.load.pictures.style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    GRID,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    plain,
)

# The lab has the strongest colour. Markers distinguish the lines in grey.
STYLES = {
    "lab": (BLUE, "o"),
    "node": (ORANGE, "s"),
    "broadcast": (GREEN, "^"),
    "await-send": (SKY, "v"),
    "picows": (PURPLE, "D"),
    "socketify": (RED, "h"),
    "fastapi": (INK, "p"),
    "socketio": (AMBER, "P"),
    "floor": ("#555555", "X"),
}
WIDTH = 10.0  # inches
# White ground of a label, so that no grid line crosses it.
CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}


def short(value: float) -> str:
    """Return a number for an axis or a label, such as 250k or 4.1M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 10 else f"{scaled:.2g}{unit}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def draw(contest: Contest, folder: Path) -> list[Path]:
    """Write the pictures for which the contest has figures; return their paths."""
    paths = []
    fanout = [each for each in contest.points if each.section == "fanout"]
    sizes = sorted({each.load.subscribers for each in fanout})
    if fanout:
        paths.append(_overview(contest, fanout, folder / "peers.png"))
    if len(sizes) > 1:
        paths.append(_by_size(contest, fanout, folder / "subscribers.png"))
    return paths


def _overview(contest: Contest, fanout: Sequence[Point], path: Path) -> Path:
    size = min(
        {each.load.subscribers for each in fanout}, key=lambda count: abs(count - 1000)
    )
    chosen = [each for each in fanout if each.load.subscribers == size]
    beside = [
        each for each in BESIDE if any(each[1] == p.section for p in contest.points)
    ]
    figure = Figure(figsize=(WIDTH, 8.2 if beside else 5.4), dpi=150, facecolor="white")
    bottom = 0.46 if beside else 0.19
    grid = figure.add_gridspec(1, 1, left=0.075, right=0.79, top=0.88, bottom=bottom)
    axes = figure.add_subplot(grid[0, 0])
    _lines(axes, contest, chosen, lambda point: point.load.in_flight)
    axes.set_xlabel("publishes in flight", fontsize=9, color=INK)
    panel(axes, f"Deliveries a second to {size:,} subscribers, 150-byte frames")
    if beside:
        grid = figure.add_gridspec(
            1, 3, left=0.19, right=0.97, top=0.335, bottom=0.1, wspace=0.12
        )
        for column, (title, section, value, shown, log) in enumerate(beside):
            below = figure.add_subplot(grid[0, column])
            _bars(below, contest, section, value, shown, log)
            panel(below, title)
            below.spines["bottom"].set_visible(False)
            if column:
                below.tick_params(labelleft=False)
    title, word = _headline(contest, chosen)
    finish(figure, title, f"{word} {_caption(contest)}")
    figure.savefig(path)
    return path


def _by_size(contest: Contest, fanout: Sequence[Point], path: Path) -> Path:
    paces = sorted({each.load.in_flight for each in fanout})
    figure = Figure(figsize=(WIDTH, 4.6), dpi=150, facecolor="white")
    grid = figure.add_gridspec(
        1, len(paces), left=0.075, right=0.84, top=0.8, bottom=0.25, wspace=0.12
    )
    first: Axes | None = None
    for column, pace in enumerate(paces):
        axes = figure.add_subplot(grid[0, column], sharey=first)
        first = first or axes
        points = [each for each in fanout if each.load.in_flight == pace]
        last = column == len(paces) - 1
        _lines(axes, contest, points, lambda each: each.load.subscribers, labels=last)
        axes.set_xlabel("subscribers", fontsize=9, color=INK)
        if column:
            axes.tick_params(labelleft=False)
        panel(axes, f"{pace} in flight")
    finish(figure, "Deliveries a second by the size of the room", _caption(contest))
    figure.savefig(path)
    return path


def _rate(run: Figures) -> float:
    return run.rate


def _p99(run: Figures) -> float:
    return run.latency_p99 / 1000


def _kilobytes(run: Figures) -> float:
    return run.connection / 1000


def _duration(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{short(milliseconds / 1000)} s"
    return f"{short(milliseconds)} ms"


# Panels below the lines: title, section, value, format, whether the axis is log.
BESIDE: tuple[
    tuple[str, str, Callable[[Figures], float], Callable[[float], str], bool], ...
] = (
    ("With permessage-deflate, deliveries/s", "deflate", _rate, short, True),
    ("p99 at 50,000 deliveries/s", "latency", _p99, _duration, True),
    ("An idle connection, KB", "idle", _kilobytes, lambda kb: f"{kb:.1f}", False),
)


def _lines(
    axes: Axes,
    contest: Contest,
    points: Sequence[Point],
    place: Callable[[Point], float],
    labels: bool = True,
) -> None:
    """Draw a line for each rival, with its name and the spread of its rounds."""
    ends = {}
    for name in contest.rivals:
        drawn = [(place(point), contest.of(point, name)) for point in points]
        drawn = [(x, [run.rate for run in runs]) for x, runs in drawn if runs]
        drawn = [(x, rates) for x, rates in drawn if min(rates) > 0]
        if not drawn:
            continue
        colour, marker = STYLES[name]
        ours = name == "lab"
        xs = [x for x, _ in drawn]
        middles = [median(rates) for _, rates in drawn]
        axes.plot(
            xs,
            middles,
            color=colour,
            marker=marker,
            markersize=6 if ours else 4.5,
            linewidth=2.6 if ours else 1.3,
            zorder=4 if ours else 3,
        )
        axes.vlines(
            xs,
            [min(rates) for _, rates in drawn],
            [max(rates) for _, rates in drawn],
            color=colour,
            linewidth=1,
            alpha=0.6,
        )
        ends[name] = (xs[-1], middles[-1])
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({place(point) for point in points})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    if labels:
        _name_ends(axes, ends)


def _name_ends(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside the ends of lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    inches = axes.get_position().height * axes.figure.get_figheight()
    step = log10(high / low) * 0.17 / inches
    heights = {
        name: log10(value)
        for name, (_, value) in sorted(ends.items(), key=lambda item: item[1][1])
    }
    for _ in range(200):
        for lower, upper in pairwise(heights):
            if (push := (heights[lower] + step - heights[upper]) / 2) > 0:
                heights[lower] -= push
                heights[upper] += push
    for name, height in heights.items():
        value = ends[name][1]
        axes.annotate(
            f"{RIVALS[name].title}  {short(value)}",
            (1.0, 10**height),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=STYLES[name][0],
            weight="bold" if name == "lab" else "normal",
            annotation_clip=False,
        )


def _bars(
    axes: Axes,
    contest: Contest,
    section: str,
    value: Callable[[Figures], float],
    shown: Callable[[float], str],
    log: bool,
) -> None:
    """Draw a row for each rival at a section's heaviest load.

    Rows are bars, or dots on a logarithmic axis, where lengths cannot be compared.
    """
    points = [each for each in contest.points if each.section == section]
    point = max(points, key=lambda each: each.load.in_flight)
    names = [name for name in contest.rivals if name not in contest.missing]
    names.reverse()
    found = {name: [value(r) for r in contest.of(point, name)] for name in names}
    middles = {name: median(values) for name, values in found.items() if values}
    for row, name in enumerate(names):
        middle = middles.get(name)
        if middle is None:
            where, text = (
                (0.02, row),
                "does not compress" if section == "deflate" else "-",
            )
            axes.annotate(
                text,
                where,
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                color=GREY,
                bbox=CLEAR,
            )
            continue
        colour, marker = STYLES[name]
        if log:
            axes.plot([middle], [row], color=colour, marker=marker, markersize=7)
        else:
            axes.barh(row, middle, color=colour, height=0.6)
        axes.annotate(
            shown(middle),
            (middle, row),
            xytext=(8 if log else 4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
            weight="bold" if name == "lab" else "normal",
            bbox=CLEAR,
        )
    axes.set_yticks(range(len(names)), [RIVALS[name].title for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="y", length=0)
    positive = [middle for middle in middles.values() if middle > 0]
    if log and positive:
        axes.set_xscale("log")
        axes.set_xlim(min(positive) / 2, max(positive) * 8)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
    elif positive:
        axes.set_xlim(0, max(positive) * 1.25)
    axes.xaxis.set_major_locator(NullLocator())
    axes.xaxis.set_minor_locator(NullLocator())


def panel(axes: Axes, title: str) -> None:
    """Style axes like all others, and set their title."""
    axes.set_title(title, fontsize=9, color=INK, loc="left", pad=7)
    plain(axes, grid="")


def _headline(contest: Contest, points: Sequence[Point]) -> tuple[str, str]:
    """Return a title with the ratios to Node, and a sentence on limited runs."""
    ratios = []
    for point in points:
        own, other = contest.of(point, "lab"), contest.of(point, "node")
        if own and other and (rate := median(map(_rate, other))):
            pace = point.load.in_flight
            ratios.append(f"{median(map(_rate, own)) / rate:.1f}x at {pace}")
    limited = any(run.figures and run.figures.limited for run in contest.runs)
    word = "In some runs the receiver was the bottleneck." if limited else ""
    if ratios:
        return f"The lab against Node ws: {', '.join(ratios)} in flight", word
    return "Deliveries a second, by publishes in flight", word


def _caption(contest: Contest) -> str:
    waits = waiting(contest)
    busy = (
        f"Other programs were running (servers waited {waits:.0%} of the time). "
        if waits > DISTURBED
        else ""
    )
    return (
        f"{busy}{placed()}; median of {contest.rounds} "
        f"interleaved rounds, thin lines from smallest to largest.{_deflate(contest)} "
        f"{machine()}."
    )


def _deflate(contest: Contest) -> str:
    loads = [each.load.in_flight for each in contest.points if each.load.deflate]
    if not loads:
        return ""
    return f" Compressed: about 360 bytes of text, {max(loads)} in flight."


def finish(figure: Figure, title: str, caption: str) -> None:
    """Write the title on top, and the caption below."""
    figure.suptitle(
        title, x=0.02, y=0.97, ha="left", fontsize=13, weight="bold", color=INK
    )
    figure.text(
        0.02,
        0.02,
        fill(caption.strip(), 160),
        ha="left",
        va="bottom",
        fontsize=7.5,
        color=GREY,
    )

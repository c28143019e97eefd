"""The form of pictures: as PNG, and on a light or dark page.

A picture only paints axes into a figure. A PNG has title and caption in the image; a
page has them in its text, where a phone shows them in a readable size. Figures are made
without pyplot, because pyplot's state would outlive a run on Locust's page. matplotlib
is imported only to draw: it takes half a second and 40 MB, which workers do not need.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from labserver.load.figures.histogram import Histogram
from labserver.load.pictures.style import (
    GREEN,
    GREY,
    GROUND,
    INK,
    ORANGE,
    PALETTE,
    RED,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.2  # inches; a phone shows it as wide as it is, and words stay readable
THIN = 1.3  # points: lines of the generator's own delays
TITLE, WORDS = 43, 70  # characters in a line of a title, of a caption
VERDICT_LINES = 3
MOODS = {0: GREEN, 4: ORANGE}  # by exit status of a run
LEGEND = 262  # points, for the columns of a legend
PERCENTILES = (0, 50, 90, 99, 99.9, 99.99, 99.999)


@dataclass(frozen=True)
class Picture:
    """A figure, its title, and how to read it.

    Args:
        name: Stem of its file's name.
        title: The finding.
        read: One sentence on how to read it.
        paint: Function that paints axes into an empty figure.
        note: A remark for the caption, beside the load.
        height: Height of the axes in inches.

    """

    name: str
    title: str
    read: str
    paint: Callable[[Figure], None]
    note: str = ""
    height: float = 2.9


@dataclass(frozen=True)
class Stamp:
    """The verdict that stands in a picture.

    Args:
        text: Its word, and the reasons of one that is not VALID.
        code: Exit status of the run.

    """

    text: str
    code: int


def png(picture: Picture, caption: str, folder: Path, stamp: Stamp) -> Path:
    """Write a PNG: title and verdict above, a caption below; return its path."""
    words = " ".join(each for each in (picture.note, caption) if each)
    lines, title = even(words, WORDS), even(picture.title, TITLE)
    verdict = even(stamp.text, WORDS - 8)  # bold
    if len(verdict) > VERDICT_LINES:
        verdict = [*verdict[: VERDICT_LINES - 1], verdict[VERDICT_LINES - 1] + " ..."]
    foot, top = 0.15 * len(lines) + 0.15, 0.21 * len(title) + 0.12
    head = top + 0.15 * len(verdict) + 0.08
    height = picture.height + foot + head
    figure = blank(picture, height, (0, foot / height, 1, picture.height / height))
    for place, text, colour, size, weight, anchor in (
        (height - 0.1, title, INK, 11, "bold", "top"),
        (height - top, verdict, MOODS.get(stamp.code, RED), 8, "bold", "top"),
        (0.08, lines, GREY, 8, "normal", "bottom"),
    ):
        figure.text(
            *(0.02, place / height, "\n".join(text)),
            ha="left",
            va=anchor,
            fontsize=size,
            weight=weight,
            color=colour,
        )
    path = folder / f"{picture.name}.png"
    figure.savefig(path, dpi=200)
    return path


def unbroken(text: str) -> str:
    """Return a text in which no line ends between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:ms|s|KB|MB|%)\b)", "\N{NO-BREAK SPACE}", text)


def even(text: str, width: int) -> list[str]:
    """Return the fewest lines of at most ``width`` characters, nearly equally long.

    So no line has only a word. A number stays in one line with its unit.
    """
    joined = unbroken(text)
    lines = wrap(joined, width, break_long_words=False)
    for narrower in range(width - 1, 0, -1):
        fewer = wrap(joined, narrower, break_long_words=False)
        if len(fewer) > len(lines):
            break
        lines = fewer
    return lines


def svg(picture: Picture) -> str:
    """Return a picture as SVG, without title and caption, in colours of the page."""
    from matplotlib import rc_context

    drawn = StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure = blank(picture, picture.height, (0, 0, 1, 1))
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    for name, (light, _) in PALETTE.items():
        text = text.replace(light, f"var(--{name})")
    return text


def blank(
    picture: Picture, height: float, rect: tuple[float, float, float, float]
) -> Figure:
    """Return a figure with the picture painted into the part ``rect``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor=GROUND)
    figure.set_layout_engine("constrained", rect=rect, w_pad=0.1, h_pad=0.08)
    picture.paint(figure)
    return figure


def legend(axes: Axes, columns: int = 2) -> None:
    """Add a legend above the axes, where it hides no line.

    Args:
        axes: Axes with labelled lines.
        columns: At most so many; fewer if the labels are long.

    """
    labels = axes.get_legend_handles_labels()[1]
    while columns > 1 and width_of(labels, columns) > LEGEND:
        columns -= 1
    axes.legend(
        fontsize=9,
        frameon=False,
        labelcolor=INK,
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        borderaxespad=0.2,
        handlelength=2.2,
        columnspacing=1.2,
        labelspacing=0.25,
    )


def width_of(labels: Sequence[str], columns: int) -> float:
    """Return about how many points a legend is wide; it fills column after column."""
    rows, more = divmod(len(labels), columns)
    sizes = [rows + (number < more) for number in range(columns)]
    left = iter(map(len, labels))
    longest = [max(islice(left, size), default=0) for size in sizes if size]
    return sum(5.2 * each + 37 for each in longest)


def scaled(axes: Axes, values: list[float], low: bool = False) -> None:
    """Choose a y axis for values: from zero, or logarithmic when they differ much.

    With ``low`` the axes are low and get fewer numbers.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    known = [value for value in values if value == value and value > 0]
    if not known:
        return
    least, most = min(known), max(known)
    if most / least < 30:
        axes.set_ylim(0, most * 1.15)
    else:
        axes.set_yscale("log")
        decades = low or most / least > 3000
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0), numticks=20)
        )
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(least / 1.5, most * 1.6)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def percentile_axes(axes: Axes) -> Axes:
    """Stretch the x axis towards 100 %, where the slow messages are."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(
        FixedLocator([100 / (100 - each) for each in PERCENTILES])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda place, _: f"{100 - 100 / place:.5g}")
    )
    return plain(axes, "percentile (%)", "milliseconds", "both")


def curve(
    axes: Axes,
    histogram: Histogram,
    colour: str,
    label: str,
    style: str = "-",
    thin: bool = False,
    samples: int = 0,
    unit: float = 1000,
) -> None:
    """Draw a histogram as duration over percentile, up to its slowest message.

    Args:
        axes: Axes of :func:`percentile_axes`.
        histogram: The durations.
        colour: Of the line.
        label: Of the line.
        style: Of the line.
        thin: Whether the line is thin, and behind the others.
        samples: Number of independent samples, if there are fewer than durations: no
            percentile is drawn that is beyond them.
        unit: Microseconds in the unit of the axis.

    """
    most = samples or histogram.count
    points = [
        (1 / (1 - share) if share < 1 else most, max(0.01, value / unit))
        for share, value in histogram.curve()
    ]
    if not points:
        return
    last = points[-1][1]
    points = [each for each in points if each[0] < most] + [(max(1, most), last)]
    points.insert(0, (1, max(0.01, histogram.lowest / unit)))
    axes.plot(
        [place for place, _ in points],
        [value for _, value in points],
        color=colour,
        label=label,
        linestyle=style,
        linewidth=THIN if thin else 2.2,
        drawstyle="steps-pre",
        zorder=2 if thin else 3,
    )


def finish(axes: Axes, columns: int = 2) -> None:
    """Scale the y axis for the curves, and add a legend."""
    axes.set_xlim(left=1)
    # A thin line is drawn as far as it comes near the others.
    curves: list[Any] = [
        line.get_ydata() for line in axes.lines if line.get_linewidth() > THIN
    ]
    scaled(axes, [float(y) for curve in curves for y in curve])
    legend(axes, columns)


def marks(axes: Axes, faults: list[tuple[float, str]], names: bool) -> None:
    """Draw a line at each fault; with ``names``, the legend has its name."""
    for number, (at, text) in enumerate(faults):
        axes.axvline(
            at,
            color=RED,
            linewidth=1.2,
            linestyle=((0, (4, 2)), (0, (1, 1)))[number % 2],
            zorder=1,
            label=text if names else "_",
        )

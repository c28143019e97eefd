"""The form of pictures: as PNG, and on a light or dark page.

A picture only paints axes into a figure. A PNG has title and caption in the image; a
page has them in its text, where a phone shows them in a readable size. Figures are made
without pyplot, because pyplot's state would outlive a run on Locust's page. matplotlib
is imported only to draw: it takes half a second and 40 MB, which workers do not need.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from labserver.load.figures.histogram import Histogram
from labserver.load.pictures.style import GREY, GROUND, INK, PALETTE, RED, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.6  # inches
WORDS = 94  # characters in a line of a caption
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
    height: float = 3.6


def png(picture: Picture, caption: str, folder: Path) -> Path:
    """Write a PNG with the title above and a caption below; return its path."""
    words = " ".join(each for each in (picture.note, caption) if each)
    lines = wrap(words.replace(" s.", "\N{NO-BREAK SPACE}s."), WORDS)
    title = wrap(picture.title, 62)
    foot, head = 0.17 * len(lines) + 0.2, 0.25 * len(title) + 0.2
    height = picture.height + foot + head
    figure = blank(picture, height, (0, foot / height, 1, picture.height / height))
    figure.text(
        *(0.02, 1 - 0.13 / height, "\n".join(title)),
        ha="left",
        va="top",
        fontsize=12,
        weight="bold",
        color=INK,
    )
    figure.text(
        *(0.02, 0.1 / height, "\n".join(lines)),
        ha="left",
        va="bottom",
        fontsize=8,
        color=GREY,
    )
    path = folder / f"{picture.name}.png"
    figure.savefig(path, dpi=150)
    return path


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
    """Add a legend above the axes, where it hides no line."""
    axes.legend(
        fontsize=9,
        frameon=False,
        labelcolor=INK,
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        borderaxespad=0.2,
        handlelength=2.2,
        columnspacing=1.4,
    )


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
) -> None:
    """Draw a histogram as duration over percentile, up to its slowest message."""
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
        linestyle=style,
        linewidth=1.3 if thin else 2.2,
        drawstyle="steps-pre",
        zorder=2 if thin else 3,
    )


def finish(axes: Axes, columns: int = 2) -> None:
    """Scale the y axis for the curves, and add a legend."""
    axes.set_xlim(left=1)
    curves: list[Any] = [line.get_ydata() for line in axes.lines]
    scaled(axes, [float(y) for curve in curves for y in curve])
    legend(axes, columns)


def marks(axes: Axes, faults: list[tuple[float, str]], names: bool) -> None:
    """Draw a line at each fault."""
    for number, (at, text) in enumerate(faults):
        axes.axvline(at, color=RED, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
        if names:
            axes.annotate(
                text,
                (at, 0.62),
                xycoords=("data", "axes fraction"),
                xytext=(4, -12 * (number % 3)),
                textcoords="offset points",
                va="top",
                fontsize=8.5,
                color=RED,
                bbox={"facecolor": GROUND, "edgecolor": "none", "pad": 1},
            )

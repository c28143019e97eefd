"""Pictures made without pyplot, so that no cell can change the picture of another.

Pictures have a white ground and fixed colours (Okabe and Ito's palette), so that they
are readable in a dark theme and with colour blindness. Lines have their names at their
ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from labserver.load.pictures.style import COLOURS, GRID, INK, plain

WIDTH = 7.2  # inches; 720 pixels in a notebook
DPI = 100
SHARP = 1.6  # pixels stored for each shown
STORED_COLOURS = 64  # a third of the bytes, without a visible difference

Curve = tuple[Sequence[float], Sequence[float]]


class Picture:
    """A figure that a cell shows, with a description in words."""

    def __init__(self, figure: Figure, words: str) -> None:
        self.figure = figure
        self.words = words

    def __repr__(self) -> str:
        return self.words

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        file = BytesIO()
        # Without the version of matplotlib, equal pictures are equal files.
        self.figure.savefig(file, dpi=DPI * SHARP, metadata={"Software": None})
        image = Image.open(file).convert("RGB").quantize(STORED_COLOURS)
        file = BytesIO()
        image.save(file, "png", optimize=True)
        width, height = self.figure.get_size_inches()
        return file.getvalue(), {
            "width": round(width * DPI),
            "height": round(height * DPI),
        }


def _axes(title: str, height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    return figure, plain(axes, grid="")


def curves(
    lines: Mapping[str, Curve],
    *,
    title: str,
    x: str,
    y: str,
    log: bool = False,
    steps: bool = False,
    points: bool = False,
    marks: Mapping[str, float] | None = None,
    peaks: bool = False,
    height: float = 3.2,
) -> Picture:
    """Draw lines, each named at its end.

    Args:
        lines: By name, the values along x and y.
        title: Title of the picture.
        x: Label of the x axis, with unit.
        y: Label of the y axis, with unit.
        log: Whether both axes are logarithmic.
        steps: Whether a value holds until the next one.
        points: Whether each value gets a dot.
        marks: Places on the x axis to mark, by name.
        peaks: Whether a line has its name at its highest point, not at its end.
        height: Height in inches.

    """
    figure, axes = _axes(title, height)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    for colour, (_, (xs, ys)) in zip(COLOURS, lines.items(), strict=False):
        axes.plot(
            xs,
            ys,
            color=colour,
            linewidth=2,
            drawstyle="steps-post" if steps else "default",
            marker="o" if points else "",
            markersize=4,
            clip_on=False,
        )
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.04)
        axes.set_xlim(
            min(0, *(min(xs) for xs, _ in lines.values())),
            max(max(xs) for xs, _ in lines.values()),
        )
    left, right = axes.get_xlim()
    for name, place in (marks or {}).items():
        late = place > left + (right - left) * 0.7
        axes.axvline(place, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            name,
            (place, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if late else 4, -2),
            textcoords="offset points",
            ha="right" if late else "left",
            va="top",
            fontsize=9,
            color=INK,
        )
    if peaks:
        _name_peaks(axes, lines)
    else:
        _name_ends(axes, lines)
    ends = ", ".join(f"{name} ends at {ys[-1]:g}" for name, (_, ys) in lines.items())
    return Picture(figure, f"{title} ({y} over {x}): {ends}.")


def line_through(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Return start and slope of the line that fits points best, by least squares.

    Costs are disturbed in proportion to what they are, so points far out count less.
    """
    nearer = [1 / (each + max(xs) / 8) for each in xs]
    slope, start = np.polyfit(xs, ys, 1, w=nearer)
    return float(start), float(slope)


def fitted(
    points: Mapping[str, Curve], *, title: str, x: str, y: str, height: float = 3.2
) -> Picture:
    """Draw measured points, and through each set of them the line that fits it best.

    Args:
        points: By name, the values along x and y.
        title: Title of the picture.
        x: Label of the x axis, with unit.
        y: Label of the y axis, with unit.
        height: Height in inches.

    """
    figure, axes = _axes(title, height)
    plain(axes, x, y)
    lines: dict[str, Curve] = {}
    for colour, (name, (xs, ys)) in zip(COLOURS, points.items(), strict=False):
        start, slope = line_through(xs, ys)
        ends = (0.0, float(max(xs)))
        line = ends, [start + slope * each for each in ends]
        lines[f"{name}: {start:.0f} + {slope:.1f} N"] = line
        axes.plot(*line, color=colour, linewidth=1.5)
        axes.plot(xs, ys, "o", color=colour, markersize=5, clip_on=False)
    axes.set_xlim(0, max(max(xs) for xs, _ in points.values()))
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.04)
    _name_ends(axes, lines)
    return Picture(figure, f"{title} ({y} over {x}): {', '.join(lines)}.")


def _name_peaks(axes: Axes, lines: Mapping[str, Curve]) -> None:
    """Write each line's name over its highest point."""
    axes.margins(y=0.15)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.1)
    for colour, (name, (xs, ys)) in zip(COLOURS, lines.items(), strict=False):
        top = max(ys)
        axes.annotate(
            name,
            (xs[list(ys).index(top)], top),
            xytext=(0, 5),
            textcoords="offset points",
            fontsize=9.5,
            color=colour,
            fontweight="bold",
        )


def _name_ends(axes: Axes, lines: Mapping[str, Curve]) -> None:
    """Write each line's name beside its end, a line of text apart at least."""
    axes.figure.canvas.draw()
    apart = 13 * DPI / 72  # points of a line of text, in pixels
    ends = []
    for colour, (name, (xs, ys)) in zip(COLOURS, lines.items(), strict=False):
        _, height = axes.transData.transform((xs[-1], ys[-1]))
        ends.append((float(height), name, colour, xs[-1], ys[-1]))
    ends.sort()
    lowest, places = float("-inf"), []
    for height, *_ in ends:
        lowest = max(height, lowest + apart)
        places.append(lowest)
    highest = float(axes.bbox.y1)
    for index in reversed(range(len(places))):
        places[index] = min(places[index], highest)
        highest = places[index] - apart
    for place, (height, name, colour, right, top) in zip(places, ends, strict=True):
        axes.annotate(
            name,
            (right, top),
            xytext=(7, (place - height) * 72 / DPI),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )


def bars(
    panels: Mapping[str, Mapping[str, float]], *, title: str, height: float = 2.0
) -> Picture:
    """Draw a panel of horizontal bars for each measure; its name has the unit."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    words = []
    for index, (measure, values) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_xticks([])
        axes.set_title(measure, loc="left", fontsize=9.5, color=INK)
        names = list(values)
        drawn = axes.barh(names, list(values.values()), height=0.6)
        for bar, colour in zip(drawn, COLOURS, strict=False):
            bar.set_color(colour)
        axes.bar_label(
            drawn, [f" {value:,.4g}" for value in values.values()], fontsize=10
        )
        axes.margins(x=0.18)
        axes.invert_yaxis()
        axes.tick_params(colors=INK, labelsize=9.5, left=False)
        if index:
            axes.set_yticks([])
        words += [f"{name}: {value:g} {measure}" for name, value in values.items()]
    return Picture(figure, f"{title}: {', '.join(words)}.")


def layers(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]],
    *,
    title: str,
    x: str,
    y: str,
    height: float = 3.0,
) -> Picture:
    """Draw panels of stacked areas, with the same scale.

    Args:
        panels: By name, the values along x and, by layer, those along y.
        title: What the picture says.
        x: Label with unit.
        y: Label with unit.
        height: In inches.

    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    most = max(
        max(map(sum, zip(*named.values(), strict=True))) for _, named in panels.values()
    )
    words = []
    for index, (name, (xs, named)) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        axes.stackplot(xs, *named.values(), colors=COLOURS, labels=list(named))
        axes.set_title(name, loc="left", fontsize=9.5, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
        axes.set_xlim(xs[0], xs[-1])
        axes.set_ylim(0, most * 1.05)
        axes.set_xlabel(x, color=INK, fontsize=9)
        if index:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel(y, color=INK, fontsize=9)
            handles, labels = axes.get_legend_handles_labels()
        ends = ", ".join(f"{layer} {ys[-1]:.1f}" for layer, ys in named.items())
        words.append(f"{name}: {ends}")
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=len(labels),
        frameon=False,
        fontsize=9,
    )
    return Picture(figure, f"{title} ({y} over {x}). {'; '.join(words)}.")


def lanes(
    rows: Mapping[str, Sequence[str]],
    kinds: Mapping[str, str],
    *,
    title: str,
    x: str,
    pairs: Sequence[tuple[str, str]] = (),
) -> Picture:
    """Draw sequences of texts as rows of boxes, coloured by kind.

    Args:
        rows: For each name, the texts in order; the first letter is the kind.
        kinds: Legend of each kind.
        title: What the picture says.
        x: Label.
        pairs: Names of rows, one under the other, that are compared: a sign stands
            between them wherever they differ.

    """
    figure, axes = _axes(title, 1.35 + 0.5 * len(rows))
    colours = dict(zip(kinds, COLOURS, strict=False))
    for line, sequence in enumerate(rows.values()):
        for place, text in enumerate(sequence, start=1):
            colour = colours[text[0]]
            box = Rectangle((place - 0.45, line - 0.3), 0.9, 0.6, color=colour)
            axes.add_patch(box)
            _write(axes, place, line, text, "white")
    words = [f"{name}: {' '.join(row)}" for name, row in rows.items()]
    for upper, lower in pairs:
        between = list(rows).index(upper) + 0.5
        both = zip(rows[upper], rows[lower], strict=False)
        found = [place for place, (one, two) in enumerate(both, 1) if one != two]
        for place in found:
            _write(axes, place, between, "≠", INK, weight="bold")
        words.append(f"{upper} and {lower} differ at {len(found)} places")
    longest = max(len(sequence) for sequence in rows.values())
    axes.set_xlim(0.4, longest + 0.6)
    axes.set_xticks([1, *range(5, longest + 1, 5)])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(x, color=INK, fontsize=9)
    handles = [Rectangle((0, 0), 1, 1, color=colours[kind]) for kind in kinds]
    figure.legend(
        handles,
        list(kinds.values()),
        loc="outside lower right",
        ncols=len(kinds),
        frameon=False,
        fontsize=9,
    )
    return Picture(figure, f"{title}. {'; '.join(words)}.")


def _write(
    axes: Axes, x: float, y: float, text: str, colour: str, weight: str = "normal"
) -> None:
    axes.text(
        x, y, text, color=colour, weight=weight, fontsize=8, ha="center", va="center"
    )

"""The picture of the ledger: costs added by each stage, and saved without it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.ledger import ABLATIONS, COST, MEMORY, STEPS, Ledger, Measure, Variant, about
from bench.picture import CLEAR, WIDTH, finish, panel
from labserver.load.pictures.style import BLUE, GREEN, GREY, GRID, INK, ORANGE, PALE

WHOLE, MORE, LESS, SAME = BLUE, ORANGE, GREEN, PALE


def draw(ledger: Ledger, path: Path) -> None:
    """Write the picture."""
    figure = Figure(figsize=(WIDTH, 7.6), dpi=150, facecolor="white")
    grid = figure.add_gridspec(
        2, 2, left=0.07, right=0.975, top=0.86, bottom=0.165, hspace=0.5, wspace=0.17
    )
    rooms = [each for each in STEPS if each.has_rooms]
    for column, (variants, measure) in enumerate(((rooms, COST), (STEPS, MEMORY))):
        above = figure.add_subplot(grid[0, column])
        _waterfall(above, ledger, variants, measure)
        panel(above, f"{measure.title}: stage after stage")
        below = figure.add_subplot(grid[1, column])
        _left_out(below, ledger, measure)
        panel(below, f"{measure.title}: one part left out")
    first, last = (ledger.middle(each, COST) for each in (rooms[0], rooms[-1]))
    title = (
        f"A delivery costs {first:.2f} us of CPU with rooms alone, "
        f"{last:.2f} us with everything"
    )
    finish(figure, title, about(ledger, "grey"))
    figure.savefig(path)


def _colour(ledger: Ledger, one: Variant, other: Variant, measure: Measure) -> str:
    """Return the colour of a change from one variant to the other."""
    if not ledger.differ(one, other, measure):
        return SAME
    more = ledger.middle(other, measure) > ledger.middle(one, measure)
    return MORE if more else LESS


def _waterfall(
    axes: Axes, ledger: Ledger, variants: Sequence[Variant], measure: Measure
) -> None:
    """Draw a bar for the first stage, for each change by a later stage, and the sum."""
    totals = [ledger.middle(each, measure) for each in variants]
    signed = measure.shown.replace("{:", "{:+")
    axes.bar(0, totals[0], color=WHOLE, width=0.62)
    _label(axes, 0, totals[0], measure.shown.format(totals[0]))
    for place, (one, other) in enumerate(pairwise(variants), start=1):
        before, total = totals[place - 1], totals[place]
        colour = _colour(ledger, one, other, measure)
        axes.bar(place, total - before, bottom=before, color=colour, width=0.62)
        _label(axes, place, max(total, before), signed.format(total - before))
    for place, total in enumerate(totals):
        ends = [place - 0.31, place + 1.31]
        axes.plot(ends, [total, total], color=GREY, linewidth=0.7)
    axes.bar(len(totals), totals[-1], color=WHOLE, width=0.62)
    _label(axes, len(totals), totals[-1], measure.shown.format(totals[-1]), bold=True)
    _columns(axes, [*(each.title for each in variants), "whole"], totals)


def _left_out(axes: Axes, ledger: Ledger, measure: Measure) -> None:
    """Draw a bar for the whole server, and one without each of its parts."""
    last = STEPS[-1]
    whole = ledger.middle(last, measure)
    axes.axhline(whole, color=GREY, linewidth=0.7, zorder=0)
    axes.bar(0, whole, color=WHOLE, width=0.62)
    _label(axes, 0, whole, measure.shown.format(whole), bold=True)
    values = [whole]
    for place, variant in enumerate(ABLATIONS, start=1):
        value = ledger.middle(variant, measure)
        colour = _colour(ledger, last, variant, measure)
        axes.bar(place, value, color=colour, width=0.62)
        percent = round(100 * (value - whole) / whole) if whole else 0
        change = f"{percent:+} %" if percent else "same"
        _label(axes, place, value, f"{measure.shown.format(value)}\n{change}")
        values.append(value)
    names = [f"without\n{each.without}" for each in ABLATIONS]
    _columns(axes, ["whole", *names], values)


def _label(
    axes: Axes, place: float, height: float, text: str, bold: bool = False
) -> None:
    axes.annotate(
        text,
        (place, height),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7.5,
        color=INK,
        weight="bold" if bold else "normal",
        bbox=CLEAR,
    )


def _columns(axes: Axes, names: Sequence[str], values: Sequence[float]) -> None:
    names = [name.replace("backpressure", "back-\npressure") for name in names]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(0, max(values) * 1.28)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(axis="x", length=0)

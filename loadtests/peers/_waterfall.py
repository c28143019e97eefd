"""The picture of the ledger: what each stage adds, and what leaving it out saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ._ledger import ABLATIONS, STEPS, Ledger, Variant, about
from ._picture import GREY, INK, PALE, WIDTH, finish, panel

WHOLE, MORE, LESS = "#0072B2", "#D55E00", "#009E73"


def draw(ledger: Ledger, path: Path) -> None:
    """Write the picture."""
    figure = Figure(figsize=(WIDTH, 7.6), dpi=150, facecolor="white")
    grid = figure.add_gridspec(
        2, 2, left=0.07, right=0.975, top=0.86, bottom=0.165, hspace=0.5, wspace=0.17
    )
    rooms = [each for each in STEPS if each.has_rooms]
    for column, (variants, value, shown, what) in enumerate(
        (
            (rooms, ledger.cost, "{:.2f}", "CPU time a delivery, us"),
            (STEPS, ledger.memory, "{:,.0f}", "Memory of an idle connection, bytes"),
        )
    ):
        above = figure.add_subplot(grid[0, column])
        _waterfall(above, variants, value, shown)
        panel(above, f"{what}: stage after stage")
        below = figure.add_subplot(grid[1, column])
        _left_out(below, value, shown)
        panel(below, f"{what}: the whole, and with one part left out")
    first, last = ledger.cost(rooms[0]), ledger.cost(rooms[-1])
    title = (
        f"From rooms to resume, a delivery costs {first:.2f} to {last:.2f} us "
        "of the server's CPU"
    )
    finish(figure, title, about(ledger))
    figure.savefig(path)


def _waterfall(
    axes: Axes,
    variants: Sequence[Variant],
    value: Callable[[Variant], float],
    shown: str,
) -> None:
    """Draw the first stage's bar from zero, what each next one changes, the sum."""
    totals = [value(each) for each in variants]
    signed = shown.replace("{:", "{:+")
    for place, total in enumerate(totals):
        before = totals[place - 1] if place else 0.0
        colour = WHOLE if not place else MORE if total > before else LESS
        axes.bar(place, total - before, bottom=before, color=colour, width=0.62)
        text = shown.format(total) if not place else signed.format(total - before)
        _label(axes, place, max(total, before), text)
        axes.plot(
            [place - 0.31, place + 1.31], [total, total], color=GREY, linewidth=0.7
        )
    axes.bar(len(totals), totals[-1], color=WHOLE, width=0.62)
    _label(axes, len(totals), totals[-1], shown.format(totals[-1]), bold=True)
    names = [each.title for each in variants]
    _columns(axes, [names[0], *(f"+ {name}" for name in names[1:]), "whole"], totals)


def _left_out(axes: Axes, value: Callable[[Variant], float], shown: str) -> None:
    """Draw the whole server's bar, and what it is without each of its parts."""
    whole = value(STEPS[-1])
    values = [whole, *map(value, ABLATIONS)]
    for place, each in enumerate(values):
        colour = WHOLE if not place else LESS if each < whole else MORE
        axes.bar(place, each, color=colour, width=0.62)
        text = shown.format(each)
        if place and whole:
            text += f"\n{(each - whole) / whole:+.0%}"
        _label(axes, place, each, text, bold=not place)
    axes.axhline(whole, color=GREY, linewidth=0.7, zorder=0)
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
    )


def _columns(axes: Axes, names: Sequence[str], values: Sequence[float]) -> None:
    names = [name.replace("backpressure", "back-\npressure") for name in names]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(0, max(values) * 1.28)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.tick_params(axis="x", length=0)

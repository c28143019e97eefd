"""Colours and axes of all pictures: of runs, of chapters, of the contest.

Lines have colours of Okabe and Ito's palette, which people with colour blindness can
tell apart. On a dark page each colour is replaced by another value, see PALETTE. So the
ground must differ from WHITE, the colour of words on bars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, GRID, GROUND, WHITE = "#222222", "#6b6b6b", "#e4e4e4", "#fffffe", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#00866a", "#a6528a"
RED, PALE = "#b00020", "#c9c9c9"
AMBER, SKY = "#b8860b", "#56b4e9"
PALETTE = {
    "ink": (INK, "#e9e9e7"),
    "grey": (GREY, "#a9a9a5"),
    "grid": (GRID, "#35383d"),
    "ground": (GROUND, "#1c1e21"),
    "blue": (BLUE, "#56b4e9"),
    "orange": (ORANGE, "#f29456"),
    "green": (GREEN, "#3fc9a0"),
    "purple": (PURPLE, "#d996c4"),
    "red": (RED, "#ff7386"),
    "pale": (PALE, "#565a60"),
    "on": (WHITE, "#14171a"),  # words on a coloured ground
}
# Colours of the lines in a picture, in this order.
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)


def plain(
    axes: Axes, x: str = "", y: str = "", grid: Literal["x", "y", "both", ""] = "y"
) -> Axes:
    """Style axes like all others, and label them; labels have units."""
    axes.set_facecolor(GROUND)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
    if x:
        axes.set_xlabel(x, fontsize=9, color=INK)
    if y:
        axes.set_ylabel(y, fontsize=9, color=INK)
    return axes

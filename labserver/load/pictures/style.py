"""One look for every picture: of runs, of chapters, of the contest.

Okabe and Ito's palette, which is told apart without colour vision, for what is
measured. On a dark page each colour has another value, see PALETTE, which is why the
ground is not quite white: WHITE is for words.
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
# In the order in which lines of one picture take them.
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)


def plain(
    axes: Axes, x: str = "", y: str = "", grid: Literal["x", "y", "both", ""] = "y"
) -> Axes:
    """Make axes look as all others do, and name what they show, with the unit."""
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

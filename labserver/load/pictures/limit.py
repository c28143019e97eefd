"""The curve and the page of a search for the limit, from its ``limit.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labserver.load.figures.require import parse
from labserver.load.pictures.drawing import Picture, Stamp, legend, png, scaled
from labserver.load.pictures.report import BAD, MOODS, NAME, drawn, rendered
from labserver.load.pictures.style import BLUE, GREEN, GREY, ORANGE, PALE, RED, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAND = (
    " The limit is in the grey band: between the highest rate that holds and the "
    "lowest that does not."
)
MARKS = (
    ("holds", GREEN, "o", lambda each: each["holds"]),
    ("does not hold", RED, "X", lambda each: not each["holds"] and each["innocent"]),
    (
        *("the generator was too busy", ORANGE, "^"),
        lambda each: not each["holds"] and not each["innocent"],
    ),
)


def write_limit(found: Mapping[str, Any], folder: Path) -> Path:
    """Write the curve as PNG, and the page; return the page's path; raises OSError."""
    pictures = [each for each in (curve(found),) if each]
    for picture in pictures:
        png(picture, caption(found), folder, stamp(found))
    page = rendered(
        "limit.html",
        title="The highest rate that holds",
        found=found,
        points=[row(each) for each in sorted(found["points"], key=by_rate)],
        drawn=[drawn(each, caption(found)) for each in pictures],
    )
    (folder / NAME).write_text(page, encoding="utf-8")
    return folder / NAME


def by_rate(point: Mapping[str, Any]) -> float:
    return float(point["rate"])


def caption(found: Mapping[str, Any]) -> str:
    return (
        f"{found['machine']}. {found['users']} members of one room, "
        f"{found['seconds']} s a run. Server: {found['server']}."
    )


def stamp(found: Mapping[str, Any]) -> Stamp:
    """Return how many of the runs held, for the picture."""
    points, status = found["points"], int(found["status"])
    hold = sum(each["holds"] for each in points)
    said = f"{hold} of {len(points)} runs hold"
    if found["whose"] == "generator":
        said += "; the generator reached its own limit first"
    return Stamp(said, status)


def row(point: Mapping[str, Any]) -> dict[str, Any]:
    mood, sign = MOODS[0] if point["holds"] else BAD if point["innocent"] else MOODS[4]
    return {**point, "mood": mood, "sign": sign, "said": "; ".join(point["reasons"])}


def curve(found: Mapping[str, Any]) -> Picture | None:
    """Draw latency over rate, with the bounds that are required; None without runs."""
    points = sorted(
        (each for each in found["points"] if each["p99"] is not None), key=by_rate
    )
    if not points:
        return None
    bounds = [
        (each.text, each.bound / 1000)
        for each in map(parse, found["require"])
        if each.kind == "duration"
    ]

    known = bool(found["limit"] and found["fails_at"])

    def paint(figure: Figure) -> None:
        axes = plain(figure.subplots(), "messages a second", "milliseconds", "both")
        values = [bound for _, bound in bounds]
        for name, colour, style in (("p50", BLUE, "-"), ("p99", GREY, "--")):
            rates = [each["rate"] for each in points]
            series = [max(0.01, each[name]) for each in points]
            values += series
            axes.plot(
                *(rates, series, style),
                color=colour,
                linewidth=1.5,
                label=name,
                zorder=2,
            )
        for label, colour, marker, chosen in MARKS:
            some = [each for each in points if chosen(each)]
            if some:
                axes.plot(
                    [each["rate"] for each in some],
                    [max(0.01, each["p99"]) for each in some],
                    *(marker,),
                    color=colour,
                    markersize=8,
                    label=f"p99, {label}",
                    zorder=3,
                )
        axes.set_xscale("log")
        scaled(axes, values)
        least, most = points[0]["rate"], points[-1]["rate"]
        axes.set_xlim(least / 1.2, most * 1.2)
        numbers(axes)
        for text, bound in bounds:
            dashes = (0, (4, 2))
            axes.axhline(bound, color=RED, linewidth=1.2, linestyle=dashes, label=text)
        if known:
            axes.axvspan(found["limit"], found["fails_at"], color=PALE, alpha=0.5)
        legend(axes, 3)

    title = re.sub(r" \(.*?\)", "", str(found["sentence"])).partition(";")[0]
    return Picture(
        "limit",
        title.partition(": ")[0].rstrip("."),
        f"Each mark is a run.{BAND if known else ''}",
        paint,
    )


def numbers(axes: Any) -> None:
    """Label a logarithmic x axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))

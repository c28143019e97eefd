"""A page for two sides that were measured in turns: what differs, and every run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labserver.load.figures.compare import Comparison, Row, compare, doubts, latency
from labserver.load.figures.saved import Saved
from labserver.load.pictures.drawing import Picture, png
from labserver.load.pictures.gallery import pictures
from labserver.load.pictures.report import (
    NAME,
    drawn,
    rendered,
    section,
    stamp_of,
    when,
)
from labserver.load.pictures.style import BLUE, INK, ORANGE, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = "a-and-b"
p99 = latency(99)


def write_contrast(a: Sequence[Saved], b: Sequence[Saved], folder: Path) -> Path:
    """Write ``report.html`` and the picture of all runs; return the page's path.

    Raises:
        OSError: It cannot be written.
        Unreadable: The sides cannot be compared; the message says why.

    """
    found = compare(a, b)
    for picture in dots(found):
        png(picture, caption(a), folder, stamp_of([*a, *b]))
    path = folder / NAME
    path.write_text(page(a, b, found), encoding="utf-8")
    return path


def page(a: Sequence[Saved], b: Sequence[Saved], found: Comparison) -> str:
    """Return the page as HTML."""
    runs = sorted(
        [("A", run) for run in a] + [("B", run) for run in b],
        key=lambda each: each[1].name,
    )
    return rendered(
        "contrast.html",
        title=f"A and B: {a[0].title}",
        when=when(runs[0][1]),
        machine=a[0].machine,
        load=a[0].about["load"],
        a={"count": len(a), "server": server(a)},
        b={"count": len(b), "server": server(b)},
        finding=finding(found),
        notes=list(filter(None, (found.advice(), *doubts(a, b)))),
        rows=found.rows,
        drawn=[drawn(each, caption(a)) for each in dots(found)],
        runs=[
            {**section(run, number), "side": side, "turn": number}
            for number, (side, run) in enumerate(runs, 1)
        ],
        shown=[middle(side, runs) for side, runs in (("A", a), ("B", b))],
    )


def server(runs: Sequence[Saved]) -> str:
    return str(runs[0].about.get("server", "a server"))


def caption(runs: Sequence[Saved]) -> str:
    return runs[0].caption.partition(" Server:")[0]


def middle(side: str, runs: Sequence[Saved]) -> dict[str, Any]:
    """Return the values of the run whose p99 is the median of its side."""
    run = sorted(runs, key=lambda each: p99(each) or 0.0)[len(runs) // 2]
    return {
        "heading": f"{side}: {server(runs)}",
        "folder": run.folder.name,
        "pictures": [drawn(each, run.caption) for each in pictures(run)],
    }


def finding(found: Comparison) -> str:
    """Return what differs in a sentence."""
    if found.refused:
        return "; ".join(found.refused) + "."
    sure = [f"{row.figure}: {row.verdict}" for row in found.rows if claimed(row)]
    if sure:
        return "; ".join(sure) + "."
    return "No figure differs by more than chance."


def claimed(row: Row) -> bool:
    return row.verdict.startswith("B is")


def dots(found: Comparison) -> list[Picture]:
    """Return the picture with a dot for each run; none if nothing was compared."""
    rows = [row for row in found.rows if len({*row.a.values, *row.b.values}) > 1]
    if not rows:
        return []

    def paint(figure: Figure) -> None:
        every = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
        for axes, row in zip(every, rows, strict=True):
            plain(axes, grid="x")
            for height, side, colour, marker in (
                (1, row.a, BLUE, "o"),
                (0, row.b, ORANGE, "s"),
            ):
                axes.plot(
                    side.values,
                    [height] * side.count,
                    marker,
                    color=colour,
                    markersize=7,
                    alpha=0.6,
                    clip_on=False,
                )
            axes.set_yticks([1, 0], ["A", "B"])
            axes.set_ylim(-0.6, 1.6)
            axes.set_xlim(0, max(row.a.most, row.b.most) * 1.05)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.set_title(
                f"{row.figure}: {row.verdict}", loc="left", fontsize=9, color=INK
            )

    sure = [row for row in rows if claimed(row)]
    title = "No figure differs by more than chance"
    if sure:
        title = f"{sure[0].figure}: {sure[0].verdict}"
    return [
        Picture(
            PICTURE,
            title,
            "Each mark is a run. Where the marks of A and B overlap, the runs of one "
            "side differ as much as the sides do.",
            paint,
            height=0.95 * len(rows) + 0.2,
        )
    ]

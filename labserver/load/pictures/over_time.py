"""A run over time: what clients and servers measured in each second, and the faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

from labserver.load.figures.histogram import ms
from labserver.load.figures.saved import Saved
from labserver.load.figures.trust import MOSTLY
from labserver.load.pictures.drawing import Picture, legend, marks, scaled
from labserver.load.pictures.plots import STYLES
from labserver.load.pictures.style import INK, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAITING = "waiting to\nbe read (KB)"


def timeline(saved: Saved) -> Picture | None:
    """Draw figures of clients and servers over time, with the faults."""
    if len(saved.table) < 3:
        return None
    table = saved.table
    servers = max(
        (int(name.rpartition("_")[2]) for name in table[0] if name.startswith("cpu_")),
        default=0,
    )
    panels: list[tuple[str, float, Sequence[tuple[str, str, int]]]] = [
        ("latency\n(ms)", 1, [("p50_ms", "p50", 0), ("p99_ms", "p99", 1)]),
        ("connections", 1, per_server(saved, "connections", servers)),
        (WAITING, 1e-3, per_server(saved, "outbox_bytes", servers)),
        ("processor\n(% of a core)", 100, per_server(saved, "cpu", servers)),
        ("memory\n(MB)", 1e-6, per_server(saved, "rss_bytes", servers)),
    ]
    panels = [
        each
        for each in panels
        if any(row.get(column) is not None for column, _, _ in each[2] for row in table)
    ]
    # The panel of waiting bytes is left out if it is always zero.
    panels = [each for each in panels if each[0] != WAITING or any_of(table, each[2])]
    if not panels:  # no server answered, and nothing arrived
        return None

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        many = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        seconds = [row["seconds"] for row in table]
        for place, (axes, (name, factor, lines)) in enumerate(
            zip(many, panels, strict=True)
        ):
            plain(axes, "", name)
            values = []
            for column, label, style in lines:
                line = [
                    nan if row.get(column) is None else row[column] * factor
                    for row in table
                ]
                values += line
                colour, dashes = STYLES[style % len(STYLES)]
                axes.plot(
                    *(seconds, line),
                    color=colour,
                    linestyle=dashes,
                    linewidth=1.8,
                    label=label,
                    marker="o",
                    markersize=2.2,
                )
            marks(axes, saved.faults, names=place == 0)
            if place == 0:
                scaled(axes, values, low=True)
                legend(axes, 4)
            else:
                axes.set_ylim(0, 1.15 * max((v for v in values if v > 0), default=1))
                if place == 1 and servers:
                    legend(axes, 4)
        many[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        many[-1].set_xlabel("seconds since the run began", fontsize=9, color=INK)
        figure.align_ylabels(many)

    return Picture(
        f"{saved.scenario}-timeline",
        timeline_title(saved),
        "All panels show the same seconds: the upper one is measured by the clients, "
        "the others by the servers. A gap is a server that did not answer"
        + (", and a red line an injected fault." if saved.faults else "."),
        paint,
        height=0.95 * len(panels) + 0.7,
    )


def any_of(
    table: Sequence[Mapping[str, Any]], lines: Sequence[tuple[str, str, int]]
) -> bool:
    """Return whether any of these columns has a value other than zero."""
    return any(row.get(column) for column, _, _ in lines for row in table)


def per_server(saved: Saved, name: str, servers: int) -> list[tuple[str, str, int]]:
    """Return column, name and style of each server's line."""
    if not servers:
        return [(name, "server", 0)]
    names = saved.about.get("servers") or [f"replica {n + 1}" for n in range(servers)]
    return [
        (f"{name}_{number}", str(each), number - 1)
        for number, each in enumerate(names[: len(STYLES)], 1)
    ]


def timeline_title(saved: Saved) -> str:
    worst = max((row["p99_ms"] or 0 for row in saved.table), default=0)
    title = f"The slowest second had a p99 of {ms(worst * 1000)}"
    slow = next((row for row in saved.table if row["p99_ms"] == worst), None)
    if slow and (slow["sent_late_p99_ms"] or 0) >= MOSTLY * worst:
        title += ", most of it the generator's own"
    if saved.faults:
        title += f"; {saved.faults[0][1]} at {saved.faults[0][0]:.0f} s"
    return title

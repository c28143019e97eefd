"""The pictures of a run; the title is the finding, the caption is the load.

Each function returns a :class:`Picture`, or None when the run has nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import nan
from typing import TYPE_CHECKING, Any

from labserver.load.figures.budget import PERCENTS, share
from labserver.load.figures.histogram import Histogram, ms
from labserver.load.figures.saved import Saved
from labserver.load.figures.timeline import Slice
from labserver.load.figures.trust import MOSTLY, percentile, trusted, whole
from labserver.load.pictures.drawing import (
    Picture,
    curve,
    finish,
    legend,
    marks,
    percentile_axes,
    scaled,
)
from labserver.load.pictures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    WHITE,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))
WAITING = "waiting to\nbe read (KB)"
READ_CURVE = (
    "Find a percentile on the lower axis, and its latency on the left axis: the last "
    "step of a line is its slowest message."
)


def own_share(saved: Saved, axes: Axes) -> None:
    """Draw the generator's own delays, below the latency that it measured."""
    record = saved.record
    curve(axes, record.slip, GREY, "included: sent late", "--", thin=True)
    curve(axes, record.lag, GREY, "not included: read late", ":", thin=True)


def group_curve(saved: Saved) -> Picture | None:
    """Draw latency over percentile, of all groups that are not slow by design."""
    scenario = saved.scenario
    prefix = "" if scenario == "mixed" else f"{scenario}/"
    latency = whole(saved.record, prefix)
    if not latency.count:
        return None
    tallies = saved.record.tallies
    mine = [
        each
        for name, each in tallies.items()
        if name.startswith(prefix) and name not in saved.record.by_design
    ]
    delivered = sum(each.delivered for each in mine)
    expected = sum(each.expected for each in mine)

    def paint(figure: Figure) -> None:
        axes = percentile_axes(figure.subplots())
        curve(axes, latency, BLUE, "from due to arrival")
        own_share(saved, axes)
        finish(axes, 3)

    return Picture(
        f"{scenario}-percentiles",
        f"p50 {trusted(saved.record, prefix, 50)}, "
        f"p99 {trusted(saved.record, prefix, 99)}, "
        f"{delivered:,} of {expected:,} delivered",
        READ_CURVE + " The grey lines are the generator's own delays: where they come "
        "near the blue line, the generator measured itself.",
        paint,
        note=f"{trusted(saved.record, prefix, 50).publishes:,} publishes.",
    )


def steps(saved: Saved) -> list[tuple[int, Slice]]:
    """Return the figures at each number of members, added over its full seconds."""
    record = saved.record
    found: dict[int, Slice] = {}
    for before, now in pairwise(sorted(record.slices)):
        first, piece = record.slices[before], record.slices[now]
        # A second in which the number changes is left out.
        if now == before + 1 and first.users == piece.users > 0 and piece.latency:
            found.setdefault(piece.users, Slice()).add(piece)
    return sorted(found.items())


def by_subscribers(saved: Saved) -> Picture | None:
    """Draw percentiles over the number of members, if the number changed."""
    found = []
    for users, piece in steps(saved):
        latency = Histogram.merged(
            each
            for name, each in piece.latency.items()
            if name not in saved.record.by_design
        )
        if latency.count >= 100:
            found.append((users, latency, piece))
    if len(found) < 3:
        return None
    numbers = [users for users, _, _ in found]

    def paint(figure: Figure) -> None:
        axes = plain(figure.subplots(), "members of the room", "milliseconds")
        own = [
            (piece.slip.percentile(99) + piece.lag.percentile(99)) / 1000
            for _, _, piece in found
        ]
        values = list(own)
        for percent, colour, style, marker in (
            (99.9, PURPLE, ":", "^"),
            (99, ORANGE, "--", "s"),
            (50, BLUE, "-", "o"),
        ):
            points = [each.percentile(percent) / 1000 for _, each, _ in found]
            values += points
            axes.plot(
                numbers,
                points,
                color=colour,
                linestyle=style,
                linewidth=2,
                marker=marker,
                markersize=5,
                label=f"p{percent:g}",
            )
        scaled(axes, values)
        axes.fill_between(
            *(numbers, axes.get_ylim()[0], own),
            color=PALE,
            alpha=0.6,
            linewidth=0,
            zorder=0,
            label="the generator's own p99 (sent late + read late)",
        )
        axes.set_xlim(left=0)
        legend(axes, 4)

    last = found[-1]
    return Picture(
        f"{saved.scenario}-subscribers",
        f"From {numbers[0]:,} to {numbers[-1]:,} members, p99 goes from "
        f"{percentile(found[0][1], 99, found[0][2].published)} to "
        f"{percentile(last[1], 99, last[2].published)}",
        "Each mark is one step of the load; where a line meets the grey band, it shows "
        "the generator's own delay.",
        paint,
        note=f"{min(each.count for _, each, _ in found):,} messages or more a mark.",
    )


def budget(saved: Saved) -> Picture | None:
    """Draw the parts of each percentile."""
    latency = whole(saved.record)
    if not latency.count:
        return None
    shares = [share(latency, percent) for percent in PERCENTS]

    def paint(figure: Figure) -> None:
        axes = plain(
            figure.subplots(), "share of the time from due to arrival (%)", "", ""
        )
        values = [latency.percentile(each.percent) for each in shares]
        rows = list(zip(shares, values, strict=True))[::-1]
        for row, (each, value) in enumerate(rows):
            start = 0.0
            for part, label, colour in (
                (each.part, "generator, sent late", ORANGE),
                (1 - each.part, "server and network", BLUE),
            ):
                axes.barh(
                    *(row, 100 * part),
                    left=start,
                    color=colour,
                    height=0.62,
                    label=label if not row else "_",
                )
                if part > 0.09:
                    axes.text(
                        *(start + 50 * part, row, ms(part * value)),
                        ha="center",
                        va="center",
                        fontsize=9,
                        color=WHITE,
                    )
                start += 100 * part
        names = [f"p{each.percent:g}\n{ms(value)}" for each, value in rows]
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        legend(axes, 2)

    part = share(latency, 99).part
    most = "the generator, sent late" if part >= MOSTLY else "server and network"
    return Picture(
        f"{saved.scenario}-budget",
        f"{max(part, 1 - part):.0%} of the p99 is: {most}",
        "Each bar is a percentile, in parts as the messages next to it have them: only "
        "the blue part is the server's.",
        paint,
        height=2.7,
    )


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
            if place == 0:
                scaled(axes, values, low=True)
                legend(axes, 4)
            else:
                axes.set_ylim(bottom=0)
                if not any(value > 0 for value in values):
                    axes.set_ylim(0, 1)
                if place == 1 and servers:
                    legend(axes, 4)
            marks(axes, saved.faults, names=place == 1)
        many[-1].set_xlabel("seconds since the run began", fontsize=9, color=INK)
        figure.align_ylabels(many)

    return Picture(
        f"{saved.scenario}-timeline",
        timeline_title(saved),
        "All panels show the same seconds: the upper one is measured by the clients, "
        "the others by the servers; a gap is a server that did "
        "not answer, a red line is an injected fault.",
        paint,
        height=1.15 * len(panels) + 0.6,
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


def replicas(saved: Saved) -> Picture | None:
    """Draw latencies on the publisher's replica, and on the other replicas."""
    sides = compared(
        saved,
        [(side, f"replicas/{side}") for side in ("same replica", "other replica")],
    )
    if len(sides) < 2:
        return None
    return Picture(
        "replicas",
        "Across replicas: "
        + ", ".join(
            f"{n} p50 {trusted(saved.record, 'replicas/', 50, h)}" for n, h in sides
        ),
        "The distance between the lines is the additional time for a message to "
        "another replica.",
        painted(sides, "from due to arrival (ms)"),
        note="Publisher on the first replica.",
    )


def slow_readers(saved: Saved) -> Picture | None:
    """Draw the deliveries to healthy and to slow readers."""
    record = saved.record
    groups = [
        (name.partition("/")[2], tally)
        for name, tally in sorted(record.tallies.items(), reverse=True)
        if name.startswith("slow_readers/") and tally.expected
    ]
    healthy = record.histogram("slow_readers/healthy")
    if not groups or not healthy.count:
        return None
    kinds = (
        ("delivered", "delivered", BLUE, WHITE),
        ("told", "announced gap", GREEN, WHITE),
        ("unread", "never read", PALE, INK),
        ("lost", "lost", RED, WHITE),
    )

    def paint(figure: Figure) -> None:
        axes = plain(figure.subplots(), "share of what was published (%)", "", "")
        for row, (_, tally) in enumerate(groups):
            start = 0.0
            for kind, _, colour, words in kinds:
                share = 100 * getattr(tally, kind) / tally.expected
                axes.barh(row, share, left=start, color=colour, height=0.6)
                if share > 7:
                    axes.text(
                        *(start + share / 2, row, f"{share:.0f} %"),
                        ha="center",
                        va="center",
                        fontsize=9,
                        color=words,
                    )
                start += share
        for kind, label, colour, _ in kinds:
            if any(getattr(tally, kind) for _, tally in groups):
                axes.barh(0, 0, color=colour, label=label)
        axes.set_yticks(range(len(groups)), [name for name, _ in groups])
        axes.set_ylim(-0.5, len(groups) - 0.5)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        legend(axes, 4)

    outcomes = "; ".join(
        f"{name.partition('/')[2]}: {count}x {what}"
        for name, found in sorted(record.outcomes.items())
        for what, count in found.items()
        if name.startswith("slow_readers/") and not what.startswith("still connected")
    )
    return Picture(
        "slow_readers",
        f"Beside slow readers, the healthy ones have p99 "
        f"{trusted(saved.record, 'slow_readers/healthy', 99)}",
        "Each bar is one kind of reader: only the red part was lost without a "
        "gap, and the bar of healthy readers should be blue to the end.",
        paint,
        note=f"Ended: {outcomes}; all others were connected at the end."
        if outcomes
        else "All were connected at the end.",
        height=max(0.3, 0.7 - 0.05 * len(groups)) * len(groups) + 1.1,
    )


def compared(
    saved: Saved, names: Iterable[tuple[str, str]]
) -> list[tuple[str, Histogram]]:
    """Return the histograms of these names that counted something."""
    found = saved.record.latency
    return [(n, found[key]) for n, key in names if key in found and found[key].count]


def compared_own(
    saved: Saved, names: Iterable[tuple[str, str]]
) -> list[tuple[str, Histogram]]:
    """Return the same from the figures that are special to the run's scenario."""
    own = saved.record.figures.get(saved.scenario)
    found = own.histograms if own is not None else {}
    return [(n, found[key]) for n, key in names if key in found and found[key].count]


def painted(
    sides: Sequence[tuple[str, Histogram]], unit: str
) -> Callable[[Figure], None]:
    """Return a function that draws one curve for each side."""

    def paint(figure: Figure) -> None:
        axes = percentile_axes(figure.subplots())
        axes.set_ylabel(unit)
        for (name, histogram), (colour, style) in zip(sides, STYLES, strict=False):
            curve(axes, histogram, colour, f"{name} ({histogram.count:,})", style)
        finish(axes)

    return paint

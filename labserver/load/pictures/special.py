"""Pictures of figures that are special to one scenario; see figures/own.py."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from labserver.load.figures.histogram import ms
from labserver.load.figures.saved import Saved
from labserver.load.pictures.drawing import Picture, legend
from labserver.load.pictures.plots import STYLES, compared_own, painted
from labserver.load.pictures.style import GREY, RED, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = ("with jitter", "without jitter")
PROMISE = "promised within"


def own(saved: Saved) -> Mapping[str, Any]:
    """Return the figures of the run's own scenario, by name."""
    found: Mapping[str, Any] = saved.summary.get("figures", {}).get(saved.scenario, {})
    return found


def points(saved: Saved, name: str) -> list[tuple[float, float]]:
    """Return the points of a series or a gauge; an empty list if there is none."""
    return [(at, value) for at, value in own(saved).get(name, {}).get("points", ())]


def storm(saved: Saved) -> Picture | None:
    """Draw how clients reconnect over time, with and without jitter."""
    back = {label: points(saved, f"accepts, {label}") for label in LABELS}
    tried = {label: points(saved, f"attempts, {label}") for label in LABELS}
    found = [label for label in LABELS if back[label]]
    if not found:
        return None
    first = min(at for label in found for at, _ in tried[label] or back[label])
    zero = max((at for at, _ in saved.faults if at <= first + 0.1), default=first)
    step = own(saved)[f"accepts, {found[0]}"]["step"]
    since = "all were cut off" if saved.faults else "the first came back"

    def shifted(line: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
        return [at - zero for at, _ in line], [count for _, count in line]

    def paint(figure: Figure) -> None:
        upper, middle, lower = figure.subplots(3, 1, sharex=True)
        plain(upper, "", "attempts")
        plain(middle, "", "back again")
        plain(lower, f"seconds since {since}", "are back (%)")
        for label, (colour, style) in zip(found, STYLES, strict=False):
            for axes, line in ((upper, tried[label]), (middle, back[label])):
                axes.bar(
                    *shifted(line),
                    width=step,
                    color=colour,
                    alpha=0.75,
                    align="edge",
                    label=label,
                )
            ats, counts = shifted(back[label])
            shares = [100 * each / sum(counts) for each in accumulate(counts)]
            lower.plot(
                *([0.0, *(at + step for at in ats)], [0.0, *shares]),
                color=colour,
                linestyle=style,
                linewidth=2,
                drawstyle="steps-post",
            )
        lower.set_ylim(0, 104)
        lower.set_xlim(left=0)
        figure.align_ylabels([upper, middle, lower])
        legend(upper)

    peaks = ", ".join(
        f"{max(count for _, count in tried[label] or back[label]):,.0f} {label}"
        for label in found
    )
    refused = sum(
        each["value"]
        for name, each in own(saved).items()
        if name.startswith("refused ")
    )
    return Picture(
        "reconnect_storm",
        f"Peak of attempts in {step * 1000:g} ms: {peaks}",
        f"Clients in {step * 1000:g} ms each: above, how many tried to connect, below "
        "that, how many came in. Low and wide is good; high and narrow is a storm.",
        paint,
        note=f"{refused:,} attempts were told to come later." if refused else "",
        height=3.9,
    )


def outage(saved: Saved) -> Picture | None:
    """Draw how long clients were disconnected."""
    sides = compared_own(saved, [(each, f"back after, {each}") for each in LABELS])
    if not sides:
        return None
    return Picture(
        "reconnect_storm-outage",
        "Half are back after "
        + ", ".join(f"{h.percentile(50) / 1e6:.1f} s {name}" for name, h in sides),
        "Each client's time from being cut off to being in its room again: 99 on the "
        "lower axis is when all but one in a hundred are back.",
        painted(sides, "seconds"),
    )


def memory(saved: Saved) -> Picture | None:
    """Draw memory over connections, and the memory of one connection."""
    found = own(saved)
    each = found.get("memory per connection", {}).get("points", ())
    lines = []
    for name in found:
        if name.startswith("memory, "):
            replica = name.removeprefix("memory, ")
            held = dict(points(saved, f"connections, {replica}"))
            line = [(held[at], size) for at, size in points(saved, name) if at in held]
            if line:
                empty = line[0][1]
                lines.append((replica, [(n, (z - empty) / 1e3) for n, z in line]))
    if not lines or not each:
        return None
    cost = each[-1][1] / 1e3

    def paint(figure: Figure) -> None:
        axes = plain(figure.subplots(), "connections", "more memory (KB)")
        for (replica, line), (colour, style) in zip(lines, STYLES, strict=False):
            axes.plot(
                *([count for count, _ in line], [size for _, size in line]),
                color=colour,
                linestyle=style,
                linewidth=1.6,
                marker="o",
                markersize=4,
                label=f"server {replica}",
            )
        most = max(count for _, line in lines for count, _ in line)
        axes.plot(
            *([0, most], [0, most * cost]),
            color=GREY,
            linestyle=":",
            linewidth=1.4,
            label=f"{cost:.1f} KB a connection",
        )
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        legend(axes, 3)

    return Picture(
        "idle-memory",
        f"An idle connection costs the server {cost:.1f} KB",
        "Each mark is one sample while clients connect: resident memory, less what the "
        "server had before the first connection. The slope is a connection's.",
        paint,
    )


def silence(saved: Saved) -> Picture | None:
    """Draw how long a server takes to notice a dead peer, and what it promised."""
    sides = compared_own(saved, [("noticed", "noticed after")])
    if not sides:
        return None
    promises = [limit for _, limit in points(saved, PROMISE)]
    curves = painted(sides, "seconds")

    def paint(figure: Figure) -> None:
        curves(figure)
        (axes,) = figure.axes
        axes.set_yscale("linear")
        longest = sides[0][1].highest / 1e6
        axes.set_ylim(0, 1.2 * max(longest, *promises, 0.0))
        if promises:
            axes.axhline(
                min(promises),
                color=RED,
                linewidth=1.4,
                linestyle=(0, (4, 2)),
                label=f"promised: {min(promises):g} s",
            )
        legend(axes)

    return Picture(
        "idle-silence",
        f"A silent peer is cut off after {sides[0][1].percentile(50) / 1e6:.1f} s (p50)"
        f", {sides[0][1].highest / 1e6:.1f} s at most"
        + (f"; promised are {min(promises):g} s" if promises else ""),
        "From a peer's last sign of life to its end. The promise is two intervals of "
        "the heartbeat, which the server names in its hello.",
        paint,
    )


def churn(saved: Saved) -> Picture | None:
    """Draw the times of connects, joins, leaves and refusals."""
    names = ("handshake", "join", "leave", "refusal")
    sides = compared_own(saved, [(name, name) for name in names])
    if not sides:
        return None
    cycles = own(saved).get("cycles", {}).get("value", 0)
    return Picture(
        "churn",
        f"{cycles:,} visits: "
        + ", ".join(f"{name} p99 {ms(h.percentile(99))}" for name, h in sides[:2]),
        "From asked to answered: each line is one step of a visit, with its count.",
        painted(sides, "milliseconds"),
    )

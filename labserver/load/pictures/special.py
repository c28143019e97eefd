"""Pictures of figures that are special to one scenario; see figures/own.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labserver.load.figures.histogram import ms
from labserver.load.figures.saved import Saved
from labserver.load.pictures.drawing import Picture, legend
from labserver.load.pictures.plots import STYLES, compared_own, painted
from labserver.load.pictures.style import GREY, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = ("with jitter", "without jitter")


def own(saved: Saved) -> Mapping[str, Any]:
    """Return the figures of the run's own scenario, by name."""
    found: Mapping[str, Any] = saved.summary.get("figures", {}).get(saved.scenario, {})
    return found


def points(saved: Saved, name: str) -> list[tuple[float, float]]:
    """Return the points of a series or a gauge; an empty list if there is none."""
    return [(at, value) for at, value in own(saved).get(name, {}).get("points", ())]


def storm(saved: Saved) -> Picture | None:
    """Draw how clients reconnect over time, with and without jitter."""
    lines = [(label, points(saved, f"accepts, {label}")) for label in LABELS]
    first = min((line[0][0] for _, line in lines if line), default=0.0)
    zero = max((at for at, _ in saved.faults if at <= first + 0.1), default=first)
    found = [
        (label, [(at - zero, count) for at, count in line])
        for label, line in lines
        if line
    ]
    if not found:
        return None
    step = own(saved)[f"accepts, {found[0][0]}"]["step"]
    since = "all were cut off" if saved.faults else "the first was back"

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        plain(upper, "", f"came back in\n{step * 1000:g} ms (clients)")
        plain(lower, f"seconds since {since}", "are back (%)")
        for (label, line), (colour, style) in zip(found, STYLES, strict=False):
            total = sum(count for _, count in line)
            upper.bar(
                *([at for at, _ in line], [count for _, count in line]),
                width=step,
                color=colour,
                alpha=0.75,
                align="edge",
                label=label,
            )
            seen, sums = 0.0, [(0.0, 0.0)]
            for at, count in line:
                seen += count
                sums.append((at + step, 100 * seen / total))
            lower.plot(
                *([at for at, _ in sums], [share for _, share in sums]),
                color=colour,
                linestyle=style,
                linewidth=2,
                drawstyle="steps-post",
                label=label,
            )
        lower.set_ylim(0, 104)
        lower.set_xlim(left=0)
        legend(upper)

    peaks = ", ".join(
        f"{max(count for _, count in line):,.0f} {label}" for label, line in found
    )
    return Picture(
        "reconnect_storm",
        f"Peak of clients back in {step * 1000:g} ms: {peaks}",
        "Low and wide is good for the server; high and narrow is a storm. Below, all "
        "clients are back where a line reaches 100 %.",
        paint,
        height=4.2,
    )


def outage(saved: Saved) -> Picture | None:
    """Draw how long clients were disconnected."""
    sides = compared_own(saved, [(each, f"back after, {each}") for each in LABELS])
    if not sides:
        return None
    return Picture(
        "reconnect_storm-outage",
        "Half are back after "
        + ", ".join(f"{ms(h.percentile(50))} {name}" for name, h in sides),
        "Each client's time from being cut off to being in its room again: 99 on the "
        "lower axis is when all but one in a hundred are back.",
        painted(sides, "from cut off to joined again (ms)"),
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
                lines.append((replica, line))
    if not lines or not each:
        return None
    cost = each[-1][1]

    def paint(figure: Figure) -> None:
        axes = plain(figure.subplots(), "connections", "resident memory (MB)")
        for (replica, line), (colour, style) in zip(lines, STYLES, strict=False):
            axes.plot(
                *([count for count, _ in line], [size / 1e6 for _, size in line]),
                color=colour,
                linestyle=style,
                linewidth=1.6,
                marker="o",
                markersize=4,
                label=f"server {replica}",
            )
        most = max(count for _, line in lines for count, _ in line)
        base = min(size for _, line in lines for _, size in line)
        axes.plot(
            *([0, most], [base / 1e6, (base + most * cost) / 1e6]),
            color=GREY,
            linestyle=":",
            linewidth=1.4,
            label=f"{cost / 1000:.1f} KB a connection",
        )
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        legend(axes, 3)

    return Picture(
        "idle-memory",
        f"An idle connection costs the server {cost / 1000:.1f} KB",
        "Each mark is one sample of a server while clients connect: the slope is the "
        "memory of a connection, and its start is the memory without any connection.",
        paint,
    )


def silence(saved: Saved) -> Picture | None:
    """Draw how long a server takes to notice a dead peer."""
    sides = compared_own(saved, [("noticed", "noticed after")])
    if not sides:
        return None
    return Picture(
        "idle-silence",
        f"A silent peer is cut off after {ms(sides[0][1].percentile(50))} (p50), "
        f"{ms(sides[0][1].highest)} at most",
        "From a peer's last sign of life to its end: the promise is two intervals of "
        "the heartbeat.",
        painted(sides, "from the last sign of life (ms)"),
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
        "Each line is one step of a visit, with its count in brackets.",
        painted(sides, "from asked to answered (ms)"),
    )


def omission(saved: Saved) -> Picture | None:
    """Draw the same stall as measured by a closed loop and by an open loop."""
    names = ("waits, from sent", "waits, from due", "keeps on, from due")
    sides = compared_own(saved, [(name, name) for name in names])
    if len(sides) < len(names):
        return None
    sent, due, _ = (histogram for _, histogram in sides)
    return Picture(
        "omission",
        f"One client in one stall: p99 {ms(sent.percentile(99))} counted from when it "
        f"sent, {ms(due.percentile(99))} from when it was due",
        "All lines have the same frozen second: a client that waits for answers sends "
        "only once meanwhile, and hides the rest (coordinated omission) unless it "
        "counts from when each message was due.",
        painted(sides, "milliseconds"),
    )


def buffers(runs: Sequence[Saved]) -> Picture | None:
    """Draw the bytes that wait for slow readers in the server, under each policy."""
    lines = []
    for run in runs:
        policy = run.about.get("variant")
        line = [
            (row["seconds"], row["outbox_bytes"])
            for row in run.table
            if row.get("outbox_bytes") is not None
        ]
        if run.scenario == "slow_readers" and policy and line:
            lines.append((str(policy), line))
    if len(lines) < 2:
        return None

    def paint(figure: Figure) -> None:
        axes = plain(
            *(figure.subplots(), "seconds since the run began"),
            "waiting for readers (KB)",
        )
        for (policy, line), (colour, style) in zip(lines, STYLES, strict=False):
            axes.plot(
                *([at for at, _ in line], [size / 1e3 for _, size in line]),
                color=colour,
                linestyle=style,
                linewidth=2,
                marker="o",
                markersize=3,
                label=policy,
            )
        axes.set_ylim(bottom=0)
        legend(axes, 4)

    most = max(max(size for _, size in line) for _, line in lines)
    return Picture(
        "slow_readers-policies",
        f"At most {most / 1e6:.2f} MB wait in a server for its slow readers, under any "
        "policy",
        "Each line is a run with one policy, and the same slow readers: it should "
        "level off, and falls when a reader is cut off or has caught up.",
        paint,
    )

"""Pictures of several runs of a scenario, which are compared with a quiet one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labserver.load.figures.histogram import ms
from labserver.load.figures.saved import ALONE, CALM, CONTROL, Saved
from labserver.load.figures.trust import Percentile, trusted, whole
from labserver.load.pictures.drawing import Picture, legend
from labserver.load.pictures.plots import STYLES, painted
from labserver.load.pictures.style import plain
from labserver.settings import POLICIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def control(runs: Sequence[Saved]) -> Picture | None:
    """Draw healthy readers beside slow ones, and the same crowd without any."""
    sides = [
        (str(run.about["variant"]), whole(run.record))
        for run in runs
        if run.about.get("variant") in (CONTROL, *POLICIES)
    ]
    names = [name for name, _ in sides]
    if CONTROL not in names or len(names) < 2:
        return None
    found = {str(r.about.get("variant")): trusted(r.record, "", 99) for r in runs}
    others = [found[name] for name in names if name != CONTROL]
    return Picture(
        "slow_readers-control",
        f"Healthy readers have a p99 of {span(others)} beside slow readers, and of "
        f"{found[CONTROL]} without any",
        "The same healthy crowd in each run, beside slow readers under one policy of "
        "the outbox, and once without slow readers. One run a line: two runs of the "
        "same server differ, too.",
        painted(sides, "milliseconds", publishes(runs)),
    )


def broker(runs: Sequence[Saved]) -> Picture | None:
    """Draw one process, and three replicas with a broker, without a fault."""
    found = {run.about.get("variant"): run.record.latency for run in runs}
    if ALONE not in found or CALM not in found:
        return None
    sides = [
        (label, found[variant][f"replicas/{side}"])
        for label, variant, side in (
            ("one process", ALONE, "same replica"),
            ("by the broker, same replica", CALM, "same replica"),
            ("by the broker, other replica", CALM, "other replica"),
        )
        if f"replicas/{side}" in found[variant]
    ]
    if len(sides) < 3:
        return None
    here, _, there = (each.percentile(50) for _, each in sides)
    return Picture(
        "replicas-broker",
        f"Half of the messages take {ms(here)} in one process, and {ms(there)} by the "
        "broker to another replica",
        "The same room and crowd, on one process without a broker, and on three "
        "replicas with Redis between them. One run a line, on the same machine.",
        painted(sides, "milliseconds", publishes(runs)),
    )


def publishes(runs: Sequence[Saved]) -> int:
    """Return the fewest publishes of any of these runs."""
    return min(sum(run.record.published.values()) for run in runs)


def span(values: Sequence[Percentile]) -> str:
    least, most = (choose(values, key=lambda each: each.value) for choose in (min, max))
    return str(least) if least.shown == most.shown else f"{least} to {most}"


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
        if policy in POLICIES and line:
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
        f"At most {most / 1e3:,.0f} KB wait in a server for its slow readers, "
        "under any policy",
        "Each line is a run with one policy, and the same slow readers: it should "
        "level off, and falls when a reader is cut off or has caught up.",
        paint,
    )

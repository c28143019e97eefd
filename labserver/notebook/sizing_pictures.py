"""Pictures of a fleet: the work of its cores, and clients that reconnect."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from labserver.load.pictures.style import COLOURS, GRID, INK
from labserver.notebook.charts import WIDTH, Picture
from labserver.notebook.sizing import STEP, Comeback, Plan


def causes(plans: Mapping[str, Plan]) -> Picture:
    """Draw the busy cores of fleets by cause, one bar for each fleet."""
    title = "A million connections: cores at work, by cause"
    figure = Figure(figsize=(WIDTH, 1.5 + 0.5 * len(plans)), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    axes = figure.add_subplot()
    left = [0.0] * len(plans)
    names = list(next(iter(plans.values())).cores)
    for colour, name in zip(COLOURS, names, strict=True):
        values = [each.cores[name] for each in plans.values()]
        axes.barh(list(plans), values, left=left, color=colour, label=name, height=0.6)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for place, (end, each) in enumerate(zip(left, plans.values(), strict=True)):
        axes.annotate(
            f"{each.replicas} replicas, {each.redis} Redis",
            (end, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.set_xlim(0, max(left) * 1.3)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9, left=False)
    axes.set_xlabel("cores", color=INK, fontsize=9)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=len(names),
        frameon=False,
        fontsize=8.5,
        handlelength=1,
        columnspacing=1.2,
    )
    words = "; ".join(f"{name}: {each}" for name, each in plans.items())
    return Picture(figure, f"{title}. {words}.")


def returns(found: Mapping[str, Comeback], capacity: float) -> Picture:
    """Draw how clients reconnect to one replica: attempted handshakes, clients back."""
    title = "A zone is lost: its clients reconnect to one of the other replicas"
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    upper, lower = figure.subplots(2, 1, sharex=True)
    last = max(len(each.back) for each in found.values()) * STEP
    width = round(0.5 / STEP)
    for colour, (name, each) in zip(COLOURS, found.items(), strict=False):
        sums = [
            sum(each.asked[place : place + width]) / (width * STEP)
            for place in range(0, len(each.asked), width)
        ]
        times = [place * width * STEP for place in range(len(sums))]
        upper.step(times, sums, where="post", color=colour, linewidth=2, label=name)
        shares = [0.0, *(100 * count / each.clients for count in each.back)]
        places = [place * STEP for place in range(len(shares))]
        lower.plot([*places, last], [*shares, shares[-1]], color=colour, linewidth=2)
    upper.axhline(capacity, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    upper.annotate(
        "capacity beside its other work",
        (last, capacity),
        xytext=(-4, -14),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    upper.set_yscale("symlog", linthresh=100)
    upper.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    upper.set_ylabel("attempted\nhandshakes a second", color=INK, fontsize=9)
    lower.set_ylabel("clients back, %", color=INK, fontsize=9)
    lower.set_xlabel("seconds since the zone was lost", color=INK, fontsize=9)
    for axes in (upper, lower):
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, last)
    figure.legend(
        *upper.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=len(found),
        frameon=False,
        fontsize=9,
    )
    words = "; ".join(f"{name}: {each}" for name, each in found.items())
    return Picture(figure, f"{title}. {words}.")

"""Pictures of a fleet: what hearing costs, the work of its cores, and its clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from matplotlib.figure import Figure

from labserver.load.pictures.style import COLOURS, GRID, INK
from labserver.notebook.charts import WIDTH, Picture
from labserver.notebook.sizing.fitting import Costs, middle, rough
from labserver.notebook.sizing.fleet import STEP, Comeback, Plan, about
from labserver.notebook.sizing.ledger import Entry


def hearing(
    costs: Sequence[Costs],
    held_out: Sequence[Entry],
    uses: Mapping[str, Sequence[Plan]],
) -> Picture:
    """Draw the cost of a heard message by the rate: fits, a held-out run, its uses.

    Args:
        costs: The costs of some rounds.
        held_out: Runs without a publisher, to which nothing was fitted.
        uses: Fleets, by name; each replica of a fleet hears messages at some rate.

    """
    title = "A message costs a replica less, the more messages it hears"
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    axes = figure.add_subplot()
    for number, each in enumerate(costs):
        rates, values = zip(*each.heard.points, strict=True)
        axes.plot(
            rates,
            [1e6 * value for value in values],
            color=COLOURS[0],
            alpha=0.35,
            marker="o",
            label="" if number else f"{len(costs)} rounds, fitted",
        )
    best = middle(costs)
    at = [each.heard / each.seconds for each in held_out]
    seen = [
        1e6 * ((each.replica - best.background * each.seconds) / each.heard)
        - 1e6 * best.delivery
        for each in held_out
    ]
    rates, values = zip(*best.heard.points, strict=True)
    axes.plot(rates, [1e6 * v for v in values], color=COLOURS[0], label="the median")
    axes.plot(at, seen, "D", color=COLOURS[1], label="runs that were not fitted")
    found = f"{rough(median(seen))} us at {rough(median(at))}/s"
    words = [f"not fitted: {found}; fitted: {best.heard}"]
    top = 1.15 * max([*seen, *(1e6 * c for e in costs for _, c in e.heard.points)])
    for name, fleet in uses.items():
        used = median(each.hears for each in fleet)
        axes.axvline(used, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            name,
            (used, top),
            xytext=(4, -4) if used < rates[1] else (-4, -4),
            textcoords="offset points",
            ha="left" if used < rates[1] else "right",
            va="top",
            rotation=90,
            fontsize=9,
            color=INK,
        )
        words.append(f"{name}: {used:,.0f} messages a second for each replica")
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{each:,.0f}" for each in rates])
    axes.minorticks_off()
    axes.set_ylim(0, top)
    axes.set_xlabel("messages a second that a replica hears", color=INK, fontsize=9)
    axes.set_ylabel("us of CPU a message", color=INK, fontsize=9)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.legend(frameon=False, fontsize=9, loc="upper center")
    return Picture(figure, f"{title}. {'; '.join(words)}.")


def causes(plans: Mapping[str, Sequence[Plan]]) -> Picture:
    """Draw the busy cores of fleets by cause, one bar for each fleet.

    Args:
        plans: The plans of each fleet, one for each round of measurements. A bar has
            the one in the middle, and a line the range of all.

    """
    title = "A million connections: cores at work, by cause"
    figure = Figure(figsize=(WIDTH, 1.5 + 0.5 * len(plans)), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    axes = figure.add_subplot()
    ordered = {name: sorted(each, key=lambda p: p.busy) for name, each in plans.items()}
    drawn = [each[len(each) // 2] for each in ordered.values()]
    left = [0.0] * len(plans)
    names = list(drawn[0].cores)
    for colour, name in zip(COLOURS, names, strict=True):
        values = [each.cores[name] for each in drawn]
        axes.barh(list(plans), values, left=left, color=colour, label=name, height=0.6)
        left = [a + b for a, b in zip(left, values, strict=True)]
    words = []
    for place, (name, each) in enumerate(ordered.items()):
        ends = each[0].busy, each[-1].busy
        axes.plot(ends, [place, place], color=INK, linewidth=1, marker="|")
        fleet = about([p.replicas for p in each], "replicas")
        redis = about([p.redis for p in each], "Redis")
        axes.annotate(
            f"{fleet}\n{redis}",
            (ends[1], place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
        words.append(f"{name}: {fleet}, {redis}, {about(ends, 'cores')} at work")
    axes.set_xlim(0, max(each[-1].busy for each in ordered.values()) * 1.45)
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
    return Picture(figure, f"{title}. {'; '.join(words)}.")


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
        (last / 2, capacity),
        xytext=(0, -14),
        textcoords="offset points",
        ha="center",
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

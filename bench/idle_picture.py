"""The picture of idle connections: six costs against their number, beside Node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.idle import Cost
from bench.picture import STYLES, WIDTH, finish, panel
from bench.report import machine
from bench.servers import RIVALS, cores
from labserver.load.pictures.style import GRID, INK

# Title, and the value in the unit of the title.
PANELS: tuple[tuple[str, Callable[[Cost], float]], ...] = (
    ("Memory of a connection, KB", lambda cost: cost.memory / 1000),
    ("Time until all have joined, s", lambda cost: cost.accept),
    ("CPU of a handshake and a join, us", lambda cost: cost.accept_cpu),
    ("CPU of heartbeats, % of a core", lambda cost: 100 * cost.heartbeat),
    ("One message to all of them, ms", lambda cost: 1000 * cost.message),
    ("CPU of all goodbyes, s", lambda cost: cost.drain_cpu),
)


def medians(costs: Sequence[Cost]) -> list[Cost]:
    """Return the median of each figure, for each server and number of connections."""
    groups: dict[tuple[str, int], list[Cost]] = {}
    for cost in costs:
        groups.setdefault((cost.server, cost.connections), []).append(cost)
    names = [name for name in Cost.__dataclass_fields__ if name != "server"]
    return [
        Cost(
            server, **{name: median(getattr(c, name) for c in found) for name in names}
        )
        for (server, _), found in sorted(groups.items(), key=lambda each: each[0])
    ]


def draw(costs: Sequence[Cost], heartbeat: float, path: Path) -> None:
    """Write the picture.

    Args:
        costs: The costs of all rounds.
        heartbeat: Seconds between two pings of a connection.
        path: Where to.

    """
    figure = Figure(figsize=(WIDTH, 5.6), dpi=150, facecolor="white")
    grid = figure.add_gridspec(
        *(2, 3), left=0.055, right=0.975, top=0.84, bottom=0.16, hspace=0.5, wspace=0.2
    )
    servers = sorted({cost.server for cost in costs})
    counts = sorted({cost.connections for cost in costs})
    for place, (title, value) in enumerate(PANELS):
        axes, ends = figure.add_subplot(grid[divmod(place, 3)]), {}
        for server in servers:
            colour, marker = STYLES[server]
            values = [
                [value(c) for c in costs if (c.server, c.connections) == (server, n)]
                for n in counts
            ]
            middles = [median(each) for each in values]
            axes.plot(
                *(counts, middles),
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=2.6 if server == "lab" else 1.5,
                label=RIVALS[server].title,
            )
            lows, highs = [min(v) for v in values], [max(v) for v in values]
            axes.vlines(counts, lows, highs, color=colour, linewidth=1, alpha=0.6)
            ends[server] = middles[-1]
        for server, end in ends.items():
            axes.annotate(
                f"{end:,.{_digits(end)}f}",
                (counts[-1], end),
                xytext=(7, 4 if end == max(ends.values()) else -4),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=STYLES[server][0],
                weight="bold" if server == "lab" else "normal",
            )
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.set_xlim(0, 1.17 * counts[-1])
        axes.xaxis.set_major_locator(FixedLocator(counts))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n / 1000:g}k"))
        panel(axes, title)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
    lines = figure.axes[0].get_lines()
    figure.legend(
        handles=lines,
        loc="upper right",
        bbox_to_anchor=(0.975, 0.985),
        ncols=len(lines),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    last = {c.server: c for c in medians(costs) if c.connections == counts[-1]}
    rounds = len(costs) // max(1, len(servers) * len(counts))
    core = "The server runs on one core, the clients on another"
    if cores()[0] is None:
        core = "Server and clients share all cores"
    finish(
        figure,
        f"{counts[-1]:,} idle connections: {last['lab'].memory / 1000:.1f} KB each, "
        f"{100 * last['lab'].heartbeat:.1f} % of a core",
        f"{core}; median of {rounds} interleaved rounds, thin lines from smallest to "
        "largest. Across: connections of one process, all in one room, with a ping "
        f"every {heartbeat:g} s. The lab checks a token in each handshake. "
        f"{machine()}.",
    )
    figure.savefig(path)


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 2

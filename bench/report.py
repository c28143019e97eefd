"""The results of a contest as tables: the median of the rounds, and their spread."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import websockets

from bench.contest import Contest, Point, cpu_model
from bench.receiver import BUSY, Figures
from bench.servers import RIVALS, cores
from labserver.load.figures.results import run_name

# Share of the time that a server waits for its core: beyond it, other programs ran.
DISTURBED = 0.05
HEADS = {
    "fanout": "Fan-out, frames of {wire_bytes} bytes",
    "deflate": "Fan-out with permessage-deflate, text of about 360 bytes",
    "latency": "Latency of delivery, {wire_bytes} bytes, open loop",
    "idle": "Idle connections and handshakes",
    "replicas": "One room over two replicas with the same Redis",
}


@dataclass(frozen=True)
class Column:
    """One column of a table: a title, and the value of a run."""

    title: str
    value: Callable[[Figures], float]
    shown: str = "{:,.0f}"

    def of(self, runs: Sequence[Figures]) -> str:
        return self.shown.format(median(map(self.value, runs)))


COST = Column("CPU us a delivery", lambda run: run.cost, "{:.2f}")
MEMORY = Column("memory MB", lambda run: run.memory_end / 1e6)
SERVER = Column("server core", lambda run: run.server_share, "{:.0%}")
RECEIVER = Column("receiver core", lambda run: run.receiver_share, "{:.0%}")
RATE = Column("deliveries/s", lambda run: run.rate)
P99 = Column("p99 ms", lambda run: run.latency_p99 / 1000, "{:,.2f}")
CONNECTION = Column("bytes a connection", lambda run: run.connection)

# The first column is the subject of a section; it also gets minimum, maximum, ratio.
COLUMNS = {
    "fanout": (RATE, COST, MEMORY, SERVER, RECEIVER),
    "deflate": (
        RATE,
        COST,
        MEMORY,
        Column("frame bytes", lambda run: run.frame),
        SERVER,
        RECEIVER,
    ),
    "latency": (
        P99,
        Column("p50 ms", lambda run: run.latency_p50 / 1000, "{:,.2f}"),
        COST,
        SERVER,
        RECEIVER,
        Column(
            "arrived",
            lambda r: r.all_deliveries / (r.published * r.subscribers),
            "{:.0%}",
        ),
    ),
    "idle": (
        CONNECTION,
        Column("handshakes/s", lambda run: run.handshakes),
        Column("CPU us a handshake", lambda run: run.handshake_cost),
    ),
    "replicas": (RATE, COST, MEMORY, SERVER, RECEIVER),
}


def tables(contest: Contest) -> str:
    """Return all tables as Markdown."""
    parts = []
    for section, head in HEADS.items():
        points = [each for each in contest.points if each.section == section]
        for point in points:
            rows = _rows(contest, point)
            if rows:
                title = head.format(wire_bytes=point.load.wire_bytes)
                parts.append(f"## {title}: {point.title}\n\n{markdown(rows)}")
    if wanted := targets(contest):
        parts.append(f"## Targets\n\n{markdown(wanted)}")
    failed = [
        f"- {RIVALS[run.rival].title}, {run.point.title}: {run.failure}"
        for run in contest.runs
        if run.failure
    ]
    absent = [f"- {RIVALS[k].title}: {why}" for k, why in contest.missing.items()]
    for title, lines in (("Failed", failed), ("Not here", absent)):
        if lines:
            parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _rows(contest: Contest, point: Point) -> list[list[str]]:
    first, *others = COLUMNS[point.section]
    found = {name: contest.of(point, name) for name in contest.rivals}
    found = {name: runs for name, runs in found.items() if runs}
    if not found:
        return []
    middles = {name: median(map(first.value, runs)) for name, runs in found.items()}
    rows = [
        ["server", first.title, "min", "max", "lab is"]
        + [column.title for column in others]
    ]
    for name, runs in found.items():
        values = [first.value(run) for run in runs]
        mark = " *" if any(run.limited for run in runs) else ""
        ratio = ""
        if "lab" in middles and name != "lab" and middles[name]:
            ratio = f"{middles['lab'] / middles[name]:.2f}x"
        rows.append(
            [
                RIVALS[name].title,
                first.of(runs) + mark,
                first.shown.format(min(values)),
                first.shown.format(max(values)),
                ratio,
                *(column.of(runs) for column in others),
            ]
        )
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table; the first row has the titles."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, f"| {' | '.join(rule)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Target:
    """A ratio of the lab's figure to a rival's that the lab should reach."""

    what: str
    section: str
    rival: str
    value: Callable[[Figures], float]
    least: float
    aim: float = 0
    in_flight: int = 0
    less_is_better: bool = False


def _rate(run: Figures) -> float:
    return run.rate


def _handshakes(run: Figures) -> float:
    return run.handshakes


# On a quiet machine CPU time tells the same as the rate; on a busy one it is steadier.
COSTS: dict[Callable[[Figures], float], Callable[[Figures], float]] = {
    _rate: lambda run: run.cost,
    _handshakes: lambda run: run.handshake_cost,
}


TARGETS = (
    Target("1 in flight", "fanout", "node", _rate, 1.3, 1.5, 1),
    Target("1 in flight", "fanout", "floor", _rate, 0.0, 0.8, 1),
    Target("16 in flight", "fanout", "node", _rate, 9, in_flight=16),
    Target("deflate", "deflate", "node", _rate, 7, 10, 16),
    Target(
        "memory with deflate",
        "deflate",
        "node",
        lambda r: r.memory_end,
        3,
        in_flight=16,
        less_is_better=True,
    ),
    Target(
        "bytes of an idle connection",
        "idle",
        "broadcast",
        lambda r: r.connection,
        1,
        less_is_better=True,
    ),
    Target("handshakes a second", "idle", "broadcast", _handshakes, 0.9),
    Target(
        "p99 at 50,000 deliveries/s",
        "latency",
        "node",
        lambda r: r.latency_p99,
        1,
        2,
        less_is_better=True,
    ),
    Target("two replicas", "replicas", "node", _rate, 1.5, in_flight=16),
)


def targets(contest: Contest) -> list[list[str]]:
    """Return rows of all targets, with the results of this contest."""
    rows = [
        ["load", "against", "lab is better by", "by CPU time", "at least", "aim", ""]
    ]
    for target in TARGETS:
        for point in contest.points:
            load = point.load
            if point.section != target.section or load.in_flight != target.in_flight:
                continue
            own, other = contest.of(point, "lab"), contest.of(point, target.rival)
            if not own or not other:
                continue
            ratio = median(map(target.value, own)) / median(map(target.value, other))
            if target.less_is_better:
                ratio = 1 / ratio
            by_cost = ""
            if cost := COSTS.get(target.value):
                by_cost = f"{median(map(cost, other)) / median(map(cost, own)):.2f}x"
            verdict = "aim" if target.aim and ratio >= target.aim else "yes"
            rows.append(
                [
                    f"{target.what}, {load.subscribers:,} connections",
                    RIVALS[target.rival].title,
                    f"{ratio:.2f}x",
                    by_cost,
                    f"{target.least:g}x" if target.least else "",
                    f"{target.aim:g}x" if target.aim else "",
                    verdict if ratio >= (target.least or target.aim) else "no",
                ]
            )
    return rows if len(rows) > 1 else []


def notes(contest: Contest) -> str:
    """Return notes on the figures, as Markdown."""
    lines = [
        f"{machine()}.",
        f"{placed()}. Every run starts "
        f"its server anew, in turns; rounds: {contest.rounds}. Shown are the median of "
        'the rounds, the smallest and the largest. "lab is" divides the lab\'s figure '
        "by the rival's. In flight: publishes whose own copy has not come back to the "
        "publisher.",
    ]
    if any(run.figures is not None and run.figures.limited for run in contest.runs):
        lines.append(
            f"`*`: the receiver used more than {BUSY:.0%} of its core, so the server "
            "may be faster than shown."
        )
    if contest.stopped:
        lines.append("**Stopped before the end**: these are the rounds so far.")
    waits = waiting(contest)
    if waits > DISTURBED:
        lines.append(
            f"**Other programs were running**: the servers waited {waits:.0%} of the "
            "time for their core. Compare the CPU time a delivery; rates and latencies "
            "are worse than they would be on a quiet machine."
        )
    return "\n\n".join(lines)


def placed() -> str:
    """Return on which cores server and receiver run, as a sentence."""
    if cores()[0] is None:
        return "Server and receiver share all cores"
    return "The server runs on one core, the receiver on another"


def waiting(contest: Contest) -> float:
    """Return the share of the time that servers waited for their core."""
    # Servers that compress may have threads that wait for each other.
    waits = [
        run.figures.waiting_share
        for run in contest.runs
        if run.figures is not None and run.point.section in ("fanout", "latency")
    ]
    return median(waits) if waits else 0.0


def machine() -> str:
    """Return machine and versions, on which figures depend, in one line."""
    node = ""
    if program := shutil.which("node"):
        said = subprocess.run([program, "--version"], capture_output=True, text=True)
        node = f", Node {said.stdout.strip().lstrip('v')}"
    model = cpu_model()
    return (
        f"{os.cpu_count()} cores{f' ({model})' if model else ''}, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, "
        f"websockets {websockets.__version__}{node}"
    )


def begun(kind: str, root: Path) -> Path:
    """Make and return the folder for a run that begins now."""
    folder = root / run_name(kind)
    folder.mkdir(parents=True)
    return folder


def as_json(contest: Contest) -> dict[str, Any]:
    """Return ``results.json``: all measurements."""
    return {
        "machine": machine(),
        "rounds": contest.rounds,
        "stopped": contest.stopped,
        "rivals": {name: RIVALS[name].title for name in contest.rivals},
        "missing": contest.missing,
        "waiting_share": round(waiting(contest), 4),
        "runs": [run.as_json() for run in contest.runs],
    }


def write(contest: Contest, folder: Path) -> None:
    """Write the figures and the tables."""
    text = json.dumps(as_json(contest), indent=1)
    (folder / "results.json").write_text(f"{text}\n")
    table = f"# The lab and its peers\n\n{notes(contest)}\n\n{tables(contest)}"
    (folder / "table.md").write_text(table)

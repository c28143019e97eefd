"""Costs of each stage: ``python -m bench.ledger``.

It runs the same load at every stage, and at the last stage without each of its parts.
Stages echo and auth have no rooms, so echoes of one client are measured there. Their
CPU time is in the table, but not in the sum.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import track

from bench.cache import Missing
from bench.receiver import Figures, Load, RunFailed, receive
from bench.report import DISTURBED, begun, machine, markdown
from bench.servers import CONTRACT, Dialect, as_json, cores, lab, on_core, running
from labserver.errors import RedisMissing
from labserver.redis.embedded import running_redis
from labserver.stages import LAST, STAGES

# A stage without rooms echoes a publish like any other message.
ECHO = Dialect((1,), (1,), as_json)
DELIVERIES = 50_000  # a second, in the measurement of latency
IDLE = 1500  # connections
KINDS = ("busy", "steady", "idle")


@dataclass(frozen=True)
class Variant:
    """A server of the ledger: its last stage, and a stage to leave out."""

    stage: str
    without: str = ""

    @property
    def title(self) -> str:
        return f"without {self.without}" if self.without else self.stage

    @property
    def has_rooms(self) -> bool:
        return STAGES[self.stage].number >= STAGES["rooms"].number

    @property
    def needs_redis(self) -> bool:
        number = STAGES[self.stage].number
        return number >= STAGES["broker"].number and self.without != "broker"

    def command(self, redis: str) -> list[str]:
        words = ["--stage", self.stage]
        if self.without:
            words += ["--without", self.without]
        return lab(*words, *(["--redis", redis] if self.needs_redis else []))


STEPS = [Variant(name) for name in STAGES]
# Rooms cannot be left out: there would be no deliveries.
ABLATIONS = [Variant(LAST, name) for name in STAGES if name not in ("echo", "rooms")]


@dataclass(frozen=True)
class Measure:
    """A figure of the ledger: its kind of load, title, value and format."""

    kind: str
    title: str
    value: Callable[[Figures], float]
    shown: str


COST = Measure("busy", "CPU time a delivery, us", lambda run: run.cost, "{:.2f}")
MEMORY = Measure(
    "idle", "Bytes of an idle connection", lambda run: run.connection, "{:,.0f}"
)
P99 = Measure("steady", "p99, ms", lambda run: run.latency_p99 / 1000, "{:.2f}")


@dataclass
class Ledger:
    """Measurements of each variant, by kind of load."""

    subscribers: int
    in_flight: int
    seconds: float
    rounds: int
    found: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)

    def load(self, kind: str, variant: Variant) -> Load:
        """Return a load: closed loop, open loop, or idle connections."""
        warm_up = max(0.5, self.seconds / 4)
        size = self.subscribers if variant.has_rooms else 1
        if kind == "busy":
            return Load(size, self.in_flight, seconds=self.seconds, warm_up=warm_up)
        if kind == "steady":
            rate = DELIVERIES / self.subscribers
            seconds = max(2.0, self.seconds)
            return Load(size, rate=rate, seconds=seconds, warm_up=warm_up)
        return Load(IDLE, seconds=0, warm_up=0, ahead=200, settle=0.5)

    async def take(self, kind: str, variant: Variant, redis: str) -> None:
        """Measure one variant under one kind of load."""
        server_core, receiver_core = cores()
        dialect = CONTRACT if variant.has_rooms else ECHO
        async with running(variant.command(redis), server_core) as server:
            load = self.load(kind, variant)
            figures = await receive([server], dialect, load, receiver_core)
        self.found.setdefault((variant.title, kind), []).append(figures)

    def values(self, variant: Variant, measure: Measure) -> list[float]:
        """Return a figure of all rounds."""
        return [measure.value(run) for run in self.found[variant.title, measure.kind]]

    def middle(self, variant: Variant, measure: Measure) -> float:
        """Return the median of the rounds."""
        return median(self.values(variant, measure))

    def differ(self, one: Variant, other: Variant, measure: Measure) -> bool:
        """Return whether the ranges of the rounds of two variants do not overlap."""
        ours, theirs = self.values(one, measure), self.values(other, measure)
        return min(ours) > max(theirs) or max(ours) < min(theirs)

    def waiting(self) -> float:
        """Return the share of the time that servers waited for their core."""
        runs = [
            run
            for (_, kind), runs in self.found.items()
            for run in runs
            if kind == "steady"
        ]
        return median(run.waiting_share for run in runs)

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "subscribers": self.subscribers,
            "in_flight": self.in_flight,
            "rounds": self.rounds,
            "waiting_share": round(self.waiting(), 4),
            "runs": [
                {"server": title, "kind": kind, **run.as_json()}
                for (title, kind), runs in self.found.items()
                for run in runs
            ],
        }


def table(ledger: Ledger) -> str:
    """Return the ledger as Markdown."""
    head = ["CPU us a delivery", "min", "max", "change"]
    head += ["bytes a connection", "change", f"p99 ms at {DELIVERIES:,}/s"]
    parts = []
    for title, variants, above in (
        ("Stage after stage", STEPS, None),
        ("The last stage with one part left out", ABLATIONS, STEPS[-1]),
    ):
        rows = [["server", *head]]
        before = above
        for variant in variants:
            rows.append(_row(ledger, variant, before))
            before = above or variant
        parts.append(f"## {title}\n\n{markdown(rows)}")
    return "\n\n".join(parts) + "\n"


def _row(ledger: Ledger, variant: Variant, before: Variant | None) -> list[str]:
    cost, memory = ledger.middle(variant, COST), ledger.middle(variant, MEMORY)
    comparable = before is not None and before.has_rooms == variant.has_rooms
    mark = "" if variant.has_rooms else " an echo"
    change = grown = ""
    if before and comparable:
        change = f"{cost - ledger.middle(before, COST):+.2f}"
        change += "" if ledger.differ(variant, before, COST) else " ~"
    if before:
        grown = f"{memory - ledger.middle(before, MEMORY):+,.0f}"
        grown += "" if ledger.differ(variant, before, MEMORY) else " ~"
    costs = ledger.values(variant, COST)
    return [
        variant.title,
        f"{cost:.2f}{mark}",
        f"{min(costs):.2f}",
        f"{max(costs):.2f}",
        change,
        f"{memory:,.0f}",
        grown,
        P99.shown.format(ledger.middle(variant, P99)) if variant.has_rooms else "",
    ]


def about(ledger: Ledger, within: str) -> str:
    """Return some sentences on how the figures were measured.

    Args:
        ledger: The ledger with all figures.
        within: Words for the mark of a change that is within the spread of the rounds.

    """
    waits = ledger.waiting()
    busy = (
        f" Other programs were running: servers waited {waits:.0%} of the time for "
        "their core."
        if waits > DISTURBED
        else ""
    )
    return (
        f"CPU time: {ledger.subscribers} subscribers, {ledger.in_flight} in "
        f"flight, 150-byte frames, the server alone (Redis is not in it). Connections: "
        f"{IDLE:,} idle ones. Median of the rounds (here {ledger.rounds}), in turns; "
        f"a change within their spread is {within}. {machine()}."
        f"{busy}"
    )


async def measure(ledger: Ledger, console: Console) -> None:
    """Measure everything, round after round."""
    receiver_core = cores()[1]
    # Redis runs on the receiver's core, which is mostly idle with this load.
    context = running_redis()
    with on_core(receiver_core):
        redis = await context.__aenter__()
    try:
        turns = [
            (kind, variant)
            for _ in range(ledger.rounds)
            for kind in KINDS
            for variant in [*STEPS, *ABLATIONS]
        ]
        for kind, variant in track(turns, "ledger", console=console, transient=True):
            await ledger.take(kind, variant, redis)
    finally:
        await context.__aexit__(None, None, None)


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.ledger",
        description="Measure what each stage costs: CPU time, memory, latency.",
    )
    add = parser.add_argument
    add("--rounds", type=int, choices=range(1, 51), default=3, metavar="N")
    add("--seconds", type=float, default=1.0, help="of each measurement; default 1")
    add("--subscribers", type=int, default=100, help="default 100")
    add("--in-flight", type=int, default=1, help="default 1: no two messages joined")
    add("--results", type=Path, default=Path("results"), help="default results")
    chosen = parser.parse_args(words)
    if not 0.2 <= chosen.seconds <= 60:
        parser.error("--seconds must be from 0.2 to 60")
    if not 1 <= chosen.subscribers <= 10_000 or not 1 <= chosen.in_flight <= 1000:
        parser.error("--subscribers goes to 10000, --in-flight to 1000")
    return chosen


def main() -> int:
    """Return 0; 1 if a run failed, 2 if this machine cannot run it, 130 on Ctrl-C."""
    from bench.waterfall import draw

    chosen = options()
    console = Console(stderr=True)
    ledger = Ledger(chosen.subscribers, chosen.in_flight, chosen.seconds, chosen.rounds)
    try:
        asyncio.run(measure(ledger, console))
    except KeyboardInterrupt:
        return 130
    except (Missing, RedisMissing) as exc:
        console.print(f"ledger: {exc}", highlight=False)
        return 2
    except RunFailed as exc:
        console.print(f"ledger: {exc}", highlight=False)
        return 1
    folder = begun("ledger", chosen.results)
    text = f"# What each stage costs\n\n{about(ledger, 'marked ~')}\n\n{table(ledger)}"
    (folder / "table.md").write_text(text)
    figures = json.dumps(ledger.as_json(), indent=1)
    (folder / "results.json").write_text(f"{figures}\n")
    draw(ledger, folder / "ledger.png")
    print(text)
    print(f"results {folder}: ledger.png, results.json, table.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())

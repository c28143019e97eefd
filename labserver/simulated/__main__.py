"""Simulated worlds by seed: thousands of faults a minute, and an oracle on each client.

    python -m labserver.simulated --seconds 600
    python -m labserver.simulated --replay results/simulated/7.json

A seed that breaks a promise is made smaller, and written as a file to replay and as a
space-time diagram.
"""

from __future__ import annotations

import argparse
import os
import sys
from html import escape
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from labserver.errors import LabError
from labserver.judge.page import STYLE, diagram
from labserver.judge.run import Finding
from labserver.mistakes import mistaken
from labserver.simulated.run import Outcome, run
from labserver.simulated.scenario import Scenario, from_json
from labserver.simulated.search import Found, search
from labserver.simulated.shrink import shrink, size

FOLDER = Path("results/simulated")
SHRUNK = 3  # broken seeds that are made smaller


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        "labserver.simulated", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="default 60")
    parser.add_argument("--seed", type=int, default=0, help="the first; default 0")
    cores = os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=cores, help="default all cores")
    parser.add_argument("--seeds", type=int, help="how many; default: all in the time")
    parser.add_argument(
        "--confirm", action="store_true", help="with --confirm-replicas 1 and failovers"
    )
    parser.add_argument("--cluster", action="store_true", help="on a Redis Cluster")
    parser.add_argument("--mistake", default="", help="one of labserver mistakes")
    parser.add_argument("--replay", type=Path, help="a scenario that was written")
    parser.add_argument("--trace", action="store_true", help="print what is replayed")
    chosen = parser.parse_args()
    if chosen.jobs < 1:
        parser.error("--jobs must be at least 1")
    try:
        if chosen.mistake:
            mistaken(chosen.mistake, "resume")
        if chosen.replay:
            return replayed(read(chosen.replay), chosen.replay, chosen.trace)
        return searched(chosen)
    except LabError as exc:
        print(f"labserver.simulated: {exc}", file=sys.stderr)
        return 2


def read(path: Path) -> Scenario:
    """Return the scenario in a file. Raises LabError if there is none."""
    try:
        return from_json(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise LabError(f"{path} cannot be replayed: {why}") from None


def replayed(scenario: Scenario, path: Path, trace: bool) -> int:
    """Run a scenario once; draw it."""
    outcome = run(scenario)
    if trace:
        print(outcome.trace, end="")
    drawing = path.with_suffix(".html")
    drawing.write_text(drawn_page(outcome), encoding="utf-8")
    print(f"{size(scenario)}\n{drawing}")
    for sentence in outcome.broken:
        print(f"broken: {sentence}")
    return 1 if outcome.broken else 0


def searched(chosen: argparse.Namespace) -> int:
    """Run many seeds; shrink and write the first that break a promise."""
    columns: list[ProgressColumn] = [
        TextColumn("{task.completed} seeds"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn(f"of {chosen.seconds:g} s"),
    ]
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=chosen.seeds)

        def seen(found: Found) -> None:
            progress.advance(bar)
            if found.broken:
                print(f"seed {found.scenario.seed}: {found.broken[0]}", flush=True)

        chose = [each for each in ("confirm", "cluster") if getattr(chosen, each)]
        total = search(
            *(chosen.seconds, chosen.seed, chosen.jobs, chosen.mistake, seen),
            most=chosen.seeds,
            fixed=dict.fromkeys(chose, True),
        )
    print(total)
    for met, count in sorted(total.met.items()):
        print(f"  {count:7,} {met}")
    broken = sorted(total.broken, key=lambda found: len(found.scenario.faults))
    for found in broken[:SHRUNK]:
        path = written(shrink(run(found.scenario)), found.scenario.seed)
        print(f"seed {found.scenario.seed}, shrunk: {path}, {path.stem}.html")
    return 1 if broken else 0


def written(outcome: Outcome, name: str) -> Path:
    """Write a world as a file to replay and as a diagram; return the file's path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(outcome.scenario.to_json(), encoding="utf-8")
    page = drawn_page(outcome)
    path.with_suffix(".html").write_text(page, encoding="utf-8")
    print(f"{size(outcome.scenario)}: {outcome.broken[0] if outcome.broken else ''}")
    return path


def drawn_page(outcome: Outcome) -> str:
    """Return a page with the space-time diagram of a world."""
    seen = "; ".join(outcome.broken[:3])
    finding = Finding(
        "resume",
        f"seed {outcome.scenario.seed}",
        "",
        "broken" if outcome.broken else "kept",
        seen,
        outcome.seconds,
        events=outcome.events,
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>Seed {escape(outcome.scenario.seed)}</title><style>{STYLE}</style>"
        f"<h1>Seed {escape(outcome.scenario.seed)}</h1><p>{escape(seen)}</p>"
        f"<p>{escape(size(outcome.scenario))}</p>"
        f"<figure>{diagram(finding)}</figure></html>\n"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

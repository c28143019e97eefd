"""Run the contest: ``python -m bench``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bench.cache import Missing, compiled
from bench.contest import SECTIONS, Contest, Point, duration, points
from bench.picture import draw
from bench.report import begun, notes, tables, write
from bench.servers import RIVALS

FULL_SUBSCRIBERS = (10, 100, 1000, 3000)
IN_FLIGHT = (1, 4, 16, 64)


def one_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Return an argument type: comma-separated names from ``names``."""

    def read(text: str) -> list[str]:
        chosen = [each.strip() for each in text.split(",") if each.strip()]
        for each in chosen:
            if each not in names:
                known = ", ".join(names)
                raise argparse.ArgumentTypeError(f"{each!r} is none of {known}")
        return chosen

    return read


def numbers(most: int) -> Callable[[str], list[int]]:
    """Return an argument type: comma-separated numbers from 1 to ``most``."""

    def read(text: str) -> list[int]:
        chosen = [int(each) for each in text.split(",")]
        if not all(1 <= each <= most for each in chosen):
            raise argparse.ArgumentTypeError(f"each must be from 1 to {most}")
        return chosen

    return read


def within(least: float, most: float) -> Callable[[str], float]:
    """Return an argument type: a number between two bounds."""

    def read(text: str) -> float:
        if not least <= float(text) <= most:
            raise argparse.ArgumentTypeError(f"must be from {least:g} to {most:g}")
        return float(text)

    return read


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Run the lab's server and its rivals in turns with the same load, "
        "and write tables and a picture. The default takes about eight minutes.",
    )
    add = parser.add_argument
    add("--rounds", type=numbers(50), default=[3], help="of all runs; default 3")
    add("--seconds", type=within(0.2, 60), help="of each measurement; default 1")
    add("--subscribers", type=numbers(10_000), help="default 1000")
    add("--in-flight", type=numbers(1000), help="default 1,4,16,64")
    add(
        "--rivals",
        type=one_of(list(RIVALS)),
        default=list(RIVALS),
        metavar="NAMES",
        help=f"of {', '.join(RIVALS)}; the lab always takes part",
    )
    add(
        "--sections",
        type=one_of(SECTIONS),
        metavar="NAMES",
        help=f"of {', '.join(SECTIONS)}; default all",
    )
    add("--deflate", action="store_true", help="the same as --sections deflate")
    add(
        "--full",
        action="store_true",
        help="10 to 3000 subscribers and 3 seconds: about three quarters of an hour",
    )
    add("--results", type=Path, default=Path("results"), help="default results")
    chosen = parser.parse_args(words)
    chosen.rounds = chosen.rounds[0]
    chosen.seconds = chosen.seconds or (3.0 if chosen.full else 1.0)
    full = list(FULL_SUBSCRIBERS) if chosen.full else [1000]
    chosen.subscribers = chosen.subscribers or full
    chosen.in_flight = chosen.in_flight or list(IN_FLIGHT)
    chosen.rivals = ["lab", *(each for each in chosen.rivals if each != "lab")]
    if chosen.deflate:
        chosen.sections = ["deflate"]
    chosen.sections = chosen.sections or list(SECTIONS)
    return chosen


async def run_all(contest: Contest, console: Console) -> None:
    """Run every turn, and show the progress and the time left."""
    turns = contest.turns()
    columns = (
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[left]} left"),
        TextColumn("{task.description}"),
    )
    began, expected, done = time.monotonic(), duration(turns), 0.0
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(turns), left=clock(expected))
        for place, turn in enumerate(turns):
            _, point, name = turn
            what = f"{RIVALS[name].title}: {point.section}, {point.title}"
            progress.update(task, description=what)
            if not console.is_terminal and place % 10 == 0:
                left = clock((expected - done) * pace(began, done))
                console.print(
                    f"{place}/{len(turns)}, {left} left: {what}", soft_wrap=True
                )
            run = await contest.take(*turn)
            if run.failure:
                console.print(f"[red]failed[/] {what}: {run.failure}", soft_wrap=True)
            done += duration([turn])
            left = (expected - done) * pace(began, done)
            progress.update(task, advance=1, left=clock(left))


def pace(began: float, done: float) -> float:
    """Return the ratio of the time taken so far to the expected time."""
    return (time.monotonic() - began) / done if done else 1.0


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def contest_of(chosen: argparse.Namespace) -> Contest:
    """Return the contest, without rivals that cannot run on this machine."""
    loads: list[Point] = points(
        chosen.sections, chosen.subscribers, chosen.in_flight, chosen.seconds
    )
    contest = Contest(chosen.rivals, loads, chosen.rounds)
    for name in chosen.rivals:
        if why := RIVALS[name].missing():
            contest.missing[name] = why
    return contest


def main() -> int:
    """Return 0; 1 if a run failed, 2 if nothing can run, 130 on Ctrl-C."""
    chosen = options()
    console = Console(stderr=True)
    try:
        compiled("receiver.c")
    except Missing as exc:
        console.print(f"peers: {exc}")
        return 2
    contest = contest_of(chosen)
    for name, why in contest.missing.items():
        console.print(f"skipped {RIVALS[name].title}: {why}", highlight=False)
    turns = contest.turns()
    console.print(f"{len(turns)} runs, about {clock(duration(turns))} minutes")
    try:
        asyncio.run(run_all(contest, console))
    except KeyboardInterrupt:
        contest.stopped = True
    if not any(run.figures for run in contest.runs):
        return 130 if contest.stopped else 1
    folder = begun("peers", chosen.results)
    write(contest, folder)
    draw(contest, folder)
    print(f"{notes(contest)}\n\n{tables(contest)}")
    names = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(f"results {folder}: {names}")
    if contest.stopped:
        return 130
    return 1 if any(run.failure for run in contest.runs) else 0


if __name__ == "__main__":
    sys.exit(main())

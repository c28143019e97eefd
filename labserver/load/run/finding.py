"""Runs the search for the limit on a cluster of its own, and shows each run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from labserver.load.figures.compare import column
from labserver.load.figures.limit import FILE, Point, as_json, search
from labserver.load.figures.plan import begin, finish
from labserver.load.figures.require import seen
from labserver.load.figures.results import machine, write
from labserver.load.figures.trust import MOSTLY, trusted
from labserver.load.figures.verdict import EXIT_INVALID, LAG_LIMIT, invalid_reasons
from labserver.load.run.owned import Owned, owned
from labserver.load.run.suite import Case, Outcome, about, estimate, measured

HEAD = (
    f"{'messages/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'deliveries/s':>14}"
    f"{'generator':>11}{'server':>9}  verdict"
)
cpu = column("cpu", 1, mean=True)


async def found(
    case: Case, folder: Path, minutes: float, least: float, most: float
) -> dict[str, Any]:
    """Search on a cluster of its own, show each run, and write ``limit.json``.

    Raises:
        LabError: The servers did not start.
        OSError: Results cannot be written.

    """
    begin(folder, ())
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(HEAD, style="dim")
    with console.status("") as status:
        async with owned(case.replicas, *case.server) as servers:
            prober = Prober(case, servers, folder, minutes)

            async def ask(rate: float) -> Point:
                left = max(0, round(prober.until - time.monotonic()))
                status.update(
                    f"{rate:g} messages/s to {case.users} members, at most "
                    f"{left // 60}:{left % 60:02} left"
                )
                point = await prober.ask(rate)
                console.print(line(point))
                return point

            limit = await search(ask, prober.more, least, most)
    result = as_json(
        limit,
        case.users,
        case.required,
        server=about(case)["server"],
        seconds=case.seconds,
        machine=machine(),
    )
    write(folder / FILE, result)
    finish(folder)
    return result


def line(point: Point) -> Text:
    """Return a run of the search in a line."""
    latency = [
        f"{each:9.1f}" if each is not None else " " * 9
        for each in (point.p50, point.p99)
    ]
    server = "" if point.server is None else f"{point.server:.0%}"
    text = Text(
        f"{point.rate:10g}{''.join(latency)}{point.deliveries:14,.0f}"
        f"{point.generator:11.0%}{server:>9}  "
    )
    word = "holds" if point.holds else point.verdict
    text.append(word, "green" if point.holds else "red" if point.innocent else "yellow")
    if point.own >= MOSTLY:
        text.append(f", {point.own:.0%} of the p99 is the generator's own", "yellow")
    return text


class Prober:
    """Runs rates on one cluster.

    Args:
        case: The case; its rate is replaced.
        servers: The cluster.
        folder: Folder of the runs.
        minutes: Time for all runs.

    """

    def __init__(
        self,
        case: Case,
        servers: Owned,
        folder: Path,
        minutes: float,
    ) -> None:
        self.case, self.servers, self.folder = case, servers, folder
        self.until = time.monotonic() + minutes * 60

    def more(self) -> bool:
        return time.monotonic() + estimate(self.case) < self.until

    async def ask(self, rate: float) -> Point:
        locust = (*self.case.locust, "--publish-rate", f"{rate:g}")
        case = replace(self.case, locust=locust)
        return point_of(rate, await measured(case, self.servers, self.folder))


def point_of(rate: float, outcome: Outcome) -> Point:
    """Return what a run says about its rate."""
    saved = outcome.saved
    if saved is None:
        return Point(
            rate, False, False, outcome.word, (f"see {outcome.case.scenario}.log",)
        )
    record = saved.record
    busy = outcome.code == EXIT_INVALID or invalid_reasons(record, 0, LAG_LIMIT)
    p50, p99 = seen(record, "p50"), seen(record, "p99")
    return Point(
        rate=rate,
        holds=outcome.code == 0,
        innocent=not busy,
        verdict=outcome.word,
        reasons=tuple(map(str, saved.summary["reasons"])),
        p50=None if p50 is None else p50 / 1000,
        p99=None if p99 is None else p99 / 1000,
        deliveries=record.delivered() / max(record.wall, 0.001),
        generator=record.cpu,
        server=cpu(saved),
        folder=saved.folder.name,
        own=trusted(record, "", 99).own,
    )

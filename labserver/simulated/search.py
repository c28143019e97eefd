"""Runs the scenarios of many seeds, on all cores, for a time."""

from __future__ import annotations

import gc
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

from labserver.simulated.run import run
from labserver.simulated.scenario import SLOT_WEIGHTS, WEIGHTS, Scenario, drawn


@dataclass
class Found:
    """What one seed showed, without its events."""

    scenario: Scenario
    broken: tuple[str, ...]
    seconds: float
    met: Counter[str]
    counts: Counter[str]


@dataclass
class Total:
    """What a search has covered.

    Attributes:
        seeds: Number of worlds.
        broken: Those that broke a promise.
        seconds: Virtual seconds of all worlds.
        client_seconds: The same, of all clients.
        took: Real seconds.
        met: How often each fault met which state.
        counts: Sums of messages and connections.

    """

    seeds: int = 0
    broken: list[Found] = field(default_factory=list)
    seconds: float = 0.0
    client_seconds: float = 0.0
    took: float = 0.0
    met: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, found: Found) -> None:
        self.seeds += 1
        self.seconds += found.seconds
        self.client_seconds += found.seconds * found.scenario.clients
        self.met += found.met
        self.counts += found.counts
        if found.broken:
            self.broken.append(found)

    def __str__(self) -> str:
        faults: Counter[str] = Counter()
        for name, count in self.met.items():
            if name.partition(":")[0] in WEIGHTS | SLOT_WEIGHTS:
                faults[name.partition(":")[0]] += count
        rate = self.seeds / self.took if self.took else 0.0
        hours = self.seconds / self.took / 60 if self.took else 0.0
        return (
            f"{self.seeds:,} seeds in {self.took:.0f} s: {rate:.1f} a second, "
            f"{hours:.2f} virtual hours a minute\n"
            f"{self.client_seconds:,.0f} client-seconds, "
            f"{self.counts['acknowledged']:,} messages acknowledged, "
            f"{self.counts['delivered']:,} delivered, "
            f"{self.counts['connects']:,} connections, "
            f"{sum(faults.values()):,} faults\n"
            f"{len(self.broken)} seeds broke a promise"
        )


def look(seed: str, mistake: str = "", fixed: Mapping[str, Any] = {}) -> Found:
    """Run the scenario of a seed."""
    outcome = run(drawn(seed, mistake, **fixed))
    return Found(
        *(outcome.scenario, outcome.broken, outcome.seconds),
        *(outcome.met, outcome.counts),
    )


def search(
    seconds: float,
    first: int,
    jobs: int,
    mistake: str = "",
    seen: Callable[[Found], None] = lambda found: None,
    most: int | None = None,
    fixed: Mapping[str, Any] = {},
) -> Total:
    """Run one seed after the other on ``jobs`` cores until the time is over.

    Args:
        seconds: Real seconds.
        first: The first seed; the others follow it.
        jobs: Number of processes.
        mistake: Name of a mistake that every server makes.
        seen: Called with what each seed showed.
        most: Number of seeds at most; None for any.
        fixed: Attributes of scenarios that do not follow from their seeds.

    """
    total, began = Total(), time.monotonic()
    seeds = itertools.islice(map(str, itertools.count(first)), most)
    chosen = partial(look, mistake=mistake, fixed=fixed)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _quiet) as pool:
        running: set[Future[Found]] = set()
        try:
            while True:
                if time.monotonic() - began < seconds:
                    more = itertools.islice(seeds, jobs - len(running))
                    running |= {pool.submit(chosen, seed) for seed in more}
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    total.add(each.result())
                    seen(each.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    total.took = time.monotonic() - began
    return total


def _quiet() -> None:
    """Leave Ctrl-C to the parent, and what was imported out of each collection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()

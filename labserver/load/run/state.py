"""One load test, as each of its processes sees it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

import gevent
from gevent.event import Event

from labserver.load.figures.generator import Generator
from labserver.load.figures.histogram import Histogram
from labserver.load.figures.record import Record
from labserver.load.figures.verdict import Verdict
from labserver.load.run.clock import CLOCK
from labserver.load.run.sampler import Sampler, Scraper
from labserver.load.run.settling import Settling
from labserver.load.run.stalls import Stalls, host
from labserver.load.run.tops import Tops

Share = Callable[[dict[str, int]], dict[str, int]]
QUIET = 0.4  # seconds without a message after which no more are expected
DRAIN_LIMIT = 5.0  # seconds


class Member(Protocol):
    """A user, as the run sees it."""

    joined: bool
    stays: ClassVar[bool]  # whether publishers wait until it has joined

    def so_far(self, record: Record) -> None:
        """Add this user's figures up to now to another record."""

    def account(self, final: bool) -> None:
        """Add this user's figures to the record, once."""

    def pending(self) -> bool:
        """Return whether an answer is still to come."""


class Run:
    """One load test, as this process sees it."""

    def __init__(self) -> None:
        self.name = ""
        self.folder = Path()
        self.record = Record()
        # By id of the worker: a worker that replaces a dead one does not have its
        # figures.
        self.parts: dict[str, Record] = {}
        self.workers: set[str] = set()
        self.members: set[Member] = set()
        self.settling = Settling(self.members, self.awaited)
        self.settled = self.settling.over
        self.draining = False
        self.drain_started = Event()
        self.drained = Event()
        # The newest numbers of all processes: what this one's members must still get.
        self.tops = Tops()
        self.active = 0  # when a message last arrived, monotonic ns
        self.started = 0.0
        self.ended = 0  # when the drain began, monotonic ns
        self.faults: list[dict[str, Any]] = []  # faults injected into the servers
        self.started_cpu = 0.0
        self.storm_at = 0  # when reconnect_storm begins, monotonic ns
        self.storm_kills = False  # whether the storm is the death of a server
        self.striking: gevent.Greenlet[..., None] | None = None
        self.before: dict[str, dict[str, float]] = {}  # samples before the first user
        self.sampler: Sampler | None = None
        self.stalls: Stalls | None = None
        self.scraper: Scraper | None = None
        self.verdict: Verdict | None = None
        self.total: Record | None = None  # of all processes, when the run is over
        self.text = ""

    def begin(self, name: str, results: str, began: int, step: float) -> None:
        self.__init__()  # type: ignore[misc]
        self.name = name
        self.record.began = began
        self.sampler = Sampler(self.record, self.members, step)
        self.folder = Path(results) / name
        self.start_clocks()

    def awaited(self) -> set[str]:
        """Return the workers that are part of this run."""
        return self.workers

    def start_clocks(self) -> None:
        """Measure this process from now on."""
        self.started, self.started_cpu = time.monotonic(), time.process_time()
        if self.stalls is not None:
            self.stalls.stop()
        self.stalls = Stalls(self.record)

    def stall(self, since: int, until: int) -> tuple[int, int] | None:
        """Return begin and end of a stall of this process that touches a time."""
        return self.stalls.around(since, until) if self.stalls is not None else None

    def settle(self, runner: Any, arrival: float) -> None:
        """Let publishers begin when all members have joined, or should have."""
        settling = self.settling
        settling.wait(runner, arrival)
        if settling is self.settling and not self.draining:  # still the same run
            self.record.loop = Histogram()
            self.start_clocks()
        settling.over.set()

    def refuse(self) -> None:
        """Mark the run as refused: its users do nothing, and no results are written."""
        self.name = ""
        self.draining = True
        self.drained.set()
        if self.sampler is not None:
            self.sampler.greenlet.kill()
        if self.stalls is not None:
            self.stalls.stop()

    def room(self, scenario: str) -> str:
        """Return the room of a scenario; no other run uses it."""
        return f"load.{scenario}.{self.name.partition('-')[0]}"

    def fault(self, text: str) -> None:
        """Record that a fault is being injected now; ``text`` says which."""
        self.faults.append(
            {
                "at": round((CLOCK.now() - self.record.began) / 1e9, 3),
                "utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "text": text,
            }
        )

    def await_answers(self) -> None:
        """Wait until nothing is in flight that this process knows of."""
        deadline = time.monotonic() + DRAIN_LIMIT
        while time.monotonic() < deadline:
            gevent.sleep(0.05)
            quiet = time.monotonic_ns() - self.active > QUIET * 1e9
            if quiet and not any(member.pending() for member in self.members):
                break

    def drain(self, share: Share | None = None) -> None:
        """Wait for messages in flight, then take the figures; only once in a run.

        Args:
            share: Tells all other processes the newest number of each room here, waits
                for theirs, and returns the newest of all; None for one process.

        """
        if self.draining:
            self.drained.wait()
            return
        self.draining = True
        record = self.record
        record.wall = time.monotonic() - self.started
        # The CPU time of the drain is not part of the measurement.
        record.cpu = (time.process_time() - self.started_cpu) / max(record.wall, 0.001)
        shares = self.stalls.theft.shares() if self.stalls is not None else (0.0, 0.0)
        self.active = time.monotonic_ns()
        if self.sampler is not None:
            self.sampler.end()
        if self.scraper is not None:
            self.scraper.stop()
        self.drain_started.set()
        self.await_answers()
        if share is not None:
            # A publisher in another process may be the last to hear of the end.
            for place, seq in share(record.tops).items():
                record.reached(place, seq)
            self.await_answers()
        for member in list(self.members):
            member.account(final=True)
        if self.sampler is not None:
            self.sampler.stop()
        if self.stalls is not None:
            self.stalls.stop()
            record.generators = [self.generator(self.stalls, *shares)]
        self.drained.set()

    def generator(self, stalls: Stalls, waited: float, stolen: float) -> Generator:
        """Return what this process did to the measurement."""
        record = self.record
        return Generator(
            name=f"{host()} {os.getpid()}",
            users=sum(record.users.values()),
            cpu=round(record.cpu, 4),
            waited=round(waited, 4),
            stolen=round(stolen, 4),
            ahead=-CLOCK.offset / 1e9 if CLOCK.same is False else None,
            unsure=CLOCK.unsure / 1e9,
            slip_us=record.slip.percentile(99),
            lag_us=record.lag.percentile(99),
            still=round(stalls.still / 1e9, 3),
            longest=round(stalls.longest / 1e9, 3),
        )

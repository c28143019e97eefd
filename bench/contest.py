"""The contest: all runs, in turns.

Every run starts a new server process, so that memory is comparable. A round has every
run once, and each round begins with another rival, so that other load on the machine
affects all rivals alike.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.cache import Missing
from bench.receiver import Figures, Load, RunFailed, receive
from bench.servers import (
    CONTRACT,
    RIVALS,
    Dialect,
    Rival,
    Server,
    cores,
    lab,
    node,
    on_core,
    running,
)
from labserver.errors import RedisMissing
from labserver.redis.embedded import running_redis

SECTIONS = ("fanout", "deflate", "latency", "idle", "replicas")
OVERHEAD = 1.4  # seconds of a run beside the measurement: start, connect, end


@dataclass(frozen=True)
class Point:
    """One load in one section."""

    section: str
    load: Load

    @property
    def title(self) -> str:
        load = self.load
        if load.idle:
            return f"{load.subscribers:,} idle connections"
        pace = f"{load.in_flight} in flight" if load.in_flight else f"{load.rate:g}/s"
        return f"{load.subscribers:,} subscribers, {pace}"


@dataclass(frozen=True)
class Run:
    """A rival's figures at a point in one round, or why there are none."""

    rival: str
    point: Point
    round: int
    figures: Figures | None = None
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        found = {"failure": self.failure}
        if self.figures is not None:
            found = self.figures.as_json()
        return {
            "section": self.point.section,
            "rival": self.rival,
            "round": self.round,
            "load": asdict(self.point.load),
            **found,
        }


@dataclass
class Contest:
    """The runs to do, and their results.

    Args:
        rivals: Names of the servers, including the lab's.
        points: Loads.
        rounds: Number of runs of each server with each load.

    """

    rivals: Sequence[str]
    points: Sequence[Point]
    rounds: int = 3
    runs: list[Run] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    stopped: bool = False  # whether by Ctrl-C, before the last run

    def turns(self) -> list[tuple[int, Point, str]]:
        """Return every run in order: the round, the point, the rival."""
        turns = []
        for number in range(self.rounds):
            for point in self.points:
                names = [
                    name
                    for name in self.rivals
                    if name not in self.missing and takes_part(name, point)
                ]
                start = number % max(1, len(names))
                order = names[start:] + names[:start]
                turns += [(number, point, name) for name in order]
        return turns

    async def take(self, number: int, point: Point, name: str) -> Run:
        """Run one rival at one point; keep and return the result."""
        server_core, receiver_core = cores()
        run = Run(name, point, number)
        try:
            async with competing(name, point, server_core) as (servers, dialect):
                found = await receive(servers, dialect, point.load, receiver_core)
            run = replace(run, figures=found)
        except (RunFailed, Missing) as exc:
            run = replace(run, failure=str(exc))
        self.runs.append(run)
        return run

    def of(self, point: Point, name: str) -> list[Figures]:
        """Return the figures of a rival's runs at a point."""
        return [
            run.figures
            for run in self.runs
            if run.figures is not None and run.point == point and run.rival == name
        ]


def takes_part(name: str, point: Point) -> bool:
    """Return whether a rival can run in a point's section."""
    if point.section == "deflate":
        return RIVALS[name].deflate
    if point.section == "replicas":
        return name in ("lab", "node")
    return True


@asynccontextmanager
async def competing(
    name: str, point: Point, core: int | None
) -> AsyncIterator[tuple[list[Server], Dialect]]:
    """Run a rival's server (two on one Redis in the section ``replicas``)."""
    rival: Rival = RIVALS[name]
    if point.section != "replicas":
        command = rival.command(point.load.deflate)
        async with running(command, core) as server:
            yield [server], rival.dialect
        return
    async with AsyncExitStack() as stack:
        try:
            # Redis shares the servers' core, for both rivals; the receiver has the
            # other core.
            with on_core(core):
                redis = await stack.enter_async_context(running_redis())
        except RedisMissing as exc:
            raise Missing(str(exc)) from None
        if name == "lab":
            command = lab("--stage", "resume", "--redis", redis)
        else:
            command = node("--redis", redis)
        servers = [
            await stack.enter_async_context(running(command, core)) for _ in range(2)
        ]
        yield servers, CONTRACT


def points(
    sections: Sequence[str],
    subscribers: Sequence[int],
    in_flight: Sequence[int],
    seconds: float,
) -> list[Point]:
    """Return the loads of a contest.

    Args:
        sections: Some of :data:`SECTIONS`.
        subscribers: Sizes of the room; sections other than ``fanout`` only use the size
            nearest to 1000.
        in_flight: Publishes in flight.
        seconds: Length of each measurement.

    """
    plain = Load(1, seconds=seconds, warm_up=max(0.5, seconds / 4))
    usual = min(subscribers, key=lambda count: abs(count - 1000))
    middle = min(in_flight, key=lambda count: abs(count - 16))
    found = []
    for count in subscribers if "fanout" in sections else ():
        for publishes in in_flight:
            load = replace(plain, subscribers=count, in_flight=publishes)
            found.append(Point("fanout", load))
    if "deflate" in sections:
        for publishes in {min(in_flight): 0, middle: 0}:
            load = replace(plain, subscribers=usual, in_flight=publishes, deflate=True)
            found.append(Point("deflate", load))
    if "latency" in sections:
        # 50,000 deliveries a second for any size of the room, long enough for
        # percentiles.
        load = replace(plain, subscribers=usual, rate=50_000 / usual)
        found.append(Point("latency", replace(load, seconds=max(2.0, seconds))))
    if "idle" in sections:
        load = Load(2 * usual, seconds=0, warm_up=0, ahead=200, settle=0.5)
        found.append(Point("idle", load))
    if "replicas" in sections:
        for publishes in {min(in_flight): 0, middle: 0}:
            load = replace(plain, subscribers=usual, in_flight=publishes)
            found.append(Point("replicas", load))
    return found


def duration(turns: Sequence[tuple[int, Point, str]]) -> float:
    """Return an estimate of the seconds that these runs take."""
    return sum(
        OVERHEAD
        + point.load.seconds
        + point.load.warm_up
        + 2 * point.load.settle
        + point.load.subscribers / 2000
        for _, point, _ in turns
    )


def cpu_model() -> str:
    """Return the processor's name; empty on systems other than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    names = [each.partition(":")[2].strip() for each in lines if "model name" in each]
    return names[0] if names else ""

"""The life of a run: start, drain, collect, conclude.

Locust kills its users at the end of a run, and its master waits only half a second for
the last reports of workers. So that the last messages count, a run is drained first:
publishers stop, all other users read until no more messages come, and then the figures
are taken. In a distributed run the master asks its workers for their figures.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Protocol

import gevent
import locust
from gevent.event import Event
from locust import events
from locust.env import Environment
from locust.runners import (
    STATE_INIT,
    STATE_MISSING,
    STATE_STOPPED,
    MasterRunner,
    WorkerRunner,
)

from labserver.load.figures.generator import Generator
from labserver.load.figures.histogram import Histogram
from labserver.load.figures.record import Record, merged
from labserver.load.figures.require import held_to, lines
from labserver.load.figures.results import (
    as_figures,
    machine,
    run_name,
    summary,
    versions,
    write,
)
from labserver.load.figures.saved import ABOUT, Saved
from labserver.load.figures.timeline import period, rows, stalled, write_csv
from labserver.load.figures.verdict import Verdict, judge, judge_heartbeat
from labserver.load.pictures.drawing import png
from labserver.load.pictures.gallery import pictures
from labserver.load.run.arguments import TIME_LIMIT
from labserver.load.run.beside import PROBE, Probe, compared, look, memory, strike
from labserver.load.run.clock import CLOCK, compare, tell
from labserver.load.run.hooks import listens, options_of, runner_of
from labserver.load.run.interrupt import Interrupt, told_to_work
from labserver.load.run.options import (
    Unusable,
    check_page,
    required,
    servers,
    try_servers,
)
from labserver.load.run.sampler import Sampler, Scraper
from labserver.load.run.settling import LIMIT, Settling
from labserver.load.run.stalls import Stalls, host
from labserver.load.websocket import shown

QUIET = 0.4  # seconds without a message after which no more are expected
DRAIN_LIMIT = 5.0  # seconds
UNTIMED = 30.0  # seconds assumed for a run without -t, to place its faults
WORKERS_LIMIT = DRAIN_LIMIT + 5.0  # seconds that the master waits for its workers
log = logging.getLogger("loadtests")
listening = Event()  # set when this process hears what the load lab's processes say


class Member(Protocol):
    """A user, as the run sees it."""

    joined: bool
    stays: ClassVar[bool]  # whether publishers wait until it has joined

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
        self.active = 0  # when a message last arrived, monotonic ns
        self.started = 0.0
        self.ended = 0  # when the drain began, monotonic ns
        self.faults: list[dict[str, Any]] = []  # faults injected into the servers
        self.started_cpu = 0.0
        self.storm_at = 0  # when reconnect_storm begins, monotonic ns
        self.storm_kills = False  # whether the storm is the death of a server
        self.striking: gevent.Greenlet[..., None] | None = None
        self.probe: Probe | None = None
        self.before: dict[str, dict[str, float]] = {}  # samples before the first user
        self.sampler: Sampler | None = None
        self.stalls: Stalls | None = None
        self.scraper: Scraper | None = None
        self.verdict: Verdict | None = None
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

    def drain(self) -> None:
        """Wait for messages in flight, then take the figures; only once in a run."""
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
        self.drain_started.set()
        deadline = time.monotonic() + DRAIN_LIMIT
        while time.monotonic() < deadline:
            gevent.sleep(0.05)
            quiet = time.monotonic_ns() - self.active > QUIET * 1e9
            if quiet and not any(member.pending() for member in self.members):
                break
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


RUN = Run()


# Every process


@listens(events.test_start)
def begin(environment: Environment, **_: Any) -> None:
    if environment.runner is None:
        # A worker that joins a run is told to begin before Locust has its runner.
        listening.wait(LIMIT)
    options, runner = options_of(environment), runner_of(environment)
    if not isinstance(runner, WorkerRunner):
        classes: list[Any] = environment.user_classes
        named = {each.scenario for each in classes}
        scenario = named.pop() if len(named) == 1 else "mixed"
        # Options that Locust does not know travel from the master to its workers.
        options.run_name = run_name(scenario)
        options.run_began = time.monotonic_ns()
        length = round((options.run_time or UNTIMED) * 1e9)
        options.run_half = options.run_began + length // 2
        options.storm_at = options.run_began + length * 2 // 5
        killing = options.fault == "kill-replica"
        options.storm_kills = killing and scenario == "reconnect_storm"
        options.run_step = period(options.run_time or TIME_LIMIT)
        options.run_arrival = arrival(environment)
        options.run_users = asked(environment)
    else:
        options.host = environment.host  # the master's, not the worker's option
    step = options.run_step
    RUN.begin(options.run_name, options.results, options.run_began, step)
    RUN.record.asked = options.run_users
    gevent.spawn(RUN.settle, runner, options.run_arrival)
    RUN.storm_at, RUN.storm_kills = options.storm_at, options.storm_kills
    if isinstance(runner, MasterRunner):
        RUN.workers = alive(runner)
    if not isinstance(runner, WorkerRunner) and not options.headless:
        options.host = environment.host
        try:
            check_page(options)
            try_servers(options)
        except Unusable as exc:
            print(f"loadtests: {exc}", file=sys.stderr, flush=True)
            RUN.refuse()
            gevent.spawn_later(0.1, runner.stop)
            return
        # A forgotten run of Locust's page must not load the machine for ever.
        gevent.spawn_later(TIME_LIMIT, stop_if_still_on, environment, RUN.name)
    if not isinstance(runner, WorkerRunner):
        begin_beside(environment, step)


def arrival(environment: Environment) -> float:
    """Return the seconds in which all users are to be started, or the first of them."""
    options = options_of(environment)
    if environment.shape_class is not None or not options.headless:
        return 0.0
    needed = (options.num_users or 1) / (options.spawn_rate or 1)
    # At least half of the run is left for messages.
    most = (options.run_time or UNTIMED) / 2 - LIMIT
    return float(min(needed, max(0.0, most)))


def asked(environment: Environment) -> int:
    """Return how many users are asked for; 0 if a shape or a page changes that."""
    options = options_of(environment)
    if not options.headless or (options.shape and not options.steps):
        return 0
    return options.num_users or 1


def begin_beside(environment: Environment, step: float) -> None:
    """Start the work that only one process of a run does."""
    options, runner = options_of(environment), runner_of(environment)
    everywhere = servers(options)
    RUN.before = look(everywhere)
    RUN.scraper = Scraper(everywhere, options.run_began, step)
    if options.probe:
        arrival = (options.num_users or 1) / (options.spawn_rate or 1)
        RUN.probe = Probe(everywhere[0], RUN.room("fanout"), arrival)

    def announce(text: str) -> None:
        RUN.fault(text)
        if isinstance(runner, MasterRunner):
            runner.send_message("lab_fault", {"text": text})
            gevent.sleep(0.2)  # workers must know of the fault before it happens

    if options.fault != "none":
        when = options.storm_at if options.storm_kills else options.run_half
        count = len(options.replicas.split(","))
        RUN.striking = gevent.spawn(
            strike, options.fault, count, when, RUN.settled, announce
        )


@listens(events.spawning_complete)
def spawned(**_: Any) -> None:
    RUN.settling.spawned.set()


def stop_if_still_on(environment: Environment, name: str) -> None:
    if RUN.name == name and not RUN.draining:
        runner_of(environment).stop()


@listens(events.test_stopping)
def drain(environment: Environment, **_: Any) -> None:
    runner = runner_of(environment)
    if not RUN.name:  # Locust's page was closed before any run
        return
    RUN.ended = RUN.ended or time.monotonic_ns()
    if isinstance(runner, MasterRunner):
        if not RUN.draining:
            RUN.draining = True
            runner.send_message("lab_finish")
            deadline = time.monotonic() + WORKERS_LIMIT
            while awaited(runner) and time.monotonic() < deadline:
                gevent.sleep(0.05)
            RUN.drained.set()
        RUN.drained.wait()
        return
    first = not RUN.draining
    RUN.drain()
    if first:
        write_part(runner)


def awaited(runner: MasterRunner) -> set[str]:
    """Return the workers that are alive and have not sent their figures."""
    return (RUN.workers & alive(runner)) - RUN.parts.keys()


def alive(runner: MasterRunner) -> set[str]:
    """Return the workers that answer Locust's heartbeats."""
    return {each.id for each in runner.clients.all if each.state != STATE_MISSING}


def write_part(runner: Any) -> None:
    """Write this process's own figures."""
    name = f"part-{max(0, getattr(runner, 'worker_index', 0))}.json"
    try:
        write(RUN.folder / name, RUN.record.as_json())
    except OSError as exc:
        log.error("results cannot be written: %s", exc)


# Workers and their master


@listens(events.init)
def listen(environment: Environment, runner: Any, **_: Any) -> None:
    spared = 0
    if isinstance(runner, WorkerRunner):
        # Ctrl-C in a terminal reaches the children of a master, too. A child ignores
        # the first one, because the master asks it for its figures and then ends it.
        # The second one ends all processes at once.
        if options_of(environment).processes and not told_to_work():
            spared = 1
        # Concurrent: a worker must still hear its master while it drains.
        runner.register_message("lab_finish", finish, concurrent=True)
        runner.register_message("lab_fault", hear_of_fault, concurrent=True)
        runner.register_message("lab_go", go)
        compare(runner)
    elif isinstance(runner, MasterRunner):
        runner.register_message("lab_part", took)
        runner.register_message("lab_crowd", crowd)
        tell(runner)
    Interrupt(spared)
    listening.set()


def finish(environment: Environment, **_: Any) -> None:
    """Drain this worker and send its figures to the master."""
    drain(environment)
    runner_of(environment).send_message("lab_part", RUN.record.as_json())


def go(**_: Any) -> None:
    RUN.settling.go.set()


def crowd(environment: Environment, msg: Any, **_: Any) -> None:
    RUN.settling.crowd(runner_of(environment), msg.node_id)


def hear_of_fault(msg: Any, **_: Any) -> None:
    RUN.fault(msg.data["text"])


def took(msg: Any, **_: Any) -> None:
    part = Record.from_json(msg.data)
    if part.began in (0, RUN.record.began):  # of this run; 0: joined too late
        RUN.parts[msg.node_id] = part


@listens(events.worker_connect)
def joins(client_id: str, **_: Any) -> None:
    """Expect figures of a worker that joins while a run is going on."""
    if RUN.name and not RUN.draining:
        RUN.workers.add(client_id)


# The process that concludes


@listens(events.test_stop)
def conclude(environment: Environment, **_: Any) -> None:
    runner, options = runner_of(environment), options_of(environment)
    if isinstance(runner, WorkerRunner) or not RUN.name:
        return
    local = not isinstance(runner, MasterRunner)
    record = merged([RUN.record] if local else RUN.parts.values())
    failures = sum(error.occurrences for error in runner.errors.values())
    conclude_beside(record, options)
    missing = len(RUN.workers - RUN.parts.keys())
    for error in runner.exceptions.values():
        record.problems[f"the load test itself: {error['msg']}"] += error["count"]
    verdict = judge(record, failures, missing, options.lag_limit)
    RUN.verdict, answers = held_to(verdict, record, required(options))
    RUN.text = summary(record, RUN.verdict, lines(answers))
    if early := cut_short(options).get("cut_short"):
        RUN.text += f"\nnote     the run ended early, {early}"
    load = describe(record, options)
    try:
        said, found = about(environment, load), as_figures(record, RUN.verdict)
        found["requirements"] = [each.as_json() for each in answers]
        table = timeline(record, options)
        write(RUN.folder / "run.json", said)
        write(RUN.folder / "summary.json", found)
        write_csv(RUN.folder / "timeline.csv", table)
        saved = Saved(RUN.folder, said, found, record, table)
        drawn = () if options.no_pictures else pictures(saved)
        plots = [png(each, saved.caption, RUN.folder) for each in drawn]
        names = ", ".join(["summary.json", *(path.name for path in plots)])
        RUN.text += f"\nresults  {RUN.folder}: {names}"
    except OSError as exc:
        RUN.text += f"\nresults  not written: {exc}"
    if not options.headless:
        print(RUN.text, flush=True)
        RUN.text = ""  # said


def conclude_beside(record: Record, options: Any) -> None:
    """End the work beside the users, and add its figures."""
    if RUN.striking is not None:
        RUN.striking.kill()
    if RUN.probe is not None:
        seen = RUN.probe.stop()
        record.own("fanout").histogram(PROBE).add(seen)
        crowd = record.histogram("fanout/subscribers")
        record.notes["fanout"] = compared(seen, crowd)
    if "idle" in record.scenarios() and RUN.scraper is not None:
        judge_heartbeat(record, stalled(RUN.before, look(servers(options))))
        step = period(options.run_time or TIME_LIMIT)
        alone = record.scenarios() == ["idle"]
        own, samples = record.own("idle"), RUN.scraper.samples
        memory(own, RUN.before, samples, record.began, step, alone)


def timeline(record: Record, options: Any) -> list[dict[str, Any]]:
    """Return the rows of ``timeline.csv``."""
    samples = {}
    if RUN.scraper is not None:
        RUN.scraper.stop()
        samples = RUN.scraper.samples
    step = period(options.run_time or TIME_LIMIT)
    return rows(record.slices, samples, step, record.by_design, RUN.faults)


def describe(record: Record, options: Any) -> str:
    """Return the load in one line."""
    return (
        f"{sum(record.users.values())} users, {options.publish_rate:g} messages/s "
        f"a publisher, {options.payload_bytes} byte payloads, {record.wall:.0f} s"
    )


def began() -> dict[str, Any]:
    """Return the start of the run, from which all times count, on two clocks."""
    ago = (time.monotonic_ns() - RUN.record.began) / 1e9
    utc = datetime.now(UTC) - timedelta(seconds=ago)
    return {
        "utc": utc.isoformat(timespec="milliseconds"),
        "monotonic": round(RUN.record.began / 1e9, 3),
    }


def cut_short(options: Any) -> dict[str, str]:
    """Return an entry for ``run.json`` if the run ended before its time (Ctrl-C)."""
    lasted, planned = (RUN.ended - options.run_began) / 1e9, options.run_time or 0
    if lasted > planned - 0.5:
        return {}
    return {"cut_short": f"after {lasted:.0f} of {planned:.0f} s"}


def about(environment: Environment, load: str) -> dict[str, Any]:
    """Return ``run.json``: load, machine, versions and options; without secrets."""
    options = options_of(environment)
    return {
        "name": RUN.name,
        "started": began(),
        "faults": RUN.faults,
        "load": load,
        "machine": machine(),
        "versions": {**versions(), "locust": locust.__version__},
        "users": options.num_users,
        "spawn_rate": options.spawn_rate,
        "run_time": options.run_time,
        "host": shown(environment.host or ""),
        "replicas": [shown(url.strip()) for url in options.replicas.split(",")],
        "publish_rate": options.publish_rate,
        "payload_bytes": options.payload_bytes,
        "classes": sorted(each.__name__ for each in environment.user_classes),
        **cut_short(options),
        **json.loads(os.environ.get(ABOUT, "{}")),
    }


@listens(events.quitting)
def decide(environment: Environment, **_: Any) -> None:
    runner = runner_of(environment)
    if isinstance(runner, WorkerRunner):
        environment.process_exit_code = 0  # its master decides
        return
    if runner.state not in (STATE_INIT, STATE_STOPPED) and not RUN.draining:
        # After Ctrl-C Locust would read the exit code before the run ends.
        runner.stop()
    if RUN.verdict is not None:
        environment.process_exit_code = RUN.verdict.code


# Printed after Locust's own tables, so that the verdict comes last.
@listens(events.quit)
def say(**_: Any) -> None:
    if RUN.text:
        print(RUN.text, flush=True)

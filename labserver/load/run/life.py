"""The life of a run, as Locust's events tell it: start, drain, collect, conclude.

Locust kills its users at the end of a run, and its master waits only half a second for
the last reports of workers. So that the last messages count, a run is drained first:
publishers stop, all other users read until no more messages come, and then the figures
are taken. In a distributed run the master asks its workers for their figures.
"""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from typing import Any

import gevent
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

from labserver.load.figures.record import Record
from labserver.load.figures.results import run_name, write
from labserver.load.figures.timeline import period
from labserver.load.run import conclusion
from labserver.load.run.arguments import TIME_LIMIT
from labserver.load.run.beside import look, strike
from labserver.load.run.clock import compare, tell
from labserver.load.run.hooks import listens, options_of, runner_of
from labserver.load.run.interrupt import Interrupt, told_to_work
from labserver.load.run.options import Unusable, check_page, servers, try_servers
from labserver.load.run.sampler import Scraper
from labserver.load.run.settling import LIMIT
from labserver.load.run.state import DRAIN_LIMIT, Run
from labserver.load.run.tops import LIMIT as LAST

UNTIMED = 30.0  # seconds assumed for a run without -t, to place its faults
WORKERS_LIMIT = (
    2 * DRAIN_LIMIT + LAST + 4.0
)  # seconds that the master waits for its workers
log = logging.getLogger("loadtests")
listening = Event()  # set when this process hears what the load lab's processes say

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
            if RUN.scraper is not None:
                RUN.scraper.stop()
            runner.send_message("lab_finish")
            deadline = time.monotonic() + WORKERS_LIMIT
            while awaited(runner) and time.monotonic() < deadline:
                RUN.tops.tell(runner, RUN.workers & alive(runner))
                gevent.sleep(0.05)
            RUN.drained.set()
        RUN.drained.wait()
        return
    first = not RUN.draining
    many = isinstance(runner, WorkerRunner)
    RUN.drain(partial(RUN.tops.share, runner) if many else None)
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
        runner.register_message("lab_tops", hear_of_tops)
        compare(runner)
    elif isinstance(runner, MasterRunner):
        runner.register_message("lab_part", took)
        runner.register_message("lab_crowd", crowd)
        runner.register_message("lab_tops", take_tops)
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


def take_tops(msg: Any, **_: Any) -> None:
    RUN.tops.reached(msg.data)
    RUN.tops.told.add(msg.node_id)


def hear_of_tops(msg: Any, **_: Any) -> None:
    RUN.tops.hear(msg.data)


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
    if isinstance(runner_of(environment), WorkerRunner) or not RUN.name:
        return
    conclusion.conclude(RUN, environment)


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

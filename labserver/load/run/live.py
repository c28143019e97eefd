"""The figures of a run while it goes on, of one process or of all.

Whoever looks at a run must not disturb it. So a process only copies its figures, and
a thread adds them up, judges and formats them.

Messages that are in flight count neither as expected nor as lost: of each member, only
what came before its newest message is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import gevent
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from labserver.load.figures.generator import Generator
from labserver.load.figures.histogram import Histogram, ms
from labserver.load.figures.record import COUNTERS, Record, merged
from labserver.load.figures.trust import trusted, until_all, whole
from labserver.load.figures.verdict import EXIT_FAILURES, Verdict, judge
from labserver.load.run.hooks import listens, options_of, runner_of
from labserver.load.run.life import RUN

T = TypeVar("T")
AT_ONCE = 100  # members that are counted before others may run
HEARD: dict[str, Record] = {}  # newest figures of each worker, in the master


def now() -> Record:
    """Return a copy of this process's figures so far; lets other greenlets run."""
    record = frozen(RUN.record)
    for number, member in enumerate(list(RUN.members)):
        member.so_far(record)
        if number % AT_ONCE == AT_ONCE - 1:
            gevent.sleep(0)
    if RUN.stalls is not None and not RUN.draining:
        record.wall = time.monotonic() - RUN.started
        spent = time.process_time() - RUN.started_cpu
        record.cpu = spent / max(record.wall, 0.001)
        figures = RUN.generator(RUN.stalls, *RUN.stalls.theft.shares())
        record.generators = [replace(figures, cpu=round(record.cpu, 4))]
    return record


def frozen(record: Record) -> Record:
    """Return a copy of what is shown, which does not change any more."""
    return replace(
        record,
        asked=0,
        slices={},
        figures={},
        ends={},
        outcomes={},
        latency={name: each.copy() for name, each in record.latency.items()},
        everybody={name: each.copy() for name, each in record.everybody.items()},
        tallies={name: replace(each) for name, each in record.tallies.items()},
        **{name: getattr(record, name).copy() for name in ("slip", "lag", "loop")},
        **{name: getattr(record, name).copy() for name in COUNTERS},
        by_design=set(record.by_design),
        tops=dict(record.tops),
        notes=dict(record.notes),
    )


def aside(work: Callable[..., T], *arguments: Any) -> T:
    """Return the result of some work in a thread; other greenlets run meanwhile."""
    done: T = gevent.get_hub().threadpool.apply(work, arguments)
    return done


@listens(events.report_to_master)
def report(client_id: str, data: dict[str, Any]) -> None:
    if RUN.name and not RUN.draining:
        data["lab"] = aside(now().as_json)


@listens(events.worker_report)
def heard(client_id: str, data: dict[str, Any]) -> None:
    if told := data.pop("lab", None):
        HEARD[client_id] = Record.from_json(told)


NOTHING: dict[str, Any] = {"mood": "", "sentence": "", "groups": [], "generators": []}
recent: tuple[float, dict[str, Any]] = (0.0, NOTHING)  # when, and what was told


def told(environment: Environment) -> dict[str, Any]:
    """Return what Locust's page shows of the run, for its script and its tabs.

    It is at most a second old.

    """
    global recent
    if time.monotonic() - recent[0] > 1:
        recent = time.monotonic(), recent[1]  # one look at a time
        recent = time.monotonic(), look(environment)
    return recent[1]


def look(environment: Environment) -> dict[str, Any]:
    runner = runner_of(environment)
    if not RUN.name:
        return NOTHING
    if RUN.verdict is not None and RUN.total is not None:
        return aside(shown, RUN.total, RUN.verdict, "")
    parts = [now()] if not isinstance(runner, MasterRunner) else current()
    failures = sum(error.occurrences for error in runner.errors.values())
    return aside(judged, parts, failures, options_of(environment).lag_limit)


def judged(parts: Sequence[Record], failures: int, lag_limit: float) -> dict[str, Any]:
    """Return what is shown of a run that goes on."""
    record = merged(parts)
    verdict = judge(record, failures, 0, lag_limit)
    if not whole(record).count and verdict.code != EXIT_FAILURES:
        return {**NOTHING, "sentence": "No message has arrived yet"}
    return shown(record, verdict, " so far")


def shown(record: Record, verdict: Verdict, when: str) -> dict[str, Any]:
    # What a figure is doubted for stands behind the figure.
    reasons = verdict.reasons if verdict.code else verdict.reasons[:1]
    return {
        "mood": {0: "good", 4: "unsure"}.get(verdict.code, "bad"),
        "sentence": f"{verdict.word}{when}: {sentence(record, reasons)}",
        "groups": [group(record, name) for name in sorted(record.tallies)],
        "generators": [generator(each) for each in record.generators],
    }


def current() -> list[Record]:
    """Return the newest figures of the workers of this run."""
    return [
        each
        for worker, each in HEARD.items()
        if worker in RUN.workers and each.began == RUN.record.began
    ]


def sentence(record: Record, reasons: Sequence[str]) -> str:
    prompt = [
        each for name, each in record.tallies.items() if name not in record.by_design
    ]
    delivered = sum(each.delivered for each in prompt)
    expected = sum(each.expected for each in prompt)
    parts = ["; ".join(reasons), f"{delivered:,} of {expected:,} delivered"]
    if whole(record).count:
        parts += [
            f"p50 {trusted(record, '', 50)}, p99 {trusted(record, '', 99)}",
            f"until everybody has it p99 {until_all(record, '', 99)}",
        ]
    late, read = record.slip.percentile(99), record.lag.percentile(99)
    parts.append(f"generator: sent late p99 {ms(late)}, read late p99 {ms(read)}")
    return " · ".join(parts)


def group(record: Record, name: str) -> dict[str, str]:
    """Return a row of the tab about messages."""
    tally, scenario = record.tallies[name], name.partition("/")[0]
    own = [each for each in record.latency if each.startswith(f"{scenario}/")]
    # Some scenarios divide the latency of a group in another way.
    chosen = [name] if name in own else [e for e in own if e not in record.by_design]
    latency = Histogram.merged(record.latency[each] for each in chosen)
    shown = {
        f"p{percent}": str(trusted(record, f"{scenario}/", percent, latency))
        for percent in (50, 99)
    }
    return {
        "name": name + (" (slow by design)" if name in record.by_design else ""),
        "delivered": f"{tally.delivered:,} of {tally.expected:,}",
        "lost": f"{tally.lost:,}",
        "wrong": f"{tally.duplicated + tally.reordered:,}",
        "gaps": f"{tally.told:,}",
        **(shown if latency.count else {"p50": "", "p99": ""}),
        "max": ms(latency.highest) if latency.count else "",
    }


def generator(each: Generator) -> dict[str, str]:
    """Return a row of the tab about the generator."""
    return {
        "name": each.name,
        "users": f"{each.users:,}",
        "sent": ms(each.slip_us),
        "read": ms(each.lag_us),
        "cpu": f"{each.cpu:.0%}",
        "waited": f"{each.waited:.0%}",
        "still": f"{each.still:.2f} s",
    }


@listens(events.test_start)
def forget(environment: Environment, **_: Any) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        HEARD.clear()

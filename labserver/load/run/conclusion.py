"""The conclusion of a run: the verdict, and the files that say what was measured."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import locust
from locust.env import Environment
from locust.runners import MasterRunner

from labserver.load.addresses import shown
from labserver.load.figures.record import Record, merged
from labserver.load.figures.require import held_to, lines
from labserver.load.figures.results import (
    as_figures,
    machine,
    summary,
    versions,
    write,
)
from labserver.load.figures.saved import ABOUT, Saved
from labserver.load.figures.timeline import period, rows, stalled, write_csv
from labserver.load.figures.verdict import judge, judge_heartbeat
from labserver.load.pictures.drawing import png
from labserver.load.pictures.gallery import pictures
from labserver.load.pictures.report import stamp
from labserver.load.run.arguments import TIME_LIMIT
from labserver.load.run.beside import look, memory
from labserver.load.run.hooks import options_of, runner_of
from labserver.load.run.options import required, servers
from labserver.load.run.state import Run


def conclude(run: Run, environment: Environment) -> None:
    """Judge a run, write its results, and print the summary or keep it for the end."""
    runner, options = runner_of(environment), options_of(environment)
    local = not isinstance(runner, MasterRunner)
    record = merged([run.record] if local else run.parts.values())
    failures = sum(error.occurrences for error in runner.errors.values())
    _end_beside(run, record, options)
    missing = len(run.workers - run.parts.keys())
    for error in runner.exceptions.values():
        record.problems[f"the load test itself: {error['msg']}"] += error["count"]
    verdict = judge(record, failures, missing, options.lag_limit)
    run.total = record
    run.verdict, answers = held_to(verdict, record, required(options))
    run.text = summary(record, run.verdict, lines(answers))
    if early := _cut_short(run, options).get("cut_short"):
        run.text += f"\nnote     the run ended early, {early}"
    load = described(record, environment)
    try:
        said, found = _about(run, environment, load), as_figures(record, run.verdict)
        found["requirements"] = [each.as_json() for each in answers]
        table = _timeline(run, record, options)
        write(run.folder / "run.json", said)
        write(run.folder / "summary.json", found)
        write_csv(run.folder / "timeline.csv", table)
        saved = Saved(run.folder, said, found, record, table)
        drawn = () if options.no_pictures else pictures(saved)
        seen = stamp(saved)
        plots = [png(each, saved.caption, run.folder, seen) for each in drawn]
        names = ", ".join(["summary.json", *(path.name for path in plots)])
        run.text += f"\nresults  {run.folder}: {names}"
    except OSError as exc:
        run.text += f"\nresults  not written: {exc}"
    if not options.headless:
        print(run.text, flush=True)
        run.text = ""  # said


def _end_beside(run: Run, record: Record, options: Any) -> None:
    """End the work beside the users, and add its figures."""
    if run.striking is not None:
        run.striking.kill()
    if "idle" in record.scenarios() and run.scraper is not None:
        judge_heartbeat(record, stalled(run.before, look(servers(options))))
        step = period(options.run_time or TIME_LIMIT)
        alone = record.scenarios() == ["idle"]
        own, samples = record.own("idle"), run.scraper.samples
        memory(own, run.before, samples, record.began, step, alone)


def _timeline(run: Run, record: Record, options: Any) -> list[dict[str, Any]]:
    """Return the rows of ``timeline.csv``."""
    samples = {}
    if run.scraper is not None:
        samples = run.scraper.samples
    step = period(options.run_time or TIME_LIMIT)
    return rows(record.slices, samples, step, record.by_design, run.faults)


def described(record: Record, environment: Environment) -> str:
    """Return the load in one line, as the classes of this run have made it."""
    options = options_of(environment)
    classes: list[Any] = environment.user_classes
    publishers = [each for each in classes if each.publishes]
    rates = {each.publish_rate or options.publish_rate for each in publishers}
    sizes = {max(options.payload_bytes, each.payload_least) for each in publishers}
    parts = [f"{sum(record.users.values())} users"]
    if publishers:
        parts += [
            f"{_range(rates)} messages/s a publisher",
            f"{_range(sizes)} byte payloads",
        ]
    return ", ".join([*parts, f"{record.wall:.0f} s"])


def _range(values: set[float]) -> str:
    least, most = min(values), max(values)
    return f"{least:,g}" if least == most else f"{least:,g} to {most:,g}"


def _began(run: Run) -> dict[str, Any]:
    """Return the start of the run, from which all times count, on two clocks."""
    ago = (time.monotonic_ns() - run.record.began) / 1e9
    utc = datetime.now(UTC) - timedelta(seconds=ago)
    return {
        "utc": utc.isoformat(timespec="milliseconds"),
        "monotonic": round(run.record.began / 1e9, 3),
    }


def _cut_short(run: Run, options: Any) -> dict[str, str]:
    """Return an entry for ``run.json`` if the run ended before its time (Ctrl-C)."""
    lasted, planned = (run.ended - options.run_began) / 1e9, options.run_time or 0
    if lasted > planned - 0.5:
        return {}
    return {"cut_short": f"after {lasted:.0f} of {planned:.0f} s"}


def _about(run: Run, environment: Environment, load: str) -> dict[str, Any]:
    """Return ``run.json``: load, machine, versions and options; without secrets."""
    options = options_of(environment)
    return {
        "name": run.name,
        "started": _began(run),
        "faults": run.faults,
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
        **_cut_short(run, options),
        **json.loads(os.environ.get(ABOUT, "{}")),
    }

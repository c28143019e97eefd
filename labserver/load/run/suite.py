"""The scenarios one after the other, each against a cluster of its own.

Locust runs as a subprocess with bounded users and time; its output goes to a file
beside its results. Locust itself asks for a fault (:mod:`labserver.load.run.owned`),
because its users must know of a fault before it happens.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import labserver
from labserver.errors import SettingsError
from labserver.load.figures.require import Requirement
from labserver.load.figures.results import run_name
from labserver.load.figures.saved import (
    ABOUT,
    ALONE,
    CALM,
    CONTROL,
    Saved,
    Unreadable,
    load,
)
from labserver.load.figures.verdict import EXIT_FAILURES, EXIT_INVALID, EXIT_NOTHING
from labserver.load.run.owned import Owned, owned
from labserver.redis.embedded import end_with_parent
from labserver.settings import POLICIES

OVERHEAD = 6.0  # seconds for starting, draining and drawing, beside the load
STEP_LEAST = 2  # seconds; Locust adds users once a second
GRACE = 45.0  # seconds beyond its time after which Locust is ended
GOODBYE = 10.0  # seconds that Locust gets to conclude after SIGINT
# From best to worst: valid, invalid figures, losses, nothing delivered.
SEVERITY = (0, EXIT_INVALID, EXIT_FAILURES, EXIT_NOTHING)


@dataclass(frozen=True)
class Case:
    """One scenario at laptop size.

    Args:
        scenario: Name of the scenario.
        seconds: Seconds of load.
        users: Number of members.
        rate: Members that connect a second at the beginning.
        steps: Steps of equal length in which they connect instead, if the run is long
            enough.
        replicas: Number of servers.
        server: Further arguments of ``labserver serve``.
        locust: Further arguments of Locust.
        fault: Value of ``--fault``; empty for none.
        variant: A word that distinguishes cases of the same scenario.
        required: Requirements, as ``--require`` takes them.

    """

    scenario: str
    seconds: int
    users: int
    rate: int = 100
    replicas: int = 1
    server: tuple[str, ...] = ()
    locust: tuple[str, ...] = ()
    fault: str = ""
    variant: str = ""
    required: tuple[str, ...] = ()
    steps: int = 0

    @property
    def name(self) -> str:
        return f"{self.scenario}, {self.variant}" if self.variant else self.scenario

    @property
    def arrival(self) -> tuple[str, ...]:
        """Arguments of Locust that say how many members connect, and when."""
        how = ("-u", str(self.users), "-r", str(self.rate))
        length = self.seconds // self.steps if self.steps else 0
        if length < STEP_LEAST:
            return how
        return (*how, "--steps", f"{-(-self.users // self.steps)}:{length}")


# The scenario files are beside the package, in a checkout.
SCENARIOS = Path(labserver.__file__).parent.parent / "loadtests"
CASES = (
    Case("fanout", 30, 400, steps=5),
    # The same crowd without slow readers, to compare with.
    Case(
        *("slow_readers", 8, 9),
        server=("--send-buffer", "65536"),
        locust=("SlowRoomPublisher", "HealthyReader"),
        variant=CONTROL,
    ),
    *(
        Case(
            *("slow_readers", 8, 12),
            # Small kernel buffers: unread messages wait in the server, which counts
            # them.
            server=("--outbox-policy", policy, "--send-buffer", "65536"),
            variant=policy,
        )
        for policy in POLICIES
    ),
    Case("replicas", 8, 60, server=("--without", "broker"), variant=ALONE),
    Case("replicas", 8, 60, replicas=3, variant=CALM),
    Case("replicas", 10, 60, replicas=3, fault="pause-redis", variant="Redis paused"),
    Case("replicas", 10, 60, replicas=3, fault="kill-replica", variant="one killed"),
    Case(
        *("reconnect_storm", 18, 240),
        rate=40,
        replicas=3,
        server=("--admission-rate", "50"),
        fault="kill-replica",
    ),
    Case("idle", 12, 400, rate=60, server=("--heartbeat-interval", "2")),
    Case("churn", 6, 20),
)


@dataclass
class Outcome:
    """The result of a case."""

    case: Case
    code: int
    word: str
    saved: Saved | None  # None when Locust wrote no results
    seconds: float


def scenarios() -> list[str]:
    """Return the names of all scenarios, in the order in which they run."""
    return list(dict.fromkeys(case.scenario for case in CASES))


def chosen(
    names: Sequence[str],
    seconds: int,
    users: int,
    required: Sequence[Requirement] = (),
) -> list[Case]:
    """Return the cases of these scenarios (all if ``names`` is empty).

    ``seconds`` and ``users`` replace those of each case, unless they are 0.

    Raises:
        SettingsError: A requirement is about a scenario that is not among them.

    """
    here = [case for case in CASES if not names or case.scenario in names]
    loaded = {case.scenario for case in here}
    for each in required:
        if each.scenario and each.scenario not in loaded:
            raise SettingsError(
                f"--require {each.text!r}: {each.scenario!r} is not among the "
                f"scenarios that are judged: {', '.join(sorted(loaded)) or 'none'}"
            )
    cases = []
    for case in here:
        case = replace(case, seconds=seconds or case.seconds)
        mine = [e.text for e in required if e.scenario in ("", case.scenario)]
        case = replace(case, users=users or case.users, required=tuple(mine))
        cases.append(case)
    return cases


def runs_in(folder: Path) -> set[Path]:
    return {each for each in folder.iterdir() if each.is_dir()}


def estimate(case: Case) -> float:
    return case.seconds + OVERHEAD


def new_folder(results: Path, kind: str) -> Path:
    """Make a folder for runs that begin now.

    Raises:
        OSError: It cannot be made.

    """
    folder = results / run_name(kind)
    folder.mkdir(parents=True)
    return folder


def worst(codes: Sequence[int]) -> int:
    """Return the worst of several exit statuses; an unknown one is a failure."""
    known = [code if code in SEVERITY else EXIT_FAILURES for code in codes]
    return max(known, key=SEVERITY.index, default=0)


async def run(case: Case, folder: Path) -> Outcome:
    """Run a case on servers of its own, and stop them at the end.

    Raises:
        LabError: The servers did not start.

    """
    began = time.monotonic()
    async with owned(case.replicas, *case.server) as servers:
        outcome = await measured(case, servers, folder)
    return replace(outcome, seconds=time.monotonic() - began)


async def measured(case: Case, servers: Owned, folder: Path) -> Outcome:
    """Run a case on these servers."""
    began, before = time.monotonic(), runs_in(folder)
    code = await under_load(case, servers, folder)
    word, saved = "did not run", None
    if fresh := runs_in(folder) - before:
        try:
            saved = load(fresh.pop())
            word = str(saved.summary["verdict"])
        except Unreadable as exc:
            word, code = str(exc), code or EXIT_FAILURES
    return Outcome(case, code, word, saved, time.monotonic() - began)


def about(case: Case) -> dict[str, Any]:
    """Return entries of ``run.json`` that the load test itself does not know."""
    server = " ".join(("labserver serve --stage resume", *case.server))
    many = f"{case.replicas} x " if case.replicas > 1 else ""
    return {"server": many + server, "variant": case.variant}


async def under_load(case: Case, servers: Owned, folder: Path) -> int:
    """Run Locust; return its exit status."""
    fault = ("--fault", case.fault) if case.fault else ()
    with (folder / f"{case.scenario}.log").open("ab") as log:
        locust = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "-f", str(SCENARIOS)),
            *("--headless", "--only-summary", "--results", str(folder)),
            *("--host", servers.urls[0], "--replicas", ",".join(servers.urls)),
            *(*case.arrival, "-t", f"{case.seconds}s"),
            *("--scenario", case.scenario, *case.locust, *fault),
            *(word for each in case.required for word in ("--require", each)),
            env={**os.environ, **servers.environment, ABOUT: json.dumps(about(case))},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is passed on, and only once
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
    try:
        async with asyncio.timeout(case.seconds + GRACE):
            code = await locust.wait()
    except TimeoutError:
        code = EXIT_FAILURES
    finally:
        await ended(locust)
    return code


async def ended(locust: asyncio.subprocess.Process) -> None:
    """Ask Locust to conclude if it still runs, and kill it if it does not."""
    if locust.returncode is not None:
        return
    locust.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(GOODBYE):
            await locust.wait()
    except TimeoutError:
        locust.kill()
        await locust.wait()

"""The scenarios one after the other, each against a cluster of its own.

Locust runs as a subprocess with bounded users and time; what it prints goes to a file
beside its results. A fault is done here, half-way, because here the processes are
known; what was done is added to the run afterwards.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from _drawing import png
from _gallery import pictures
from _omission import demonstrate
from _results import EXIT_FAILURES, EXIT_INVALID, EXIT_NOTHING, write
from _saved import Saved, Unreadable, load
from _timeline import mark, write_csv

from labserver.cluster import Cluster, running_cluster
from labserver.embedded import EmbeddedRedis, embedded_redis, end_with_parent

OVERHEAD = 9.0  # seconds that starting, draining and drawing take beside the load
GRACE = 45.0  # seconds after which a Locust that should be done is ended
GOODBYE = 10.0  # seconds that it has to conclude on Ctrl-C
PUBLISHED = "labserver_messages_published_total"
FROZEN = 2.0  # seconds
# The worst comes last: figures that mean nothing, losses, nothing at all.
SEVERITY = (0, EXIT_INVALID, EXIT_FAILURES, EXIT_NOTHING)


@dataclass(frozen=True)
class Case:
    """One scenario at laptop size.

    Args:
        scenario: Its name.
        seconds: Of load.
        users: How many members.
        rate: Of them a second at the beginning.
        replicas: Servers.
        server: Further arguments of ``labserver serve``.
        locust: Further arguments of Locust.
        fault: Done half-way: ``kill`` ends a replica, ``freeze`` stops Redis a while.
        variant: What tells it from another case of the same scenario.

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

    @property
    def name(self) -> str:
        return f"{self.scenario}, {self.variant}" if self.variant else self.scenario


POLICIES = ("disconnect", "drop-newest", "drop-oldest", "conflate")
CASES = (
    Case("fanout", 30, 300),
    *(
        Case(
            *("slow_readers", 9, 12),
            server=("--outbox-policy", policy),
            variant=policy,
        )
        for policy in POLICIES
    ),
    Case("replicas", 16, 60, replicas=3, fault="freeze"),
    Case("omission", 6, 2),
)


@dataclass
class Outcome:
    """What came of a case."""

    case: Case
    code: int
    word: str
    folder: Path | None  # None when Locust wrote none
    seconds: float


def scenarios() -> list[str]:
    """Return the names that may be asked for, in the order in which they run."""
    return list(dict.fromkeys(case.scenario for case in CASES))


def chosen(names: Sequence[str], seconds: int, users: int) -> list[Case]:
    """Return the cases of these scenarios, all if none is named."""
    return [
        replace(
            case,
            seconds=seconds or case.seconds,
            users=users if users and case.scenario != "omission" else case.users,
        )
        for case in CASES
        if not names or case.scenario in names
    ]


def runs_in(folder: Path) -> set[Path]:
    return {each for each in folder.iterdir() if each.is_dir()}


def estimate(case: Case) -> float:
    return case.seconds + (3.0 if case.scenario == "omission" else OVERHEAD)


def new_folder(results: Path, kind: str) -> Path:
    """Make a folder for runs that begin now.

    Raises:
        OSError: It cannot be made.

    """
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}Z-{kind}"
    folder = results / name
    folder.mkdir(parents=True)
    return folder


def worst(codes: Sequence[int]) -> int:
    """Return the exit status of several runs; an unknown one is a failure."""
    known = [code if code in SEVERITY else EXIT_FAILURES for code in codes]
    return max(known, key=SEVERITY.index, default=0)


def classes(scenario: str) -> list[str]:
    """Return the users of a scenario, as Locust wants them named."""
    tree = ast.parse((Path(__file__).parent / f"{scenario}.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


async def run(case: Case, folder: Path) -> Outcome:
    """Run a case against servers of its own, and leave nothing running.

    Raises:
        LabError: The servers did not start.

    """
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(embedded_redis())
        secret = secrets.token_urlsafe(32)
        cluster = await stack.enter_async_context(
            running_cluster(
                *(case.replicas, "resume", *case.server),
                secret=secret,
                redis=redis.url,
            )
        )
        if case.scenario == "omission":
            where = await demonstrate(cluster.replicas[0], case.seconds, folder)
            code, faults = 0, []
        else:
            before = runs_in(folder)
            code, faults = await under_load(case, cluster, redis, secret, folder)
            fresh = runs_in(folder) - before
            if not fresh:
                return Outcome(
                    case, code, "did not run", None, time.monotonic() - began
                )
            where = fresh.pop()
    about: dict[str, Any] = {"server": " ".join(("resume", *case.server))}
    if case.variant:
        about["variant"] = case.variant
    try:
        word = str(amend(where, about, faults).summary["verdict"])
    except Unreadable as exc:
        word, code = str(exc), code or EXIT_FAILURES
    return Outcome(case, code, word, where, time.monotonic() - began)


async def under_load(
    case: Case, cluster: Cluster, redis: EmbeddedRedis, secret: str, folder: Path
) -> tuple[int, list[dict[str, Any]]]:
    """Run Locust, and the fault; return its exit status, and what was done."""
    urls = [replica.url for replica in cluster.replicas]
    with (folder / f"{case.scenario}.log").open("ab") as log:
        locust = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "-f", str(Path(__file__).parent)),
            *("--headless", "--only-summary", "--results", str(folder)),
            *("--host", urls[0], "--replicas", ",".join(urls)),
            *("-u", str(case.users), "-r", str(case.rate), "-t", f"{case.seconds}s"),
            *(*case.locust, *classes(case.scenario)),
            env={**os.environ, "LAB_SECRET": secret},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is passed on, and only once
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
    breaking = asyncio.create_task(break_something(case, cluster, redis))
    try:
        async with asyncio.timeout(case.seconds + GRACE):
            code = await locust.wait()
    except TimeoutError:
        code = EXIT_FAILURES
    finally:
        breaking.cancel()
        await ended(locust)
        with contextlib.suppress(asyncio.CancelledError):
            await breaking
    return code, breaking.result() if not breaking.cancelled() else []


async def ended(locust: asyncio.subprocess.Process) -> None:
    """Ask Locust to conclude if it has not, and see that it ends."""
    if locust.returncode is not None:
        return
    locust.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(GOODBYE):
            await locust.wait()
    except TimeoutError:
        locust.kill()
        await locust.wait()


async def break_something(
    case: Case, cluster: Cluster, redis: EmbeddedRedis
) -> list[dict[str, Any]]:
    """Do the case's fault half-way; return what was done, for ``run.json``."""
    if not case.fault:
        return []
    # Half-way is counted from when the first message was published.
    while not await published(cluster):  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0.1)
    await asyncio.sleep(case.seconds / 2)
    found = []

    def done(text: str) -> None:
        utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        found.append({"monotonic": time.monotonic(), "utc": utc, "text": text})

    if case.fault == "kill":
        victim = cluster.replicas[-1]
        done(f"replica {len(cluster.replicas)} is killed")
        await victim.stop(signal.SIGKILL)
        return found
    redis.signal(signal.SIGSTOP)
    try:
        done(f"Redis is frozen for {FROZEN:g} s")
        await asyncio.sleep(FROZEN)
    finally:
        redis.signal(signal.SIGCONT)
    return found


async def published(cluster: Cluster) -> bool:
    try:
        return (
            await cluster.replicas[0].metric("labserver_messages_published_total") > 0
        )
    except (KeyError, OSError):
        return False


def amend(
    folder: Path, about: dict[str, Any], faults: Sequence[dict[str, Any]]
) -> Saved:
    """Add what only the runner knows to a run: the servers, and what was done to them.

    Raises:
        Unreadable: The run is not whole.

    """
    saved = load(folder)
    began = saved.about.get("started", {}).get("monotonic", 0.0)
    marks = [
        {
            "at": round(each["monotonic"] - began, 3),
            "utc": each["utc"],
            "text": each["text"],
        }
        for each in faults
    ]
    known = [*saved.about.get("faults", ()), *marks]
    write(folder / "run.json", {**saved.about, **about, "faults": known})
    if marks and saved.table:
        write_csv(folder / "timeline.csv", mark(saved.table, known))
    saved = load(folder)
    for picture in pictures(saved):
        png(picture, saved.caption, folder)
    return saved

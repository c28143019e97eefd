"""Load tests beside an independent witness, with faults: is any VALID wrong?

    python -m chaos.witness --runs 50 --out witness.jsonl
    python -m chaos.witness --table witness.jsonl

The witness (``tests/support/onlooker.py``) joins the room of each load test on plain
sockets, in a process that does nothing else, and shares no code with the generator. A
run is one line of JSON: what was injected, what the witness saw, what the generator
reported, and whether a verdict of VALID was wrong. It takes 20 seconds a run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from chaos.tamper import tampering
from labserver.processes import faults
from labserver.processes.cluster import Replica, start_replica

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "tests" / "support"
SECRET = "the witness signs with this secret, as long as any"
SECONDS, USERS, RATE = 10, 40, 20
NEAR, LEAST = 0.1, 3.0  # share of the witness' figure, milliseconds
OTHER_CLOCK = ("unshare", "--time", "--monotonic", "1000")
ONE_CORE = ("taskset", "-c", "0")

Processes = list[asyncio.subprocess.Process]


@dataclass
class Scene:
    """A load test that is going on.

    Args:
        server: The server.
        started: The processes of the generator: the only one, or master and workers.
        stack: Ended after the run.

    """

    server: Replica
    started: Processes
    stack: AsyncExitStack

    def workers(self) -> list[psutil.Process]:
        """Return the workers, in the order in which they were started."""
        found = [psutil.Process(each.pid) for each in self.started]
        if len(found) > 1:
            return found[1:]
        return sorted(found[0].children(), key=lambda each: each.pid) or found


async def stop_for(process: psutil.Process, seconds: float) -> None:
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    process.send_signal(signal.SIGCONT)


async def nothing(scene: Scene) -> None:
    """Let the load test run."""


async def server_stands_still(scene: Scene) -> None:
    await stop_for(psutil.Process(scene.server.pid), 1.0)


async def first_stands_still(scene: Scene) -> None:
    await stop_for(scene.workers()[0], 1.0)


async def last_stands_still(scene: Scene) -> None:
    await stop_for(scene.workers()[-1], 1.0)


async def stutters(scene: Scene) -> None:
    """Take half of the time from all processes of the generator, as a host would."""
    workers = scene.workers()
    with contextlib.suppress(psutil.NoSuchProcess):  # the run is over
        for _ in range(50):
            await asyncio.gather(*(stop_for(each, 0.03) for each in workers))
            await asyncio.sleep(0.03)


async def busy_core(scene: Scene) -> None:
    """Two busy loops on the generator's only core."""
    for _ in range(2):
        loop = await asyncio.create_subprocess_exec(
            *(*ONE_CORE, sys.executable, "-c", "while True: pass")
        )
        scene.stack.callback(loop.kill)


async def server_dies(scene: Scene) -> None:
    """Kill the server; another one takes its port a second later."""
    port = scene.server.url.rpartition(":")[2]
    await scene.server.stop(signal.SIGKILL)
    await asyncio.sleep(1)
    again = await start_replica(
        *("resume", "--without", "broker", "--port", port), secret=SECRET
    )
    scene.stack.push_async_callback(again.stop)


# What is injected: how the generator runs, what happens, what is around a process, what
# is between generator and server.
FAULTS: dict[str, tuple[str, Callable[[Scene], Awaitable[None]], str, str]] = {
    "nothing, one process": ("one", nothing, "", ""),
    "nothing, two processes": ("two", nothing, "", ""),
    "nothing, workers by hand": ("hand", nothing, "", ""),
    "server stopped 1 s": ("one", server_stands_still, "", ""),
    "server stopped 1 s, two": ("two", server_stands_still, "", ""),
    "generator stopped 1 s": ("one", first_stands_still, "", ""),
    "one worker stopped 1 s": ("two", first_stands_still, "", ""),
    "another worker stopped 1 s": ("two", last_stands_still, "", ""),
    "worker by hand stopped 1 s": ("hand", last_stands_still, "", ""),
    "busy core": ("one", busy_core, "core", ""),
    "theft of half the time": ("one", stutters, "", ""),
    "theft of half the time, two": ("two", stutters, "", ""),
    "clock 1,000 s ahead": ("hand", nothing, "clock", ""),
    "server killed": ("one", server_dies, "", ""),
    "messages dropped": ("one", nothing, "", "drop"),
    "messages doubled": ("one", nothing, "", "double"),
    "messages swapped": ("one", nothing, "", "swap"),
    "half-open 2 s": ("one", nothing, "", "half-open"),
    "half-open to the end": ("one", nothing, "", "dead"),
}
NEVER_VALID = ("server killed", "messages", "half-open to the end")


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


async def locust(stack: AsyncExitStack, variables: Any, *command: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    stack.callback(end)
    return process


async def generators(
    stack: AsyncExitStack, kind: str, around: str, url: str, folder: Path
) -> Processes:
    """Start the generator; the process that concludes comes first."""
    variables = {"LAB_SECRET": SECRET, "LAB_TEST_ROOM": str(folder / "room")}
    python = (sys.executable, "-m", "locust", "-f", "loadtests", "--headless")
    load = (
        *("--host", url, "-u", f"{USERS}", "-r", f"{USERS}", "-t", f"{SECONDS}s"),
        *("--publish-rate", f"{RATE}", "--no-pictures", "--only-summary"),
        *("--results", str(folder / "results")),
    )
    users = ("FanoutPublisher", "FanoutSubscriber")
    dialect = ("--dialect", f"{SUPPORT / 'told_room.py'}:ToldRoom")
    if kind != "hand":
        core = ONE_CORE if around == "core" else ()
        two = ("--processes", "2") if kind == "two" else ()
        command = (*core, *python, *load, *two, *dialect, *users)
        return [await locust(stack, variables, *command)]
    port = free_port()
    master = ("--master", "--master-bind-host", "127.0.0.1", "--expect-workers", "2")
    bind = ("--master-bind-port", port)
    started = [
        await locust(stack, variables, *python, *load, *master, *bind, *dialect, *users)
    ]
    for number in range(2):
        clock = OTHER_CLOCK if number and around == "clock" else ()
        worker = ("--worker", "--master-port", port, *dialect, *users)
        started.append(await locust(stack, variables, *clock, *python, *worker))
    return started


@asynccontextmanager
async def between(server: Replica, what: str) -> AsyncIterator[tuple[str, Any]]:
    """Yield the URL that the generator gets, and what is between it and the server."""
    port = int(server.url.rpartition(":")[2])
    if not what:
        yield server.url, None
    elif what in ("half-open", "dead"):
        async with faults.proxy("127.0.0.1", port) as net:
            yield net.url, net
    else:
        async with tampering(port, what) as (url, tamper):
            yield url, tamper


async def witness(folder: Path, server: Replica) -> asyncio.subprocess.Process:
    """Start the witness when the room is known."""
    room = folder / "room"
    async with asyncio.timeout(30):
        while not room.exists():  # noqa: ASYNC110 (another process writes it)
            await asyncio.sleep(0.05)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(SUPPORT / "onlooker.py")),
        *(server.url.rpartition(":")[2], await asyncio.to_thread(room.read_text), "10"),
        env={**os.environ, "LAB_TOKEN": server.token()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def run(name: str, folder: Path) -> dict[str, Any]:
    """Run one load test with its fault; return what was seen and reported."""
    kind, inject, around, what = FAULTS[name]
    async with AsyncExitStack() as stack:
        server = await start_replica("resume", "--without", "broker", secret=SECRET)
        stack.push_async_callback(server.stop)
        url, net = await stack.enter_async_context(between(server, what))
        started = await generators(stack, kind, around, url, folder)
        seer = await witness(folder, server)
        await asyncio.sleep(SECONDS / 2)
        await inject(Scene(server, started, stack))
        if what in ("half-open", "dead"):
            net.down.freeze()
            await asyncio.sleep(2)
            if what == "half-open":
                net.down.thaw()
        async with asyncio.timeout(60):
            await started[0].wait()
        out, _ = await seer.communicate(b"")
    (found,) = (folder / "results").glob("*/summary.json")
    summary = json.loads(await asyncio.to_thread(found.read_text))
    return told(name, json.loads(out), summary, getattr(net, "done", None))


def told(
    name: str, seen: dict[str, Any], summary: dict[str, Any], done: int | None
) -> dict[str, Any]:
    """Return the line of a run."""
    latency = summary["latency_from_due_us"].get("fanout/subscribers", {})
    tally = summary["completeness"].get("fanout/subscribers", {})
    line = {
        "fault": name,
        "injected": done,
        "verdict": summary["verdict"],
        "reasons": summary["reasons"],
        "doubts": summary["doubts"],
        "witness": {n: seen[f"due p{p}"] for n, p in (("p50", 50), ("p99", 99))},
        "reported": {n: latency.get(n, 0) / 1000 for n in ("p50", "p99", "max")},
        **{k: tally.get(k, 0) for k in ("lost", "duplicated", "reordered")},
        "unmeasured": sum(summary["unmeasured"].values()),
        "uncertain": summary["generator"]["uncertainty_us"] / 1000,
    }
    line["witness"]["max"] = seen["due p100"]
    line["wrong"] = wrong(line)
    return line


def wrong(line: dict[str, Any]) -> str:
    """Return what is wrong with a verdict of VALID; else an empty string."""
    if line["verdict"] != "VALID":
        return ""
    if line["fault"].startswith(NEVER_VALID) and line["injected"] != 0:
        return "a loss was not seen"
    if line["fault"] == "half-open 2 s":
        late = line["reported"]["max"] < 1500
        return "two seconds were not seen" if late else ""
    for name in ("p50", "p99"):
        saw, said = line["witness"][name], line["reported"][name]
        near = max(LEAST, NEAR * saw) + line["uncertain"]
        marked = any(each.startswith(name) for each in line["doubts"])
        if abs(saw - said) > near and not marked:
            return f"{name} is {said:.1f} ms, and the witness saw {saw:.1f}"
    return ""


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the runs as a table, one row a fault."""
    rows = [
        f"{'fault':<31} {'runs':>4}  {'p50 ms':<15}{'p99 ms':<19}{'max ms':<19}verdicts"
    ]
    for name in FAULTS:
        mine = [each for each in lines if each["fault"] == name]
        if not mine:
            continue
        cells = []
        for figure in ("p50", "p99", "max"):
            pairs = sorted((e["reported"][figure], e["witness"][figure]) for e in mine)
            said, saw = pairs[len(pairs) // 2]
            cells.append(f"{said:.1f} ({saw:.1f})")
        words = [each["verdict"] for each in mine]
        verdicts = ", ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(words))
        bad = sum(bool(each["wrong"]) for each in mine)
        verdicts += f"; {bad} WRONG" if bad else ""
        rows.append(
            f"{name:<31} {len(mine):>4}  {cells[0]:<15}{cells[1]:<19}{cells[2]:<19}"
            f"{verdicts}"
        )
    bad = [each for each in lines if each["wrong"]]
    rows.append(
        f"{len(lines)} runs; generator (witness), of the run in the middle; "
        f"{len(bad)} wrong VALID"
    )
    rows += [f"  {each['fault']}: {each['wrong']}" for each in bad]
    return "\n".join(rows)


async def runs(names: Sequence[str], out: Path | None) -> list[dict[str, Any]]:
    found = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="witness-") as folder:
            line = await run(name, Path(folder))
        found.append(line)
        print(f"{name}: {line['verdict']} {line['wrong']}", file=sys.stderr, flush=True)
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    return found


def possible() -> list[str]:
    """Return the faults that this machine can inject."""
    missing = {
        "clock": not shutil.which("unshare") or os.geteuid() != 0,
        "core": not shutil.which("taskset"),
    }
    return [
        name for name, (_, _, around, _) in FAULTS.items() if not missing.get(around)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=len(FAULTS))
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first fault"
    )
    parser.add_argument("--out", type=Path, help="append each run to this file")
    parser.add_argument(
        "--table", type=Path, help="only print the table of such a file"
    )
    asked = parser.parse_args()
    if asked.table:
        lines = [json.loads(each) for each in asked.table.read_text().splitlines()]
    else:
        names = possible()
        turns = [names[(asked.first + n) % len(names)] for n in range(asked.runs)]
        lines = asyncio.run(runs(turns, asked.out))
    print(table(lines))
    sys.exit(any(each["wrong"] for each in lines))


if __name__ == "__main__":
    main()

"""What idle connections cost one process, the lab's and Node's ``ws``, in turns.

    python -m bench.idle [--connections 1000,5000,10000,19000] [--rounds 3]

All connections are real, and in one room. Measured are the time until all are in it,
their memory, the CPU of their heartbeats, one message to all of them, and the time that
the server takes to say goodbye. A process may open only so many files (``ulimit -Hn``):
the clients are spread over several.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from websockets.asyncio.client import connect

from bench.cache import Missing
from bench.report import begun, machine, markdown
from bench.servers import (
    ROOM,
    Server,
    as_json,
    cores,
    lab,
    node,
    running,
    settled,
    surroundings,
)

CROWD = 9000  # clients of one process
SPARE = 300  # file descriptors of a process for everything else
MESSAGES = 5  # to all connections, one after the other
TIMEOUT = 180.0  # seconds for each step
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Cost:
    """What connections cost a server.

    Attributes:
        server: Name of the server.
        connections: Their number.
        accept: Seconds until all of them had joined.
        accept_cpu: Microseconds of CPU for each of them, with its join.
        memory: Resident bytes of each of them.
        heartbeat: Share of a core that the heartbeats take.
        message: Seconds until all of them had a message, the median.
        message_cpu: Seconds of CPU that a message takes.
        drain: Seconds from SIGTERM until all had left.
        drain_cpu: Seconds of CPU that their leaving takes.
        goodbyes: How many were told with a close frame.

    """

    server: str
    connections: int
    accept: float
    accept_cpu: float
    memory: float
    heartbeat: float
    message: float
    message_cpu: float
    drain: float
    drain_cpu: float
    goodbyes: int


class Crowds:
    """The processes with the clients."""

    def __init__(self) -> None:
        self.processes: list[asyncio.subprocess.Process] = []

    async def all_say(self, word: str) -> tuple[float, int]:
        """Wait until all processes say a word; return the last time, and goodbyes."""
        async with asyncio.timeout(TIMEOUT):
            lines = await asyncio.gather(*(_line(each) for each in self.processes))
        for said, *_ in lines:
            if said != word:
                raise Missing(f"a crowd said {said!r} and not {word!r}")
        return max(float(at) for _, at, _ in lines), sum(int(n) for *_, n in lines)


async def _line(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode().split()
    if not line:
        raise Missing("a crowd of clients has ended")
    return line


@asynccontextmanager
async def crowded(
    server: Server, count: int, core: int | None
) -> AsyncIterator[Crowds]:
    """Connect ``count`` clients until the end of the block."""
    crowds = Crowds()
    try:
        for number, first in enumerate(range(0, count, CROWD)):
            size = min(CROWD, count - first)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bench.crowd", str(server.port), server.path),
                *(str(size), f"127.0.0.{number + 2}", ROOM),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
                env=surroundings(),
                start_new_session=True,
                preexec_fn=lambda: settled(core),
            )
            crowds.processes.append(process)
        yield crowds
    finally:
        for process in crowds.processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    """Return the resident bytes of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def measure(name: str, count: int, interval: float) -> Cost:
    """Run one server with so many idle connections.

    Args:
        name: ``lab`` or ``node``.
        count: Connections.
        interval: Seconds between two pings of a connection.

    Raises:
        Missing: The server, or a process with clients, does not run.

    """
    server_core, client_core = cores()
    command = (
        lab(
            *("--stage", "resume", "--without", "broker"),
            *("--heartbeat-interval", f"{interval:g}"),
        )
        if name == "lab"
        else node("--sweep", f"{1000 * interval:.0f}")
    )
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(command, server_core))
        pid = server.pid
        async with crowded(server, 200, client_core) as few:  # what is made once
            await few.all_say("joined")
        await asyncio.sleep(0.5)
        before, cpu, began = memory_of(pid), cpu_of(pid), time.monotonic()
        crowds = await stack.enter_async_context(crowded(server, count, client_core))
        joined, _ = await crowds.all_say("joined")
        accept_cpu = cpu_of(pid) - cpu
        memory = memory_of(pid) - before
        await asyncio.sleep(interval)  # every connection has had its first ping

        cpu, at = cpu_of(pid), time.monotonic()
        await asyncio.sleep(2 * interval)
        heartbeat = (cpu_of(pid) - cpu) / (time.monotonic() - at)

        told, told_cpu = [], []
        async with connect(f"ws://127.0.0.1:{server.port}{server.path}") as publisher:
            for number in range(MESSAGES):
                cpu, at = cpu_of(pid), time.monotonic()
                await publisher.send(as_json("publish", {"number": number}))
                told.append((await crowds.all_say("told"))[0] - at)
                told_cpu.append(cpu_of(pid) - cpu)
        await asyncio.sleep(0.5)

        cpu, at = cpu_of(pid), time.monotonic()
        os.kill(pid, signal.SIGTERM)
        drain_cpu = 0.0
        leaving = asyncio.create_task(crowds.all_say("left"))
        while not leaving.done():
            drain_cpu = max(drain_cpu, cpu_of(pid) - cpu)
            await asyncio.wait((leaving,), timeout=0.02)
        left, goodbyes = leaving.result()
        return Cost(
            name,
            count,
            joined - began,
            1e6 * accept_cpu / count,
            memory / count,
            heartbeat,
            sorted(told)[MESSAGES // 2],
            sum(told_cpu) / MESSAGES,
            left - at,
            drain_cpu,
            goodbyes,
        )


async def run_all(counts: list[int], rounds: int, interval: float) -> list[Cost]:
    """Measure each server with each number of connections, in turns."""
    costs = []
    console = Console(stderr=True)
    for number in range(rounds):
        for count in counts:
            for name in ("lab", "node") if number % 2 else ("node", "lab"):
                console.print(f"round {number + 1}: {name}, {count:,} connections")
                costs.append(await measure(name, count, interval))
    return costs


def table(costs: list[Cost]) -> str:
    """Return the medians of all rounds as Markdown."""
    from bench.idle_picture import medians

    rows = [
        ["server", "connections", "all in after s", "CPU each us", "KB each"]
        + ["heartbeats, % of a core", "message to all ms", "its CPU ms"]
        + ["drained in s", "CPU s", "goodbyes"]
    ]
    for each in medians(costs):
        rows.append(
            [each.server, f"{each.connections:,}", f"{each.accept:.2f}"]
            + [f"{each.accept_cpu:.0f}", f"{each.memory / 1000:.1f}"]
            + [f"{100 * each.heartbeat:.1f}", f"{1000 * each.message:.0f}"]
            + [f"{1000 * each.message_cpu:.0f}", f"{each.drain:.1f}"]
            + [f"{each.drain_cpu:.2f}", f"{each.goodbyes:,}"]
        )
    return markdown(rows)


def main() -> int:
    """Return 0; 2 if the system does not allow it, or Node is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.idle",
        description="Measure idle connections of one process, beside Node's ws.",
    )
    parser.add_argument("--connections", default="1000,5000,10000,19000")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument(
        "--heartbeat", type=float, default=4.0, help="seconds between pings; default 4"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    chosen = parser.parse_args()
    try:
        counts = [int(each) for each in chosen.connections.split(",")]
    except ValueError:
        print("idle: --connections takes numbers with commas between them")
        return 2
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 1 <= min(counts) <= max(counts) <= most - SPARE:
        print(f"idle: from 1 to {most - SPARE}: a process may open {most} files here")
        return 2
    try:
        costs = asyncio.run(run_all(counts, chosen.rounds, chosen.heartbeat))
    except Missing as exc:
        print(f"idle: {exc}")
        return 2
    except KeyboardInterrupt:
        return 130
    from bench.idle_picture import draw

    folder = begun("idle", chosen.results)
    rows = [asdict(each) for each in costs]
    said = {"machine": machine(), "heartbeat": chosen.heartbeat, "costs": rows}
    (folder / "results.json").write_text(json.dumps(said, indent=1) + "\n")
    draw(costs, chosen.heartbeat, folder / "idle.png")
    print(table(costs))
    print(f"results {folder}: idle.png, results.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A learner's server and the lab's, under the same load, in turns."""

from __future__ import annotations

import asyncio
import secrets
import statistics
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from labserver.judge.program import Program
from labserver.notebook.charts import Picture, bars
from labserver.notebook.peers import Peer, crowd
from labserver.notebook.progress import progress
from labserver.notebook.samples import used
from labserver.notebook.servers import running
from labserver.notebook.workshop.own_server import command
from labserver.processes.cluster import Replica

MEMBERS = 50
ROUNDS = 3
PAYLOAD = "x" * 150
# Messages in one write, and how many writes: the first waits for each message.
LOADS = {"1 in flight": (1, 40), "16 in flight": (16, 8)}
START_TIMEOUT = 10.0  # seconds
THEIRS = "labserver"


@dataclass(frozen=True)
class Duel:
    """CPU time of two servers. It shows itself as a picture.

    Attributes:
        name: The learner's server.
        taken: Microseconds of CPU for each delivery, by load, then by server; one for
            each round.

    """

    name: str
    taken: dict[str, dict[str, list[float]]]

    def middle(self, load: str, server: str) -> float:
        return statistics.median(self.taken[load][server])

    def ratio(self, load: str) -> float:
        """How many times the CPU time of the lab's server this one needs."""
        return self.middle(load, self.name) / self.middle(load, THEIRS)

    def __repr__(self) -> str:
        return "\n".join(
            f"{load}: {server} {self.middle(load, server):.1f} µs a delivery "
            f"({min(values):.1f} to {max(values):.1f})"
            for load, servers in self.taken.items()
            for server, values in servers.items()
        )

    def picture(self) -> Picture:
        panels = {
            f"µs, {load}": {each: round(self.middle(load, each), 1) for each in servers}
            for load, servers in self.taken.items()
        }
        return bars(panels, title=f"CPU time of a delivery, {MEMBERS} members")


async def duel(target: str) -> Duel:
    """Measure the CPU time that two servers need for a delivery: one's own, the lab's.

    Both get the same load, in turns, three rounds. The lab's is the stage rooms.

    Args:
        target: A file, or a command, as for :func:`judge`; it keeps the promise of
            stage rooms.

    Raises:
        SettingsError: There is no such file.
        CannotJudge: It does not start.
        TimeoutError: It delivers nothing.

    """
    taken: dict[str, dict[str, list[float]]] = {
        load: {target: [], THEIRS: []} for load in LOADS
    }
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(_started(target))
        lab = await stack.enter_async_context(running("rooms"))
        rivals = {target: own, THEIRS: lab}
        members = {
            name: await stack.enter_async_context(crowd(server, MEMBERS, "duel"))
            for name, server in rivals.items()
        }
        rounds = [
            (load, name) for _ in range(ROUNDS) for load in LOADS for name in rivals
        ]
        for load, name in progress(rounds, "loads"):
            cost = await _cost(rivals[name].pid, members[name], *LOADS[load])
            taken[load][name].append(cost)
    return Duel(target, taken)


async def _cost(pid: int, members: list[Peer], at_once: int, writes: int) -> float:
    """Return the microseconds of CPU that a server needs for each delivery."""
    heard = len(members[-1].of("message"))
    before = await used(pid)
    for number in range(1, writes + 1):
        await members[0].publish("duel", *[PAYLOAD] * at_once)
        if not await members[-1].messages(heard + number * at_once):
            raise TimeoutError("a message did not reach the last member within 5 s")
    return (await used(pid) - before) / (at_once * writes * len(members)) * 1e6


@asynccontextmanager
async def _started(target: str) -> AsyncIterator[Replica]:
    """Run a learner's server until the block ends."""
    secret = secrets.token_urlsafe(32)
    program = Program(command(target), {"LAB_SECRET": secret, "LAB_STAGE": "rooms"})
    try:
        await program.start(START_TIMEOUT)
        assert program.process is not None
        yield Replica(f"ws://{program.host}:{program.port}", secret, program.process)
    finally:
        await program.stop()

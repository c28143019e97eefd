"""CPU time of the server for one message, by the size of the room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labserver.notebook.peers import crowd
from labserver.notebook.progress import progress
from labserver.notebook.servers import running

CPU = "process_cpu_seconds_total"
MESSAGES = 30  # for each size of room
PAYLOAD = "x" * 150


@dataclass
class Costs:
    """CPU time of the server for one message, in microseconds.

    Attributes:
        members: Sizes of the rooms.
        taken: Microseconds for each message, by size.

    """

    members: list[int]
    taken: list[float]

    @property
    def fit(self) -> tuple[float, float]:
        """The fitted line T = a + bN as (a, b), by least squares."""
        slope, start = np.polyfit(self.members, self.taken, 1)
        return float(start), float(slope)

    @property
    def line(self) -> list[float]:
        """The fitted values."""
        start, slope = self.fit
        return [start + slope * count for count in self.members]

    def __repr__(self) -> str:
        start, slope = self.fit
        return f"T = {start:.0f} µs + {slope:.1f} µs · N"


async def costs(
    stage: str = "rooms",
    members: Sequence[int] = (1, 20, 40, 60, 80),
    **options: Any,
) -> Costs:
    """Measure the CPU time of messages sent one at a time, in rooms of several sizes.

    Args:
        stage: Last stage of the server.
        members: Sizes of the rooms.
        options: As for :func:`running`.

    """
    taken = []
    async with running(stage, **options) as server, crowd(server, max(members)) as all_:
        for size in progress(members, "rooms"):
            peers = all_[:size]
            room = f"room-{size}"
            await asyncio.gather(*(peer.join(room) for peer in peers))
            # Reading a metric takes CPU time, too.
            first, before = await server.metric(CPU), await server.metric(CPU)
            heard = len(peers[-1].of("message"))
            for number in range(1, MESSAGES + 1):
                await peers[0].publish(room, PAYLOAD)
                await peers[-1].messages(heard + number)
            after = await server.metric(CPU)
            taken.append(max(after - before - (before - first), 0) / MESSAGES * 1e6)
    return Costs(list(members), taken)

"""Peers that vanish: their network freezes, and neither side gets an error."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from labserver.notebook.peers import connected, crowd
from labserver.notebook.samples import watch
from labserver.notebook.servers import running
from labserver.processes import faults

FILLING = 40  # messages of 32 kB that fill every buffer on the way


@dataclass
class Vanished:
    """How many of the vanished peers the server noticed, and when.

    Attributes:
        count: How many peers vanished.
        times: Times of the samples, in seconds since they vanished.
        gone: Percent of the peers that the server had cut by then.

    """

    count: int
    times: Sequence[float]
    gone: Sequence[float]

    def when(self, part: float) -> float | None:
        """Return the seconds until ``part`` percent were noticed; None if never."""
        pairs = zip(self.times, self.gone, strict=True)
        return next((at for at, share in pairs if share >= part), None)

    def __repr__(self) -> str:
        noticed = round(self.gone[-1] * self.count / 100)
        first, last = self.when(0.1), self.when(100)
        words = f"{noticed} of {self.count} noticed after {self.times[-1]:.1f} s"
        if first is not None and last is not None:
            words += f", the first after {first:.2f} s, the last after {last:.2f} s"
        return words


async def vanished(
    stage: str = "heartbeat",
    *,
    count: int = 40,
    seconds: float = 2.2,
    full: bool = False,
    **options: Any,
) -> Vanished:
    """Connect peers through a proxy, freeze it, and watch the server notice.

    Args:
        stage: Last stage of the server.
        count: How many peers.
        seconds: Seconds to watch.
        full: Whether to fill the peers' buffers meanwhile, like a busy room.
        options: As for :func:`running`.

    """
    options = {"send_buffer": 16384, **options} if full else options
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running(stage, message_rate_limit=0, **options)
        )
        parts = urlsplit(server.url)
        net = await stack.enter_async_context(
            faults.proxy(str(parts.hostname), parts.port or 0)
        )
        behind = replace(server, url=net.url)
        ann = await stack.enter_async_context(connected(server, "ann"))
        await stack.enter_async_context(crowd(behind, count, "lobby"))
        # The frozen network carries no close frames; a reset ends the peers at once.
        stack.callback(net.reset)
        net.freeze()
        if full:
            await ann.publish("lobby", *["x" * 32_000] * FILLING)
        seen = await watch(server, "labserver_connections", seconds)
        gone = [100 * (1 + (1 - left) / count) for left in seen.values]
        return Vanished(count, seen.times, gone)


def expected(interval: float, seconds: float) -> tuple[list[float], list[float]]:
    """Return the line that the heartbeat predicts: seconds, and percent noticed.

    A peer is pinged at a random moment of the next interval, and cut three quarters of
    an interval later.
    """
    corners = [0.0, 0.75 * interval, 1.75 * interval, max(seconds, 1.75 * interval)]
    return corners, [0.0, 0.0, 100.0, 100.0]

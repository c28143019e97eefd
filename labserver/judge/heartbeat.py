"""A dead peer is gone within two intervals; a live one stays."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from labserver.judge.world import World, connection_of, must, peer, stalled, until
from labserver.server.connection import PING, LabConnection
from labserver.server.member import Outbox
from labserver.server.server import LabServer

INTERVAL = 0.5
SLACK = 0.5  # seconds that a busy machine may add to two intervals
DEAD = 6


async def dead_peers_are_gone(world: World) -> None:
    """Peers that fell silent are gone within two intervals, even with full buffers."""
    async with (
        world.running(heartbeat_interval=INTERVAL) as server,
        peer(server) as live,
    ):
        dead = [await stalled(server.port) for _ in range(DEAD)]
        try:
            # One of them has a full buffer: a ping cannot even be sent to it.
            silenced, *_ = _silent(server)
            silenced.transport.write(bytes(8_000_000))
            stalls = server.metrics.stalls
            try:
                async with asyncio.timeout(2 * INTERVAL + SLACK):
                    await until(lambda: not _silent(server))
            except TimeoutError:
                # After a stall of its own, the server rightly waits for another
                # interval.
                await asyncio.sleep((server.metrics.stalls - stalls) * INTERVAL)
            left = len(_silent(server))
            must(
                not left, f"{left} of {DEAD} dead peers still open after two intervals"
            )
            async with world.awaiting("the answer to a live peer"):
                await live.ask(type="ping")
            must(
                server.metrics.dead == DEAD,
                f"{server.metrics.dead} were counted as dead",
            )
            closes = server.metrics.closes[4408]
            must(closes == DEAD, f"{closes} closes with 4408")
        finally:
            for writer in dead:
                writer.transport.abort()


def _silent(server: LabServer) -> list[LabConnection]:
    return [each for each in server.connections if each.identity.user != "ann"]


class PingTimes:
    """An outbox that records the time of each ping."""

    def __init__(self, outbox: Outbox, times: list[float]) -> None:
        self.outbox = outbox
        self.times = times
        self.deliver = outbox.deliver
        self.paused, self.resumed = outbox.paused, outbox.resumed
        self.waiting = outbox.waiting

    def control(self, frame: bytes) -> None:
        if frame == PING:
            self.times.append(time.monotonic())
        self.outbox.control(frame)


async def pings_are_spread(world: World) -> None:
    """Pings to many peers are spread over the interval, and live peers stay."""
    count = 24
    times: list[float] = []
    async with (
        world.running(heartbeat_interval=INTERVAL) as server,
        AsyncExitStack() as stack,
    ):
        for number in range(count):
            await stack.enter_async_context(peer(server, f"u{number}"))
            connection = connection_of(server, f"u{number}")
            connection.outbox = PingTimes(connection.outbox, times)
        await world.eventually("a ping to each", lambda: len(times) >= 2 * count)
        must(len(server.connections) == count, "a live peer was ended")
    eighth = INTERVAL / 8
    most = max(sum(at <= other < at + eighth for other in times) for at in times)
    must(
        most < count * 3 / 4,
        f"{most} of {count} pings within an eighth of the interval",
    )

"""A dead peer is gone within two intervals.

Without this, a peer whose network vanished stays a member for hours: TCP only notices
when it has something to send, and then retries patiently.

How: a wheel of slots turns once an interval, and each connection is pinged when its
random slot comes up, so pings never come in a burst. Three quarters of an interval
later it must have given a sign of life: any frame counts, and so does taking what was
sent. Otherwise it is aborted, since a polite close waits for the dead to answer. A
server that was late itself reads once more before it judges, and its lateness counts
for a little: that delays a judgement, and never prevents it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace

from labserver.contract.closing import HEARTBEAT_LOST
from labserver.server.connection import LabConnection
from labserver.server.metrics import Metrics
from labserver.server.parts import Parts
from labserver.settings import Settings

log = logging.getLogger("labserver")

SLOTS = 64
GRACE = SLOTS * 3 // 4  # slots between a ping and the look whether it was answered


class WheelHeartbeat:
    """Ping everyone once an interval, a few at a time.

    Args:
        interval: Seconds between two pings to the same peer.

    """

    def __init__(self, interval: float) -> None:
        self.interval: float | None = interval
        self.tick = interval / SLOTS
        self.patience = max(interval / 8, 0.05)  # lateness that counts as a stall
        self.slots: list[set[LabConnection]] = [set() for _ in range(SLOTS)]
        self.slot_of: dict[LabConnection, int] = {}
        self.hand = 0

    def watch(self, connection: LabConnection) -> None:
        slot = self.slot_of[connection] = random.randrange(SLOTS)
        self.slots[slot].add(connection)

    def forget(self, connection: LabConnection) -> None:
        slot = self.slot_of.pop(connection, None)
        if slot is not None:
            self.slots[slot].discard(connection)

    async def start(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.task = asyncio.create_task(self.turn())

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def turn(self) -> None:
        """Move the wheel by one slot a tick, for as long as the server runs."""
        due = time.monotonic()
        while True:
            due += self.tick
            await asyncio.sleep(due - time.monotonic())
            if time.monotonic() - due > self.patience:
                # The server itself was late. Answers may lie unread in the kernel: a
                # tick is enough to read them. And perhaps the whole machine stood
                # still, with all that was on its way; so little of that time counts.
                self.metrics.stalls += 1
                due = time.monotonic() - self.patience / 2
                await asyncio.sleep(self.tick)
            self.step()

    def step(self) -> None:
        """Reap those who did not answer, then ping those whose turn it is."""
        self.each(self.slots[self.hand - GRACE], self.look)
        self.each(self.slots[self.hand], lambda connection: connection.send_ping())
        self.hand = (self.hand + 1) % SLOTS

    def each(
        self, slot: set[LabConnection], do: Callable[[LabConnection], None]
    ) -> None:
        for connection in list(slot):
            try:
                do(connection)
            except Exception:  # one connection's trouble must not end the wheel
                about = {"connection": connection.name}
                log.exception("a heartbeat failed", extra=about)

    def look(self, connection: LabConnection) -> None:
        """Cut a connection if it is dead."""
        if self.is_dead(connection):
            self.metrics.dead += 1
            self.forget(connection)
            connection.cut(HEARTBEAT_LOST)

    def is_dead(self, connection: LabConnection) -> bool:
        """Return whether a ping was answered neither by a pong nor by anything else."""
        return connection.pinged > connection.seen and not connection.reads()


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the heartbeat."""
    return replace(parts, heartbeat=WheelHeartbeat(settings.heartbeat_interval))

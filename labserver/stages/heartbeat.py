"""A dead peer is gone within two intervals.

Without this, a peer whose network vanished stays a member for hours: TCP only notices
when it has something to send, and then it tries again for a long time.

How: a wheel of slots turns once an interval. Each connection has a random slot and is
pinged when the wheel reaches it, so pings never come in a burst. Three quarters of an
interval later the peer must have given a sign of life: it sent any frame, or it took
bytes that were sent. Otherwise its connection is aborted, since a polite close would
wait for an answer. A server that was late itself reads its sockets once more before it
decides. A stall delays the decision only a little, and never prevents it.
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
from labserver.server.tasks import keep
from labserver.settings import Settings

log = logging.getLogger("labserver")

SLOTS = 64
HALF = SLOTS // 2  # slots between a ping and the note of who still reads
GRACE = SLOTS * 3 // 4  # and the check for its answer


class WheelHeartbeat:
    """Pings every connection once an interval, a few at a time.

    Args:
        interval: Seconds between two pings to the same peer.

    """

    def __init__(self, interval: float) -> None:
        self.interval: float | None = interval
        self.tick = interval / SLOTS
        self.patience = max(interval / 8, 0.05)  # seconds late that count as a stall
        self.slots: list[set[LabConnection]] = [set() for _ in range(SLOTS)]
        self.slot_of: dict[LabConnection, int] = {}
        self.reading: set[LabConnection] = set()  # half an interval after their ping
        self.hand = 0

    def watch(self, connection: LabConnection) -> None:
        slot = self.slot_of[connection] = random.randrange(SLOTS)
        self.slots[slot].add(connection)

    def forget(self, connection: LabConnection) -> None:
        slot = self.slot_of.pop(connection, None)
        if slot is not None:
            self.slots[slot].discard(connection)
        self.reading.discard(connection)

    async def start(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.task = keep("heartbeat", self.turn, metrics.failures)

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def turn(self) -> None:
        """Move the wheel by one slot a tick while the server runs."""
        due = time.monotonic()
        while True:
            due += self.tick
            await asyncio.sleep(due - time.monotonic())
            if time.monotonic() - due > self.patience:
                # The server itself was late. Answers may lie unread in the kernel: one
                # tick is enough to read them. Perhaps the whole machine stood still,
                # and the answers with it: only a little of the stall counts as time.
                self.metrics.stalls += 1
                due = time.monotonic() - self.patience / 2
                await asyncio.sleep(self.tick)
            self.step()

    def step(self) -> None:
        """End the connections that did not answer, then ping those of this slot."""
        self.each(self.slots[self.hand - HALF], self.note)
        self.each(self.slots[self.hand - GRACE], self.look)
        self.each(self.slots[self.hand], self.ping)
        self.hand = (self.hand + 1) % SLOTS

    def each(
        self, slot: set[LabConnection], do: Callable[[LabConnection], None]
    ) -> None:
        for connection in list(slot):
            try:
                do(connection)
            except Exception:  # an error of one connection must not stop the wheel
                about = {"connection": connection.name}
                log.exception("a heartbeat failed", extra=about)

    def note(self, connection: LabConnection) -> None:
        """Note a slow reader, which has the ping behind other data."""
        if connection.pinged > connection.seen and connection.reads():
            self.reading.add(connection)

    def look(self, connection: LabConnection) -> None:
        """Cut a connection if it is dead."""
        if connection not in self.reading:
            self.judge(connection)
        elif connection.reads():
            self.reading.discard(connection)  # the next ping asks again
        # Else it has the ping since a moment: its answer has time until the next one.

    def ping(self, connection: LabConnection) -> None:
        if connection in self.reading:
            self.reading.discard(connection)
            self.judge(connection)
        if connection in self.slot_of:
            connection.send_ping()

    def judge(self, connection: LabConnection) -> None:
        if self.is_dead(connection):
            self.metrics.dead += 1
            self.forget(connection)
            connection.cut(HEARTBEAT_LOST)

    def is_dead(self, connection: LabConnection) -> bool:
        """Return whether nothing came since the last ping and no bytes were taken."""
        return connection.pinged > connection.seen and not connection.reads()


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the heartbeat."""
    return replace(parts, heartbeat=WheelHeartbeat(settings.heartbeat_interval))

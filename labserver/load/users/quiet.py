"""Members that only answer heartbeats, and peers that do not even do that."""

from __future__ import annotations

import time

import gevent
from websockets.frames import Frame, Opcode

from labserver.load.dialects import Delivery
from labserver.load.figures.verdict import OVERDUE
from labserver.load.run.clock import CLOCK
from labserver.load.run.life import RUN
from labserver.load.users.user import WebSocketUser
from labserver.load.websocket import Closed

PROMISE = "promised within"  # two intervals of the heartbeat
LOOK_INTERVAL = 0.02  # seconds between two checks whether the server has hung up
SLACK = 1.0  # seconds beyond the promise that are allowed on a busy machine


class QuietMember(WebSocketUser):
    """Records when the server pinged it."""

    abstract = True

    pinged_at = 0  # monotonic ns

    def control(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.PING:
            return
        own, before = self.record.own(self.scenario), self.pinged_at
        self.pinged_at = self.socket.arrived
        own.counts["pings answered"] += 1
        if before > self.connected_at:
            own.histogram("between pings").record((self.pinged_at - before) // 1000)


class SilentPeer(WebSocketUser):
    """Stops reading once it has joined, and checks when the server cuts it off.

    It must not read, so it asks the kernel for the state of its socket. The server's
    heartbeat must cut it off within two intervals.
    """

    abstract = True

    by_design = True

    def converse(self) -> None:
        own = self.record.own(self.scenario)
        own.counts["went silent"] += 1
        if self.heartbeat and PROMISE not in own.gauges:
            own.measured(PROMISE, "s", CLOCK.now(), 2 * self.heartbeat)
        alive = there = self.socket.arrived  # when the answer to its join arrived
        while not self.socket.is_gone():
            # The last check at which it was still connected; the next one may be late.
            there = time.monotonic_ns()
            if RUN.draining:
                self.judge(there - alive)
                self.outcome(f"still connected at the end (pings: {self.interval()})")
                super().converse()
            gevent.sleep(LOOK_INTERVAL)
        after = (time.monotonic_ns() - alive) // 1000
        own.counts["noticed"] += 1
        own.histogram("noticed after").record(after)
        self.judge(there - alive)
        raise Closed(1006)

    def judge(self, kept: int) -> None:
        """Count a peer that was kept for more nanoseconds than it may be."""
        if self.heartbeat and kept > (2 * self.heartbeat + SLACK) * 1e9:
            self.record.own(self.scenario).counts[OVERDUE] += 1

    def delivered(self, message: Delivery, size: int) -> None:
        """Ignore a message: what a silent peer reads at the end has no latency."""

    def interval(self) -> str:
        return f"every {self.heartbeat:g} s" if self.heartbeat else "none"

    def lost_connection(self, started: float, exc: OSError) -> None:
        if not RUN.draining:
            self.outcome("noticed and cut off")
        gevent.sleep(self.backoff.next())

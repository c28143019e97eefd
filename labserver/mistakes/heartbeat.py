"""Mistakes of stage heartbeat: stop at the first, wait for the dead, ping at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from websockets.asyncio.server import ServerConnection

from labserver.contract.closing import HEARTBEAT_LOST
from labserver.mistakes.mistake import Extend, Mistake
from labserver.server.connection import LabConnection
from labserver.server.parts import Heartbeat, Parts
from labserver.settings import Settings
from labserver.stages.heartbeat import GRACE, SLOTS, WheelHeartbeat


class SweepReturns(WheelHeartbeat):
    """Check all peers once an interval, with a ``return`` inside the loop."""

    def step(self) -> None:
        self.hand = (self.hand + 1) % SLOTS
        if self.hand == 0:
            self.sweep()

    def sweep(self) -> None:
        for connection in list(self.slot_of):
            if self.is_dead(connection):
                self.metrics.dead += 1
                self.forget(connection)
                return connection.cut(HEARTBEAT_LOST)
            connection.send_ping()


class CloseInsteadOfAbort(WheelHeartbeat):
    """Send a close frame to a dead peer, and wait for the answer."""

    def __init__(self, interval: float) -> None:
        super().__init__(interval)
        self.closing: set[asyncio.Task[None]] = set()

    def step(self) -> None:
        for connection in list(self.slots[self.hand - GRACE]):
            if self.is_dead(connection):
                self.metrics.dead += 1
                self.forget(connection)
                close = connection.close(HEARTBEAT_LOST.code, HEARTBEAT_LOST.reason)
                self.closing.add(asyncio.create_task(close))
        for connection in self.slots[self.hand]:
            connection.send_ping()
        self.hand = (self.hand + 1) % SLOTS


class OneTick(WheelHeartbeat):
    """Ping all peers at the same moment, as a single timer does."""

    def watch(self, connection: LabConnection) -> None:
        self.slot_of[connection] = 0
        self.slots[0].add(connection)


class LibraryKeepalive(WheelHeartbeat):
    """Use the keepalive of the library, which waits for the peer."""

    def watch(self, connection: LabConnection) -> None:
        assert self.interval is not None
        connection.ping_interval = self.interval
        connection.ping_timeout = self.interval * GRACE / SLOTS
        # The lab handles pongs itself; this mistake needs the library's handling.
        connection.acknowledge_pings = partial(  # type: ignore[method-assign]
            ServerConnection.acknowledge_pings, connection
        )
        connection.start_keepalive()


def _heartbeat(made: Callable[[float], Heartbeat]) -> Extend:
    def extend(parts: Parts, settings: Settings) -> Parts:
        return replace(parts, heartbeat=made(settings.heartbeat_interval))

    return extend


MISTAKES = (
    Mistake(
        "sweep-returns",
        "heartbeat",
        "The first dead peer ends the sweep: later peers are not checked, so only one "
        "dead peer is removed in each interval.",
        "a tutorial on Node's ws: return inside the loop over all sockets",
        "dead_peers_are_gone",
        _heartbeat(SweepReturns),
    ),
    Mistake(
        "close-instead-of-abort",
        "heartbeat",
        "close() waits until the dead peer reads and answers.",
        "websockets 17.4: close() pending after 6 s on a full buffer, where "
        "transport.abort() takes 1 ms",
        "dead_peers_are_gone",
        _heartbeat(CloseInsteadOfAbort),
    ),
    Mistake(
        "pings-in-one-tick",
        "heartbeat",
        "All peers are pinged, and answer, at the same moment, once an interval.",
        "setInterval over all sockets; Centrifugo draws the first ping at random",
        "pings_are_spread",
        _heartbeat(OneTick),
    ),
    Mistake(
        "library-keepalive",
        "heartbeat",
        "A peer with a full buffer is never closed: the ping waits for it, and the "
        "timeout only starts after the ping.",
        "websockets 17.4: keepalive() awaits drain() outside ping_timeout",
        "dead_peers_are_gone",
        _heartbeat(LibraryKeepalive),
    ),
)

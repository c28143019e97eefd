"""A member that loses its connection at the same moment as all other members."""

from __future__ import annotations

import time
from typing import ClassVar

import gevent

from labserver.client import Backoff
from labserver.load.run.clock import CLOCK
from labserver.load.run.life import RUN
from labserver.load.users.user import WebSocketUser
from labserver.load.websocket import Closed, Refused


class SameDelay(Backoff):
    """A back-off without jitter, as many clients have it: all wait equally long."""

    def next(self, draw: object = None) -> float:
        return super().next(lambda: 1.0)


class StormMember(WebSocketUser):
    """Cuts its connection when the storm begins, unless its server was killed."""

    abstract = True

    jitter: ClassVar[bool] = True
    across = True
    stormed = False
    dropped_at = 0  # monotonic ns; 0: connected, or never dropped

    def new_backoff(self) -> Backoff:
        """Return the back-off of the lab's client, or the one without jitter."""
        kind = Backoff if self.jitter else SameDelay
        return kind(first=0.5, cap=20.0, stable=2.0)

    def url(self) -> str:
        if RUN.storm_kills and not self.stormed:
            return self.servers[-1]
        return super().url()

    def connect(self) -> None:
        if self.dropped_at:
            own = self.record.own(self.scenario)
            own.happened(f"attempts, {self.label}", CLOCK.now())
            self.counted("attempts")
        super().connect()

    def converse(self) -> None:
        left = (RUN.storm_at - CLOCK.now()) / 1e9
        if not self.stormed and not RUN.storm_kills:
            with gevent.Timeout(max(0.0, left), False):  # type: ignore[arg-type]
                super().converse()
            if not RUN.draining:
                self.socket.abort()
                raise Closed(1006, "cut by the storm")
        super().converse()

    def lost_connection(self, started: float, exc: OSError) -> None:
        if not self.stormed and not RUN.draining:
            self.stormed = True
            self.dropped_at = time.monotonic_ns()
            self.counted("dropped")
        super().lost_connection(started, exc)

    def excused(self) -> bool:
        return self.stormed or super().excused()

    def not_connected(self, started: float, exc: OSError) -> None:
        if self.dropped_at and isinstance(exc, Refused):
            self.counted(f"refused {exc.status}")
        super().not_connected(started, exc)

    def came_back(self, microseconds: int) -> None:
        if not self.dropped_at:
            return
        own, now = self.record.own(self.scenario), time.monotonic_ns()
        after = (now - self.dropped_at) // 1000
        own.histogram(f"back after, {self.label}").record(after)
        own.happened(f"accepts, {self.label}", CLOCK.now())
        self.counted("back")
        self.dropped_at = 0

    def not_back(self) -> None:
        self.counted("not back at the end")

    def counted(self, what: str, more: int = 1) -> None:
        self.record.own(self.scenario).counts[f"{what}, {self.label}"] += more

    def account(self, final: bool) -> None:
        if not self.accounted and self.stormed:
            tally = self.audit.tally()
            self.counted("missed", tally.lost + tally.told)
        super().account(final)

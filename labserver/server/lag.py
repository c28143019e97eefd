"""Measures how late the event loop is, with a timer twice a second.

Every client waits this long before the server does anything for it. A loop that is
blocked for a second shows as one late timer: rare stalls are found by their length, not
by their number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from labserver.server.metrics import Histogram

INTERVAL = 0.5  # seconds


class LagProbe:
    """Observes how many seconds late each timer was.

    Args:
        histogram: Gets the seconds.
        interval: Seconds between two timers.
        then: Called after each timer, for other regular checks.

    """

    def __init__(
        self,
        histogram: Histogram,
        interval: float = INTERVAL,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self.histogram = histogram
        self.then = then
        self.interval = interval
        self.timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.due = time.monotonic() + self.interval
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(self.interval, self._ring)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _ring(self) -> None:
        # uvloop counts in whole milliseconds, so a timer may also be early.
        self.histogram.observe(max(0.0, time.monotonic() - self.due))
        self.start()
        self.then()

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

    async def run(self) -> None:
        """Measure while the server runs."""
        while True:
            due = time.monotonic() + self.interval
            await asyncio.sleep(self.interval)
            # uvloop counts in whole milliseconds, so a timer may also be early.
            self.histogram.observe(max(0.0, time.monotonic() - due))
            self.then()

"""A reader that reads less than it is sent."""

from __future__ import annotations

import time

from labserver.load.dialects import Delivery
from labserver.load.run.clock import CLOCK
from labserver.load.run.life import RUN
from labserver.load.users.user import WebSocketUser


class SlowReader(WebSocketUser):
    """A reader that reads less than it is sent, with a small receive buffer.

    The server's outbox policy decides what happens to it, so drops and a close are not
    failures of the run. Failures are what no policy allows: a message that is lost
    without a gap, delivered twice, or out of order.
    """

    abstract = True

    by_design = True
    across = True
    receive_buffer = 4096  # bytes: the kernel should not buffer for it

    def delivered(self, message: Delivery, size: int) -> None:
        # Its own slowness is the subject, so the latency ends with the read.
        read = self.socket.arrived + (self.socket.lag or 0) + CLOCK.offset
        self.latency.record((read - message.payload.due) // 1000)

    def took(self, messages: list[bytes]) -> None:
        RUN.active = time.monotonic_ns()
        for data in messages:
            self.handle(data)

    def account(self, final: bool) -> None:
        if final and not self.accounted and self.socket is not None:
            self.outcome("still connected at the end")
        super().account(final)

"""A reader that takes less than it is sent."""

from __future__ import annotations

import time

from labserver.load.run.life import RUN
from labserver.load.users.user import Delivery, WebSocketUser


class SlowReader(WebSocketUser):
    """A reader that takes less than it is sent, on a small window.

    What happens to it is decided by the server's policy, and is no failure of the run;
    only what no policy allows is: a silent hole, a message twice, a wrong order.
    """

    abstract = True

    by_design = True
    across = True
    receive_buffer = 4096  # bytes: the kernel should not read for it

    def delivered(self, message: Delivery, size: int) -> None:
        # Its own slowness is the subject: until it has read, it has not got it.
        read = self.socket.arrived + (self.socket.lag or 0)
        self.latency.record((read - message.payload.due) // 1000)

    def took(self, messages: list[bytes]) -> None:
        RUN.active = time.monotonic_ns()
        for data in messages:
            self.handle(data)

    def account(self, final: bool) -> None:
        if final and not self.accounted and self.socket is not None:
            self.outcome("still connected at the end")
        super().account(final)

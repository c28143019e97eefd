"""Deadlines that only count the time in which an answer could have been heard.

A process that stands still, because it has much to do at once or its machine does,
finds every deadline past when it goes on, and the answers that it waits for unread in
its sockets. A judge that is late has to look once more before it judges.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

STEPS = 4


class Patience:
    """Raise TimeoutError after ``seconds``, unless the block is over by then.

        async with Patience(2.0):
            await answer()

    The time is counted in steps, and a step counts once, however late it ends. So one
    standstill costs one step, and the deadline is at most four standstills late.
    """

    __slots__ = ("left", "loop", "seconds", "timeout", "timer")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __aenter__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.left = STEPS
        self.timeout = asyncio.timeout(None)
        self.timer = self.loop.call_later(self.seconds / STEPS, self._step)
        await self.timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.timer.cancel()
        await self.timeout.__aexit__(kind, exc, trace)

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.timeout.reschedule(self.loop.time())
        else:
            # The last look is a short one: timers may come before what has arrived.
            step = self.seconds / STEPS if self.left else self.seconds / 100
            self.timer = self.loop.call_later(step, self._step)

"""Deadlines that only count the time in which this process could read an answer.

A process may stall: it is busy, or its machine is. When it goes on, every deadline has
passed, and the answers lie unread in its sockets. So it must read its sockets once more
before it decides that an answer did not come.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self

STEPS = 4


class Patience:
    """Raise TimeoutError after ``seconds``, unless the block is over by then.

        async with Patience(2.0):
            await answer()

    The time is counted in ``STEPS`` steps, and a step counts once, however late it
    ends. So a stall costs one step at most, and the deadline is late by at most as many
    stalls as there are steps.
    """

    __slots__ = ("left", "loop", "seconds", "timeout", "timer")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.left: float = STEPS
        self.timeout = asyncio.timeout(None)
        self.timer = self.loop.call_later(self.seconds / STEPS, self._step)
        await self.timeout.__aenter__()
        return self

    def hold(self) -> None:
        """Count no time until :meth:`renew`."""
        self.left = math.inf

    def renew(self) -> None:
        """Begin to count again: one block may wait for many answers."""
        self.left = STEPS

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
            # One short step more: a loop may run timers before it reads its sockets.
            step = self.seconds / STEPS if self.left else self.seconds / 100
            self.timer = self.loop.call_later(step, self._step)

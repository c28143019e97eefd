"""Whose turn it is to hold the event loop, among those who want it for long.

One loop serves all connections, so one that holds it keeps all others waiting. Each
may use a small share of the loop's time without asking. One that uses more stands in a
line, where one at a time goes on, for a quantum of a few milliseconds. Between two of
them the loop turns often enough that a light client's message is read and answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

from labserver.server.limits import TokenBucket

QUANTUM = 0.004  # seconds that a turn lasts
SHARE, BURST = 0.02, 0.001  # of the loop's time, and seconds of it, without a turn
WORST = 250e-9  # seconds of work that a byte may be, before it is known
# A message is read in one tick of the loop, served in the next.
TICKS = 3  # of the loop from one turn to the next

T = TypeVar("T")


class Turns:
    """The line of one event loop."""

    def __init__(self) -> None:
        self.line: deque[Callable[[], object]] = deque()

    def ask(self, then: Callable[[], object]) -> None:
        """Call ``then`` when it is its turn."""
        self.line.append(then)
        if len(self.line) == 1:
            self._tick(TICKS)

    async def wait(self) -> None:
        """Return when it is the caller's turn."""
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def call() -> None:
            if not called.done():  # cancelled
                called.set_result(None)

        self.ask(call)
        await called

    def _tick(self, left: int) -> None:
        asyncio.get_running_loop().call_soon(self._turn, left - 1)

    def _turn(self, left: int) -> None:
        if left:
            return self._tick(left)
        try:
            self.line[0]()
        finally:
            self.line.popleft()
            if self.line:
                self._tick(TICKS)


class Share(TokenBucket):
    """The seconds of the loop's time that one connection may use.

    Args:
        turns: The line to stand in when it used more.

    """

    __slots__ = ("left", "turns")

    def __init__(self, turns: Turns) -> None:
        super().__init__(SHARE, BURST, time.monotonic())
        self.level = BURST / 4  # many who have just come are not many bursts
        self.turns = turns
        self.left = 0.0  # seconds of a turn

    def spend(self, seconds: float) -> None:
        self.left -= seconds
        self.take(time.monotonic(), seconds)

    def available(self) -> float:
        """Return the seconds that may be used now; none without a turn if negative."""
        self.refill(time.monotonic())
        return max(self.left, self.level)

    def allows(self, size: int) -> bool:
        """Return whether a message of ``size`` bytes may be served without a turn."""
        return self.left > 0.0 or self.available() > size * WORST

    def begin(self) -> None:
        """Begin a turn."""
        self.left = QUANTUM


@coroutine
def timed(
    work: Coroutine[Any, Any, T], spend: Callable[[float], None]
) -> Generator[Any, Any, T]:
    """Await a coroutine; report the seconds that it holds the loop, without its waits.

    Args:
        work: Is awaited.
        spend: Called with seconds, each time that it lets go.

    """
    value: Any = None
    error: BaseException | None = None
    while True:
        started = time.monotonic()
        try:
            awaited = work.throw(error) if error else work.send(value)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            spend(time.monotonic() - started)
        value = error = None
        try:
            value = yield awaited
        except BaseException as exc:  # cancelled, mostly
            error = exc

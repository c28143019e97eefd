"""Shares the event loop's time between connections.

One loop serves all connections, so a connection that uses it for long makes all others
wait. Each connection may use a small share of the loop's time at any moment. One that
uses more waits in a line. One connection at a time gets a turn there, of a few
milliseconds. Between two turns the loop runs often enough to read and answer a message
of a light client.
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
SHARE = 0.02  # part of the loop's time that a connection may use without a turn
BURST = 0.001  # seconds that it may use at once without a turn
WORST = 250e-9  # seconds that a byte of a message may cost: an estimate from above
# Bounds of the seconds that serving a message counts as. At least so many a byte, for
# the later cost of encoding it for others. At most so many, because the measured time
# includes whatever else the machine did meanwhile.
LEAST_WORK = 60e-9  # for each byte
MOST_WORK = (200e-6, 1e-6)  # for any message, and for each byte
# A message is read in one tick of the loop and served in the next.
TICKS = 3  # ticks of the loop from one turn to the next

T = TypeVar("T")


class Turns:
    """The line of connections that wait for a turn on one event loop."""

    def __init__(self) -> None:
        self.line: deque[Callable[[], object]] = deque()

    def ask(self, then: Callable[[], object]) -> None:
        """Join the line; call ``then`` when the turn comes."""
        self.line.append(then)
        if len(self.line) == 1:
            self._tick(TICKS)

    async def wait(self) -> None:
        """Join the line; return when the turn comes."""
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def call() -> None:
            if not called.done():  # done if it was cancelled
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
        turns: The line in which the connection waits when it used more.

    """

    __slots__ = ("left", "turns")

    def __init__(self, turns: Turns) -> None:
        super().__init__(SHARE, BURST, time.monotonic())
        self.level = BURST / 4  # many new connections must not have a burst each
        self.turns = turns
        self.left = 0.0  # seconds left of the present turn

    def spend(self, seconds: float) -> None:
        """Note that the connection has used ``seconds`` of the loop's time."""
        self.left -= seconds
        self.take(time.monotonic(), seconds)

    def available(self) -> float:
        """Return the seconds that may be used now; negative if a turn is needed."""
        self.refill(time.monotonic())
        return max(self.left, self.level)

    def allows(self, size: int) -> bool:
        """Return whether a message of ``size`` bytes may be served without a turn."""
        return self.left > 0.0 or self.available() > size * WORST

    def begin(self) -> None:
        """Begin a turn."""
        self.left = QUANTUM


def charged(
    work: Coroutine[Any, Any, None], size: int, share: Share, bucket: TokenBucket | None
) -> Coroutine[Any, Any, None]:
    """Serve a message, and charge its sender for the time that it took.

    Args:
        work: The coroutine that serves it.
        size: Bytes of the message, inflated.
        share: The sender's share of the loop's time, which pays.
        bucket: The sender's bucket of messages, which pays, too; one token has been
            taken already. None if there is no limit.

    """

    def charge(spent: float) -> None:
        most = MOST_WORK[0] + MOST_WORK[1] * size
        spent = max(min(spent, most), size * LEAST_WORK)
        share.spend(spent)
        if bucket is not None and (more := spent * bucket.rate - 1.0) > 0.0:
            bucket.charge(more)

    return timed(work, charge)


@coroutine
def timed(
    work: Coroutine[Any, Any, T], spend: Callable[[float], None]
) -> Generator[Any, Any, T]:
    """Await a coroutine, and measure how long it runs, without the time that it waits.

    Args:
        work: The coroutine.
        spend: Called with the seconds, once, when the coroutine has ended.

    Returns:
        The result of the coroutine.

    """
    value: Any = None
    error: BaseException | None = None
    spent = 0.0
    try:
        while True:
            started = time.monotonic()
            try:
                awaited = work.throw(error) if error else work.send(value)
            except StopIteration as done:
                result: T = done.value
                return result
            finally:
                spent += time.monotonic() - started
            value = error = None
            try:
                value = yield awaited
            except BaseException as exc:  # cancelled, mostly
                error = exc
    finally:
        spend(spent)

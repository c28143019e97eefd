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
from typing import Any, Concatenate, ParamSpec, TypeVar

from labserver.server.limits import TokenBucket

QUANTUM = 0.004  # seconds that a turn lasts
SPARE = 0.5  # part of the loop's time that turns may use without waiting in the line
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

P = ParamSpec("P")
T = TypeVar("T")


class Turns:
    """The line of connections that wait for a turn on one event loop."""

    def __init__(self) -> None:
        self.line: deque[Callable[[], object]] = deque()
        # Seconds of turns that may begin at once, of all connections together.
        self.spare = TokenBucket(SPARE, QUANTUM, time.monotonic())

    def free(self, now: float) -> bool:
        """Return whether a turn may begin at once: few had turns lately."""
        self.spare.refill(now)
        return not self.line and self.spare.level > QUANTUM / 2

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
        now = time.monotonic()
        self.refill(now)
        if self.left <= 0.0 and self.level <= 0.0 and self.turns.free(now):
            self.begin()
        return max(self.left, self.level)

    def allows(self, size: int) -> bool:
        """Return whether a message of ``size`` bytes may be served without a turn."""
        worst = size * WORST
        # Its level only grows until it is refilled, so often it need not be.
        return self.left > 0.0 or self.level > worst or self.available() > worst

    def begin(self) -> None:
        """Begin a turn."""
        self.left = QUANTUM
        self.turns.spare.take(time.monotonic(), QUANTUM)

    def rest(self) -> None:
        """End a turn early; the rest of it cannot be saved."""
        if self.left > 0.0:
            self.turns.spare.give_back(self.left)
        self.left = 0.0


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
    return timed(work, _charge, size, share, bucket)


def _charge(spent: float, size: int, share: Share, bucket: TokenBucket | None) -> None:
    most = MOST_WORK[0] + MOST_WORK[1] * size
    spent = max(min(spent, most), size * LEAST_WORK)
    share.spend(spent)
    if bucket is not None and (more := spent * bucket.rate - 1.0) > 0.0:
        bucket.charge(more)


@coroutine
def timed(
    work: Coroutine[Any, Any, T],
    spend: Callable[Concatenate[float, P], None],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Generator[Any, Any, T]:
    """Await a coroutine, and measure how long it runs, without the time that it waits.

    Args:
        work: The coroutine.
        spend: Called with the seconds and ``args``, once, when the coroutine has ended.

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
        spend(spent, *args, **kwargs)

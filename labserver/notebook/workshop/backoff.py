"""Clients that wait as a learner's function says, and the judge's trap as their server.

Time runs ``SPEED`` times as fast while they wait, and what they wait is not measured:
each client notes what the function said. So a busy machine changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from labserver.contract.closing import retry_after, retry_after_header
from labserver.contract.tokens import issue
from labserver.judge.clients import Trap
from labserver.judge.outcomes import Broken, must
from labserver.judge.world import World, until

SPEED = 1000.0
FIRST, CAP = 0.5, 20.0  # seconds: ceilings of the first wait, and of the longest
CROWD = 40  # clients
TOLD = 3  # seconds that a client is told to wait
CAPPED = 6  # the first attempt whose ceiling is the cap
NIGHT = 5000  # attempts

TO_STAY_AWAY = ((4403, "forbidden"), (4401, "token expired"), (4499, "for some reason"))
TO_COME_BACK = (
    (1001, "draining"),
    (1013, "overloaded"),
    (4408, "heartbeat lost"),
    (4409, "too slow"),
    (4429, "rate limited"),
)
REFUSED, BUSY = (401, 403), (429, 500, 503)  # HTTP statuses


@dataclass(frozen=True)
class Told:
    """What a client knows of why it has no connection.

    Attributes:
        code: Code of the server's close frame; None if none came.
        status: HTTP status of the answer to a handshake; None if none came.
        wait: Seconds that the server asked for, with ``retry_after_ms`` in a close or
            ``Retry-After`` in an answer; 0 if with neither.

    """

    code: int | None = None
    status: int | None = None
    wait: float = 0.0


Delay = Callable[[int, Told, Callable[[], float]], float | None]


def undecided(attempt: int, told: Told, draw: Callable[[], float]) -> float | None:
    """Stay away, whatever comes."""
    return None


def must_be_seconds(answer: float) -> None:
    right = isinstance(answer, int | float) and answer >= 0
    must(right, f"returned {answer!r:.60}: that is neither seconds nor None")


@dataclass
class Visitor:
    """A client that comes back, until its function says that it stays away.

    Attributes:
        waits: What the function said so far.

    """

    delay: Delay
    draw: Callable[[], float]
    waits: list[float | None] = field(default_factory=list)

    async def run(self, url: str, token: str, room: str) -> None:
        attempt = 0
        while True:
            told, entered = await self.visit(url, token, room)
            attempt = 0 if entered else attempt + 1
            seconds = self.delay(attempt, told, self.draw)
            self.waits.append(seconds)
            if seconds is None:
                return
            must_be_seconds(seconds)
            await asyncio.sleep(min(seconds, CAP) / SPEED)

    async def visit(self, url: str, token: str, room: str) -> tuple[Told, bool]:
        """Join a room and stay; return what ended that, and whether it began."""
        bearer = {"Authorization": f"Bearer {token}"}
        entered = False
        try:
            async with connect(
                url,
                additional_headers=bearer,
                ping_interval=None,
                compression=None,
                close_timeout=1,
            ) as socket:
                await socket.send(json.dumps({"type": "join", "room": room}))
                entered = True
                while True:
                    await socket.recv()
        except ConnectionClosed as exc:
            if (close := exc.rcvd) is None:
                return Told(), entered
            return Told(code=close.code, wait=retry_after(close.reason) or 0), entered
        except InvalidStatus as exc:
            answer = exc.response
            wait = retry_after_header(answer.headers.get("Retry-After", ""))
            return Told(status=answer.status_code, wait=wait), entered


@dataclass(frozen=True)
class Returning(World):
    """A world of clients that wait as a function says.

    Args:
        delay: Function of the attempt (0 is the first), of what was told, and of a
            random source. Returns seconds, or None to stay away.

    """

    delay: Delay = undecided

    @asynccontextmanager
    async def crowd(
        self, count: int, draw: Callable[[], float] | None = None
    ) -> AsyncIterator[tuple[Trap, Crowd]]:
        """Run clients until the block ends; all have joined when it begins."""
        trap = Trap("lobby")
        draw = draw or self.chance.random
        visitors = [Visitor(self.delay, draw) for _ in range(count)]
        async with trap.listening() as url:
            tasks = [
                asyncio.create_task(
                    each.run(url, issue(trap.secret, f"client{number}"), trap.room)
                )
                for number, each in enumerate(visitors)
            ]
            try:
                async with self.awaiting("all clients to join"):
                    await until(lambda: len(trap.members) == count)
                yield trap, Crowd(self, visitors, tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Crowd:
    """Clients, and the tasks that they run in."""

    world: World
    visitors: Sequence[Visitor]
    tasks: Sequence[asyncio.Task[None]]

    async def waits(self, count: int, what: str = "") -> list[list[float]]:
        """Return the first waits of each client.

        Args:
            count: How many of each.
            what: What the clients were told before.

        Raises:
            Broken: The function raised something, or a client stays away.

        """
        await self.decided(count)
        for visitor in self.visitors:
            must(None not in visitor.waits, f"stays away for ever after {what}")
        return [
            [each for each in visitor.waits[:count] if each is not None]
            for visitor in self.visitors
        ]

    async def decided(self, count: int) -> None:
        """Wait until each client has decided so many times, or stays away."""

        def over() -> bool:
            return all(
                task.done() or len(visitor.waits) >= count
                for task, visitor in zip(self.tasks, self.visitors, strict=True)
            )

        async with self.world.awaiting("a decision of each client"):
            await until(over)
        for task in self.tasks:
            if task.done() and (exc := task.exception()):
                raise _said(exc)


def _said(exc: BaseException) -> BaseException:
    said = f"raised {type(exc).__name__}: {exc}"
    return exc if isinstance(exc, Broken) else Broken(said)


def _of(world: World) -> Returning:
    assert isinstance(world, Returning)
    return world


def _must_be_spread(waits: list[float], what: str) -> None:
    """Raise Broken if waits are not uniform between 0 and the longest of them."""
    count, tenth = len(waits), max(waits) / 10
    least, most = min(waits), [0.0]
    for each in waits:
        near = sorted(other for other in waits if each <= other <= each + tenth)
        most = max(most, near, key=len)
    must(
        len(most) < count / 2,
        f"{len(most)} of {count} wait {most[0]:.2f} to {most[-1]:.2f} s {what}",
    )
    must(
        least < 3 * tenth,
        f"{count} of {count} wait {least:.2f} to {max(waits):.2f} s {what}: none waits "
        "less",
    )


async def first_waits_are_spread(world: World) -> None:
    """Clients that lost the same server do not come back at the same moment."""
    async with _of(world).crowd(CROWD) as (trap, crowd):
        trap.end()
        waits = await crowd.waits(1, "its connection broke")
    _must_be_spread([each for (each,) in waits], "before the first attempt")


async def waits_double_up_to_a_cap(world: World) -> None:
    """The longest wait is 0.5 s at first; it doubles with each attempt, up to 20 s."""
    async with _of(world).crowd(1, lambda: 1.0) as (trap, crowd):
        trap.refusal = (503, {})
        trap.end()
        (waits,) = await crowd.waits(CAPPED + 4, "HTTP 503")
    for attempt, seconds in enumerate(waits):
        ceiling = min(CAP, FIRST * 2.0**attempt)
        must(
            abs(seconds - ceiling) < 0.01 * ceiling,
            f"attempt {attempt} waits up to {seconds:g} s, not {ceiling:g} s",
        )


async def late_waits_are_spread(world: World) -> None:
    """After a long outage the longest waits are spread, too."""
    async with _of(world).crowd(CROWD // 4) as (trap, crowd):
        trap.refusal = (503, {})
        trap.end()
        waits = await crowd.waits(CAPPED + 4, "HTTP 503")
    _must_be_spread([each for mine in waits for each in mine[CAPPED:]], "in the end")


async def it_stays_away_when_told(world: World) -> None:
    """After 4401, 4403, HTTP 401 or 403 a client with one token stays away."""
    for code, reason in TO_STAY_AWAY:
        async with _of(world).crowd(1) as (trap, crowd):
            trap.end(code, reason)
            await crowd.decided(1)
        (visitor,) = crowd.visitors
        must(visitor.waits[0] is None, f"comes back after {code} {reason}")
    for status in REFUSED:
        async with _of(world).crowd(1) as (trap, crowd):
            trap.refusal = (status, {})
            trap.end()
            await crowd.decided(2)
        (visitor,) = crowd.visitors
        must(visitor.waits[-1] is None, f"comes back after HTTP {status}")


async def it_comes_back_when_it_may(world: World) -> None:
    """A close that passes, or a refusal that does, keeps no client away for ever."""
    for code, reason in TO_COME_BACK:
        async with _of(world).crowd(1) as (trap, crowd):
            trap.end(code, reason)
            await crowd.waits(1, f"{code} {reason}")
    for status in BUSY:
        async with _of(world).crowd(1) as (trap, crowd):
            trap.refusal = (status, {})
            trap.end()
            await crowd.waits(2, f"HTTP {status}")


async def it_waits_as_long_as_told(world: World) -> None:
    """A client obeys ``retry_after_ms`` of a close, and ``Retry-After``."""
    async with _of(world).crowd(CROWD) as (trap, crowd):
        trap.end(1001, f"draining retry_after_ms={TOLD * 1000}")
        closed = await crowd.waits(1, "1001 draining")
    for (seconds,) in closed:
        _must_obey(seconds, f"close 1001 retry_after_ms={TOLD * 1000}")
    async with _of(world).crowd(CROWD) as (trap, crowd):
        trap.refusal = (503, {"Retry-After": f"{TOLD}"})
        trap.end()
        answered = await crowd.waits(2, "HTTP 503")
    what = f"HTTP 503 with Retry-After: {TOLD}"
    for _, seconds in answered:
        _must_obey(seconds, what)
    same = max(
        sum(other == seconds for _, other in answered) for _, seconds in answered
    )
    must(same < CROWD / 2, f"{same} of {CROWD} clients wait the same time after {what}")


def _must_obey(seconds: float, what: str) -> None:
    must(seconds >= TOLD, f"waits {seconds:.2f} s after {what}")
    must(seconds < TOLD + CAP, f"waits {seconds:.0f} s after {what}")


async def it_survives_a_long_outage(world: World) -> None:
    """A client that has tried a whole night still comes back."""
    chance = random.Random(world.seed)
    delay = _of(world).delay

    async def ask() -> float | None:
        return delay(NIGHT, Told(status=503), chance.random)

    (answer,) = await asyncio.gather(asyncio.create_task(ask()), return_exceptions=True)
    if isinstance(answer, BaseException):
        raise _said(answer)
    if answer is None:
        raise Broken(f"stays away after {NIGHT} attempts")
    must_be_seconds(answer)


CHECKS = (
    first_waits_are_spread,
    waits_double_up_to_a_cap,
    late_waits_are_spread,
    it_stays_away_when_told,
    it_comes_back_when_it_may,
    it_waits_as_long_as_told,
    it_survives_a_long_outage,
)

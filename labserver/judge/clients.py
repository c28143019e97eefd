"""Judges clients: a crowd of them meets a server that breaks, refuses and sends away.

Nothing of a client's inside is needed, nor what it prints. A server sees who comes
back, when, and with what. Each process is one client, with a token of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from labserver.contract.tokens import BadToken, issue, verify
from labserver.judge.evidence import note
from labserver.judge.outcomes import Broken, CannotJudge, must
from labserver.judge.outside import Outside
from labserver.judge.program import Program
from labserver.judge.world import World, until
from labserver.stages import LAST

CROWD = 16  # clients
FIRST, CAP = 1.0, 2.0  # seconds: ceilings of the first delay, and of the longest
SLACK = 0.4  # seconds that a client and this machine may take for an attempt
LATER = 5  # attempts of each client whose delays are looked at after the second
# Of 16 delays that are uniform, 11 are within a tenth of the time once in a million.
TOGETHER = 11
AWAY = 1.5  # seconds in which a client that was sent away must not be seen
TOLD = 2  # seconds that a client is told to wait


class Trap:
    """A server that does to its clients what a check wants, and notes what they do."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.secret = secrets.token_urlsafe(32)
        self.attempts: defaultdict[str, list[float]] = defaultdict(list)  # by user
        self.joins: defaultdict[str, list[Any]] = defaultdict(list)  # their ``after``
        self.members: dict[str, ServerConnection] = {}
        self.refusal: tuple[int, dict[str, str]] | None = None  # status, headers
        self.seq = 0
        self.server: Server

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with serve(
            *(self.converse, "127.0.0.1", 0),
            process_request=self.admit,
            ping_interval=None,
            close_timeout=1,
        ) as self.server:
            yield f"ws://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = bearer or request.path.partition("token=")[2]
        try:
            user = verify(self.secret, token).user
        except BadToken:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "a token is needed\n")
        self.attempts[user].append(time.monotonic())
        note(user, "sent", "a handshake")
        connection.username = user
        if self.refusal is None:
            return None
        status, headers = self.refusal
        response = connection.respond(HTTPStatus(status), "not now\n")
        response.headers.update(headers)
        note(user, "received", f"HTTP {status} {headers or ''}")
        return response

    async def converse(self, connection: ServerConnection) -> None:
        user = str(connection.username)
        about = {"id": user, "user": user, "stage": LAST, "replica": "trap"}
        with contextlib.suppress(ConnectionClosed):
            await self.say(connection, type="hello", heartbeat=25, **about)
            async for text in connection:
                said = json.loads(text)
                note(user, "sent", str(text))
                if said.get("type") == "join":
                    await self.join(connection, user, said)
                elif said.get("type") == "ping":
                    await self.say(connection, type="pong", ref=said.get("ref"))

    async def join(
        self, connection: ServerConnection, user: str, said: dict[str, Any]
    ) -> None:
        after = said.get("after")
        self.joins[user].append(after)
        where = {"room": said["room"], "epoch": "trap", "seq": self.seq}
        ref = {"ref": said["ref"]} if "ref" in said else {}
        recovered = after is not None
        await self.say(connection, type="joined", recovered=recovered, **where, **ref)
        self.members[user] = connection

    async def say(self, connection: ServerConnection, **message: Any) -> None:
        text = json.dumps(message)
        note(str(connection.username), "received", text)
        await connection.send(text)

    async def publish(self) -> None:
        self.seq += 1
        about = {"room": self.room, "seq": self.seq, "from": "trap", "payload": 1}
        for connection in self.members.values():
            await self.say(connection, type="message", **about)

    def end(self, code: int = 0, reason: str = "") -> float:
        """End all connections, with a close or without; return the time."""
        members, self.members = self.members, {}
        for user, connection in members.items():
            note(user, "received", f"close {code} {reason}" if code else "an RST")
            if code:
                asyncio.ensure_future(connection.close(code, reason))
            else:
                connection.transport.abort()
        return time.monotonic()

    def since(self, moment: float) -> dict[str, list[float]]:
        """Return the times of attempts after a moment, by user."""
        return {
            user: [at for at in times if at > moment]
            for user, times in self.attempts.items()
        }


@dataclass(frozen=True)
class Clients(Outside):
    """Processes of one command, each of which is a client."""

    argv: Sequence[str] = ()
    start_timeout: float = 20.0
    crowds: list[Program] = field(default_factory=list, repr=False)
    known: dict[str, Any] = field(default_factory=dict, repr=False)

    @asynccontextmanager
    async def crowd(self, count: int) -> AsyncIterator[Trap]:
        """Run clients, until the block ends; all have joined when it begins."""
        trap = Trap(self.room("lobby"))
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(trap.listening())
            for number in range(count):
                told = {
                    "LAB_URL": url,
                    "LAB_TOKEN": issue(trap.secret, f"client{number}"),
                    "LAB_ROOM": trap.room,
                    "LAB_BACKOFF_FIRST": f"{FIRST:g}",
                    "LAB_BACKOFF_CAP": f"{CAP:g}",
                }
                program = Program([a.replace("{url}", url) for a in self.argv], told)
                self.crowds.append(program)
                stack.push_async_callback(self._end, program)
                await program.start(self.start_timeout, listens=False)
            try:
                async with asyncio.timeout(self.start_timeout):
                    await until(lambda: len(trap.members) == count or bool(self.ended))
            except TimeoutError:
                who = len(trap.members)
                raise CannotJudge(
                    f"{who} of {count} clients joined the room LAB_ROOM at LAB_URL "
                    f"within {self.start_timeout:g} s"
                ) from None
            if self.ended:
                raise CannotJudge(self.ended)
            yield trap

    @property
    def ended(self) -> str:
        """A sentence about a client that has ended; empty if there is none."""
        for each in self.crowds:
            if trouble := each.trouble():
                return f"{each.name} {trouble}"
        return ""

    async def _end(self, program: Program) -> None:
        await program.stop()
        if program in self.crowds:
            self.crowds.remove(program)

    async def storm(self) -> tuple[list[float], list[float]]:
        """Break all connections, then refuse; return first delays, and later ones."""
        if "storm" not in self.known:
            async with self.crowd(CROWD) as trap:
                trap.refusal = (503, {})
                lost = trap.end()
                patience = self.patience + FIRST + (LATER + 1) * CAP
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await until(
                            lambda: all(
                                len(times) >= LATER + 2
                                for times in trap.since(lost).values()
                            )
                        )
                times = trap.since(lost).values()
            must(
                all(times),
                f"{sum(not each for each in times)} of {CROWD} clients did not come "
                f"back within {patience:g} s after their connection broke",
            )
            gaps = [
                [b - a for a, b in zip([lost, *each], each, strict=False)]
                for each in times
            ]
            first = [each[0] for each in gaps]
            self.known["storm"] = first, [gap for each in gaps for gap in each[2:]]
        found: tuple[list[float], list[float]] = self.known["storm"]
        return found

    async def forget(self) -> None:
        self.known.clear()
        programs = [*self.crowds]
        self.crowds.clear()
        await asyncio.gather(*(each.stop() for each in programs))


@asynccontextmanager
async def clients(argv: Sequence[str], **options: Any) -> AsyncIterator[Clients]:
    """Yield the world of a client's command; all that it starts is ended afterwards."""
    world = Clients(LAST, argv=argv, **options)
    try:
        yield world
    finally:
        await world.forget()


def _of(world: World) -> Clients:
    assert isinstance(world, Clients)
    return world


def _most(delays: list[float], width: float) -> int:
    """Return how many delays, at most, lie within a stretch of time."""
    return max(sum(a <= b <= a + width for b in delays) for a in delays)


async def it_comes_back_with_its_cursor(world: World) -> None:
    """A client that lost its connection joins again, after the last message it had."""
    async with _of(world).crowd(3) as trap:
        for _ in range(3):
            await trap.publish()
        trap.end()
        async with world.awaiting("a client to come back and join its room again"):
            await until(lambda: len(trap.members) == 3)
        cursors = [each[-1] for each in trap.joins.values()]
    want = {"epoch": "trap", "seq": 3}
    for after in cursors:
        must(after == want, f"joined again after {after}, where it had heard {want}")


async def first_delays_are_spread(world: World) -> None:
    """Clients that lost the same server do not come back at the same moment."""
    first, _ = await _of(world).storm()
    most = _most(first, max(first) / 10)
    must(
        most < TOGETHER,
        f"{most} of {len(first)} clients came back within {max(first) / 10:.2f} s",
    )


async def first_delay_is_short(world: World) -> None:
    """The first delay is at most LAB_BACKOFF_FIRST."""
    first, _ = await _of(world).storm()
    must(
        max(first) < FIRST + SLACK,
        f"a client came back after {max(first):.1f} s (LAB_BACKOFF_FIRST {FIRST:g})",
    )


async def later_delays_grow_and_are_spread_below_a_cap(world: World) -> None:
    """Delays grow up to LAB_BACKOFF_CAP, and the longest are spread, too."""
    _, later = await _of(world).storm()
    must(len(later) > CROWD, "clients gave up though HTTP 503 passes")
    must(
        max(later) < CAP + SLACK,
        f"a client waited {max(later):.1f} s (LAB_BACKOFF_CAP {CAP:g})",
    )
    longer = sum(each > FIRST + SLACK / 2 for each in later)
    must(
        longer > len(later) / 10,
        f"{longer} of {len(later)} later delays are longer than the first may be: they "
        "do not grow",
    )
    most = _most(later, CAP / 10)
    must(
        most < len(later) / 2,
        f"{most} of {len(later)} later delays are the same, within {CAP / 10:g} s",
    )


async def it_stays_away_when_told(world: World) -> None:
    """A client that is closed with 4403 or 4401 does not come back with that token."""
    for code, reason in ((4403, "forbidden"), (4401, "token invalid or expired")):
        async with _of(world).crowd(2) as trap:
            told = trap.end(code, reason)
            await asyncio.sleep(FIRST + AWAY)
            seen = sum(map(len, trap.since(told).values()))
        must(not seen, f"came back after {code} {reason}, {seen} times in all")


async def it_waits_as_long_as_told(world: World) -> None:
    """A client obeys retry_after_ms of a close, and Retry-After of a refusal."""
    async with _of(world).crowd(2) as trap:
        users = [*trap.members]
        told = trap.end(1001, f"draining retry_after_ms={TOLD * 1000}")
        what = f"1001 retry_after_ms={TOLD * 1000}"
        await _waits(trap, dict.fromkeys(users, told), what)
        trap.refusal = (503, {"Retry-After": f"{TOLD}"})
        lost = trap.end()
        async with asyncio.timeout(FIRST + CAP + 5):
            await until(lambda: all(trap.since(lost).values()))
        trap.refusal = None
        refused = {user: times[-1] for user, times in trap.attempts.items()}
        await _waits(trap, refused, f"HTTP 503 with Retry-After: {TOLD}")


async def _waits(trap: Trap, told: dict[str, float], what: str) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TOLD + CAP + 5):
            await until(lambda: len(trap.members) == 2)
    times = [
        at - then
        for user, then in told.items()
        for at in trap.attempts[user]
        if at > then
    ]
    if not times:
        raise Broken(f"did not come back after {what}")
    must(
        min(times) > TOLD - 0.1,
        f"came back {min(times):.1f} s after it was told to wait {TOLD} s ({what})",
    )
    must(len(trap.members) == 2, f"a client did not come back after {what}")


CHECKS = (
    it_comes_back_with_its_cursor,
    first_delays_are_spread,
    first_delay_is_short,
    later_delays_grow_and_are_spread_below_a_cap,
    it_stays_away_when_told,
    it_waits_as_long_as_told,
)

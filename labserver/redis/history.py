"""What a room remembers, read from Redis: in pages, and once for all who ask.

Many come back at once and miss nearly the same. Whoever asks while a room is being read
shares the next reading of it. A reading begins at the newest message and goes back page
by page, and each is answered as soon as it has come to what that one knows already. It
ends where a replay would be longer than anybody is given. Commands go between the
pages, so that a long history keeps no message waiting.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass

from labserver.contract.messages import Event, event
from labserver.errors import BrokerDown
from labserver.redis.commands import CLOSED, ended, script
from labserver.redis.messages import NUMBERING_TTL, keys_of, ms
from labserver.redis.nodes import Nodes, call
from labserver.server.parts import History, Position

PAGE = 2**18  # bytes of history that one call may bring: others wait meanwhile
FIRST = 16  # times as small is the first page: most who come back missed little
REPLAYS = 2**21  # bytes of replays that are handed out in one tick
NEWEST = "+"  # the end of a stream
READ = script("numbering.lua", "read.lua")


@dataclass(frozen=True, slots=True)
class Page(Position):
    """A part of a history, and where a room stands.

    Attributes:
        reached: How far was read. What lies on the way there and is not in ``kept`` is
            gone. Reading back, the message with this seq itself was not looked at.

    """

    reached: int = 0


Asking = list[tuple[int | None, asyncio.Future[Position]]]


class Histories:
    """The histories of all rooms.

    Args:
        nodes: Where rooms live.
        history: How much they remember.
        settle: Called with a room and where it stands, before anybody is told. Returns
            False if that is not so any more.

    """

    def __init__(
        self,
        nodes: Nodes,
        history: History,
        settle: Callable[[str, Position], Awaitable[bool]],
    ) -> None:
        self.nodes, self.history, self.settle = nodes, history, settle
        self.asking: dict[str, Asking] = {}  # who shares the next reading of a room
        self.readings: dict[str, asyncio.Task[None]] = {}

    async def stop(self) -> None:
        for reading in list(self.readings.values()):
            await ended(reading)

    async def page(self, room: str, after: int | None, end: str = "") -> Page:
        """Read one page of what a room keeps after a seq (None: where it stands).

        Args:
            room: Name of the room.
            after: Seq of the message before the first that is wanted.
            end: Where in the stream to read back from; otherwise the oldest come first.

        Raises:
            BrokerDown: Redis does not answer.

        """
        size = PAGE // FIRST if end == NEWEST else PAGE
        args = (
            secrets.token_hex(4),
            ms(NUMBERING_TTL + self.history.ttl),
            ms(self.history.ttl),
            -1 if after is None else after,
            end,
            size,
        )
        page = 0 if after is None else size
        answer = await call(self.nodes, room, READ, keys_of(room), args, page)
        epoch, seq, before, base, reached, *rest = answer
        pairs = zip(rest[::2], rest[1::2], strict=True)
        kept = [event(room, number, tail) for number, tail in pairs]
        if end:
            kept.reverse()
        return Page(epoch.decode(), seq, kept, (before.decode(), base), reached)

    async def read(self, room: str, after: int | None) -> Position:
        """Return where a room stands, and what of a replay after a seq is kept."""
        answer: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self.asking.setdefault(room, []).append((after, answer))
        if room not in self.readings:
            self.readings[room] = asyncio.create_task(self._serve(room))
        return await answer

    async def _serve(self, room: str) -> None:
        """Read a room for those who ask, again while there are any."""
        asking: Asking = []
        try:
            while asking := self.asking.pop(room, []):
                try:
                    await self._read(room, asking)
                except Exception as exc:
                    _fail(asking, exc)
        finally:
            del self.readings[room]
            _fail(asking + self.asking.pop(room, []), BrokerDown(CLOSED))

    async def _read(self, room: str, asking: Asking) -> None:
        """Go back from the newest message until all are answered."""
        wanted = [after for after, _ in asking if after is not None]
        oldest = min(wanted, default=None)
        limit = self.history.replay_limit
        newest: Page | None = None
        kept: list[Event] = []
        end = NEWEST
        while asking:
            page = await self.page(room, oldest, end)
            if newest is None:
                if not await self.settle(room, page):
                    continue
                newest, kept = page, []
            elif page.epoch != newest.epoch:
                newest, end = None, NEWEST  # what was read may be lost in the new one
                continue
            end = f"{page.reached}-1"
            kept = [*page.kept, *kept]
            size = sum(len(each.json) for each in kept)
            reached = page.reached
            if oldest is None or limit and size > limit:
                reached = oldest or 0  # no further: some have missed too much
            position = Position(newest.epoch, newest.seq, kept, newest.before)
            asking = await _answer(position, asking, reached, size)


async def _answer(
    position: Position, asking: Asking, reached: int, size: int
) -> Asking:
    """Answer those who know the message ``reached``; return the others.

    To write a replay takes a while. Others get their turn between them.
    """
    waiting: Asking = []
    handed = 0.0
    for after, answer in asking:
        if answer.done():
            continue  # it did not wait
        if after is not None and after < reached:
            waiting.append((after, answer))
            continue
        answer.set_result(position)
        if after is not None and position.kept:
            share = min(1.0, (position.seq - after) / len(position.kept))
            handed += share * size
        if handed > REPLAYS:
            handed = 0.0
            await asyncio.sleep(0)
    return waiting


def _fail(asking: Asking, problem: Exception) -> None:
    for _, answer in asking:
        if not answer.done():
            answer.set_exception(copy(problem))
            answer.exception()  # whoever asked may have stopped waiting

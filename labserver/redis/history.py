"""Reads rooms' histories from Redis: in pages, and once for all clients that wait.

Many clients reconnect at once, and miss nearly the same messages. Clients that ask
during a reading of a room share the next reading. A reading starts at the newest
message and goes back page by page. A client is answered as soon as the reading reaches
the last message that it knows. A reading ends when the replay exceeds the limit for one
replay. Other commands go between the pages, so a long history delays no message.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from labserver.contract.messages import event
from labserver.errors import BrokerDown
from labserver.redis.commands import CLOSED, ended, script
from labserver.redis.messages import NUMBERING_TTL, keys_of, ms
from labserver.redis.nodes import Nodes, call
from labserver.redis.seen import Seen
from labserver.server.parts import History, Position

PAGE = 2**18  # bytes of history in one answer: other commands wait meanwhile
FIRST = 16  # the first page is this many times smaller: most clients missed little
LITTLE = 2**11  # bytes of the first page of a room that may be one of very many
REPLAYS = 2**21  # bytes of replays that clients are given in one tick of the loop
NEWEST = "+"  # XREVRANGE's name for the end of a stream
READ = script("numbering.lua", "read.lua")
# A room without any message is not kept for an hour after its last subscriber. A client
# that joins subscribes first and reads then, which sets the whole ttl again.
RELEASE = """
local count = ARGV[2] == 'PUBLISH' and 'NUMSUB' or 'SHARDNUMSUB'
if redis.call('HGET', KEYS[1], 'seq') == '0'
    and redis.call('PUBSUB', count, KEYS[1])[2] == 0 then
  return redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 0
"""


@dataclass(frozen=True, slots=True)
class Page(Position):
    """A part of a history, and the room's position.

    Attributes:
        reached: Seq at which the reading stopped. Messages up to there that are not in
            ``kept`` no longer exist. A reading backwards did not look at the message
            with this seq itself.

    """

    reached: int = 0


# The clients that wait for a reading: the last seq that each knows (None: it only wants
# the position), and the future that it waits for.
Asking = list[tuple[int | None, asyncio.Future[Position]]]


class Histories:
    """Reads the histories of all rooms.

    Args:
        nodes: The Redis servers.
        history: How many messages a room keeps, and for how long.
        settle: Called with a room and its position before clients are answered. Returns
            False if the position is out of date; then the room is read again.

    """

    def __init__(
        self,
        nodes: Nodes,
        history: History,
        settle: Callable[[str, Position], Awaitable[bool]],
    ) -> None:
        self.nodes, self.history, self.settle = nodes, history, settle
        self.seen = Seen(nodes)
        self.asking: dict[str, Asking] = {}  # by room: who shares its next reading
        self.readings: dict[str, asyncio.Task[None]] = {}

    async def stop(self) -> None:
        for reading in list(self.readings.values()):
            await ended(reading)

    async def release(self, rooms: Iterable[str]) -> None:
        """Shorten the ttl of rooms that this replica has unsubscribed, if unused."""
        ttl = (ms(self.history.ttl),)
        asked = [
            call(self.nodes, room, RELEASE, keys_of(room)[:1], ttl) for room in rooms
        ]
        await asyncio.gather(*asked, return_exceptions=True)

    async def page(
        self, room: str, after: int | None, end: str = "", size: int = 0
    ) -> Page:
        """Read one page of a room's history.

        Args:
            room: Name of the room.
            after: Messages after this seq are wanted; None for the position only.
            end: ID in the stream from which to read backwards. Without it the page
                holds the oldest of the wanted messages.
            size: Bytes of the page, about; 0 for the usual size.

        Raises:
            BrokerDown: Redis does not answer.

        """
        size = size or (PAGE // FIRST if end == NEWEST else PAGE)
        [page] = await self.pages([(room, after)], end, size)
        return page

    async def pages(
        self, wanted: Sequence[tuple[str, int | None]], end: str, size: int
    ) -> list[Page]:
        """Read one page of each of several rooms, in one call.

        Args:
            wanted: The rooms, which are on one server (in a cluster: in one slot), each
                with the seq after which its messages are wanted.
            end, size: See :meth:`page`.

        Raises:
            BrokerDown: Redis does not answer.

        """
        keys: list[str] = []
        args: list[Any] = [
            ms(NUMBERING_TTL + self.history.ttl),
            ms(self.history.ttl),
            size,
        ]
        claims = []
        for room, after in wanted:
            claim = self.seen.claim(room)
            claims.append(claim)
            keys += keys_of(room)
            args += (secrets.token_hex(4), *claim, -1 if after is None else after, end)
        space = sum(size for _, after in wanted if after is not None)
        answers = await call(self.nodes, wanted[0][0], READ, keys, args, space)
        pages = []
        for (room, _), claim, answer in zip(wanted, claims, answers, strict=True):
            page = _page(room, answer, end)
            self.seen.judged(room, claim, page.epoch)
            pages.append(page)
        return pages

    async def read(self, room: str, after: int | None) -> Position:
        """Return a room's position, with the messages after a seq that it still has.

        Args:
            room: Name of the room.
            after: Last seq that the client knows; None if it wants no messages.

        Raises:
            BrokerDown: Redis does not answer.

        """
        answer: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self.asking.setdefault(room, []).append((after, answer))
        if room not in self.readings:
            self.readings[room] = asyncio.create_task(self._serve(room))
        return await answer

    async def _serve(self, room: str) -> None:
        """Read a room for the clients that wait, until none waits any more."""
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
        """Read until all clients are answered; again if the numbering changes."""
        oldest = min((after for after, _ in asking if after is not None), default=None)
        while asking:
            newest = await self.page(room, oldest, NEWEST)
            if await self.settle(room, newest):
                asking = await self._go_back(room, newest, oldest, asking)

    async def _go_back(
        self, room: str, newest: Page, oldest: int | None, asking: Asking
    ) -> Asking:
        """Read back from the newest page, and answer clients on the way.

        Args:
            room: Name of the room.
            newest: The first page.
            oldest: The lowest seq that a client knows; None if none wants messages.
            asking: The clients that wait.

        Returns:
            The clients that still wait, if the epoch has changed.

        """
        limit = self.history.replay_limit
        page, kept = newest, list(newest.kept)
        while True:
            size = sum(len(each.json) for each in kept)
            reached = page.reached
            if oldest is None or limit and size > limit:
                reached = oldest or 0  # stop here: a longer replay is never sent
            position = Position(newest.epoch, newest.seq, kept, newest.before)
            asking = await _answer(position, asking, reached, size)
            if not asking:
                return []
            page = await self.page(room, oldest, f"{page.reached}-1")
            if page.epoch != newest.epoch:
                return asking  # the new epoch may lack what was read
            kept = [*page.kept, *kept]


def _page(room: str, answer: Sequence[Any], end: str) -> Page:
    epoch, seq, before, base, reached, *rest = answer
    pairs = zip(rest[::2], rest[1::2], strict=True)
    kept = [event(room, number, tail) for number, tail in pairs]
    if end:
        kept.reverse()
    return Page(epoch.decode(), seq, kept, (before.decode(), base), reached)


async def _answer(
    position: Position, asking: Asking, reached: int, size: int
) -> Asking:
    """Answer the clients that know the message ``reached``; return the others.

    Writing a replay takes time: after ``REPLAYS`` bytes the loop serves others.

    Args:
        position: The answer.
        asking: The clients that wait.
        reached: Seq at which the reading stopped.
        size: Bytes of the messages in ``position``.

    """
    waiting: Asking = []
    handed = 0.0
    for after, answer in asking:
        if answer.done():
            continue  # the client stopped waiting
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
            answer.exception()  # the client may have stopped waiting
